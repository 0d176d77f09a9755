"""The HTML templates of the pages, with the scripts that both share."""

from pathlib import Path

FOLDER = Path(__file__).parent
SHARED = ("masks.js", "zoom.js")  # how masks are drawn; how an enlarged image is zoomed and moved


def template(name: str) -> str:
    """Returns the template with this file name; `{{scripts}}` is filled in."""
    scripts = "".join((FOLDER / script).read_text("utf-8") for script in SHARED)
    return (FOLDER / name).read_text("utf-8").replace("{{scripts}}", scripts)
