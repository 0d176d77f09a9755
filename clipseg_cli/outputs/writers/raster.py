"""Encodes arrays as PNG, JPEG and npz bytes, and reads grey PNGs back."""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from clipseg_cli.outputs import drawing

RUNS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
JPEG_QUALITY = 90
DATASET_QUALITY = 95  # of the photos in data sets
JPEG_SIDE = 65_500  # pixels: the longest side that libjpeg writes
PNG_SIDE = 1_000_000  # pixels: the longest side that OpenCV's libpng writes


def png(grey: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Returns a grey PNG of a uint8 or uint16 (H, W) array, with the same bit depth.

    Masks have 8 bits, not 1: Pillow and numpy open a 1-bit PNG as booleans, for which `mask > 127` is never true.
    Deflate's run-length strategy suits masks: it is the fastest strategy that still makes small files.
    """
    return _png(grey, RUNS)


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """Returns a grey PNG without a filter: smaller and faster than `png` for images with few grey levels."""
    return _png(mask, [*RUNS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def rgb_png(rgb: NDArray[np.uint8]) -> bytes:
    """Returns a PNG of a uint8 (H, W, 3) RGB image."""
    return _png(rgb, [])


def indexed_png(index: NDArray[np.uint8]) -> bytes:
    """Returns an indexed PNG of a uint8 (H, W) array: 0 is black, i + 1 has the overlay colour of label i."""
    image = Image.fromarray(index, "P")
    image.putpalette([0, 0, 0, *(channel for label in range(255) for channel in drawing.colour(label))])
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def rgba_png(rgba: NDArray[np.uint8]) -> bytes:
    """Returns a PNG of a uint8 (H, W, 4) RGBA image."""
    return _png(rgba, [])


def levels(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Returns the levels of a grey PNG, uint8 or uint16 (H, W). Raises OSError, ValueError or SyntaxError.

    Pillow decodes it: OpenCV's libpng would print errors on stderr.
    """
    with PngImageFile(io.BytesIO(data)) as image:
        return np.array(image if image.mode in ("L", "I;16") else image.convert("L"))


def npz(**arrays: NDArray[Any]) -> bytes:
    """Returns a compressed npz archive of named arrays, for `numpy.load`."""
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    return data.getvalue()


def jpeg(rgb: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Returns a JPEG of a uint8 (H, W, 3) RGB image; shrinks an image whose side is too long for JPEG."""
    height, width = rgb.shape[:2]
    if max(height, width) > JPEG_SIDE:
        scale = JPEG_SIDE / max(height, width)
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return _encode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])


def overlay(pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> bytes:
    """Returns a JPEG of `drawing.overlay`."""
    return jpeg(drawing.overlay(pixels, masks, labels))


def _png(array: NDArray[Any], parameters: list[int]) -> bytes:
    """Returns a PNG of a grey, RGB or RGBA array."""
    if max(array.shape[:2]) > PNG_SIDE:
        with io.BytesIO() as file:
            Image.fromarray(array).save(file, "PNG")
            return file.getvalue()
    swap = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    return _encode(".png", array if array.ndim == 2 else cv2.cvtColor(array, swap[array.shape[2]]), parameters)


def _encode(extension: str, array: NDArray[Any], parameters: list[int]) -> bytes:
    ok, data = cv2.imencode(extension, array, parameters)
    if not ok:  # only for shapes that no caller passes
        raise ValueError(f"cannot encode an array of shape {array.shape} as {extension}")
    return data.tobytes()
