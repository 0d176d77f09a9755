"""`clipseg embed`: embeddings to a file."""

import sys
from typing import Annotated

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
        str, Flag("The file to write; - is stdout.", ("--out", "-o"), "FILE|-", default="-", panel="Output")
    ] = "-",
) -> None:
    """Saves embeddings of prompts and exemplars.

    Other commands read the file with --embedding FILE.

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

    if out == "-" and sys.stdout.isatty():
        raise UsageError("an embedding is binary: name a file with -o cat.safetensors, or pipe it into a command")
    request = Request(terms.read(prompts), model, tuple(sys.argv[1:]))
    data = segment.embed(request, Terminal(console).note)
    if out == "-":
        sys.stdout.buffer.write(data)
        return
    store.check(Path(out).parent)
    store.write(Path(out), data)
