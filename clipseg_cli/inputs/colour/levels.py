"""Levels: samples of any number type become 8 bits, by one rule for all files.

unsigned, to 16 bits    the highest value becomes 255: 16 bits are divided by 257, 12 bits by 4095/255
wider, signed           stretched from the lowest to the highest value of the image
float                   0..1 becomes 0..255; other ranges are stretched; NaN is black

With `--stretch`, and in GeoTIFFs, the range is another: see `tiff_arrays`.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from clipseg_cli.settings.inputs import MINMAX, NONE, Stretch

SCALED = " scaled to 8 bits"  # the end of a note
PIECE = 1 << 22  # samples that are converted at once: bounds the memory for intermediate values
SAMPLE = 1 << 24  # values that percentiles are taken of: as float64, 128 MiB


def scaled(values: np.ndarray, white: int, what: str, notes: list[str]) -> np.ndarray:
    """Returns uint8 of the same shape: of unsigned integers to 16 bits, `white` and more becomes 255. Adds a note.

    `what` names the samples in the note: "grey" or "colour".
    """
    if white > 255:
        notes.append(f"{white.bit_length()}-bit {what}{SCALED}")
    table = ((np.arange(65536) * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    levels = np.empty(values.shape, np.uint8)
    for piece in _pieces(values):
        levels[piece] = table[values[piece]]
    return levels


Rows = tuple[int, np.ndarray, np.ndarray | None]  # the first row, values (R, W, ...), and which have no data (R, W)
Limits = tuple[float, float]  # the values that become 0 and 255


def stretched(
    values: np.ndarray, notes: list[str], stretch: Stretch | None = None, limits: Limits | None = None
) -> np.ndarray:
    """Returns uint8 of the same shape (H, W, ...): what `stretch` selects becomes 0 to 255. Adds a note with the range.

    All bands share one range, so that colours keep their balance. None: floats within 0..1 from that range, others from
    their finite range. `limits` are those of `measured`, if the values are not all of an image, or some do not count.
    """
    low, high = limits or measured([(0, values, None)], values.size, stretch)
    how = f" ({stretch[0]:g} to {stretch[1]:g} %)" if stretch is not None and stretch not in (NONE, MINMAX) else ""
    notes.append(f"values {low:g} to {high:g}{how}{SCALED}")
    scale = 255 / (high - low) if high > low else 0.0
    levels = np.empty(values.shape, np.uint8)
    with np.errstate(all="ignore"):
        for piece in _pieces(values):
            part = values[piece].astype(np.float32) * np.float32(scale) - np.float32(low * scale)
            levels[piece] = np.nan_to_num(part, copy=False, nan=0, posinf=255, neginf=0).round().clip(0, 255)
    return levels


def measured(rows: Iterable[Rows], size: int, stretch: Stretch | None) -> Limits:
    """Returns the values of an image that become 0 and 255, from its rows, in any number of blocks.

    `size` is the number of values of the whole image. Percentiles are taken of at most `SAMPLE` values, evenly spaced.
    Pixels without data do not count.
    """
    if stretch is not None and stretch not in (NONE, MINMAX):
        return _percentiles(rows, size, stretch)
    lows, highs, kind = [], [], np.dtype(np.uint8)
    for _, values, clear in rows:
        kind = values.dtype
        if stretch == NONE:
            break
        for piece in _pieces(values):
            counted = _counted(values[piece], None if clear is None else clear[piece])
            if counted.size:
                lows.append(float(counted.min()))
                highs.append(float(counted.max()))
    if stretch == NONE:
        return (0.0, 1.0) if kind.kind == "f" else (float(np.iinfo(kind).min), float(np.iinfo(kind).max))
    low, high = min(lows, default=0.0), max(highs, default=0.0)
    return (0.0, 1.0) if stretch is None and kind.kind == "f" and low >= 0 and high <= 1 else (low, high)


def _percentiles(rows: Iterable[Rows], size: int, shares: Stretch) -> Limits:
    """Returns the values below which these shares lie, in percent."""
    step = max(1, math.isqrt(-(-size // SAMPLE)))
    found = []
    for top, values, clear in rows:
        thin = slice(-top % step, None, step), slice(None, None, step)
        found.append(_counted(values[thin], None if clear is None else clear[thin]))
    counted = np.concatenate(found) if found else np.zeros(0)
    if not counted.size:
        return 0.0, 0.0
    low, high = np.percentile(counted.astype(np.float64), shares)
    return float(low), float(high)


def _counted(values: np.ndarray, clear: np.ndarray | None) -> np.ndarray:
    """Returns the values that are numbers, of pixels with data."""
    known = (values if clear is None else values[~clear]).ravel()
    return known[np.isfinite(known)] if values.dtype.kind == "f" else known


def _pieces(values: np.ndarray) -> Iterator[slice]:
    """Yields slices of rows that together cover an array (H, ...)."""
    rows = max(1, PIECE * len(values) // max(1, values.size))
    return (slice(start, start + rows) for start in range(0, len(values), rows))
