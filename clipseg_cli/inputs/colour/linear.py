"""Scene-linear light: what EXR, Radiance HDR, PFM and 32-bit PSD store becomes 8-bit sRGB.

Light from 0 to 1 goes through the sRGB transfer function; brighter light, also infinite, is white, and negative values
and NaN are black. The exposure is never adapted: the same light always gives the same pixel, whatever else is in the
image, and this is what viewers show at exposure 0. Primaries other than Rec. 709, if the file names them, are converted
with Bradford's adaptation of the white point.
"""

from collections.abc import Sequence

import numpy as np

STRIP = 1 << 20  # values that are converted at once: as floats, a whole image would take four times its memory
REC709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)  # x, y of red, green, blue and white
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def srgb(light: np.ndarray, to_rec709: np.ndarray | None = None) -> np.ndarray:
    """Returns uint8 (H, W, C) of linear light, float (H, W, C): sRGB for C = 3, grey for C = 1.

    `to_rec709`, float (3, 3), is applied to the linear RGB first.
    """
    pixels = np.empty(light.shape, np.uint8)
    rows = max(STRIP // max(light.shape[1] * light.shape[2], 1), 1)
    with np.errstate(all="ignore"):
        for start in range(0, len(light), rows):
            strip = light[start : start + rows].astype(np.float32)
            if to_rec709 is not None:
                strip = strip @ to_rec709.T.astype(np.float32)
            strip = np.nan_to_num(strip, copy=False, nan=0, posinf=1, neginf=0).clip(0, 1)
            curved = np.where(strip <= 0.0031308, strip * 12.92, 1.055 * strip ** np.float32(1 / 2.4) - 0.055)
            pixels[start : start + rows] = (curved * 255).round()
    return pixels


def to_rec709(primaries: Sequence[float]) -> np.ndarray | None:
    """Returns the matrix, float (3, 3), from RGB of these primaries to Rec. 709; None if they equal, or mean nothing.

    `primaries` are x and y of red, green, blue and white.
    """
    if np.allclose(primaries, REC709, atol=1e-3):
        return None
    with np.errstate(all="ignore"):
        try:
            white, white709 = (BRADFORD @ _xyz(*pair[6:8]) for pair in (primaries, REC709))
            adapted = np.linalg.inv(BRADFORD) @ np.diag(white709 / white) @ BRADFORD
            matrix = np.linalg.inv(_to_xyz(REC709)) @ adapted @ _to_xyz(primaries)
        except np.linalg.LinAlgError:
            return None
    return np.asarray(matrix) if np.isfinite(matrix).all() else None


def luminance(primaries: Sequence[float]) -> np.ndarray:
    """Returns the weights, float (3,), of red, green and blue in the luminance; Rec. 709's if these mean nothing."""
    with np.errstate(all="ignore"):
        try:
            weights = _to_xyz(primaries)[1]
        except np.linalg.LinAlgError:
            weights = np.full(3, np.nan)
    return np.asarray(weights) if np.isfinite(weights).all() and weights[1] else _to_xyz(REC709)[1]


def _xyz(x: float, y: float) -> np.ndarray:
    """Returns the XYZ of a chromaticity with luminance 1."""
    return np.array([x, y, 1 - x - y], np.float64) / y


def _to_xyz(primaries: Sequence[float]) -> np.ndarray:
    """Returns the matrix from RGB of these primaries to XYZ. White has luminance 1."""
    columns = np.stack([_xyz(*primaries[at : at + 2]) for at in (0, 2, 4)], axis=1)
    return columns * np.linalg.solve(columns, _xyz(*primaries[6:8]))


FROM_XYZ = np.linalg.inv(_to_xyz(REC709))  # to RGB of Rec. 709
