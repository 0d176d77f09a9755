"""`clipseg post`: makes new masks from a run's soft maps."""

import sys
from typing import Annotated

import typer

from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.inputs import MAX_PIXELS
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.outputs import OutputOptions
from clipseg_cli.settings.run import ConsoleOptions


def post(
    run: Annotated[
        str, Flag("The output folder of a run with -f soft, or its URL.", metavar="RUN", argument=True, panel="Input")
    ],
    masks: MaskOptions,
    output: OutputOptions,
    network: ModelOptions,
    console: ConsoleOptions,
    overwrite: Annotated[bool, Flag("Overwrite another run in the output folder.", panel="Run")] = False,
    max_pixels: Annotated[
        int, Flag("Refuse images with more pixels than this.", metavar="N", low=1, panel="Advanced")
    ] = MAX_PIXELS,
) -> None:
    """Makes new masks from a run's soft maps.

    Applies other thresholds, clean-up and formats without loading the model. Only --refine sam loads a network.

    \b
    Examples:
      clipseg segment photos/ -p "a cat" -f soft -o run
      clipseg post run -t 0.4 --fill-holes all -f mask -o masks
      clipseg post run --refine guided -f cutout -f coco -o export

    Labels without a new threshold keep that of the run. Images are read again only if a format or --refine needs them.
    """
    from clipseg_cli.cli import summary
    from clipseg_cli.cli.terminal import Terminal, present
    from clipseg_cli.run import post as runs
    from clipseg_cli.run.summary import Summary
    from clipseg_cli.settings import layouts
    from clipseg_cli.storage import store

    output = layouts.applied(output)
    request = runs.Request(store.as_path(run), masks, output, overwrite, max_pixels, tuple(sys.argv[1:]), network)
    counts = Summary(masks.min_presence)
    with Terminal(console) as terminal:
        terminal.begin(None)
        request = runs.placed(request, terminal.note)
        report = present(runs.post(request, counts, terminal.note), terminal, output, request.out)
    terminal.notes(summary.lines(counts, request.out, again="the same command with", report=report))
    raise typer.Exit(3 if terminal.failed else 0)
