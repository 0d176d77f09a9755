"""`clipseg status` and `clipseg merge`: count, and merge, all shards of a run."""

from json import dumps
from typing import Annotated

import typer

from clipseg_cli.cli.report import Run
from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.flag import Flag

Json = Annotated[bool, Flag("Print one JSON object.", panel="Output")]
Debug = Annotated[bool, Flag("Show the traceback of an error.", panel="Advanced")]
LISTED = 20  # failed and missing images that are listed at most


def status(run: Run, json: Json = False, debug: Debug = False) -> None:
    """Shows how many images of a run are done, failed and missing.

    Counts all shards, and lists failed and missing images. Exits 3 if there are any.

    \b
    Example:
      clipseg status out --json | jq -r '.missing[]'
    """
    from clipseg_cli.inputs.source import readable
    from clipseg_cli.run import status as runs
    from clipseg_cli.storage import store
    from clipseg_cli.storage.paths import escape

    result = runs.status(store.as_path(run))
    if json:
        say(dumps(result.document(), ensure_ascii=False))
    else:
        failed = ", ".join(f"{count} {kind}" for kind, count in sorted(result.failed.items()))
        unknown = "unknown (inputs from a list on stdin, or not found from this directory)"
        missing = unknown if result.missing is None else len(result.missing)
        say(f"done     {result.done}")
        say(f"failed   {sum(result.failed.values())}" + (f" ({failed})" if failed else ""))
        say(f"missing  {missing}")
        for name in (*result.names, *(result.missing or ()))[:LISTED]:
            say(f"  {escape(readable(name))}")
    raise typer.Exit(3 if result.failed or result.missing else 0)


def merge(run: Run, debug: Debug = False) -> None:
    """Merges the shards of a run.

    Writes one manifest, sorted by image, and one file like coco.json for all images.
    """
    from clipseg_cli.run import status as runs
    from clipseg_cli.storage import store

    out = store.as_path(run)
    say(f"{runs.merge(out)} images in {out / 'manifest.jsonl'}")
