"""`Job`: what to do with each image of a run."""

from dataclasses import dataclass, field
from pathlib import Path

from clipseg_cli.model.registry import Checkpoint
from clipseg_cli.prompts.expressions import Expression
from clipseg_cli.run.finish import MaskPlan
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.settings.model import EncodeOptions
from clipseg_cli.storage.cache import Place


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with each image."""

    plan: MaskPlan
    rules: tuple[int | Expression, ...]  # one per label: the index of its term, or an expression over `texts`
    texts: tuple[str | None, ...]  # the text of each term; None unless it is only text
    batch_size: int  # images encoded at once
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    decoding: DecodeOptions = field(default_factory=DecodeOptions)
    checksum: bool = False  # identifies an input by content, not by size and time
    kept: Place | None = None  # where the features of images are kept; None: nowhere
    remote: bool = False  # images or outputs are not on this machine
    smooth: float = 0.0  # seconds before and after a frame of a video over which its soft maps are averaged
    sam: Checkpoint | None = None  # the network of --refine sam
    in_flight: int = 1  # batches that are given to the network before the result of the first is waited for
    unfinished: Path | None = None  # where files are that are written by windows; None: no run goes on with them
