"""Which model runs, on which device, and how images are encoded."""

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag

Device = str  # "auto", "cpu", "cuda", "cuda:1", "mps"; in a run also several: "cuda:0,1"
Dtype = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Backend = Literal["fast", "transformers"]
GPU_BATCH = 16  # images encoded at once, by default; with more, the cores decode and write in longer bursts


def _size(text: str) -> int:
    """Returns the number of bytes that `text` says, like 500MB or 1.5GB. Raises UsageError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)B?", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise UsageError(f"--features-limit {text}: write a size like 500MB or 2GB")
    return round(float(found[1]) * 10.0 ** (3 * " KMGT".index(found[2].upper() or " ")))


LEAST_WINDOW = 32  # pixels: smaller windows show nothing, and there are too many of them


def _tile(text: str) -> int | str:
    """Returns the number of tiles, or the size of a window as text, like `512px`. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,9})(px)?", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None or int(found[1]) < (LEAST_WINDOW if found[2] else 1):
        raise UsageError(
            f"--tile {text}: write how many tiles along the longer side, like 3; or the size of a window in pixels, "
            f"{LEAST_WINDOW} or more, like 512px"
        )
    return f"{int(found[1])}px" if found[2] else int(found[1])


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
        Flag(
            "Where to run: auto, cpu, mps, cuda (all GPUs), or certain ones like cuda:1 or cuda:0,1.", metavar="DEVICE"
        ),
    ] = "auto"
    dtype: Annotated[
        Dtype,
        Flag(
            "Precision. auto: bf16 if the hardware is fast at it, else fp32. int8: faster on a CPU, less accurate.",
            decides=True,
        ),
    ] = "auto"
    backend: Annotated[
        Backend,
        Flag("transformers runs Hugging Face's own code, the reference. It is slower.", panel="Advanced", decides=True),
    ] = "fast"


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How images are encoded."""

    PANEL: ClassVar[str] = "Model"
    DECIDES: ClassVar[bool] = True

    tile: Annotated[
        int | str,
        Flag(
            "Find small objects: also encode N overlapping tiles along the longer side, about N x N times slower. "
            "512px: encode overlapping windows of 512 pixels instead, also of a TIFF that is larger than memory.",
            metavar="N|PXpx",
            parse=_tile,
            default="",
        ),
    ] = 1
    flip: Annotated[bool, Flag("Also encode the mirrored image, and average. Twice as slow.")] = False
    size: Annotated[
        int | None,
        Flag(
            "Side of the network's square input, in pixels. The time grows with its square.",
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
            decides=False,  # an image gives the same bits in a batch as alone
        ),
    ] = None
    similarity: Annotated[
        bool,
        Flag("Also record CLIP's similarity of image and prompt. About a fifth slower.", panel="Advanced"),
    ] = False
    features: Annotated[
        str,
        Flag(
            "Where encoded images are kept, so that later runs skip the encoder. auto: in the user's cache.",
            metavar="DIR|auto|none",
            decides=False,  # a stored image gives the same bits as a newly encoded one
        ),
    ] = "auto"
    features_limit: Annotated[
        int | None,
        Flag(
            "How much of the disk kept images may take, like 500MB or 10GB. Those not used for longest go first.",
            metavar="SIZE",
            parse=_size,
            default="2GB; with --features DIR, no limit",
            panel="Advanced",
            decides=False,
        ),
    ] = None

    @property
    def own_folder(self) -> bool:
        """Whether encoded images are kept in a folder that the user has named."""
        return self.features not in ("auto", "none")

    @property
    def tiles(self) -> int:
        """The number of tiles along the longer side; 1: the whole image only."""
        return self.tile if isinstance(self.tile, int) else 1

    @property
    def window(self) -> int:
        """The side of a window in pixels; 0: the image is not divided into windows."""
        return 0 if isinstance(self.tile, int) else int(self.tile.removesuffix("px"))


def devices(text: Device) -> tuple[str, ...]:
    """Returns the devices of a list like `cuda:0,cuda:1`, for short `cuda:0,1`. Raises UsageError if it is invalid."""
    names: list[str] = []
    for part in text.split(","):
        cuda = names and names[-1].startswith("cuda:") and part.isascii() and part.isdigit()
        names.append(f"cuda:{part}" if cuda else part)
    alone = r"auto|" if len(names) == 1 else ""
    if not all(re.fullmatch(alone + r"cpu|mps|cuda|cuda:[0-9]+", device) for device in names):
        raise UsageError(f"--device {text}: write auto, cpu, mps, cuda or cuda:0, or a list of devices like cuda:0,1")
    return tuple(names)
