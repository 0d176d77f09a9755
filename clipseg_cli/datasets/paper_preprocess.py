"""How the paper's evaluations make pictures, masks and maps fit each other. numpy in, numpy out.

Each data set came with its own loader (timojl/clipseg, `datasets/`), and each loader squares pictures in its own way;
scores differ with it. Pictures are uint8 (H, W, 3) RGB; what comes out is float32 (S, S, 3) in normalised colour.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.prompts import highlight

EIGHTH = 8  # pixels: PFENet's sides are multiples of it
EDGE = 1e-9  # pixels: a point so near to a polygon's edge is on it

Floats = NDArray[np.float32]


def corners(array: Floats, height: int, width: int) -> Floats:
    """float32 (H, W, ...) resized bilinearly, corner pixels staying corner pixels, as torch's `align_corners=True`."""
    for axis, size in ((0, height), (1, width)):
        old = array.shape[axis]
        place = np.arange(size) * ((old - 1) / max(size - 1, 1))
        low = np.minimum(place.astype(np.int64), max(old - 2, 0))
        shape = [1] * array.ndim
        shape[axis] = size
        share = (place - low).astype(np.float32).reshape(shape)
        first, second = (array.take(np.minimum(index, old - 1), axis) for index in (low, low + 1))
        array = first * (1 - share) + second * share
    return array


def nearest(array: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """uint8 (H, W) to (side, side): each pixel is the one at floor(index * size / side), as torch's `nearest`."""
    height, width = array.shape[:2]
    rows, columns = (np.arange(side) * size // side for size in (height, width))
    return np.ascontiguousarray(array[rows[:, None], columns])


def stretched(image: NDArray[np.uint8], side: int) -> Floats:
    """PhraseCut: warped to the square, corner pixels staying corner pixels, without antialiasing."""
    return highlight.normalised_floats(corners(image.astype(np.float32), side, side))


def sampled(image: NDArray[np.uint8], side: int) -> Floats:
    """Pascal zero-shot: normalised, then warped to the square bilinearly, without antialiasing."""
    pixels: Floats = cv2.resize(highlight.normalised(image), (side, side), interpolation=cv2.INTER_LINEAR)
    return pixels


def padded(image: NDArray[np.uint8], side: int) -> Floats:
    """Pascal-5i: in its own shape at the top left of a black square; shrunk to fit, its sides to multiples of 8."""
    height, width = fitted(image.shape[0], image.shape[1], side)
    square = np.zeros((side, side, 3), np.float32)
    square[:height, :width] = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return highlight.normalised_floats(square)


def padded_mask(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The mask of a `padded` picture, uint8 (side, side): 255 around it."""
    height, width = fitted(mask.shape[0], mask.shape[1], side)
    square = np.full((side, side), 255, np.uint8)
    square[:height, :width] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return square


def fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """The size of a `padded` picture: itself where it fits."""
    longer = max(height, width)
    if longer <= side:
        return height, width
    shrunk = (side if size == longer else int(size * (side / longer)) for size in (height, width))
    tall, wide = (max(EIGHTH, size // EIGHTH * EIGHTH) for size in shrunk)
    return tall, wide


def squared(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (L, L), L its longer side: the mask at the top left, 255 around it."""
    longer = max(mask.shape)
    square = np.full((longer, longer), 255, np.uint8)
    square[: mask.shape[0], : mask.shape[1]] = mask
    return square


def shown(pixels: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The paper's visual prompt of a squared support picture and its squared mask: `crop_blur_highlight352`."""
    x0, y0, x1, y1 = highlight.crop_box(mask)
    lit = highlight.highlighted(pixels, mask)[y0:y1, x0:x1]
    return highlight.resized_nearest(highlight.padded_square(lit), len(mask))


def polygon(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """bool (H, W): the pixels whose x, y lie inside the polygon (N, 2) by the even-odd rule, or on its edge; the
    polygons of scikit-image, which differ from COCO's by the pixels of the outline."""
    mask = np.zeros((height, width), bool)
    x, y = points[:, 0], points[:, 1]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)

    def fill(row: int, left: float, right: float) -> None:
        mask[row, max(0, int(np.ceil(left - EDGE))) : max(0, int(np.floor(right + EDGE)) + 1)] = True

    for row in range(max(0, int(np.ceil(y.min() - EDGE))), min(height - 1, int(np.floor(y.max() + EDGE))) + 1):
        crossing = (y <= row) != (y2 <= row)
        at = np.sort(x[crossing] + (row - y[crossing]) * (x2 - x)[crossing] / (y2 - y)[crossing])
        for left, right in at.reshape(-1, 2):
            fill(row, left, right)
        on = (np.abs(y - row) <= EDGE) & (np.abs(y2 - row) <= EDGE)  # edges that lie in the row
        for left, right in np.sort(np.stack([x[on], x2[on]], 1), 1):
            fill(row, left, right)
        for corner in x[np.abs(y - row) <= EDGE]:
            fill(row, corner, corner)
    return mask
