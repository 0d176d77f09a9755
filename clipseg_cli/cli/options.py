"""The command line's options: shared `Annotated` aliases, and how groups of them become values."""

import math
import sys
from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from clipseg_cli import settings
from clipseg_cli.cli import configuration
from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.thresholds import probability
from clipseg_cli.storage import files

_IN, _WHAT, _MODEL, _MASK, _OUT, _RUN = "Images", "Prompts", "Model", "Masks", "Output", "Run"

Print = Literal["paths", "none"]

Inputs = Annotated[
    list[str] | None,
    typer.Argument(help="Files, folders (walked recursively), quoted globs, or - for stdin.", show_default=False),
]
FilesFrom = Annotated[
    str | None, typer.Option(metavar="FILE|-", help="Read paths from a file, one a line.", rich_help_panel=_IN)
]
Null = Annotated[bool, typer.Option("--null", "-0", help="Paths in lists end in NUL.", rich_help_panel=_IN)]
Ext = Annotated[
    list[str] | None,
    typer.Option("--ext", "-e", metavar="EXT", help="Only files with this extension.", rich_help_panel=_IN),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", "-E", metavar="GLOB", help="Leave out paths or folders.", rich_help_panel=_IN),
]
MaxDepth = Annotated[
    int | None, typer.Option("--max-depth", "-d", min=1, help="1: no subfolders.", rich_help_panel=_IN)
]
Follow = Annotated[bool, typer.Option("--follow", "-L", help="Follow symbolic links.", rich_help_panel=_IN)]
Hidden = Annotated[
    bool, typer.Option("--hidden", "-H", help="Include names that begin with a dot.", rich_help_panel=_IN)
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N images.", rich_help_panel=_IN)]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="Only part I of N, counted from 0.", rich_help_panel=_IN)
]
MaxPixels = Annotated[
    int, typer.Option(min=1, metavar="N", help="Refuse larger pictures, before decoding.", rich_help_panel=_IN)
]
PromptText = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", metavar="TEXT", help="What to find; label=text names it.", rich_help_panel=_WHAT),
]
PromptsFile = Annotated[
    str | None,
    typer.Option("--prompts-file", "-P", metavar="FILE", help="One a line, or .csv or .toml.", rich_help_panel=_WHAT),
]
Expr = Annotated[
    list[str] | None,
    typer.Option(metavar="[LABEL=]EXPR", help="Phrases joined by AND, OR, NOT and ( ).", rich_help_panel=_WHAT),
]
Template = Annotated[
    list[str] | None,
    typer.Option(metavar="'a photo of a {}'", help="Frames for phrases; several are averaged.", rich_help_panel=_WHAT),
]
Embedding = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE|-", help="What `clipseg embed` kept, with its labels.", rich_help_panel=_WHAT),
]
Similarity = Annotated[
    bool,
    typer.Option(
        "--similarity", help="Record CLIP's image-prompt similarity too; about 1/5 slower.", rich_help_panel=_MODEL
    ),
]
Support = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[LABEL=]IMG", help="An exemplar, or a folder of them: find such things.", rich_help_panel=_WHAT
    ),
]
SupportMask = Annotated[
    list[str] | None,
    typer.Option(metavar="IMG", help="Its object, bright; default: IMG_mask.png beside it.", rich_help_panel=_WHAT),
]
SupportBox = Annotated[
    list[str] | None, typer.Option(metavar="X,Y,W,H", help="Its object, as a box in pixels.", rich_help_panel=_WHAT)
]
SupportPrompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A phrase that finds its object.", rich_help_panel=_WHAT)
]
Highlight = Annotated[
    str, typer.Option(metavar="RECIPE", help="How it is shown: dim, crop, outline, none ...", rich_help_panel=_WHAT)
]
Mix = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="The phrase's share where a label has both it and exemplars.", rich_help_panel=_WHAT
    ),
]
ShowExemplar = Annotated[
    str | None,
    typer.Option(metavar="FILE.png", help="Write what the model is shown of the exemplars.", rich_help_panel=_WHAT),
]
Model = Annotated[
    str,
    typer.Option("--model", "-m", help="Alias, hub id org/name\\[@revision], or a directory.", rich_help_panel=_MODEL),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.", rich_help_panel=_MODEL)]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:i]|mps", help="Where to run.", rich_help_panel=_MODEL)]
