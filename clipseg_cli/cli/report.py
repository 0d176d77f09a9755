"""`clipseg report`: writes an HTML page of a run, or of two runs side by side."""

from typing import Annotated

from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.run import ConsoleOptions

Run = Annotated[str, Flag("The output folder of a run, or its URL.", metavar="RUN", argument=True, panel="Input")]


def report(
    run: Run,
    console: ConsoleOptions,
    other: Annotated[
        str | None,
        Flag("A second run of the same images, to compare.", metavar="RUN", argument=True, panel="Input", default=""),
    ] = None,
    out: Annotated[
        str | None,
        Flag(
            "Write to this file.", ("--out", "-o"), "FILE",
            default="report.html in the run's folder; for two runs compare.html", panel="Output",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Writes an HTML page of a run, or of two runs side by side.

    A gallery with threshold sliders, failed images, and review by keyboard. Up to 1000 images it is one self-contained
    file; above, a folder of the same name is written beside it. With two runs it shows where their masks differ.

    \b
    Examples:
      clipseg segment photos/ -p cat -f mask -f soft -o out && clipseg report out
      clipseg report out out-2

    The sliders need a run with soft maps (-f soft). The page can save lists of accepted and rejected images, for
    --files-from.
    """
    from clipseg_cli.cli.terminal import Terminal
    from clipseg_cli.pages import report as pages
    from clipseg_cli.storage import store

    target = None if out is None else store.as_path(out)
    second = None if other is None else store.as_path(other)
    say(str(pages.write(store.as_path(run), Terminal(console).note, target, second)))
