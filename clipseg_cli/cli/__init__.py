"""The program: its commands, options, configuration, and what it shows on a terminal.

Each command parses its options, calls one function of a package below, and presents the result. The only package that
prints or exits. May import every other package.
"""
