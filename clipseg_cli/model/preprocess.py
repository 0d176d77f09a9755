"""A picture to the numbers that CLIPSeg reads: square resize, scale to [0, 1], normalise.

Equal to transformers' CLIPSegProcessor (Pillow, antialiased, rounded to whole grey levels) within one grey level.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from clipseg_cli.errors import ModelError

BILINEAR = 2  # Pillow's number
DEFAULTS: dict[str, Any] = {  # of transformers' ViTImageProcessor
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
    """How one checkpoint wants its pictures."""

    side: int  # pixels: the picture is warped to side x side
    resample: int  # Pillow's number of the filter
    levels: NDArray[np.float32]  # (3, 256): what each grey level of red, green and blue becomes


def preprocess(image: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.float32]:
    """uint8 (H, W, 3) RGB to float32 (3, side, side), normalised."""
    small = resize(image, how)
    return np.stack([how.levels[channel][small[..., channel]] for channel in range(3)])


def resize(image: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) to (side, side, 3). Bilinear runs in torch: within one grey level of Pillow, and up to ten times
    faster on large photographs. Every other filter is Pillow's own."""
    size = how.side, how.side
    if how.resample != BILINEAR:
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling(how.resample)))
    source = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]  # torch wants both
    small = F.interpolate(source, size=size, mode="bilinear", align_corners=False, antialias=True)
    result: NDArray[np.uint8] = small[0].permute(1, 2, 0).numpy()
    return result


def read_preprocessing(path: Path) -> Preprocessing:
    """The settings in `path`/preprocessor_config.json, or in processor_config.json, where transformers 5 puts them.

    Raises ModelError where they are unreadable or ask for what CLIPSeg cannot do: anything but a warp to a square.
    """
    try:
        settings = {**DEFAULTS, **read_settings(path)}
        kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "ViT")
        if not kind.startswith("ViT"):
            raise ValueError(f"pictures are prepared by {kind}, not by ViTImageProcessor")
        for flag in ("do_center_crop", "do_pad"):
            if settings.get(flag):
                raise ValueError(f'"{flag}" is set')
        if not settings["do_resize"]:
            raise ValueError('"do_resize" is off')
        resample = int(Image.Resampling(settings["resample"]))
        return Preprocessing(square(settings["size"]), resample, grey_levels(settings))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: the picture settings of this model cannot be honoured: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The image processor's entries, None values left out."""
    own = path / "preprocessor_config.json"
    if own.is_file():
        settings = json.loads(own.read_text(encoding="utf-8"))
    else:
        settings = json.loads((path / "processor_config.json").read_text(encoding="utf-8"))["image_processor"]
    return {key: value for key, value in settings.items() if value is not None}


def square(size: int | dict[str, int]) -> int:
    """The side in pixels of `size`: a number (as old files have it), or equal height and width. Raises ValueError."""
    height, width = (size, size) if isinstance(size, int) else (size.get("height"), size.get("width"))
    if not isinstance(height, int) or height != width or height < 1:
        raise ValueError(f'"size" is {size}; CLIPSeg needs equal height and width')
    return height


def grey_levels(settings: dict[str, Any]) -> NDArray[np.float32]:
    """float32 (3, 256): every grey level, rescaled and normalised with the processor's own roundings."""
    levels = np.arange(256, dtype=np.float64)
    if settings["do_rescale"]:
        levels = levels * settings["rescale_factor"]
    table = np.tile(levels.astype(np.float32), (3, 1))
    if settings["do_normalize"]:
        mean, std = (np.array(settings[key], np.float32).reshape(-1, 1) for key in ("image_mean", "image_std"))
        with np.errstate(all="ignore"):  # a deviation of 0 is refused below
            table = (table - mean) / std
    if table.shape != (3, 256) or not np.isfinite(table).all():
        raise ValueError('"image_mean" and "image_std" are not three numbers each')
    return table
