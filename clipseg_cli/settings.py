"""The options of a run as frozen values, grouped by owner. Standard library only."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.expressions import Expression
from clipseg_cli.prompts.text import Prompt, Threshold

Device = str  # "auto", "cpu", "cuda", "cuda:1", "mps"; of a run also several: "cuda:0,1"
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Backend = Literal["fast", "transformers"]
Empty = Literal["write", "skip"]
Classes = Literal["images", "labels"]  # what a mean IoU averages over
Refine = Literal["none", "guided", "grabcut", "matting"]
Mode = Literal["binary", "labels"]
Score = Literal["miou", "iou_fg"]  # what a threshold is chosen by
Protocol = Literal["phrasecut", "pascal-5i", "pascal-5i-text", "coco-20i", "pascal-zero-shot"]  # the paper's
Progress = Literal["auto", "bar", "plain", "none"]
Engine = Literal["local", "ray"]
Format = Literal[
    "mask",
    "soft",
    "soft16",
    "npz",
    "overlay",
    "cutout",
    "labels",
    "coco",
    "yolo",
    "voc",
    "labelme",
    "svg",
    "webdataset",
]
FORMATS: tuple[Format, ...] = get_args(Format)

MAX_PIXELS = 100_000_000  # pixels: refuses decompression bombs, admits every camera on sale but the largest backs


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Which images to read."""

    inputs: tuple[str, ...] = ()  # files, directories, globs, "-"
    files_from: str | None = None  # a list of paths: a file, or "-" for stdin
    null: bool = False  # the list is NUL-separated
    extensions: tuple[str, ...] = ()  # lower case with dot; empty: every extension that is read
    exclude: tuple[str, ...] = ()  # globs on the relative path or any part of it
    max_depth: int | None = None  # 1 = only the files directly in a directory
    follow: bool = False  # symbolic links
    hidden: bool = False  # names that begin with a dot
    limit: int | None = None  # images
    shard: tuple[int, int] = (0, 1)  # which of how many parts; a picture's part depends on its relative path alone
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which network, where and how exactly."""

    model: str = "rd64-refined"
    offline: bool = False
    device: Device = "auto"
    dtype: Dtype = "auto"
    backend: Backend = "fast"
    batch_size: int | None = None  # images; None: chosen for the device
    size: int | None = None  # pixels: the side of the square that the network sees; None: the model's own
    tiles: int = 1  # along the longer side of a picture, looked at beside the whole
    flip: bool = False  # everything mirrored too


def devices(text: Device) -> tuple[str, ...]:
    """The devices of `cuda:0,cuda:1`, or shorter `cuda:0,1`, one by one. Raises UsageError for any other writing."""
    found: list[str] = []
    for part in text.split(","):
        cuda = found and found[-1].startswith("cuda:") and part.isascii() and part.isdigit()
        found.append(f"cuda:{part}" if cuda else part)
    alone = r"auto|" if len(found) == 1 else ""
    if not all(re.fullmatch(alone + r"cpu|mps|cuda|cuda:[0-9]+", device) for device in found):
        raise UsageError(f"--device {text}: write auto, cpu, mps, cuda or cuda:0, or a list of devices like cuda:0,1")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class CleanUp:
    """How a map becomes a mask, in this order. Lengths are radii of discs, in pixels."""

    refine: Refine = "none"
    peak: float | None = None  # probability that every part of the mask reaches
    open: int = 0  # removes what is thinner
    close: int = 0  # fills gaps that are narrower
    fill_holes: int | str = 0  # up to so many pixels, or "all"
    min_area: int = 0  # pixels
    min_share: float = 0.0  # of the picture
    keep_largest: int = 0  # parts; 0: all
    grow: int = 0  # negative shrinks
    invert: bool = False
    feather: float = 0.0  # of the mask's file and of cutouts; every other output stays hard


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """From the maps of terms to the masks of labels, one entry a label; `texts` has one entry a term."""

    prompts: tuple[Prompt, ...]
    thresholds: tuple[Threshold, ...]  # empty until the model's default is known
    rules: tuple[int | Expression, ...]  # the term of each label, or the expression over terms
    texts: tuple[str | None, ...]  # None: exemplars alone
    empty: Empty = "write"  # an absent object: an all-zero mask, or no file
    clean: CleanUp = field(default_factory=CleanUp)
    min_presence: float = 0.0  # below it the object counts as absent, and its mask is empty
    mode: Mode = "binary"  # labels: each pixel belongs to one label at most, that of the highest probability
    background: float = 0.0  # probability that a label must exceed to win a pixel, whatever its threshold


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the formats for other programs carry."""

    components: bool = False  # each connected part is an annotation of its own
    polygons: bool = False  # COCO: polygons instead of run lengths
    backdrop: tuple[int, int, int] | None = None  # RGB behind cutouts; None: transparent


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What is written, and where."""

    out: str = "clipseg-out"
    formats: tuple[Format, ...] = ()  # empty: mask and overlay
    resume: bool = True  # do what is missing; False: forget what is there
    checksum: bool = False  # an input is known by its content, not by its time
    fsync: bool = False  # each file reaches the disk before the next step


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Who does the work, and when to give up. Nothing here changes a result."""

    engine: Engine = "local"
    jobs: int = 1  # workers, each with the whole network; at least one a device
    max_errors: int | None = None  # failed images that end the run
    features: str | None = None  # a folder that keeps encoded images for later runs
    ray_address: str | None = None  # None: RAY_ADDRESS, or a Ray of this run's own


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a decoder is fitted: the paper's numbers, with fewer and smaller steps for smaller data."""

    steps: int = 2000
    batch: int = 32  # examples a step
    rate: float = 1e-3  # of AdamW, falling along a cosine
    last_rate: float = 1e-4
    absent: float = 0.2  # share of examples whose phrase is swapped for one that the picture lacks, with an empty mask
    blend: float = 0.5  # share of examples whose phrase is blended, by a random share, with an exemplar of it
    replay_weight: float = 1.0  # of the loss on replayed phrases, beside 1 of the new
    hold: float = 0.1  # share of the pictures that are kept for the checks
    check: int = 100  # steps between two checks of the held-out pictures
    patience: int = 10  # checks without a better score, after which training ends
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ProtocolOptions:
    """Which of the paper's evaluations, and on what."""

    protocol: Protocol
    data: Path
    folds: tuple[int, ...] = (0, 1, 2, 3)  # of Pascal-5i and COCO-20i
    split: str = "test"  # of PhraseCut
    seed: int = 0  # of the lots that choose supports
    limit: int | None = None  # questions, of each fold
