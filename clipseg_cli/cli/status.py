"""`clipseg status` and `clipseg merge`: a run over all its shards."""

from json import dumps
from typing import Annotated

import typer

from clipseg_cli.cli.report import Run
from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.flag import Flag

Json = Annotated[bool, Flag("Print one JSON object.", panel="Output")]
Debug = Annotated[bool, Flag("Show a traceback with an error.", panel="Advanced")]
LISTED = 20  # images named at most


def status(run: Run, json: Json = False, debug: Debug = False) -> None:
    """Shows what a run has done, and what is missing.

    Counts all shards. Exits 3 where an image failed or is missing.

    \b
    Example:
      clipseg status out --json | jq -r '.missing[]'
    """
    from clipseg_cli.run import status as runs
    from clipseg_cli.storage import store
    from clipseg_cli.storage.paths import escape

    found = runs.status(store.as_path(run))
    if json:
        say(dumps(found.document(), ensure_ascii=False))
    else:
        failed = ", ".join(f"{count} {kind}" for kind, count in sorted(found.failed.items()))
        missing = "unknown (the inputs came from a list)" if found.missing is None else len(found.missing)
        say(f"done     {found.done}")
        say(f"failed   {sum(found.failed.values())}" + (f" ({failed})" if failed else ""))
        say(f"missing  {missing}")
        for name in (*found.names, *(found.missing or ()))[:LISTED]:
            say(f"  {escape(name)}")
    raise typer.Exit(3 if found.failed or found.missing else 0)


def merge(run: Run, debug: Debug = False) -> None:
    """Merges the shards of a run.

    Makes one manifest, sorted by image, and writes files like coco.json for all images.
    """
    from clipseg_cli.run import status as runs
    from clipseg_cli.storage import store

    out = store.as_path(run)
    say(f"{runs.merge(out)} images in {out / 'manifest.jsonl'}")
