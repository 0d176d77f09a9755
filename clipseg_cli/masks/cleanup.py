"""Clean-up of masks: morphology, holes, small components, feathering. Masks are uint8 (H, W), 0 and 255.

The order is fixed: peak, open, close, fill holes, min area, keep largest, grow, invert; feather changes only the
written files. Components are 8-connected, holes 4-connected. Pixels outside the image count as unknown: erosion does
not start at the border, and a hole that touches the border is not a hole.
"""

import math
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.settings.masks import CleanUp

Mask = NDArray[np.uint8]
Levels = TypeVar("Levels", NDArray[np.uint8], NDArray[np.uint16])
WIDE = 32  # pixels: a blur with a sigma of at least twice this is computed on a smaller image


def clean(mask: Mask, options: CleanUp) -> Mask:
    """Applies all steps from `open` to `invert`. Returns the mask itself if the options name none."""
    if options.open:
        mask = dilate(erode(mask, options.open), options.open)
    if options.close:
        mask = erode(dilate(mask, options.close), options.close)
    if options.fill_holes:
        mask = fill_holes(mask, mask.size if options.fill_holes == "all" else int(options.fill_holes))
    if options.min_area:
        share = isinstance(options.min_area, float)
        mask = min_area(mask, options.min_area * mask.size if share else options.min_area)
    if options.keep_largest:
        mask = keep_largest(mask, options.keep_largest)
    if options.grow:
        mask = dilate(mask, options.grow) if options.grow > 0 else erode(mask, -options.grow)
    return inverted(mask) if options.invert else mask


def reaching(mask: Mask, peaks: Mask) -> Mask:
    """Keeps the components that contain a pixel of `peaks`, a mask of the same size."""
    labels, stats = numbered(mask)
    kept = np.zeros(len(stats), bool)
    kept[np.unique(labels[peaks > 0])] = True
    return _select(labels, kept)


def min_area(mask: Mask, pixels: float) -> Mask:
    """Removes components of fewer than `pixels` pixels."""
    labels, stats = numbered(mask)
    return _select(labels, stats[:, cv2.CC_STAT_AREA] >= pixels)


def keep_largest(mask: Mask, count: int) -> Mask:
    """Keeps the `count` largest components. Ties go to the topmost, then the leftmost."""
    labels, stats = numbered(mask)
    left, top, _, _, area = stats[1:].T
    order = 1 + np.lexsort((left, top, -area))
    kept = np.zeros(len(stats), bool)
    kept[order[:count]] = True
    return _select(labels, kept)


def fill_holes(mask: Mask, pixels: int) -> Mask:
    """Fills holes of up to `pixels` pixels."""
    labels, stats = numbered(inverted(mask), connectivity=4)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    return mask | _select(labels, inside & (area <= pixels))


def dilate(mask: Mask, radius: int) -> Mask:
    """Adds every pixel whose centre is within `radius` pixels of the centre of a mask pixel."""
    if not mask.any():
        return mask
    distance = cv2.distanceTransform(inverted(mask), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # distances are roots of integers; + 0.5 puts the limit between two of them, safe from float32 rounding
    near: Mask = (distance <= math.sqrt(radius * radius + 0.5)).view(np.uint8) * np.uint8(255)
    return near


def erode(mask: Mask, radius: int) -> Mask:
    """Removes every mask pixel within `radius` pixels of an image pixel outside the mask."""
    return inverted(dilate(inverted(mask), radius))


def inverted(mask: Mask) -> Mask:
    """Swaps 0 and 255."""
    complement: Mask = cv2.bitwise_not(mask)
    return complement


def feather(mask: Levels, radius: float) -> Levels:
    """Blurs the edge of a mask (H, W) of 0 and the highest value of its type, uint8 or uint16; half of it on the edge.

    Sigma is half the radius, in pixels. The radius is limited to the longer side. A wide blur is computed on a smaller
    image: as smooth, at constant cost.
    """
    if not radius:
        return mask
    (height, width), sigma = mask.shape, min(radius, max(mask.shape)) / 2
    shrink = max(1, int(sigma / WIDE))
    small = cv2.resize(mask, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    blurred: Levels = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
    return blurred if shrink == 1 else cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)


def numbered(mask: Mask, connectivity: int = 8) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Numbers the connected components.

    Returns the component number of each pixel, int32 (H, W), 0 for the background; and for each number x, y, width,
    height and area, in pixels.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity, ltype=cv2.CV_32S)
    return labels, stats


def otsu(histogram: NDArray[np.int64]) -> int:
    """Returns Otsu's threshold (1979) of a histogram of 256 levels: the foreground is above it.

    It is the level with the largest variance between the two classes; ties go to the lowest. If all pixels have the
    same level, the threshold is that level, and the foreground is empty.
    """
    levels = np.arange(256)
    below = np.cumsum(histogram)
    above = histogram.sum() - below
    sums = np.cumsum(histogram * levels)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2.0
    split = (below > 0) & (above > 0)
    return int(np.argmax(np.where(split, between, -1))) if split.any() else int(np.flatnonzero(histogram)[-1])


def percentile(histogram: NDArray[np.int64], percent: float) -> int:
    """Returns the lowest level that at least `percent` % of the pixels do not exceed.

    The level is at most 254, so that the mask of a saturated soft map keeps the pixels of level 255.
    """
    reached = np.cumsum(histogram) >= histogram.sum() * percent / 100
    return min(int(np.argmax(reached)), 254)


def _select(labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> Mask:
    """Returns the mask of the components with a true entry in `kept`. Number 0, the background, is never kept."""
    table = np.where(kept, 255, 0).astype(np.uint8)
    table[0] = 0
    return table[labels]
