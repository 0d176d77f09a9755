"""`clipseg find`: ranks images by how likely they show a prompt."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from clipseg_cli.cli import streams
from clipseg_cli.cli.segment import read_from
from clipseg_cli.cli.terminal import say, say_path
from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.settings.outputs import PrintOptions
from clipseg_cli.settings.prompts import PromptOptions
from clipseg_cli.settings.run import ConsoleOptions, RunOptions, WorkerOptions

if TYPE_CHECKING:
    from clipseg_cli.outputs.record import Record


def find(
    inputs: InputOptions,
    prompts: PromptOptions,
    model: ModelOptions,
    encode: EncodeOptions,
    workers: WorkerOptions,
    printing: PrintOptions,
    console: ConsoleOptions,
    min_presence: Annotated[
        float, Flag("List only images with at least this presence score, 0 to 1.", low=0.0, high=1.0, panel="Output")
    ] = 0.0,
) -> None:
    """Ranks images by how likely they show a prompt.

    Like grep for images. Writes no files.

    \b
    Examples:
      clipseg find photos/ -p "a cat"
      clipseg find photos/ -p "a cat" --min-presence 0.5 --print paths | head -3

    With several prompts, an image ranks by its highest presence score. To find images that show all prompts, use
    --expr "a cat AND a dog".
    """
    from clipseg_cli.cli import summary
    from clipseg_cli.cli.terminal import Terminal, ranking
    from clipseg_cli.inputs.finding.discovery import discover
    from clipseg_cli.run import segment
    from clipseg_cli.run.query import terms
    from clipseg_cli.run.request import Request
    from clipseg_cli.run.summary import Summary

    stdin = read_from(inputs, prompts)
    masks, run = MaskOptions(min_presence=min_presence), RunOptions(workers=workers)
    command = tuple(sys.argv[1:])
    request = Request(terms.read(prompts, streams.stdin()), model, command, inputs, encode, masks, run=run)
    counts = Summary(min_presence)
    sources = discover(inputs, stdin, left_out=counts.left_out)
    found: list[Record] = []
    with Terminal(console) as terminal:
        terminal.begin(None)
        for record in segment.find(request, sources, terminal.note, counts):
            terminal.record(record)
            if record.ok and record.presence >= min_presence:
                found.append(record)
    terminal.notes(summary.lines(counts))
    found.sort(key=lambda record: -record.presence)  # stable: equal scores keep the order of the inputs
    if printing.json:
        for record in found:
            say(record.line())
    elif printing.print_ == "paths" or (printing.print_ is None and not streams.stdout_is_terminal()):
        for record in found:
            say_path(record.shown, inputs.null)
    else:
        say(ranking(found))
    raise typer.Exit(3 if terminal.failed else 0)
