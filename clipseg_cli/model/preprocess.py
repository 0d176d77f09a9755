"""Prepares an image for CLIPSeg: resizes it to a square, scales it to [0, 1] and normalises it.

The result is within one grey level of transformers' CLIPSegProcessor (Pillow, antialiased, rounded to 8 bits).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_cli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

BILINEAR = 2  # Pillow's number for the filter
DEFAULTS: dict[str, Any] = {  # those of transformers' ViTImageProcessor
    "size": {"height": 224, "width": 224},
    "resample": BILINEAR,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 1 / 255,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
}


@dataclass(frozen=True, slots=True, eq=False)
class Preprocessing:
    """The image settings of one checkpoint."""

    side: int  # pixels: the image is warped to side x side
    resample: int  # Pillow's number for the filter
    levels: NDArray[np.float32]  # (3, 256): the normalised value of each level of red, green and blue


def preprocess(image: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.float32]:
    """Maps uint8 (H, W, 3) RGB to normalised float32 (3, side, side)."""
    import torch

    small = torch.from_numpy(resize(image, how))
    prepared: NDArray[np.float32] = normalise(small[None], torch.from_numpy(how.levels))[0].numpy()
    return prepared


def normalise(images: "Tensor", levels: "Tensor") -> "Tensor":
    """Maps uint8 (N, side, side, 3) to normalised float32 (N, 3, side, side), on their device.

    `levels` are those of `Preprocessing`, on the same device.
    """
    import torch

    channels = zip(levels, images.unbind(-1), strict=True)
    return torch.stack([row.index_select(0, each.flatten().int()).view_as(each) for row, each in channels], 1)


def resize(image: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.uint8]:
    """Resizes uint8 (H, W, 3) to uint8 (side, side, 3).

    Bilinear runs in torch, which is up to ten times faster on large photographs and within one grey level of Pillow.
    Every other filter is Pillow's own.
    """
    size = how.side, how.side
    if how.resample != BILINEAR:
        return np.array(Image.fromarray(image).resize(size, Image.Resampling(how.resample)))
    import torch  # not above: `clipseg models info` reads settings only
    import torch.nn.functional as F

    source = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]  # torch requires both
    small = F.interpolate(source, size=size, mode="bilinear", align_corners=False, antialias=True)
    result: NDArray[np.uint8] = small[0].permute(1, 2, 0).numpy()
    return result


def read_preprocessing(path: Path) -> Preprocessing:
    """Returns the settings in `path`/preprocessor_config.json, or in processor_config.json of transformers 5.

    Raises ModelError if they are unreadable or require anything but a warp to a square.
    """
    try:
        settings = {**DEFAULTS, **read_settings(path)}
        kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "ViT")
        if not kind.startswith("ViT"):
            raise ValueError(f"the image processor is {kind}, not ViTImageProcessor")
        for flag in ("do_center_crop", "do_pad"):
            if settings.get(flag):
                raise ValueError(f'"{flag}" is set')
        if not settings["do_resize"]:
            raise ValueError('"do_resize" is off')
        resample = int(Image.Resampling(settings["resample"]))
        return Preprocessing(square(settings["size"]), resample, grey_levels(settings))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: the image settings of this model are not supported: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the image processor's settings, without those that are None."""
    own = path / "preprocessor_config.json"
    if own.is_file():
        settings = json.loads(own.read_text(encoding="utf-8"))
    else:
        settings = json.loads((path / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
    return {key: value for key, value in settings.items() if value is not None}


def square(size: int | dict[str, int]) -> int:
    """Returns the side in pixels of `size`, which is a number (in old files) or equal height and width.

    Raises ValueError for anything else.
    """
    height, width = (size, size) if isinstance(size, int) else (size.get("height"), size.get("width"))
    if not isinstance(height, int) or height != width or height < 1:
        raise ValueError(f'"size" is {size}; CLIPSeg needs equal height and width')
    return height


def grey_levels(settings: dict[str, Any]) -> NDArray[np.float32]:
    """Returns float32 (3, 256): every level of each colour, rescaled and normalised, rounded as the processor does."""
    levels = np.arange(256, dtype=np.float64)
    if settings["do_rescale"]:
        levels = levels * settings["rescale_factor"]
    table = np.tile(levels.astype(np.float32), (3, 1))
    if settings["do_normalize"]:
        mean, std = (np.array(settings[key], np.float32).reshape(-1, 1) for key in ("image_mean", "image_std"))
        with np.errstate(all="ignore"):  # a standard deviation of 0 is refused below
            table = (table - mean) / std
    if table.shape != (3, 256) or not np.isfinite(table).all():
        raise ValueError('"image_mean" and "image_std" must be three finite numbers each, "image_std" not 0')
    return table
