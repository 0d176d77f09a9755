"""`clipseg report`: writes an HTML page of a run."""

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
        Flag("Write to this file.", ("--out", "-o"), "FILE", default="report.html in the run's folder", panel="Output"),
    ] = None,
) -> None:
    """Writes an HTML page of a run.

    One self-contained file with a gallery, threshold sliders, failed images, and review by keyboard.

    \b
    Example:
      clipseg segment photos/ -p cat -f mask -f soft -o out && clipseg report out

    The sliders need a run with soft maps (-f soft). The page can save lists of accepted and rejected images, for
    --files-from.
    """
    from clipseg_cli.cli.terminal import Terminal
    from clipseg_cli.pages import report as pages
    from clipseg_cli.storage import store

    target = None if out is None else store.as_path(out)
    say(str(pages.write(store.as_path(run), Terminal(console).note, target)))
