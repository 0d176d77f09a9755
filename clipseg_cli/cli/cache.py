"""`clipseg cache`: the encoded images that runs keep, so that later runs with other prompts skip the encoder."""

from datetime import datetime
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipseg_cli.cli.groups import Group, command
from clipseg_cli.cli.status import Json
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag, local_path

if TYPE_CHECKING:
    from clipseg_cli.storage.cache import Place

app = typer.Typer(
    cls=Group, no_args_is_help=True, rich_markup_mode=None, help="Shows or deletes the encoded images that runs keep."
)
Folder = Annotated[
    Path | None,
    Flag("The folder of --features.", metavar="DIR", argument=True, parse=local_path, default="the user's cache"),
]


@command(app, "info")
def cache_info(folder: Folder = None, json: Json = False) -> None:
    """Shows where encoded images are kept, and their size.

    \b
    Example:
      clipseg cache info --json | jq .bytes
    """
    from clipseg_cli.model.feature_store import KIND
    from clipseg_cli.outputs.record import readable_text
    from clipseg_cli.storage.paths import escape

    place = _place(folder)
    usage = place.usage()
    images = usage.counts[KIND]
    if json:
        path = readable_text(place.folder)
        say(
            dumps({"folder": path, "images": images, "bytes": usage.size, "limit": place.limit, "oldest": usage.oldest})
        )
        return
    limit = "none" if place.limit is None else f"{place.limit / 1e6:,.0f} MB, unless --features-limit says otherwise"
    say(f"folder  {escape(str(place.folder))}")
    say(f"images  {images:,}")
    say(f"size    {usage.size / 1e6:,.1f} MB")
    say(f"limit   {limit}")
    if usage.oldest:
        say(f"oldest  used on {datetime.fromtimestamp(usage.oldest):%Y-%m-%d at %H:%M}")


@command(app, "clear")
def cache_clear(folder: Folder = None) -> None:
    """Deletes the encoded images.

    Masks and other outputs stay. The next run encodes its images again. Runs in progress are not harmed.
    """
    from clipseg_cli.model.feature_store import KIND

    usage = _place(folder).clear()
    say(f"deleted {usage.counts[KIND]:,} encoded images, {usage.size / 1e6:,.1f} MB")


def _place(folder: Path | None) -> "Place":
    from clipseg_cli.model import feature_store
    from clipseg_cli.storage.cache import Place

    place = feature_store.user_place() if folder is None else Place(folder)
    if place is None:
        raise UsageError("there is no folder for a cache: set HOME, or CLIPSEG_CACHE to a folder")
    return place
