"""How a soft map becomes a mask."""

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.thresholds import probability
from clipseg_cli.settings.flag import Flag, pixels

Refine = Literal["none", "guided", "grabcut", "matting", "sam"]
Empty = Literal["write", "skip"]
Mode = Literal["binary", "labels"]
Touching = Literal["joined", "divided"]


def _holes(text: str) -> int | str:
    return text if text == "all" else pixels(text, "--fill-holes", ", or all")


def _area(text: str) -> int | float:
    """Returns pixels as an int, or a share of the image as a float."""
    if not text.endswith("%"):
        return pixels(text, "--min-area", ", or a share of the image like 0.5%")
    try:
        share = repr(float(text.rstrip("%")) / 100)
    except ValueError:
        share = text
    return probability(share, f"--min-area {text}: a share of the image")


def _spelled_area(area: int | float) -> str:
    return f"{100 * area:.12g}%" if isinstance(area, float) else str(area)


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Refinement and clean-up steps, in the order of the fields. Lengths are radii of discs, in pixels."""

    PANEL: ClassVar[str] = "Masks"
    DECIDES: ClassVar[bool] = True

    refine: Annotated[
        Refine,
        Flag(
            "Align edges with the image: guided is fast, grabcut is crisp, matting keeps hair and fur soft (an extra), "
            "sam asks a SAM 2 network."
        ),
    ] = "none"
    refine_model: Annotated[
        str | None,
        Flag(
            "The network of --refine sam: an alias (see `clipseg models list`), a Hugging Face id, or a directory.",
            metavar="MODEL",
            default="sam2.1-tiny; with --model shapes, shapes-sam",
        ),
    ] = None
    refine_parts: Annotated[
        int, Flag("With --refine sam: refine the N largest parts of each mask.", metavar="N", low=1)
    ] = 16
    refine_closer: Annotated[
        bool,
        Flag(
            "With --refine sam: ask again about each part in an enlarged view. Finer edges of small objects; each view "
            "takes as long as an image."
        ),
    ] = False
    peak: Annotated[
        float | None,
        Flag("Keep only components that reach this probability, 0 to 1.", metavar="P", low=0.0, high=1.0),
    ] = None
    open: Annotated[
        int, Flag("Remove details thinner than a disc of this radius, in pixels.", metavar="PX", low=0, default="")
    ] = 0
    close: Annotated[
        int, Flag("Fill gaps narrower than a disc of this radius, in pixels.", metavar="PX", low=0, default="")
    ] = 0
    fill_holes: Annotated[
        int | str,
        Flag("Fill holes of up to this many pixels, or all.", metavar="PX|all", parse=_holes, default=""),
    ] = 0
    min_area: Annotated[
        int | float,
        Flag(
            "Remove components smaller than this: pixels (200) or a share of the image (0.5%).",
            metavar="PX|P%",
            parse=_area,
            spell=_spelled_area,
            default="",
        ),
    ] = 0
    keep_largest: Annotated[int, Flag("Keep the N largest components.", metavar="N", low=0, default="all")] = 0
    grow: Annotated[
        int, Flag("Grow the mask by this radius, in pixels; negative values shrink it.", metavar="PX", default="")
    ] = 0
    invert: Annotated[bool, Flag("Select everything but the object.")] = False
    feather: Annotated[
        float,
        Flag("Blur the edges of mask files and cutouts by this radius, in pixels.", metavar="PX", low=0.0, default=""),
    ] = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.feather):
            raise UsageError(f"--feather {self.feather}: give a number of pixels")


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """How soft maps become masks."""

    PANEL: ClassVar[str] = "Masks"
    DECIDES: ClassVar[bool] = True

    threshold: Annotated[
        tuple[str, ...],
        Flag(
            "Probability above which a pixel belongs to the object, 0 to 1; or otsu; or a percentile like p90. "
            "cat=0.4 sets it for the label cat. Repeatable.",
            ("--threshold", "-t"),
            "[LABEL=]P",
            default="the model's; in `post`, the run's",
            decides=False,  # run.json records the threshold of each prompt
        ),
    ] = ()
    clean: CleanUp = field(default_factory=CleanUp)
    min_presence: Annotated[
        float,
        Flag(
            "Leave the mask empty if its presence score is lower than this, 0 to 1.",
            metavar="P",
            low=0.0,
            high=1.0,
            default="",
        ),
    ] = 0.0
    mode: Annotated[
        Mode, Flag("binary: masks may overlap. labels: each pixel belongs to its most probable label only.")
    ] = "binary"
    instances: Annotated[
        bool,
        Flag(
            "Keep the objects of a label apart: each connected component gets an annotation of its own (coco, yolo, "
            "voc, labelme, labelstudio, cvat), a number (-f instances) and a score."
        ),
    ] = False
    touching: Annotated[
        Touching | None,
        Flag(
            "With --instances: objects that touch are one instance (joined), or one for each clear peak of the soft "
            "map (divided).",
            default="joined; with --refine sam, divided",
        ),
    ] = None
    background: Annotated[
        float,
        Flag(
            "With --mode labels: the probability that a label needs to win a pixel, 0 to 1.",
            metavar="P",
            low=0.0,
            high=1.0,
            default="",
        ),
    ] = 0.0
    empty: Annotated[Empty, Flag("If the mask is empty: write an all-black file, or skip it.")] = "write"

    def __post_init__(self) -> None:
        if self.touching and not self.instances:
            raise UsageError("--touching needs --instances")
        if self.background and self.mode != "labels":
            raise UsageError("--background needs --mode labels; for --mode binary use --threshold")

    @property
    def divides(self) -> bool:
        """Whether objects that touch become several instances."""
        usual = "divided" if self.clean.refine == "sam" else "joined"
        return self.instances and (self.touching or usual) == "divided"
