"""The program: its commands, its signals, and the one place that shows errors and exits."""

import contextlib
import os
import signal
import sys
import threading
from dataclasses import asdict
from json import dumps
from typing import Annotated, NoReturn

import typer

from clipseg_cli import __version__, settings
from clipseg_cli.cli import assess, commands, options
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import ClipsegError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Masks for folders of pictures, from text prompts, with CLIPSeg.",
)
models = typer.Typer(no_args_is_help=True, help="The models that are known and the weights that are here.")
app.add_typer(models, name="models")


LAST = 4.0  # seconds after a signal in which all is put in order: a hanging decoder must not hold the program


def main() -> NoReturn:
    """Runs the program and exits with the contract's code. Every error of the tree is shown here and nowhere else."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    missing = False
    try:
        app()
    except ClipsegError as error:
        if "--debug" in sys.argv:
            raise
        print(f"clipseg: {error}", file=sys.stderr)
        code = error.exit_code
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        print(f"clipseg: internal error: {type(error).__name__}: {error} (run with --debug)", file=sys.stderr)
        code = 1
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
        missing = code > 128 and not isinstance(leaving, Closed)
    if missing:  # only here, where nothing holds the run any more, are its workers gone
        _leave(code)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.exit(code)
    # what is still in Python's buffer must not be written again at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class Closed(SystemExit):
    """A signal ended what ends in no other way: nothing is missing."""


def _stop(number: int, frame: object) -> None:
    """The first signal ends the run in order, with what is finished kept; a second one ends it at once."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda again, _: os._exit(128 + again))
    last = threading.Timer(LAST, _leave, [128 + number])
    last.daemon = True
    last.start()
    raise SystemExit(128 + number)


def _leave(code: int) -> NoReturn:
    """Ends the process without waiting for its threads, one of which may hang."""
    with contextlib.suppress(OSError):
        print("clipseg: interrupted; the same command again does what is missing", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"clipseg {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command(
    "segment",
    help="""Segments pictures by phrases: one mask a phrase, and an overlay.

    clipseg segment photos/ -p "a cat"

    clipseg segment photos/ -p cat="a fluffy cat" -p sky -f mask -f soft -o out

    find . -name '*.jpg' -print0 | clipseg segment --files-from - -0 -p sky --json | jq .image

    clipseg segment - -p "a cat" -o - < in.jpg > mask.png
    """,
)(commands.run)
app.command(
    "oneshot",
    help="""Segments pictures by exemplars: finds what a reference picture shows.

    clipseg oneshot photos/ --support ref.jpg --support-box 40,30,200,180

    clipseg oneshot photos/ --support logo=logo.png --support face=faces/

    clipseg oneshot photos/ --support ref.jpg --support-prompt "a mug" -p "a blue mug" --mix 0.3

    clipseg oneshot --support ref.jpg < list.txt
    """,
)(commands.run)
app.command()(commands.find)
app.command()(assess.post)
app.command()(commands.embed)
app.command()(assess.report)
app.command()(assess.status)
app.command()(assess.merge)
app.command("eval")(assess.evaluate)
app.command("calibrate")(assess.calibrate)
app.command("train")(assess.train)
app.command("protocol")(assess.protocol)


@app.command()
def ui(
    folder: Annotated[str, typer.Argument(help="A folder of pictures.")] = ".",
    model: options.Model = "rd64-refined",
    offline: options.Offline = False,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    backend: options.BackendOption = "fast",
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Where its runs go.")] = "clipseg-out",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    browse: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    debug: options.Debug = False,
    config: options.Config = None,
) -> None:
    """A page on this machine: type a phrase, see the masks of a folder's pictures change.

    clipseg ui photos/

    Draw a box on a picture to look for such things; run what is on screen on the whole folder, or copy its command.
    """
    from clipseg_cli.pages.server import serve
    from clipseg_cli.pages.session import Session, folder_of

    chosen = settings.ModelOptions(model, offline, device, dtype, backend)
    session = Session(folder_of(folder), chosen, out)
    try:
        serve(session, port, say, browse and sys.stdout.isatty())
    except SystemExit as leaving:
        if session.run is None or session.run.status()["state"] == "done":
            raise Closed(leaving.code) from None
        raise


@models.command("list")
def models_list(json: options.Json = False) -> None:
    """Lists the aliases, what each is, its licence, and whether its weights are here."""
    from clipseg_cli.model import registry

    rows = registry.installed()
    if json:
        say(dumps([asdict(row) for row in rows], default=str, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "what it is", "weights", "licence of the weights", box=None, pad_edge=False)
    for row in rows:
        here = f"here, {row.size / 1e6:.0f} MB" if row.path else f"clipseg models pull {row.name}"
        licence = registry.ALIASES[row.name].licence if row.name in registry.ALIASES else "see its page on the hub"
        table.add_row(row.name, row.about, here, licence)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    with console.capture() as text:
        console.print(table)
    say(text.get().rstrip())


@models.command("pull")
def models_pull(model: Annotated[str, typer.Argument(help="Alias or hub id org/name[@revision].")]) -> None:
    """Fetches a model's weights, or checks that they are current."""
    from clipseg_cli.model import registry

    checkpoint = registry.locate(model, refresh=True, progress=True)
    say(str(checkpoint.path))


@models.command("path")
def models_path(model: Annotated[str, typer.Argument(help="Alias, hub id or directory.")] = "rd64-refined") -> None:
    """Prints the folder that a model is read from; exits 1 when it is not here."""
    from clipseg_cli.model import registry

    say(str(registry.locate(model, offline=True).path))


@app.command()
def doctor(device: options.Device = "auto", dtype: options.DtypeOption = "auto") -> None:
    """Shows versions, device, precision and weights, and runs a numeric self-test; exits 1 when a check fails."""
    from clipseg_cli.cli.doctor import examine

    failed = False
    for finding in examine(device, dtype):
        mark = {True: "ok  ", False: "FAIL", None: "    "}[finding.ok]
        say(f"{mark} {finding.what}: {finding.value}")
        failed |= finding.ok is False
    raise typer.Exit(1 if failed else 0)
