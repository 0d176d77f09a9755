"""PNG and JPEG bytes of arrays."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli import render

JPEG_QUALITY = 90
JPEG_SIDE = 65_500  # pixels: the longest side that JPEG holds


def png(grey: NDArray[np.uint8]) -> bytes:
    """PNG of a uint8 (H, W) picture, 8-bit grey.

    Eight bits, not one, because a 1-bit PNG opens as booleans in Pillow and numpy, and `mask > 127` on those is
    never true. Run-length deflate: masks are runs, and it is the fastest that still makes them small.
    """
    return _encode(".png", grey, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])


def rgb_png(rgb: NDArray[np.uint8]) -> bytes:
    """PNG of a uint8 (H, W, 3) RGB picture."""
    return _encode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [])


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """JPEG of a uint8 (H, W, 3) RGB picture; one too long for JPEG is shrunk to fit."""
    height, width = rgb.shape[:2]
    if max(height, width) > JPEG_SIDE:
        scale = JPEG_SIDE / max(height, width)
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return _encode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def overlay(pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> bytes:
    """JPEG of `render.overlay`."""
    return jpeg(render.overlay(pixels, masks, labels))


def _encode(extension: str, array: NDArray[np.uint8], parameters: list[int]) -> bytes:
    done, data = cv2.imencode(extension, array, parameters)
    if not done:  # only for shapes that no caller passes
        raise ValueError(f"cannot encode an array of shape {array.shape} as {extension}")
    return data.tobytes()
