"""Which images to read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag, fill
from clipseg_cli.settings.videos import VideoOptions

MAX_PIXELS = 100_000_000  # pixels: refuses decompression bombs, accepts all cameras but the largest medium-format backs


def _extensions(text: str) -> tuple[str, ...]:
    """Returns extensions in lower case with a dot: `.jpg` and `.png` for `JPG,*.png`."""
    return tuple("." + each.lower().lstrip("*").lstrip(".") for each in text.split(","))


def _frames(text: str) -> str:
    selected(text, 1)
    return text


def selected(frames: str, count: int) -> range:
    """Returns the numbers of the frames that `--frames` selects of `count`. Raises UsageError."""
    if frames in ("first", "all"):
        return range(count if frames == "all" else min(count, 1))
    parts = frames.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
        if len(parts) == 1 and numbers[0] is not None:  # one frame
            parts, numbers = ["", ""], [numbers[0], numbers[0] + 1 or None]
        if len(parts) in (2, 3):
            return range(count)[slice(*numbers)]
    except ValueError:
        pass
    raise UsageError(f"--frames {frames}: write first, all, or A:B or A:B:STEP like 0:100:10; the first frame is 0")


# What becomes black and white, as shares of the values in percent; or one of two names that are no such shares.
Stretch = tuple[float, float]
NONE: Stretch = (-1.0, -1.0)  # the whole range of the type
MINMAX: Stretch = (0.0, 100.0)  # from the lowest to the highest value
STRETCHES = {"none": NONE, "minmax": MINMAX}


def _stretch(text: str) -> Stretch:
    if text in STRETCHES:
        return STRETCHES[text]
    low, _, high = text.removesuffix("%").partition(",")
    try:
        shares = float(low), float(high)
    except ValueError:
        shares = NONE
    if not 0 <= shares[0] < shares[1] <= 100:
        raise UsageError(f"--stretch {text}: write none, minmax, or two percentages like 2,98%")
    return shares


def _bands(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--bands {text}: write the numbers of three bands, or of one; the first is 1, like 4,3,2")
    return tuple(map(int, parts))


def _spelled(stretch: Stretch) -> str:
    names = {value: name for name, value in STRETCHES.items()}
    return names.get(stretch, f"{stretch[0]:g},{stretch[1]:g}%")


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(f"--shard {text}: write I/N with I from 0 to N - 1, like 0/16")
    return int(index), int(count)


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How files become pixels."""

    PANEL: ClassVar[str] = "Input"
    DECIDES: ClassVar[bool] = True

    raw: Annotated[
        Literal["preview", "develop"],
        Flag("Camera raw files: use the embedded JPEG if it is large enough, or always develop the sensor data."),
    ] = "preview"
    bands: Annotated[
        tuple[int, ...] | None,
        Flag(
            "Bands of a TIFF to show as red, green and blue, or one as grey; the first is 1. Example: 4,3,2.",
            metavar="R,G,B",
            parse=_bands,
            spell=lambda bands: ",".join(map(str, bands)),
            default="the colours that the file names, otherwise 1,2,3",
        ),
    ] = None
    stretch: Annotated[
        Stretch | None,
        Flag(
            "Values of a TIFF that become black and white: the range of their type, the lowest and highest, or two "
            "percentiles.",
            metavar="none|minmax|LOW,HIGH%",
            parse=_stretch,
            spell=_spelled,
            default="by the type; of GeoTIFFs of more than 8 bits, 2,98%",
        ),
    ] = None
    max_pixels: Annotated[
        int,
        Flag("Refuse images with more pixels than this, before decoding them.", metavar="N", low=1, panel="Advanced"),
    ] = MAX_PIXELS


def recorded(settings: Mapping[str, Any], max_pixels: int) -> DecodeOptions:
    """Returns the options of a run from the settings in its run.json, with another limit."""
    lists = {name: tuple(now) if isinstance(now, list) else now for name, now in settings.items()}
    return cast(DecodeOptions, fill(DecodeOptions, lists | {"max_pixels": max_pixels}))


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Which images to read, in which order, and how many."""

    PANEL: ClassVar[str] = "Input"

    inputs: Annotated[
        tuple[str, ...],
        Flag("Image files, folders (searched recursively), quoted globs, URLs, or - for stdin.", argument=True),
    ] = ()
    files_from: Annotated[
        str | None, Flag("Read image paths from this file, one per line; - is stdin.", metavar="FILE|-")
    ] = None
    null: Annotated[
        bool,
        Flag(
            "Paths end with NUL, in lists that are read (`find -print0`) and in those that are printed.",
            ("--null", "-0"),
        ),
    ] = False
    extensions: Annotated[
        tuple[str, ...],
        Flag(
            "Only files with this extension. Repeatable: -e jpg -e png.",
            ("--ext", "-e"),
            "EXT",
            parse=_extensions,
            default="every supported image format",
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Flag("Skip files and folders that match this glob. Repeatable.", ("--exclude", "-E"), "GLOB"),
    ] = ()
    max_depth: Annotated[
        int | None, Flag("Search folders to this depth; 1 means no subfolders.", ("--max-depth", "-d"), "N", low=1)
    ] = None
    follow: Annotated[bool, Flag("Follow symbolic links.", ("--follow", "-L"))] = False
    hidden: Annotated[bool, Flag("Include files and folders whose names start with a dot.", ("--hidden", "-H"))] = False
    frames: Annotated[
        str | None,
        Flag(
            "Which pages of a TIFF or frames of an animation or video to process. A:B:STEP counts from 0, without B.",
            metavar="first|all|A:B:STEP",
            parse=_frames,
            default="first; of videos, all",
            decides=True,
        ),
    ] = None
    limit: Annotated[int | None, Flag("Stop after N images.", metavar="N", low=1)] = None
    shard: Annotated[
        tuple[int, int],
        Flag(
            "Process only shard I of N; the first is 0/N. An image is always in the same shard.",
            metavar="I/N",
            parse=_shard,
            spell=lambda shard: f"{shard[0]}/{shard[1]}",
            default="",
            panel="Advanced",
        ),
    ] = (0, 1)
    decoding: DecodeOptions = field(default_factory=DecodeOptions)
    video: VideoOptions = field(default_factory=VideoOptions)
