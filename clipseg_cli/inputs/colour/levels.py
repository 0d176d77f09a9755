"""Levels: samples of any number type become 8 bits, by one rule for all files.

unsigned, to 16 bits    the highest value becomes 255: 16 bits are divided by 257, 12 bits by 4095/255
wider, signed           stretched from the lowest to the highest value of the image
float                   0..1 becomes 0..255; other ranges are stretched; NaN is black
"""

from collections.abc import Iterator

import numpy as np

SCALED = " scaled to 8 bits"  # the end of a note
PIECE = 1 << 22  # samples that are converted at once: bounds the memory for intermediate values


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


def stretched(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Returns uint8 of the same shape: floats within 0..1 from that range, others from their finite range.

    Adds a note with the range.
    """
    lows, highs = [], []
    for piece in _pieces(values):
        finite = values[piece][np.isfinite(values[piece])]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    low, high = min(lows, default=0.0), max(highs, default=0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    notes.append(f"values {low:g} to {high:g}{SCALED}")
    scale = 255 / (high - low) if high > low else 0.0
    levels = np.empty(values.shape, np.uint8)
    with np.errstate(all="ignore"):
        for piece in _pieces(values):
            part = values[piece].astype(np.float32) * np.float32(scale) - np.float32(low * scale)
            levels[piece] = np.nan_to_num(part, copy=False, nan=0, posinf=255, neginf=0).round().clip(0, 255)
    return levels


def _pieces(values: np.ndarray) -> Iterator[slice]:
    """Yields slices of rows that together cover an array (H, ...)."""
    rows = max(1, PIECE * len(values) // max(1, values.size))
    return (slice(start, start + rows) for start in range(0, len(values), rows))
