"""The program: its commands, and the only place that shows errors and exits."""

import sys
from typing import Annotated, NoReturn

import typer

from clipseg_cli import __version__
from clipseg_cli.cli import (
    cache,
    calibrate,
    doctor,
    embed,
    evaluate,
    find,
    layouts,
    models,
    post,
    protocol,
    report,
    segment,
    signals,
    status,
    streams,
    train,
    ui,
)
from clipseg_cli.cli.groups import Group, command
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import ClipsegError

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Writes masks for folders of images, from text prompts or exemplar images, with CLIPSeg.",
)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"clipseg {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


command(app, "segment")(segment.segment)
command(app, "oneshot")(segment.oneshot)
command(app, "find")(find.find)
command(app, "post", without=("model", "backend"))(post.post)
command(app, "embed", without=("expr", "embedding", "show_exemplar", "verbose", "progress", "no_color"))(embed.embed)
command(app, "report", without=("verbose", "progress", "no_color", "config"))(report.report)
command(app, "status")(status.status)
command(app, "merge")(status.merge)
command(app, "eval")(evaluate.evaluate)
command(app, "calibrate")(calibrate.calibrate)
command(app, "train", without=("backend", "verbose", "progress", "no_color", "config"))(train.train)
command(app, "protocol", without=("backend", "verbose", "progress", "no_color"))(protocol.protocol)
ENCODING = ("tile", "flip", "size", "batch_size", "similarity")  # the page has no use for these options
command(app, "ui", without=("quiet", "verbose", "progress", "no_color", *ENCODING))(ui.ui)
command(app, "layouts")(layouts.layouts)
app.add_typer(models.app, name="models")
app.add_typer(cache.app, name="cache")
command(app, "doctor")(doctor.doctor)


def main() -> NoReturn:
    """Runs the program and exits with the code of its result. Only this function shows errors."""
    streams.use_utf8()
    streams.open_all()
    signals.install()
    interrupted = False
    try:
        app()
    except ClipsegError as error:
        if "--debug" in sys.argv:
            raise
        streams.tell(f"clipseg: {error}\n")
        code = error.exit_code
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        streams.tell(f"clipseg: internal error: {type(error).__name__}: {error} (run with --debug)\n")
        code = 1
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
        interrupted = code > 128 and not isinstance(leaving, signals.Closed)
    if interrupted:  # not earlier: here nothing refers to the run any more, so its workers have ended
        signals.leave(code)
    sys.exit(code)
