"""`python -m clipseg_cli`."""

from clipseg_cli.cli import main

main()
