"""The commands that look at pictures: each parses, calls one function of `runs`, and presents."""

import importlib.util
import itertools
import sys
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from clipseg_cli import settings
from clipseg_cli.cli import options
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import UsageError

if TYPE_CHECKING:
    from clipseg_cli.outputs.manifest import Record
    from clipseg_cli.run.embeddings import Wanted
    from clipseg_cli.run.exemplars import Show

LISTED = 100_000  # images counted before the first one is done, for the sake of the bar's total


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
    template: options.Template = None,
    embedding: options.Embedding = None,
    show_exemplar: options.ShowExemplar = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    ext: options.Ext = None,
    exclude: options.Exclude = None,
    max_depth: options.MaxDepth = None,
    follow: options.Follow = False,
    hidden: options.Hidden = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    max_pixels: options.MaxPixels = settings.MAX_PIXELS,
    model: options.Model = "rd64-refined",
    offline: options.Offline = False,
    device: options.Devices = "auto",
    dtype: options.DtypeOption = "auto",
    backend: options.BackendOption = "fast",
    batch_size: options.BatchSize = None,
    size: options.Size = None,
    tile: options.Tile = 1,
    flip: options.Flip = False,
    similarity: options.Similarity = False,
    threshold: options.Threshold = None,
    refine: options.RefineOption = "none",
    peak: options.Peak = None,
    open_: options.Open = 0,
    close: options.Close = 0,
    fill_holes: options.FillHoles = "0",
    min_area: options.MinArea = "0",
    keep_largest: options.KeepLargest = 0,
    grow: options.Grow = 0,
    invert: options.Invert = False,
    feather: options.Feather = 0.0,
    empty: options.EmptyOption = "write",
    min_presence: options.MinPresence = 0.0,
    mode: options.ModeOption = "binary",
    background: options.Background = 0.0,
    out: options.Out = None,
    formats: options.FormatOption = None,
    components: options.Components = False,
    polygons: options.Polygons = False,
    backdrop: options.Backdrop = None,
    json: options.Json = False,
    print_: options.PrintOption = None,
    report: options.Report = False,
    preview: options.Preview = False,
    resume: options.Resume = True,
    checksum: options.Checksum = False,
    fsync: options.Fsync = False,
    jobs: options.Jobs = 1,
    engine: options.EngineOption = "local",
    ray_address: options.RayAddress = None,
    features: options.FeaturesOption = None,
    max_errors: options.MaxErrors = None,
    fail_fast: options.FailFast = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    progress: options.ProgressOption = "auto",
    no_color: options.NoColor = False,
    debug: options.Debug = False,
    config: options.Config = None,
) -> None:
    """The commands `segment` and `oneshot`, which differ in their help and in what they cannot do without."""
    from pathlib import Path

    from clipseg_cli.cli.terminal import Terminal, emitter, show_overlay
    from clipseg_cli.inputs.discovery import discover, escape
    from clipseg_cli.prompts.thresholds import resolve_thresholds
    from clipseg_cli.run import segment
    from clipseg_cli.storage import store

    if context.info_name == "oneshot" and not support:
        raise UsageError("oneshot needs an exemplar: --support ref.jpg (or use `clipseg segment -p TEXT`)")
    options.check_background(background, mode)
    wanted, show = _wanted(
        prompt, prompts_file, expr, support, support_mask, support_box, support_prompt, highlight, mix, template,
        embedding,
    )  # fmt: skip
    resolve_thresholds(threshold or (), wanted.prompts, 0)  # a wrong one is told before anything is read
    chosen = options.input_options(
        inputs, files_from, null, ext, exclude, max_depth, follow, hidden, limit, shard, max_pixels
    )
    clean = options.clean_up(refine, peak, open_, close, fill_holes, min_area, keep_largest, grow, invert, feather)
    mask = settings.MaskOptions(
        wanted.prompts, (), wanted.rules, wanted.texts, empty, clean, min_presence, mode, background
    )
    sources = discover(chosen, _stdin(embedding), out or "clipseg-out")
    first = next(sources, None)
    if first is not None:
        sources = itertools.chain([first], sources)
        if first.data is not None and out is None and not sys.stdout.isatty():
            out = "-"
    request = segment.Request(
        settings.ModelOptions(model, offline, device, dtype, backend, batch_size, size, tile, flip),
        wanted,
        tuple(threshold or ()),
        mask,
        similarity,
        options.output_options(out, formats, resume, checksum, fsync),
        chosen,
        tuple(sys.argv[1:]),
        show,
        _run_options(engine, ray_address, device, jobs, 1 if fail_fast else max_errors, features),
        options.export(components, polygons, backdrop),
    )
    if show_exemplar is not None:
        segment.show_exemplars(request, Path(show_exemplar))
    if dry_run:
        for source in sources:
            say(escape(segment.planned(source, request)))
        return
    with Terminal(progress, quiet, not no_color) as terminal:
        total = None
        if terminal.mode == "bar" and chosen.files_from is None and "-" not in chosen.inputs:
            head = list(itertools.islice(sources, LISTED))
            total = len(head) if len(head) < LISTED else None
            sources = itertools.chain(head, sources)
        terminal.begin(total)
        emit = emitter(json, print_, request.output.out, segment.single(request.output.out))
        for record in segment.segment(request, sources, terminal.note, sys.stdout.buffer):
            terminal.record(record)
            emit(record)
            if preview and sys.stdout.isatty():
                show_overlay(store.place(request.output.out), record)
        if report and not segment.single(request.output.out):
            from clipseg_cli.pages import report as reports

            reports.write(store.place(request.output.out), terminal.note)
    raise typer.Exit(3 if terminal.failed else 0)


