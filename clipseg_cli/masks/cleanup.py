"""What is done to a mask once it is cut. numpy in, numpy out; masks are uint8 (H, W), 0 and 255.

The order is fixed: peak, open, close, fill holes, min area, keep largest, grow, invert, and feather for the file alone.
Parts touch by sides or corners (8 neighbours), holes by sides (4). What lies beyond the frame is unknown: an object
cut by it is not worn away there, and a hole that reaches it is none.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.settings.masks import CleanUp

Mask = NDArray[np.uint8]
WIDE = 32  # pixels: from twice this sigma on, a blur is done on a smaller picture


def clean(mask: Mask, how: CleanUp) -> Mask:
    """The mask after `open` and all that follows it but feather; itself where that is nothing."""
    if how.open:
        mask = dilate(erode(mask, how.open), how.open)
    if how.close:
        mask = erode(dilate(mask, how.close), how.close)
    if how.fill_holes:
        mask = fill_holes(mask, mask.size if how.fill_holes == "all" else int(how.fill_holes))
    if how.min_area:
        share = isinstance(how.min_area, float)
        mask = min_area(mask, how.min_area * mask.size if share else how.min_area)
    if how.keep_largest:
        mask = keep_largest(mask, how.keep_largest)
    if how.grow:
        mask = dilate(mask, how.grow) if how.grow > 0 else erode(mask, -how.grow)
    return inverted(mask) if how.invert else mask


def reaching(mask: Mask, peaks: Mask) -> Mask:
    """The parts of a mask that hold a pixel of `peaks`."""
    labels, stats = _parts(mask)
    kept = np.zeros(len(stats), bool)
    kept[np.unique(labels[peaks > 0])] = True
    return _select(labels, kept)


def min_area(mask: Mask, pixels: float) -> Mask:
    """Without the parts of fewer pixels."""
    labels, stats = _parts(mask)
    return _select(labels, stats[:, cv2.CC_STAT_AREA] >= pixels)


def keep_largest(mask: Mask, count: int) -> Mask:
    """The `count` largest parts; of equal ones the highest, then the leftmost."""
    labels, stats = _parts(mask)
    left, top, _, _, area = stats[1:].T
    order = 1 + np.lexsort((left, top, -area))
    kept = np.zeros(len(stats), bool)
    kept[order[:count]] = True
    return _select(labels, kept)


def fill_holes(mask: Mask, pixels: int) -> Mask:
    """With the holes of up to so many pixels filled."""
    labels, stats = _parts(inverted(mask), connectivity=4)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    return mask | _select(labels, inside & (area <= pixels))


def dilate(mask: Mask, radius: int) -> Mask:
    """Every pixel whose centre lies within `radius` pixels of the centre of one in the mask."""
    if not mask.any():
        return mask
    far = cv2.distanceTransform(inverted(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # distances are roots of whole numbers: half way to the next one, whatever float32 makes of them
    near: Mask = (far <= math.sqrt(radius * radius + 0.5)).view(np.uint8) * np.uint8(255)
    return near


def erode(mask: Mask, radius: int) -> Mask:
    """Every pixel of the mask that has none outside it, but in the frame, within `radius` pixels."""
    return inverted(dilate(inverted(mask), radius))


def inverted(mask: Mask) -> Mask:
    """Everything else."""
    rest: Mask = cv2.bitwise_not(mask)
    return rest


def feather(mask: Mask, radius: float) -> Mask:
    """uint8 (H, W), 0 to 255: the mask with its edge blurred, sigma half the radius in pixels; 128 on the old edge.

    A blur wider than the picture is one of its longer side; a wide one is done on a smaller picture, where it is as
    smooth and costs no more.
    """
    if not radius:
        return mask
    (height, width), sigma = mask.shape, min(radius, max(mask.shape)) / 2
    shrink = max(1, int(sigma / WIDE))
    small = cv2.resize(mask, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    blurred: Mask = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
    return blurred if shrink == 1 else cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)


def parts(mask: Mask) -> list[Mask]:
    """Each connected part as a mask of its own, the highest first, then the leftmost."""
    labels, stats = _parts(mask)
    order = 1 + np.lexsort((stats[1:, cv2.CC_STAT_LEFT], stats[1:, cv2.CC_STAT_TOP]))
    return [_only(labels, int(index)) for index in order]


def otsu(histogram: NDArray[np.int64]) -> int:
    """The level that splits a histogram of 256 levels with the largest variance between its sides (Otsu 1979): the
    upper side lies above it. The lowest of equal ones; a map of one level is all lower side."""
    levels = np.arange(256)
    below, total = np.cumsum(histogram), histogram.sum()
    sums = np.cumsum(histogram * levels)
    above = total - below
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2.0
    split = (below > 0) & (above > 0)
    return int(np.argmax(np.where(split, between, -1))) if split.any() else int(np.flatnonzero(histogram)[-1])


def percentile(histogram: NDArray[np.int64], percent: float) -> int:
    """The lowest level that at least `percent` of the pixels do not exceed; 254 at most, so that a saturated map
    keeps its highest level."""
    reached = np.cumsum(histogram) >= histogram.sum() * percent / 100
    return min(int(np.argmax(reached)), 254)


def _parts(mask: Mask, connectivity: int = 8) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Numbers of the parts, int32 (H, W), 0 outside; and per number x, y, width, height, area."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity, ltype=cv2.CV_32S)
    return labels, stats


def _only(labels: NDArray[np.int32], index: int) -> Mask:
    one: Mask = cv2.inRange(labels, index, index)
    return one


def _select(labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> Mask:
    """The mask of the parts that are kept; number 0, the outside, never is."""
    table = np.where(kept, 255, 0).astype(np.uint8)
    table[0] = 0
    return table[labels]
