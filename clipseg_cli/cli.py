"""The command line: each command parses, calls one function and presents. The only file that prints or exits."""

import contextlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from json import dumps
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from clipseg_cli import __version__, options, settings
from clipseg_cli.errors import ClipsegError, UsageError

if TYPE_CHECKING:
    from clipseg_cli.manifest import Record

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Masks for folders of pictures, from text prompts, with CLIPSeg.",
)
models = typer.Typer(no_args_is_help=True, help="The models that are known and the weights that are here.")
app.add_typer(models, name="models")

LISTED = 100_000  # images counted before the first one is done, for the sake of the bar's total


def main() -> NoReturn:
    """Runs the program and exits with the contract's code. Every error of the tree is shown here and nowhere else."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
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
        if code > 128:
            print("clipseg: interrupted; the same command again does what is missing", file=sys.stderr)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.exit(code)
    # what is still in Python's buffer must not be written again at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def say(text: str) -> None:
    """One line on stdout, at once; any bytes that a path may hold. Ends the program with 0 when nobody reads on."""
    try:
        sys.stdout.buffer.write(os.fsencode(text + "\n"))
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # `| head -1`: the reader has what it wanted
        raise typer.Exit(0) from None


def _stop(number: int, frame: object) -> None:
    """The first signal ends the run in order, with what is finished kept; a second one ends it at once."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda again, _: os._exit(128 + again))
    raise SystemExit(128 + number)


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


def run(
    context: typer.Context,
    inputs: options.Inputs = None,
    prompt: options.PromptText = None,
    prompts_file: options.PromptsFile = None,
    expr: options.Expr = None,
    support: options.Support = None,
    support_mask: options.SupportMask = None,
    support_box: options.SupportBox = None,
    support_prompt: options.SupportPrompt = None,
    highlight: options.Highlight = "crop-blur-dim",
    mix: options.Mix = 0.5,
    show_exemplar: options.ShowExemplar = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    ext: options.Ext = None,
    exclude: options.Exclude = None,
    max_depth: options.MaxDepth = None,
    follow: options.Follow = False,
    hidden: options.Hidden = False,
    limit: options.Limit = None,
    max_pixels: options.MaxPixels = settings.MAX_PIXELS,
    model: options.Model = "rd64-refined",
    offline: options.Offline = False,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    backend: options.BackendOption = "fast",
    batch_size: options.BatchSize = None,
    threshold: options.Threshold = None,
    empty: options.EmptyOption = "write",
    out: options.Out = None,
    formats: options.FormatOption = None,
    json: options.Json = False,
    print_: options.PrintOption = None,
    resume: options.Resume = True,
    checksum: options.Checksum = False,
    fsync: options.Fsync = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    progress: options.ProgressOption = "auto",
    no_color: options.NoColor = False,
    debug: options.Debug = False,
    config: options.Config = None,
) -> None:
    """The commands `segment` and `oneshot`, which differ in their help and in what they cannot do without."""
    from pathlib import Path

    from clipseg_cli import exemplar, exemplars, prompts, runs
    from clipseg_cli.sources import discover, escape
    from clipseg_cli.terminal import Terminal

    if highlight not in exemplar.RECIPES:
        raise UsageError(f"--highlight {highlight}: no such recipe; choose from {', '.join(exemplar.RECIPES)}")
    if context.info_name == "oneshot" and not support:
        raise UsageError("oneshot needs an exemplar: --support ref.jpg (or use `clipseg segment -p TEXT`)")
    spoken = [*map(prompts.parse, prompt or ()), *(prompts.read_file(prompts_file) if prompts_file else ())]
    # an exemplar without a label of its own belongs to the only phrase there is
    default = spoken[0].label if len(spoken) == 1 else exemplars.DEFAULT_LABEL
    shown = exemplars.parse(support or (), support_mask or (), support_box or (), default)
    wanted = exemplars.want(spoken, [*map(prompts.parse_expression, expr or ())], shown)
    prompts.thresholds(threshold or (), wanted.prompts, 0)  # a wrong one is told before anything is read
    show = exemplars.Show(shown, highlight, support_prompt, mix)
    chosen = options.input_options(inputs, files_from, null, ext, exclude, max_depth, follow, hidden, limit, max_pixels)
    sources = discover(chosen, None if sys.stdin.isatty() else sys.stdin.buffer, out or "clipseg-out")
    first = next(sources, None)
    if first is not None:
        sources = itertools.chain([first], sources)
        if first.data is not None and out is None and not sys.stdout.isatty():
            out = "-"
    request = runs.Request(
        settings.ModelOptions(model, offline, device, dtype, backend, batch_size),
        wanted,
        tuple(threshold or ()),
        empty,
        options.output_options(out, formats, resume, checksum, fsync),
        max_pixels,
        tuple(sys.argv[1:]),
        show,
    )
    if show_exemplar is not None:
        runs.show_exemplars(request, Path(show_exemplar), lambda line: None)
    if dry_run:
        for source in sources:
            say(escape(runs.planned(source, request)))
        return
    with Terminal(progress, quiet, not no_color) as terminal:
        total = None
        if terminal.mode == "bar" and chosen.files_from is None and "-" not in chosen.inputs:
            head = list(itertools.islice(sources, LISTED))
            total = len(head) if len(head) < LISTED else None
            sources = itertools.chain(head, sources)
        terminal.begin(total)
        emit = _emitter(json, print_, request.output.out, runs.single(request.output.out))
        for record in runs.segment(request, sources, terminal.note, sys.stdout.buffer):
            terminal.record(record)
            emit(record)
    raise typer.Exit(3 if terminal.failed else 0)


