"""How a soft map becomes a mask."""

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.thresholds import probability
from clipseg_cli.settings.flag import Flag, pixels

Refine = Literal["none", "guided", "grabcut", "matting"]
Empty = Literal["write", "skip"]
Mode = Literal["binary", "labels"]


def _holes(text: str) -> int | str:
    return text if text == "all" else pixels(text, "--fill-holes", ", or all")


def _area(text: str) -> int | float:
    """Pixels as an int, a share of the image as a float."""
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
    """Refinement and clean-up, in this order. Lengths are radii of discs, in pixels."""

    PANEL: ClassVar[str] = "Masks"
    DECIDES: ClassVar[bool] = True

    refine: Annotated[
        Refine,
        Flag(
            "Fit the edges to the photo: guided is fast; grabcut is crisp; matting gives soft hair and fur (an extra)."
        ),
    ] = "none"
    peak: Annotated[
        float | None,
        Flag("Keep only components whose probability reaches this, 0 to 1.", metavar="P", low=0.0, high=1.0),
    ] = None
    open: Annotated[int, Flag("Remove what is thinner than this radius.", metavar="PX", low=0, default="")] = 0
    close: Annotated[int, Flag("Fill gaps that are narrower than this radius.", metavar="PX", low=0, default="")] = 0
    fill_holes: Annotated[
        int | str,
        Flag("Fill holes of up to this many pixels, or all.", metavar="PX|all", parse=_holes, default=""),
    ] = 0
    min_area: Annotated[
        int | float,
        Flag(
            "Remove components smaller than this many pixels, or this share of the image: 200, 0.5%.",
            metavar="PX|P%",
            parse=_area,
            spell=_spelled_area,
            default="",
        ),
    ] = 0
    keep_largest: Annotated[int, Flag("Keep the N largest components.", metavar="N", low=0, default="all")] = 0
    grow: Annotated[int, Flag("Grow the mask by this radius; a negative one shrinks it.", metavar="PX", default="")] = 0
    invert: Annotated[bool, Flag("Select everything but the object.")] = False
    feather: Annotated[
        float,
        Flag("Blur the edges of mask files and cutouts.", metavar="PX", low=0.0, default=""),
    ] = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.feather):
            raise UsageError(f"--feather {self.feather}: give a number of pixels")


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """From soft maps to masks."""

    PANEL: ClassVar[str] = "Masks"
    DECIDES: ClassVar[bool] = True

    threshold: Annotated[
        tuple[str, ...],
        Flag(
            "Probability above which a pixel belongs to the object, 0 to 1; or otsu; or a percentile like p90. "
            "label=P sets that of one label. Repeatable.",
            ("--threshold", "-t"),
            "[LABEL=]P",
            default="the model's",
            decides=False,  # run.json names the threshold of each prompt
        ),
    ] = ()
    clean: CleanUp = field(default_factory=CleanUp)
    min_presence: Annotated[
        float,
        Flag(
            "Leave the mask empty where the presence score is lower than this, 0 to 1.",
            metavar="P",
            low=0.0,
            high=1.0,
            default="",
        ),
    ] = 0.0
    mode: Annotated[Mode, Flag("`labels`: each pixel gets the most probable label only, so masks never overlap.")] = (
        "binary"
    )
    background: Annotated[
        float,
        Flag(
            "With --mode labels: the probability that a label needs to win a pixel.",
            metavar="P",
            low=0.0,
            high=1.0,
            default="",
        ),
    ] = 0.0
    empty: Annotated[Empty, Flag("Where the object is absent: write an all-black mask, or skip the file.")] = "write"

    def __post_init__(self) -> None:
        if self.background and self.mode != "labels":
            raise UsageError("--background goes with --mode labels; a single mask has its --threshold")
