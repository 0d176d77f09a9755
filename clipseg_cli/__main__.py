"""Runs the command line: `python -m clipseg_cli`."""

from clipseg_cli.cli.main import main

main()