Devices = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda[:i]|mps", help="Where to run; cuda:0,1 runs on both.", rich_help_panel=_MODEL
    ),
]
DtypeOption = Annotated[
    settings.Dtype, typer.Option("--dtype", help="auto: bf16 where the hardware is fast at it.", rich_help_panel=_MODEL)
]
BackendOption = Annotated[
    settings.Backend, typer.Option("--backend", help="transformers: the reference, slower.", rich_help_panel=_MODEL)
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", "-b", min=1, help="Images encoded at once.", rich_help_panel=_MODEL)
]
Size = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="PX", help="Side of what the network sees; cost grows with its square.", rich_help_panel=_MODEL
    ),
]
Tile = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="Look at N tiles along the longer side too: about N x N times the cost.",
        show_default=False,
        rich_help_panel=_MODEL,
    ),
]
Flip = Annotated[
    bool, typer.Option("--flip", help="Look at everything mirrored too: twice the cost.", rich_help_panel=_MODEL)
]
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold",
        "-t",
        metavar="[LABEL=]P",
        help="0 to 1, or otsu, or a percentile like p90; a prompts file's beats one for all. \\[default: the model's]",
        rich_help_panel=_MASK,
    ),
]
RefineOption = Annotated[
    settings.Refine,
    typer.Option("--refine", help="Edges from the photo: guided is fast, matting an extra.", rich_help_panel=_MASK),
]
Peak = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="Keep the parts that reach this.", rich_help_panel=_MASK)
]
Open = Annotated[
    int,
    typer.Option(
        "--open", min=0, metavar="PX", help="Remove what is thinner.", show_default=False, rich_help_panel=_MASK
    ),
]
Close = Annotated[
    int,
    typer.Option(min=0, metavar="PX", help="Fill gaps that are narrower.", show_default=False, rich_help_panel=_MASK),
]
FillHoles = Annotated[
    str,
    typer.Option(
        metavar="PX|all", help="Fill holes of up to so many pixels.", show_default=False, rich_help_panel=_MASK
    ),
]
MinArea = Annotated[
    str, typer.Option(metavar="PX|P%", help="Remove parts of fewer pixels.", show_default=False, rich_help_panel=_MASK)
]
KeepLargest = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="Keep the N largest parts. \\[default: all]", show_default=False, rich_help_panel=_MASK
    ),
]
Grow = Annotated[
    int, typer.Option(metavar="PX", help="Grow; negative shrinks.", show_default=False, rich_help_panel=_MASK)
]
Invert = Annotated[bool, typer.Option("--invert", help="Everything but the object.", rich_help_panel=_MASK)]
Feather = Annotated[
    float,
    typer.Option(
        min=0.0, metavar="PX", help="Soften the edge of masks and cutouts.", show_default=False, rich_help_panel=_MASK
    ),
]
EmptyOption = Annotated[
    settings.Empty,
    typer.Option("--empty", help="An absent object: an all-zero mask, or no file.", rich_help_panel=_MASK),
]
MinPresence = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Below this presence score the object counts as absent.", rich_help_panel=_MASK
    ),
]
ModeOption = Annotated[
    settings.Mode, typer.Option("--mode", help="labels: a pixel has one label at most.", rich_help_panel=_MASK)
]
Background = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Floor that a label must exceed to win a pixel.", rich_help_panel=_MASK),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", metavar="DIR|FILE|-", help="Where to write. \\[default: clipseg-out]", rich_help_panel=_OUT
    ),
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAME",
        help=f"{' '.join(settings.FORMATS)}. Repeatable. \\[default: mask overlay]",
        rich_help_panel=_OUT,
    ),
]
Components = Annotated[
    bool, typer.Option("--components", help="Each connected part is an annotation.", rich_help_panel=_OUT)
]
Polygons = Annotated[bool, typer.Option("--polygons", help="COCO: polygons, not run lengths.", rich_help_panel=_OUT)]
Backdrop = Annotated[
    str | None,
    typer.Option(metavar="COLOUR", help="Behind cutouts: a name or #rrggbb. \\[default: clear]", rich_help_panel=_OUT),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON record an image.", rich_help_panel=_OUT)]
PrintOption = Annotated[
    Print | None,
    typer.Option("--print", help="Mask paths on stdout. \\[default: unless a terminal]", rich_help_panel=_OUT),
]
Preview = Annotated[bool, typer.Option("--preview", help="Show each overlay in the terminal.", rich_help_panel=_OUT)]
Report = Annotated[
    bool,
    typer.Option("--report", help="Write report.html too; add -f soft to move thresholds.", rich_help_panel=_OUT),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="List what would be done; load nothing.", rich_help_panel=_RUN)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.", rich_help_panel=_RUN)]
ProgressOption = Annotated[settings.Progress, typer.Option("--progress", help="On stderr.", rich_help_panel=_RUN)]


Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--overwrite", help="Do only what is missing, or forget what is there.", rich_help_panel=_RUN
    ),
]
Checksum = Annotated[
    bool, typer.Option("--checksum", help="Know an input by its content, not its time.", rich_help_panel=_RUN)
]
Fsync = Annotated[bool, typer.Option("--fsync", help="Survive a loss of power too; slower.", rich_help_panel=_RUN)]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", min=1, help="Workers, each with its own model.", rich_help_panel=_RUN)
]
EngineOption = Annotated[
    settings.Engine, typer.Option("--engine", help="Workers are processes here, or Ray's actors.", rich_help_panel=_RUN)
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto", help="A Ray cluster. \\[default: one on this machine]", rich_help_panel=_RUN
    ),
]
MaxErrors = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Stop once N images failed.", rich_help_panel=_RUN)
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features", metavar="DIR", help="Keep encoded images here; other prompts then cost little.",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed image.", rich_help_panel=_RUN)]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours on stderr.", rich_help_panel=_RUN)]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.", rich_help_panel=_RUN)]


Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Read defaults from this file only.", callback=configuration.configure, is_eager=True,
        rich_help_panel=_RUN,
    ),
]  # fmt: skip


