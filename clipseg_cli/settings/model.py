"""Which network runs, where, and how images are encoded."""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag

Device = str  # "auto", "cpu", "cuda", "cuda:1", "mps"; in a run also several: "cuda:0,1"
Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Backend = Literal["fast", "transformers"]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which checkpoint, on which device, in which precision."""

    PANEL: ClassVar[str] = "Model"

    model: Annotated[
        str,
        Flag(
            "An alias (see `clipseg models list`), a Hugging Face id org/name[@revision], or a directory.",
            ("--model", "-m"),
        ),
    ] = "rd64-refined"
    offline: Annotated[bool, Flag("Never use the network; the weights must be on this machine.")] = False
    device: Annotated[
        Device,
        Flag("Where to run: auto, cpu, cuda, cuda:1 or mps. A run may use several GPUs: cuda:0,1.", metavar="DEVICE"),
    ] = "auto"
    dtype: Annotated[
        Dtype, Flag("Precision. auto is bf16 where the hardware is fast at it, else fp32.", decides=True)
    ] = "auto"
    backend: Annotated[
        Backend,
        Flag("`transformers` runs Hugging Face's own code: slower, the reference.", panel="Advanced", decides=True),
    ] = "fast"


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How images are encoded."""

    PANEL: ClassVar[str] = "Model"
    DECIDES: ClassVar[bool] = True

    tile: Annotated[
        int,
        Flag(
            "Look at N overlapping tiles along the longer side too, for small objects. Costs about N x N.",
            metavar="N",
            low=1,
            default="",
        ),
    ] = 1
    flip: Annotated[bool, Flag("Look at the mirrored image too and average. Costs twice as much.")] = False
    size: Annotated[
        int | None,
        Flag(
            "Side of the square that the network sees, in pixels. Cost grows with its square.",
            metavar="PX",
            low=1,
            default="the model's",
            panel="Advanced",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        Flag(
            "Images encoded at once.",
            ("--batch-size", "-b"),
            "N",
            low=1,
            default="4 on a CPU, else 16",
            panel="Advanced",
            decides=False,  # an image of a batch has the same bits as alone
        ),
    ] = None
    similarity: Annotated[
        bool,
        Flag("Record CLIP's similarity of image and prompt too. About a fifth slower.", panel="Advanced"),
    ] = False
    features: Annotated[
        str | None,
        Flag(
            "Keep encoded images in this folder, so that later prompts skip the encoder.",
            metavar="DIR",
            decides=False,  # a kept image has the same bits as one that is encoded
        ),
    ] = None


def devices(text: Device) -> tuple[str, ...]:
    """The devices of `cuda:0,cuda:1`, or shorter `cuda:0,1`, one by one. Raises UsageError for anything else."""
    found: list[str] = []
    for part in text.split(","):
        cuda = found and found[-1].startswith("cuda:") and part.isascii() and part.isdigit()
        found.append(f"cuda:{part}" if cuda else part)
    alone = r"auto|" if len(found) == 1 else ""
    if not all(re.fullmatch(alone + r"cpu|mps|cuda|cuda:[0-9]+", device) for device in found):
        raise UsageError(f"--device {text}: write auto, cpu, mps, cuda or cuda:0, or a list of devices like cuda:0,1")
    return tuple(found)
