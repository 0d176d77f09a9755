"""The command line: commands, options, configuration, and terminal output.

Each command parses its options, calls one function of another package, and presents the result. No other
package prints or exits. May import every other package.
"""
