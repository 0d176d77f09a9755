"""COCO's two encodings of a mask: run lengths and polygons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = 5  # steps per pixel in which pycocotools walks along a polygon's boundary


def from_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Decodes an annotation's `segmentation`, run lengths or polygons: bool (H, W).

    Raises KeyError, ValueError, TypeError or OverflowError if it is damaged.
    """
    if isinstance(segmentation, dict):
        return from_runs(segmentation["counts"], height, width)
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        mask |= from_polygon(polygon, height, width)
    return mask


def from_runs(runs: Sequence[int] | str, height: int, width: int) -> NDArray[np.bool_]:
    """Decodes COCO's run lengths, as numbers or as packed text: bool (H, W).

    Runs go down the columns and alternate, starting with zeros. Raises ValueError if they do not fill the image.
    """
    lengths = np.asarray(unpacked(runs) if isinstance(runs, str) else runs, np.int64)
    if lengths.sum() != height * width or (lengths < 0).any():
        raise ValueError(f"the runs cover {int(lengths.sum())} pixels, but the image has {width} x {height}")
    flags = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(flags.reshape(width, height).T)


def unpacked(text: str) -> list[int]:
    """Unpacks COCO's text into run lengths.

    A character holds six bits: the next five bits of a number, lowest first, and a flag that is set if more follow.
    From the fourth number on, each number is stored as its difference from the number two places before it. Raises
    ValueError for any other character.
    """
    numbers: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is not a character of packed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # sign bit, in the last character
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers


def from_polygon(points: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """Fills a polygon, x, y, x, y, ... in pixels, exactly as pycocotools does: bool (H, W).

    The boundary is walked in steps of 1 / GRID pixels. Where a step crosses the centre of a pixel column, all pixels
    of the column below that point are toggled. Raises ValueError for fewer than 3 points.
    """
    corners = (np.asarray(points, np.float64).reshape(-1, 2) * GRID + 0.5).astype(np.int64)
    if len(corners) < 3:
        raise ValueError(f"a polygon needs 3 points or more, not {len(corners)}")
    lines = [_line(*start, *end) for start, end in zip(corners, np.roll(corners, -1, 0), strict=True)]
    u, v = np.concatenate(lines).T
    step = np.flatnonzero(np.diff(u))
    before, after = u[step], u[step + 1]
    x = (np.where(after < before, after, after - 1) + 0.5) / GRID - 0.5
    y = np.ceil(np.clip((np.minimum(v[step], v[step + 1]) + 0.5) / GRID - 0.5, 0, height))
    inside = (x == np.floor(x)) & (x >= 0) & (x <= width - 1)
    crossings = (x[inside] * height + y[inside]).astype(np.int64)
    toggles = np.bincount(crossings[crossings < height * width], minlength=height * width)
    return np.ascontiguousarray((toggles.cumsum() % 2 == 1).reshape(width, height).T)


def _line(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.int64]:
    """Returns integer points (n, 2) from one end to the other, one per step along the longer axis."""
    dx, dy = abs(x1 - x0), abs(y1 - y0)
    flip = x0 > x1 if dx >= dy else y0 > y1
    if flip:  # rounding must not depend on the direction
        x0, y0, x1, y1 = x1, y1, x0, y0
    steps = np.arange(max(dx, dy) + 1)
    if dx >= dy:
        line = np.stack([x0 + steps, (y0 + (y1 - y0) / max(dx, 1) * steps + 0.5).astype(np.int64)], 1)
    else:
        line = np.stack([(x0 + (x1 - x0) / dy * steps + 0.5).astype(np.int64), y0 + steps], 1)
    return line[::-1] if flip else line


def run_lengths(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the lengths of the runs of zeros and non-zeros along the rows, int64 (K,). Zeros come first, maybe 0."""
    flat = np.ascontiguousarray(mask).ravel() > 0
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.diff(np.concatenate([[0] * (1 + int(flat[0])), changes, [flat.size]]))


def packed(mask: NDArray[np.uint8]) -> str:
    """Encodes a mask, uint8 (H, W), as COCO's packed run lengths: column by column, zeros first."""
    counts = run_lengths(mask.T)
    counts[3:] -= counts[1:-2].copy()
    letters = bytearray()
    for count in counts.tolist():
        while True:  # five bits per character, lowest first; the sixth says that more follow
            bits, count = count & 31, count >> 5
            more = count != (-1 if bits & 16 else 0)
            letters.append(48 + (bits | 32 if more else bits))
            if not more:
                break
    return letters.decode("ascii")
