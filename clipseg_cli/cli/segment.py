"""`clipseg segment` and `clipseg oneshot`: images in, masks out."""

import itertools
import os
import shlex
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import typer

from clipseg_cli.cli import streams
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.settings.outputs import OutputOptions
from clipseg_cli.settings.prompts import PromptOptions
from clipseg_cli.settings.run import ConsoleOptions, RunOptions

if TYPE_CHECKING:
    from clipseg_cli.inputs.source import Source
    from clipseg_cli.run.request import Request
    from clipseg_cli.run.summary import Summary

COUNTED = 100_000  # images counted before the first one is processed, so that the progress bar knows the total


def segment(
    inputs: InputOptions,
    prompts: PromptOptions,
    model: ModelOptions,
    encode: EncodeOptions,
    masks: MaskOptions,
    output: OutputOptions,
    run: RunOptions,
    console: ConsoleOptions,
) -> None:
    """Writes one mask per image and prompt.

    Also writes one overlay per image, and a manifest. To resume a run, repeat its command: finished images are skipped.

    \b
    Examples:
      clipseg segment photos/ -p "a cat"
      clipseg segment photos/ -p cat="a fluffy cat" -p sky -f mask -f soft -o out
      find . -name '*.jpg' -print0 | clipseg segment --files-from - -0 -p sky --json | jq .image
      clipseg segment - -p "a cat" -o - < in.jpg > mask.png
    """
    from clipseg_cli.inputs.finding.discovery import discover
    from clipseg_cli.model import torch_library

    if len(inputs.inputs) == 1 and os.path.isfile(inputs.inputs[0]) and not run.dry_run:
        torch_library.load_ahead()  # for a single image, the network is loaded in this process
    from clipseg_cli.run.query import terms
    from clipseg_cli.run.request import Request
    from clipseg_cli.run.summary import Summary
    from clipseg_cli.settings import layouts

    output = layouts.applied(output)
    stdin = read_from(inputs, prompts)
    query = terms.read(prompts, streams.stdin())
    request = Request(query, model, tuple(sys.argv[1:]), inputs, encode, masks, output, run)
    counts = Summary(masks.min_presence)
    piped = output.out is None and not (output.printing.json or run.dry_run) and streams.stdout_takes_data()
    at_once = piped or request.to_stdout
    sources = discover(inputs, stdin, request.out, counts.left_out, at_once, request.patterns)
    first = next(sources, None)
    if first is not None:
        sources = itertools.chain([first], sources)
        if first.data is not None and piped:
            request = request.to("-")
    if request.to_stdout:
        streams.require_stdout()
    _carry_out(request, sources, counts, prompts.show_exemplar, console)


def oneshot(
    inputs: InputOptions,
    prompts: PromptOptions,
    model: ModelOptions,
    encode: EncodeOptions,
    masks: MaskOptions,
    output: OutputOptions,
    run: RunOptions,
    console: ConsoleOptions,
) -> None:
    """Finds the object of an exemplar image in other images.

    Writes masks like `clipseg segment`. Mark the object in the exemplar with a mask, a box, transparency or a text
    prompt; otherwise the whole exemplar counts.

    \b
    Examples:
      clipseg oneshot photos/ --support ref.jpg --support-box 40,30,200,180
      clipseg oneshot photos/ --support logo=logo.png --support face=faces/
      clipseg oneshot photos/ --support ref.jpg --support-prompt "a mug" -p "a blue mug" --mix 0.3
      clipseg oneshot --support ref.jpg < list.txt
    """
    if not prompts.support:
        raise UsageError("oneshot needs an exemplar: --support ref.jpg (or use `clipseg segment -p TEXT`)")
    segment(inputs, prompts, model, encode, masks, output, run, console)


def read_from(inputs: InputOptions, prompts: PromptOptions) -> BinaryIO | None:
    """Returns stdin if images or a list may come from it; None if it is missing, a terminal or carries an embedding.

    Raises UsageError if there is nothing to read: no input, no list, and stdin is missing or a terminal; or if stdin is
    to be an embedding too.
    """
    stdin = streams.unbuffered_stdin()
    if not inputs.inputs and inputs.files_from is None and stdin is None:
        raise UsageError("no input: name files or folders, or pipe in a list of paths or images")
    if "-" not in prompts.embedding:
        return stdin
    if "-" in inputs.inputs or inputs.files_from == "-":
        raise UsageError("standard input is named twice: for --embedding, and for images or a list of them")
    return None


def _carry_out(
    request: "Request",
    sources: "Iterator[Source]",
    counts: "Summary",
    show_exemplar: str | None,
    console: ConsoleOptions,
) -> None:
    from pathlib import Path

    from clipseg_cli.cli import summary
    from clipseg_cli.cli.terminal import Terminal, present
    from clipseg_cli.outputs.writers import one_file
    from clipseg_cli.run import segment as runs
    from clipseg_cli.storage.paths import escape

    if show_exemplar is not None:
        runs.show_exemplars(request, Path(show_exemplar))
    if request.run.dry_run:
        if console.verbose:
            streams.tell(f"{runs.planned_workers(request)}\n")
        for source in sources:
            say(escape(runs.planned(source, request)))
        return
    named = request.output.out is not None
    with Terminal(console) as terminal:
        total = None
        counted = request.inputs.inputs and request.inputs.files_from is None and "-" not in request.inputs.inputs
        if terminal.mode == "bar" and counted:
            head = list(itertools.islice(sources, COUNTED))
            total = len(head) if len(head) < COUNTED else None
            sources = itertools.chain(head, sources)
        terminal.begin(total)
        first = next(sources, None)
        if first is not None:
            request, sources = runs.placed(request, terminal.note), itertools.chain([first], sources)
        records = runs.segment(request, sources, terminal.note, streams.stdout(), counts)
        single = request.file is not None
        out = one_file.STDOUT if request.to_stdout else request.out
        report = present(records, terminal, request.output, out, single, request.inputs.null)
    terminal.notes(summary.lines(counts, out, single, _again(request, single, named), report))
    raise typer.Exit(3 if terminal.failed else 0)


def _again(request: "Request", single: bool, named: bool) -> str:
    """Returns what a new threshold is added to: a command that needs no model if the run has soft maps."""
    if not single and {"soft", "soft16"} & set(request.output.formats):
        return f"clipseg post {shlex.quote(request.out)}"
    return "the same command with" + (" another -o and" if named and not single else "")