def find(
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
    template: options.Template = None,
    embedding: options.Embedding = None,
    files_from: options.FilesFrom = None,
    null: options.Null = False,
    ext: options.Ext = None,
    exclude: options.Exclude = None,
    max_depth: options.MaxDepth = None,
    follow: options.Follow = False,
    hidden: options.Hidden = False,
    limit: options.Limit = None,
    shard: options.Shard = None,
    max_pixels: options.MaxPixels = settings.MAX_PIXELS,
    model: options.Model = "rd64-refined",
    offline: options.Offline = False,
    device: options.Devices = "auto",
    dtype: options.DtypeOption = "auto",
    backend: options.BackendOption = "fast",
    batch_size: options.BatchSize = None,
    similarity: options.Similarity = False,
    min_presence: options.MinPresence = 0.0,
    jobs: options.Jobs = 1,
    engine: options.EngineOption = "local",
    ray_address: options.RayAddress = None,
    features: options.FeaturesOption = None,
    json: options.Json = False,
    print_: options.PrintOption = None,
    quiet: options.Quiet = False,
    progress: options.ProgressOption = "auto",
    no_color: options.NoColor = False,
    debug: options.Debug = False,
    config: options.Config = None,
) -> None:
    """Ranks pictures by how surely they show it: grep for pictures. Writes no file.

    clipseg find photos/ -p "a cat"

    clipseg find photos/ -p "a cat" --min-presence 0.5 --print paths | head -3

    Of several phrases the surest one ranks a picture; for all at once say --expr "a cat AND a dog".
    """
    from clipseg_cli.cli.terminal import Terminal, table
    from clipseg_cli.inputs.discovery import discover
    from clipseg_cli.run import segment

    wanted, show = _wanted(
        prompt, prompts_file, expr, support, support_mask, support_box, support_prompt, highlight, mix, template,
        embedding,
    )  # fmt: skip
    chosen = options.input_options(
        inputs, files_from, null, ext, exclude, max_depth, follow, hidden, limit, shard, max_pixels
    )
    sources = discover(chosen, _stdin(embedding))
    request = segment.Request(
        settings.ModelOptions(model, offline, device, dtype, backend, batch_size),
        wanted,
        (),
        settings.MaskOptions(wanted.prompts, (), wanted.rules, wanted.texts, min_presence=min_presence),
        similarity,
        settings.OutputOptions(),
        chosen,
        tuple(sys.argv[1:]),
        show,
        _run_options(engine, ray_address, device, jobs, None, features),
    )
    found: list[Record] = []
    with Terminal(progress, quiet, not no_color) as terminal:
        terminal.begin(None)
        for record in segment.find(request, sources, terminal.note):
            terminal.record(record)
            if record.ok and record.presence >= min_presence:
                found.append(record)
    found.sort(key=lambda record: -record.presence)  # stable: equal ones stay in the order of the folder
    if json:
        for record in found:
            say(record.line())
    elif print_ == "paths" or (print_ is None and not sys.stdout.isatty()):
        for record in found:
            say(record.image)
    else:
        table(found)
    raise typer.Exit(3 if terminal.failed else 0)


