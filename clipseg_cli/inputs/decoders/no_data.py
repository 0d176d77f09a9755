"""Pixels without data: those of a no-data value, without a number, or transparent in a GeoTIFF. Masks never have them.

Arrays of samples are (H, W, B). What is found is `clear`, bool (H, W); True: the pixel has no data.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

NOTE = " of the pixels have no data"  # ends a note
LIKE_ALPHA = 0.9  # of the values above 0 of a band that is transparency: so many are the highest one


def found(samples: np.ndarray, value: float | None) -> np.ndarray:
    """Returns which pixels are `value` in all bands, or NaN or infinite in any."""
    if samples.dtype.kind == "f":
        clear = ~np.isfinite(samples).all(axis=2)
        with np.errstate(over="ignore"):
            return np.asarray(clear if value is None else clear | (samples == samples.dtype.type(value)).all(axis=2))
    limits = np.iinfo(samples.dtype)
    if value is None or not limits.min <= value <= limits.max or value != int(value):  # NaN is out of every range
        return np.zeros(samples.shape[:2], bool)
    return np.asarray((samples == samples.dtype.type(int(value))).all(axis=2))


class Counts(NamedTuple):
    """The values of a band that is marked as transparency."""

    highest: float = 0.0
    at_highest: int = 0  # values that are the highest one
    above: int = 0  # values above 0
    size: int = 0

    @property
    def full(self) -> bool:
        """Whether all values are the highest one, which is not 0."""
        return self.at_highest == self.size and self.above > 0

    @property
    def soft(self) -> bool:
        """Whether some values are neither 0 nor the highest one."""
        return self.above > self.at_highest

    @property
    def is_transparency(self) -> bool:
        """Whether the band looks like transparency: its values are 0 or the highest one.

        Programs mark the fourth band so by default, also near-infrared. Soft edges are allowed: see `LIKE_ALPHA`.
        """
        return not self.above or self.at_highest >= LIKE_ALPHA * self.above


def counted(blocks: Iterable[np.ndarray]) -> Counts:
    """Counts the values of a band, from its blocks of rows."""
    counts: Counts | None = None
    for block in blocks:
        highest = float(block.max())
        own = Counts(highest, int((block == block.max()).sum()), int((block > 0).sum()), block.size)
        if counts is None or highest > counts.highest:
            before = Counts() if counts is None else counts
            counts = own._replace(above=own.above + before.above, size=own.size + before.size)
        else:
            at_highest = counts.at_highest + (own.at_highest if highest == counts.highest else 0)
            counts = Counts(counts.highest, at_highest, counts.above + own.above, counts.size + own.size)
    return counts or Counts()


def noted(count: int, size: int) -> Iterable[str]:
    """Yields a note on how many of the pixels have no data, if any has none."""
    if count:
        share = f"{min(100 * count / size, 99.9):.2g} %" if count < size else "all"
        yield share + NOTE


def is_noted(notes: Iterable[str]) -> bool:
    """Returns whether an image with these notes has pixels without data."""
    return any(note.endswith(NOTE) for note in notes)