def input_options(
    inputs: Iterable[str] | None,
    files_from: str | None,
    null: bool,
    ext: Iterable[str] | None,
    exclude: Iterable[str] | None,
    max_depth: int | None,
    follow: bool,
    hidden: bool,
    limit: int | None,
    shard: str | None,
    max_pixels: int,
) -> settings.InputOptions:
    """The input options as one value; extensions get their dot and lower case.

    Raises UsageError where there is nothing to read: no input, no list, and a terminal on stdin.
    """
    extensions = tuple("." + each.lower().lstrip("*").lstrip(".") for text in ext or () for each in text.split(","))
    if not inputs and files_from is None and sys.stdin.isatty():
        raise UsageError("no input: name files or folders, or pipe in a list of paths or one image")
    return settings.InputOptions(
        tuple(inputs or ()), files_from, null, extensions, tuple(exclude or ()), max_depth, follow, hidden, limit,
        _shard(shard), max_pixels,
    )  # fmt: skip


def _shard(text: str | None) -> tuple[int, int]:
    index, slash, count = (text or "0/1").partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(f"--shard {text}: write I/N with I from 0 to N - 1, like 0/16")
    return int(index), int(count)


def check_background(background: float, mode: settings.Mode) -> None:
    """Raises UsageError for a floor of competing labels where none compete."""
    if background and mode != "labels":
        raise UsageError("--background is the floor of --mode labels; a mask by itself has its --threshold")


def clean_up(
    refine: settings.Refine,
    peak: float | None,
    open_: int,
    close: int,
    fill_holes: str,
    min_area: str,
    keep_largest: int,
    grow: int,
    invert: bool,
    feather: float,
) -> settings.CleanUp:
    """The clean-up of masks as one value. Raises UsageError."""
    if refine == "matting":
        from clipseg_cli.masks import matting

        matting.check()
    if not math.isfinite(feather):
        raise UsageError(f"--feather {feather}: give a number of pixels")
    holes = fill_holes if fill_holes == "all" else _pixels(fill_holes, "--fill-holes", "a number of pixels, or all")
    area, share = 0, 0.0
    if min_area.endswith("%"):
        share = probability(_hundredth(min_area), f"--min-area {min_area}: a share of the picture")
    else:
        area = _pixels(min_area, "--min-area", "a number of pixels, or a share of the picture like 0.5%")
    return settings.CleanUp(refine, peak, open_, close, holes, area, share, keep_largest, grow, invert, feather)


def export(components: bool, polygons: bool, backdrop: str | None) -> settings.ExportOptions:
    """What the formats for other programs carry. Raises UsageError."""
    if backdrop is None:
        return settings.ExportOptions(components, polygons)
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(backdrop)[:3]
        bytes((red, green, blue))  # rgb(300,0,0) is none
    except ValueError:
        raise UsageError(f"--backdrop {backdrop}: no such colour; give a name like white, or #rrggbb") from None
    return settings.ExportOptions(components, polygons, (red, green, blue))


def _pixels(text: str, flag: str, wanted: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{flag} {text}: give {wanted}")
    return int(text)


def _hundredth(percent: str) -> str:
    try:
        return repr(float(percent.rstrip("%")) / 100)
    except ValueError:
        return percent


def output_options(
    out: str | None, formats: Iterable[str] | None, resume: bool, checksum: bool, fsync: bool
) -> settings.OutputOptions:
    """The output options as one value; `formats` may be repeated or joined by commas. Raises UsageError."""
    names = tuple(dict.fromkeys(name for text in formats or () for name in text.split(",")))
    for name in names:
        if name not in settings.FORMATS:
            raise UsageError(f"--format {name}: no such format; choose from {', '.join(settings.FORMATS)}")
    return settings.OutputOptions(files.local(out or "clipseg-out"), names, resume, checksum, fsync)  # type: ignore[arg-type]
