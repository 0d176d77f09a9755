"""`clipseg models`: lists models and downloads their weights."""

from dataclasses import asdict
from json import dumps
from typing import Annotated

import typer

from clipseg_cli.cli.groups import Group, command
from clipseg_cli.cli.status import Json
from clipseg_cli.cli.terminal import as_text, say
from clipseg_cli.settings.flag import Flag

app = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None, help="Lists and downloads models.")


@command(app, "list")
def models_list(json: Json = False) -> None:
    """Lists the known models.

    Shows a description, whether the weights are on this machine, and their licence.
    """
    from clipseg_cli.model import registry

    rows = registry.installed()
    if json:
        say(dumps([asdict(row) for row in rows], default=str, indent=1))
        return
    from rich.table import Table

    table = Table("model", "description", "weights", "licence of the weights", box=None, pad_edge=False)
    for row in rows:
        here = f"on this machine, {row.size / 1e6:.0f} MB" if row.path else f"clipseg models pull {row.name}"
        licence = registry.ALIASES[row.name].licence if row.name in registry.ALIASES else "see its page on the hub"
        table.add_row(row.name, row.about, here, licence)
    say(as_text(table))


@command(app, "pull")
def models_pull(
    model: Annotated[str, Flag("An alias, or a Hugging Face id org/name[@revision].", argument=True)],
) -> None:
    """Downloads the weights of a model.

    Updates weights that are already on this machine if they are out of date. Prints their folder.
    """
    from clipseg_cli.model import registry
    from clipseg_cli.model.checkpoint_files import KINDS

    say(str(registry.locate(model, refresh=True, progress=True, kinds=KINDS).path))


@command(app, "path")
def models_path(
    model: Annotated[str, Flag("An alias, a Hugging Face id, or a directory.", argument=True)] = "rd64-refined",
) -> None:
    """Prints the folder of a model.

    Exits 1 if it is not on this machine.
    """
    from clipseg_cli.model import registry
    from clipseg_cli.model.checkpoint_files import KINDS

    say(str(registry.locate(model, offline=True, kinds=KINDS).path))
