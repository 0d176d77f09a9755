"""`clipseg layouts`: the presets of --layout."""

from dataclasses import asdict
from json import dumps

from clipseg_cli.cli.status import Json
from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.layouts import LAYOUTS


def layouts(json: Json = False) -> None:
    """Lists the layouts of --layout, and what reads each.

    A layout sets formats, names, polarity and orientation of the masks.

    \b
    Example:
      clipseg segment photos/ -p "a person" --layout colmap -o masks
    """
    if json:
        say(dumps({name: asdict(preset) for name, preset in LAYOUTS.items()}, indent=1))
        return
    for name, preset in LAYOUTS.items():
        say(f"{name:12} {preset.reads}")
