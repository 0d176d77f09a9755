"""`clipseg report`: one page of a run."""

from typing import Annotated

from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.run import ConsoleOptions

Run = Annotated[str, Flag("The output folder of a run, or its URL.", metavar="RUN", argument=True, panel="Input")]


def report(
    run: Run,
    console: ConsoleOptions,
    out: Annotated[
        str | None,
        Flag("The file to write.", ("--out", "-o"), "FILE", default="report.html in the run's folder", panel="Output"),
    ] = None,
) -> None:
    """Writes an HTML page of a run.

    One self-contained file: gallery, thresholds to move, failures, review by keyboard.

    \b
    Example:
      clipseg segment photos/ -p cat -f mask -f soft -o out && clipseg report out

    Thresholds can be moved where the run has soft maps (-f soft). Accepted and rejected images download as lists for
    --files-from.
    """
    from clipseg_cli.cli.terminal import Terminal
    from clipseg_cli.pages import report as pages
    from clipseg_cli.storage import store

    target = None if out is None else store.as_path(out)
    say(str(pages.write(store.as_path(run), Terminal(console).note, target)))
