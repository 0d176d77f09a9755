"""YOLO's polygons: points that its readers turn back into the pixels of the mask.

Both readers compute in float32 and fill polygons with `cv2.fillPoly`, which draws the pixels of the outline too:

    supervision  multiplies by the image's sides and rounds
    Ultralytics  adds points along the outline, multiplies by the sides and cuts off
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks.outline import Ring

DIGITS = 8  # after the point, in the text
MARGIN = 1e-7  # share of a side: the most that this text and two roundings of float32 change a coordinate
SPREAD = 2.4e-7  # share of a side: MARGIN, and the roundings in Ultralytics
LENGTH = 1000  # points that Ultralytics gives every polygon; one more than the longest has, if that is more


def encoded(rings: Sequence[Ring], width: int, height: int) -> list[NDArray[np.float64]]:
    """Returns the points of an image's rings as fractions of its sides, float64 (K, 2), in (0, 1), K at least 3.

    Each point lies as near to the middle of its pixel as it can without a tie, so that rounding and cutting off both
    give that pixel. The box around a ring is never empty: Ultralytics drops empty boxes when it makes a mosaic.
    """
    sides = np.array((width, height))
    fractions = []
    for ring, length in zip(rings, _lengths([len(ring) for ring in rings], max(width, height)), strict=True):
        points = np.concatenate([ring, np.repeat(ring[-1:], length - len(ring), axis=0)]) + (0.5 - MARGIN * sides)
        points[0] -= np.where(np.ptp(ring, axis=0) == 0, 0.25, 0.0)
        fractions.append(points / sides)
    return fractions


def draw(mask: NDArray[np.uint8], points: NDArray[np.float32]) -> None:
    """Sets the pixels of a polygon in a mask, uint8 (H, W), to 255, as the readers do.

    `points` are fractions of the mask's sides: x, y, x, y, ... Raises ValueError for an odd number of them.
    """
    height, width = mask.shape
    sides = np.array((width, height), np.float32)
    cv2.fillPoly(mask, [(points.reshape(-1, 2) * sides).astype(np.int32)], 255)


def _lengths(counts: list[int], side: int) -> list[int]:
    """Returns how many points each ring shall have, so that none that Ultralytics adds falls on the middle of a step.

    There a diagonal step passes between four pixels, and the roundings of x and y could lead to a wrong one.
    Ultralytics gives a ring of K points n - 2 - K steps of equal size around its K edges. If n - 2 is an odd multiple
    of `unit`, and K an even one, then all these points are `unit / 2 / n` of an edge or more away from its middle.
    """
    longest = max(counts, default=0)
    unit = 2  # fits n = LENGTH
    while unit < 2 * SPREAD * side * max(LENGTH, longest):
        unit *= 2
    usual = longest <= LENGTH and unit == 2
    most = LENGTH if usual else 1 + unit * (-(-max(longest - 1, LENGTH) // unit) | 1)  # if not usual, n is most + 1
    lengths = [min(most, -(-count // (2 * unit)) * 2 * unit) for count in counts]
    if not usual and counts:
        lengths[counts.index(longest)] = most
    return lengths
