"""PNG and JPEG bytes of arrays."""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_cli.outputs import drawing

RUNS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
JPEG_QUALITY = 90
DATASET_QUALITY = 95  # of photos that go into data sets
JPEG_SIDE = 65_500  # pixels: the longest side that JPEG holds


def png(grey: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG of a uint8 or uint16 (H, W) picture, grey of as many bits.

    Eight bits for masks, not one, because a 1-bit PNG opens as booleans in Pillow and numpy, and `mask > 127` on
    those is never true. Run-length deflate: masks are runs, and it is the fastest that still makes them small.
    """
    return _encode(".png", grey, RUNS)


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """As `png`, for pictures of few values: smaller and sooner without a filter."""
    return _encode(".png", mask, [*RUNS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def rgb_png(rgb: NDArray[np.uint8]) -> bytes:
    """PNG of a uint8 (H, W, 3) RGB picture."""
    return _encode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [])


def indexed_png(index: NDArray[np.uint8]) -> bytes:
    """PNG of a uint8 (H, W) picture of palette indices: 0 is black, i + 1 has the colour of label i in overlays."""
    picture = Image.fromarray(index, "P")
    picture.putpalette([0, 0, 0, *(channel for label in range(255) for channel in drawing.colour(label))])
    with io.BytesIO() as file:
        picture.save(file, "PNG")
        return file.getvalue()


def rgba_png(rgba: NDArray[np.uint8]) -> bytes:
    """PNG of a uint8 (H, W, 4) RGBA picture."""
    return _encode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), [])


def npz(**arrays: NDArray[Any]) -> bytes:
    """What numpy.load reads: arrays by name, compressed."""
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    return data.getvalue()


def jpeg(rgb: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """JPEG of a uint8 (H, W, 3) RGB picture; one too long for JPEG is shrunk to fit."""
    height, width = rgb.shape[:2]
    if max(height, width) > JPEG_SIDE:
        scale = JPEG_SIDE / max(height, width)
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return _encode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def overlay(pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> bytes:
    """JPEG of `render.overlay`."""
    return jpeg(drawing.overlay(pixels, masks, labels))


def _encode(extension: str, array: NDArray[Any], parameters: list[int]) -> bytes:
    done, data = cv2.imencode(extension, array, parameters)
    if not done:  # only for shapes that no caller passes
        raise ValueError(f"cannot encode an array of shape {array.shape} as {extension}")
    return data.tobytes()
