"""Pixels without data: those of a no-data value, without a number, or transparent in a GeoTIFF. Masks never have them.

Arrays of samples are (H, W, B). What is found is `clear`, bool (H, W); True: the pixel has no data.
"""

from collections.abc import Iterable

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


def is_transparency(band: np.ndarray) -> bool:
    """Returns whether a band (H, W) that is marked as transparency looks like it: its values are 0 or the highest.

    Programs mark the fourth band so by default, also near-infrared. Soft edges are allowed: see `LIKE_ALPHA`.
    """
    above = np.count_nonzero(band > 0)
    return not above or bool(np.count_nonzero(band == band.max()) >= LIKE_ALPHA * above)


def noted(clear: np.ndarray | None) -> Iterable[str]:
    """Yields a note on how many pixels have no data, if any has none."""
    count = 0 if clear is None else np.count_nonzero(clear)
    if clear is not None and count:
        share = f"{min(100 * count / clear.size, 99.9):.2g} %" if count < clear.size else "all"
        yield share + NOTE


def is_noted(notes: Iterable[str]) -> bool:
    """Returns whether an image with these notes has pixels without data."""
    return any(note.endswith(NOTE) for note in notes)