app.command(
    "segment",
    help="""Segments pictures by phrases: one mask a phrase, and an overlay.

    clipseg segment photos/ -p "a cat"

    clipseg segment photos/ -p cat="a fluffy cat" -p sky -f mask -f soft -o out

    find . -name '*.jpg' -print0 | clipseg segment --files-from - -0 -p sky --json | jq .image

    clipseg segment - -p "a cat" -o - < in.jpg > mask.png
    """,
)(run)
app.command(
    "oneshot",
    help="""Segments pictures by exemplars: finds what a reference picture shows.

    clipseg oneshot photos/ --support ref.jpg --support-box 40,30,200,180

    clipseg oneshot photos/ --support logo=logo.png --support face=faces/

    clipseg oneshot photos/ --support ref.jpg --support-prompt "a mug" -p "a blue mug" --mix 0.3

    clipseg oneshot --support ref.jpg < list.txt
    """,
)(run)


def _emitter(json: bool, print_: options.Print | None, out: str, single: bool) -> Callable[["Record"], None]:
    """Puts each record on stdout as it comes: JSON, or mask paths where stdout is no terminal, or nothing."""

    def paths(record: "Record") -> None:
        document = record.document()
        for mask in document.get("masks", ()):
            if path := mask["path"] or mask.get("soft") or document.get("overlay"):
                say(os.path.join(out, path))

    if out == "-":
        return lambda record: None
    if json:
        return lambda record: say(record.line())
    if single:
        return lambda record: say(out) if record.ok and print_ != "none" and not sys.stdout.isatty() else None
    return paths if print_ == "paths" or (print_ is None and not sys.stdout.isatty()) else lambda record: None


@models.command("list")
def models_list(json: options.Json = False) -> None:
    """Lists the aliases, what each is, its licence, and whether its weights are here."""
    from clipseg_cli import registry

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
    from clipseg_cli import registry

    checkpoint = registry.locate(model, refresh=True, progress=True)
    say(str(checkpoint.path))


@models.command("path")
def models_path(model: Annotated[str, typer.Argument(help="Alias, hub id or directory.")] = "rd64-refined") -> None:
    """Prints the folder that a model is read from; exits 1 when it is not here."""
    from clipseg_cli import registry

    say(str(registry.locate(model, offline=True).path))


@app.command()
def doctor(device: options.Device = "auto", dtype: options.DtypeOption = "auto") -> None:
    """Shows versions, device, precision and weights, and runs a numeric self-test; exits 1 when a check fails."""
    from clipseg_cli.doctor import examine

    failed = False
    for finding in examine(device, dtype):
        mark = {True: "ok  ", False: "FAIL", None: "    "}[finding.ok]
        say(f"{mark} {finding.what}: {finding.value}")
        failed |= finding.ok is False
    raise typer.Exit(1 if failed else 0)
