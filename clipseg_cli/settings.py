"""The options of a run as frozen values, grouped by owner. Standard library only."""

from dataclasses import dataclass
from typing import Literal, get_args

from clipseg_cli.expressions import Expression
from clipseg_cli.prompts import Prompt

Device = str  # "auto", "cpu", "cuda", "cuda:1", "mps"
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Backend = Literal["fast", "transformers"]
Empty = Literal["write", "skip"]
Progress = Literal["auto", "bar", "plain", "none"]
Format = Literal["mask", "soft", "overlay"]
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


@dataclass(frozen=True, slots=True)
class MaskOptions:
    """From the maps of terms to the masks of labels, one entry a label; `texts` has one entry a term."""

    prompts: tuple[Prompt, ...]
    thresholds: tuple[float, ...]  # probabilities in [0, 1]
    rules: tuple[int | Expression, ...]  # the term of each label, or the expression over terms
    texts: tuple[str | None, ...]  # None: exemplars alone
    empty: Empty = "write"  # an absent object: an all-zero mask, or no file


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What is written, and where."""

    out: str = "clipseg-out"
    formats: tuple[Format, ...] = ()  # empty: mask and overlay
    resume: bool = True  # do what is missing; False: forget what is there
    checksum: bool = False  # an input is known by its content, not by its time
    fsync: bool = False  # each file reaches the disk before the next step
