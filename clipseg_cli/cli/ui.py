"""`clipseg ui`: serves the live page."""

from typing import Annotated

from clipseg_cli.cli import streams
from clipseg_cli.cli.signals import Closed
from clipseg_cli.cli.terminal import say
from clipseg_cli.settings.flag import Flag
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.settings.run import ConsoleOptions


def ui(
    model: ModelOptions,
    encode: EncodeOptions,
    console: ConsoleOptions,
    folder: Annotated[str, Flag("A folder of images.", argument=True, panel="Input")] = ".",
    out: Annotated[str, Flag("Output folder of runs that the page starts.", ("--out", "-o"), "DIR", panel="Output")] = (
        "clipseg-out"
    ),
    port: Annotated[int, Flag("Port of the page; 0 picks a free one.", low=0, high=65535, panel="Run")] = 0,
    browse: Annotated[bool, Flag("Open the page in the browser.", ("--open/--no-open",), panel="Run")] = True,
) -> None:
    """Opens a live web page to try prompts.

    Type a prompt and see its masks on the images of a folder. Only this machine can open the page.

    \b
    Example:
      clipseg ui photos/

    Images that an earlier run or page has encoded are ready at once.

    Draw a box on an image to find similar objects. Run the prompts on the whole folder, or copy the command.
    """
    from clipseg_cli.outputs.writers import one_file
    from clipseg_cli.pages.server import serve
    from clipseg_cli.pages.session import Session, folder_of

    one_file.check_folder(out, "clipseg ui")
    session = Session(folder_of(folder), model, out, encode)
    try:
        serve(session, port, say, browse and streams.stdout_is_terminal())
    except SystemExit as leaving:
        if session.run is None or session.run.status()["state"] == "done":
            raise Closed(leaving.code) from None
        raise