def embed(
    prompt: options.PromptText = None,
    prompts_file: options.PromptsFile = None,
    support: options.Support = None,
    support_mask: options.SupportMask = None,
    support_box: options.SupportBox = None,
    support_prompt: options.SupportPrompt = None,
    highlight: options.Highlight = "crop-blur-dim",
    mix: options.Mix = 0.5,
    template: options.Template = None,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE|-", help="Where to write; - is stdout.")] = "-",
    model: options.Model = "rd64-refined",
    offline: options.Offline = False,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    backend: options.BackendOption = "fast",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    config: options.Config = None,
) -> None:
    """Keeps the embeddings of phrases and exemplars in a file, for `--embedding FILE` of the other commands.

    clipseg embed -p "a cat" --support cat=cats/ --template "a photo of a {}" -o cat.safetensors

    clipseg embed --support ref.jpg | clipseg segment photos/ --embedding -
    """
    from pathlib import Path

    from clipseg_cli.cli.terminal import Terminal
    from clipseg_cli.run import segment
    from clipseg_cli.storage import store

    if out == "-" and sys.stdout.isatty():
        raise UsageError("an embedding is not for reading: name a file with -o cat.safetensors, or pipe it on")
    wanted, show = _wanted(
        prompt, prompts_file, None, support, support_mask, support_box, support_prompt, highlight, mix, template, None
    )
    request = segment.Request(
        settings.ModelOptions(model, offline, device, dtype, backend),
        wanted,
        (),
        settings.MaskOptions(wanted.prompts, (), wanted.rules, wanted.texts),
        False,
        settings.OutputOptions(),
        settings.InputOptions(),
        tuple(sys.argv[1:]),
        show,
    )
    data = segment.embed(request, Terminal("none", quiet).note)
    if out == "-":
        sys.stdout.buffer.write(data)
        return
    store.check(Path(out).parent)
    store.write(Path(out), data)


def _run_options(
    engine: settings.Engine,
    ray_address: str | None,
    device: str,
    jobs: int,
    max_errors: int | None,
    features: str | None,
) -> settings.RunOptions:
    """Who does the work, as one value. Raises UsageError, also where Ray is asked for and not installed."""
    devices = settings.devices(device)
    if engine == "ray":
        spec = importlib.util.find_spec("ray")
        if spec is None or spec.origin is None:  # None too for a mere folder of that name
            raise UsageError("--engine ray needs one more package: pip install 'clipseg-cli[ray]'")
        if len(devices) > 1 or ":" in device:
            raise UsageError(f"--device {device}: Ray gives each actor its own GPU; say --device cuda, and -j N actors")
    elif ray_address is not None:
        raise UsageError("--ray-address goes with --engine ray")
    return settings.RunOptions(engine, jobs, max_errors, features, ray_address)


def _stdin(embedding: list[str] | None) -> BinaryIO | None:
    """What images or their list may be read from; None for a terminal, and where an embedding comes that way."""
    return None if sys.stdin.isatty() or "-" in (embedding or ()) else sys.stdin.buffer


def _wanted(
    prompt: list[str] | None,
    prompts_file: str | None,
    expr: list[str] | None,
    support: list[str] | None,
    support_mask: list[str] | None,
    support_box: list[str] | None,
    support_prompt: str | None,
    highlight: str,
    mix: float,
    template: list[str] | None,
    embedding: list[str] | None,
) -> "tuple[Wanted, Show]":
    """What to look for, from the prompt options of a command. Raises UsageError."""
    from clipseg_cli.prompts import highlight as recipes
    from clipseg_cli.prompts import text
    from clipseg_cli.run import embeddings, exemplars

    if highlight not in recipes.RECIPES:
        raise UsageError(f"--highlight {highlight}: no such recipe; choose from {', '.join(recipes.RECIPES)}")
    spoken = [*map(text.parse, prompt or ()), *(text.read_file(prompts_file) if prompts_file else ())]
    # an exemplar without a label of its own belongs to the only phrase there is
    default = spoken[0].label if len(spoken) == 1 else exemplars.DEFAULT_LABEL
    shown = exemplars.parse(support or (), support_mask or (), support_box or (), default)
    kept = [each for path in embedding or () for each in embeddings.read(path)]
    boolean = [*map(text.parse_expression, expr or ())]
    wanted = embeddings.want(spoken, boolean, shown, kept, template or ())
    return wanted, exemplars.Show(shown, highlight, support_prompt, mix)
