"""`clipseg embed`: saves embeddings to a file."""

import sys
from typing import Annotated

from clipseg_cli.cli import streams
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.prompts import PromptOptions
from clipseg_cli.settings.run import ConsoleOptions


def embed(
    prompts: PromptOptions,
    model: ModelOptions,
    console: ConsoleOptions,
    out: Annotated[
        str, Flag("Write to this file; - is stdout.", ("--out", "-o"), "FILE|-", default="-", panel="Output")
    ] = "-",
) -> None:
    """Saves embeddings of prompts and exemplars.

    `clipseg segment` and `clipseg find` read the file with --embedding FILE.

    \b
    Examples:
      clipseg embed -p "a cat" --support cat=cats/ --template "a photo of a {}" -o cat.safetensors
      clipseg embed --support ref.jpg | clipseg segment photos/ --embedding -
    """
    from pathlib import Path

    from clipseg_cli.cli.terminal import Terminal
    from clipseg_cli.run import segment
    from clipseg_cli.run.query import terms
    from clipseg_cli.run.request import Request
    from clipseg_cli.storage import store

    if out == "-":
        streams.require_stdout()
    if out == "-" and streams.stdout_is_terminal():
        raise UsageError("embeddings are binary: write them to a file (-o cat.safetensors) or pipe them into a command")
    request = Request(terms.read(prompts, streams.stdin()), model, tuple(sys.argv[1:]))
    data = segment.embed(request, Terminal(console).note)
    if out == "-":
        streams.stdout().write(data)
        streams.stdout().flush()
        return
    store.check(Path(out).parent)
    store.write(Path(out), data)
