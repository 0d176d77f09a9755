"""COCO's two ways to write a mask down, runs and polygons, as arrays. numpy in, numpy out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GRID = 5  # steps of a pixel in which pycocotools draws a polygon


def from_runs(runs: Sequence[int] | str, height: int, width: int) -> NDArray[np.bool_]:
    """bool (H, W) of COCO's run lengths, off and on in turn down the columns, as numbers or as its packed text.

    Raises ValueError where they do not fill the picture.
    """
    lengths = np.asarray(unpacked(runs) if isinstance(runs, str) else runs, np.int64)
    if lengths.sum() != height * width or (lengths < 0).any():
        raise ValueError(f"runs of {int(lengths.sum())} pixels for a picture of {width} x {height}")
    flags = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(flags.reshape(width, height).T)


def unpacked(text: str) -> list[int]:
    """The numbers in COCO's text: five bits a letter from the lowest on, six with the mark that more follow; from the
    fourth number on the difference to the one before the last."""
    numbers: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{letter!r} is no letter of packed runs")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign, in the last letter
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers


def from_polygon(points: Sequence[float], height: int, width: int) -> NDArray[np.bool_]:
    """bool (H, W) of x, y, x, y, ... in pixels, to the pixel as pycocotools draws it: the line is walked in fifths of
    a pixel, and each step to another column that passes the middle of a pixel's column turns what is below it."""
    corners = (np.asarray(points, np.float64).reshape(-1, 2) * GRID + 0.5).astype(np.int64)
    if len(corners) < 3:
        raise ValueError(f"a polygon of {len(corners)} points")
    walked = [_line(*start, *end) for start, end in zip(corners, np.roll(corners, -1, 0), strict=True)]
    u, v = np.concatenate(walked).T
    step = np.flatnonzero(np.diff(u))
    before, after = u[step], u[step + 1]
    x = (np.where(after < before, after, after - 1) + 0.5) / GRID - 0.5
    y = np.ceil(np.clip((np.minimum(v[step], v[step + 1]) + 0.5) / GRID - 0.5, 0, height))
    inside = (x == np.floor(x)) & (x >= 0) & (x <= width - 1)
    places = (x[inside] * height + y[inside]).astype(np.int64)
    turns = np.bincount(places[places < height * width], minlength=height * width)
    return np.ascontiguousarray((turns.cumsum() % 2 == 1).reshape(width, height).T)


def _line(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.int64]:
    """Whole points (n, 2) from one end to the other, one for each step along the longer axis."""
    dx, dy = abs(x1 - x0), abs(y1 - y0)
    flip = x0 > x1 if dx >= dy else y0 > y1
    if flip:  # the rounding must not depend on the direction
        x0, y0, x1, y1 = x1, y1, x0, y0
    steps = np.arange(max(dx, dy) + 1)
    if dx >= dy:
        line = np.stack([x0 + steps, (y0 + (y1 - y0) / max(dx, 1) * steps + 0.5).astype(np.int64)], 1)
    else:
        line = np.stack([(x0 + (x1 - x0) / dy * steps + 0.5).astype(np.int64), y0 + steps], 1)
    return line[::-1] if flip else line


def packed(mask: NDArray[np.uint8]) -> str:
    """COCO's compressed run lengths of a mask, column by column, zeros first."""
    flat = np.ascontiguousarray(mask.T).ravel() > 0
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0] * (1 + int(flat[0])), changes, [flat.size]]))
    counts[3:] -= counts[1:-2].copy()
    letters = bytearray()
    for count in counts.tolist():
        while True:  # five bits a letter, the lowest first; bit 6 says that more follow
            bits, count = count & 31, count >> 5
            more = count != (-1 if bits & 16 else 0)
            letters.append(48 + (bits | 32 if more else bits))
            if not more:
                break
    return letters.decode("ascii")
