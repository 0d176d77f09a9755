"""Preprocessing for the paper's evaluations: images and masks become squares. numpy in, numpy out.

The paper's code has one loader per data set (timojl/clipseg, `datasets/`), and each makes images square in its own way.
Scores depend on it. Images are uint8 (H, W, 3) RGB; results are float32 (S, S, 3) in normalised colour.
"""

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from clipseg_cli.prompts import highlight

MULTIPLE = 8  # pixels: PFENet rounds the sides of a shrunk image down to multiples of this
EDGE = 1e-9  # pixels: a point this close to a polygon's edge counts as on it

Floats = NDArray[np.float32]


def resize_align_corners(array: Floats, height: int, width: int) -> Floats:
    """Resizes float32 (H, W, ...) bilinearly with aligned corners, like torch's `align_corners=True`."""
    for axis, size in ((0, height), (1, width)):
        old = array.shape[axis]
        position = np.arange(size) * ((old - 1) / max(size - 1, 1))
        low = np.minimum(position.astype(np.int64), max(old - 2, 0))
        shape = [1] * array.ndim
        shape[axis] = size
        weight = (position - low).astype(np.float32).reshape(shape)
        before, after = (array.take(np.minimum(index, old - 1), axis) for index in (low, low + 1))
        array = before * (1 - weight) + after * weight
    return array


def resize_nearest(array: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resizes uint8 (H, W) to (side, side) like torch's `nearest`: takes the pixel at floor(index * size / side)."""
    height, width = array.shape[:2]
    rows, columns = (np.arange(side) * size // side for size in (height, width))
    return np.ascontiguousarray(array[rows[:, None], columns])


def stretch_align_corners(image: NDArray[np.uint8], side: int) -> Floats:
    """Stretches a PhraseCut image to the square with aligned corners and no antialiasing, then normalises it."""
    return highlight.normalised_floats(resize_align_corners(image.astype(np.float32), side, side))


def stretch_bilinear(image: NDArray[np.uint8], side: int) -> Floats:
    """Normalises an image for Pascal zero-shot, then stretches it to the square, bilinearly and not antialiased."""
    pixels: Floats = cv2.resize(highlight.normalised(image), (side, side), interpolation=cv2.INTER_LINEAR)
    return pixels


def stretch_antialiased(image: NDArray[np.uint8], side: int) -> Floats:
    """Stretches a COCO-20i image to the square with Pillow's antialiased bilinear filter, then normalises it."""
    square = PIL.Image.fromarray(image).resize((side, side), PIL.Image.Resampling.BILINEAR)
    return highlight.normalised(np.asarray(square))


def pad_image(image: NDArray[np.uint8], side: int) -> Floats:
    """Puts a Pascal-5i image at the top left of a black square, shrunk to `padded_size`, then normalises it."""
    height, width = padded_size(image.shape[0], image.shape[1], side)
    square = np.zeros((side, side, 3), np.float32)
    square[:height, :width] = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return highlight.normalised_floats(square)


def pad_mask(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Places a mask as `pad_image` places its image: uint8 (side, side), padded with 255."""
    height, width = padded_size(mask.shape[0], mask.shape[1], side)
    square = np.full((side, side), 255, np.uint8)
    square[:height, :width] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return square


def padded_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns the (height, width) that `pad_image` shrinks an image to.

    They are unchanged if the image fits into the square, otherwise multiples of 8.
    """
    longer = max(height, width)
    if longer <= side:
        return height, width
    shrunk = (side if size == longer else int(size * (side / longer)) for size in (height, width))
    new_height, new_width = (max(MULTIPLE, size // MULTIPLE * MULTIPLE) for size in shrunk)
    return new_height, new_width


def pad_mask_unscaled(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Puts the mask at the top left of a square of 255, uint8 (L, L), where L is its longer side."""
    longer = max(mask.shape)
    square = np.full((longer, longer), 255, np.uint8)
    square[: mask.shape[0], : mask.shape[1]] = mask
    return square


def visual_prompt(pixels: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Returns the paper's visual prompt (`crop_blur_highlight352`) of a square support image and its square mask."""
    x0, y0, x1, y1 = highlight.crop_box(mask)
    cropped = highlight.highlighted(pixels, mask)[y0:y1, x0:x1]
    return highlight.resized_nearest(highlight.padded_square(cropped), len(mask))


def fill_polygon(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Returns bool (H, W): pixels inside the polygon, or on its edge, by the even-odd rule. `points`: (N, 2), x and y.

    This is scikit-image's rule. COCO's rule differs along the edge.
    """
    x, y = points[:, 0], points[:, 1]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    # spans of pixels that are inside, as (row, left, right): first between the crossings of each row with the edges
    first, last = (np.clip(np.ceil(end(y, y2)), 0, height).astype(int) for end in (np.minimum, np.maximum))
    edge = np.repeat(np.arange(len(x)), last - first)
    crossed = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    crossing = x[edge] + (crossed - y[edge]) * (x2 - x)[edge] / (y2 - y)[edge]
    order = np.lexsort((crossing, crossed))
    # then edges that lie in a row, and corners
    near = np.rint(y)
    on = (np.abs(y - near) <= EDGE) & (near >= 0) & (near < height)
    level = on & (np.abs(y2 - near) <= EDGE)
    row = np.concatenate([crossed[order][::2], near[level], near[on]]).astype(int)
    left = np.concatenate([crossing[order][::2], np.minimum(x, x2)[level], x[on]])
    right = np.concatenate([crossing[order][1::2], np.maximum(x, x2)[level], x[on]])
    start = np.clip(np.ceil(left - EDGE), 0, width).astype(int)
    stop = np.maximum(np.clip(np.floor(right + EDGE) + 1, 0, width).astype(int), start)
    size, place = height * (width + 1), row * (width + 1)
    change = np.bincount(place + start, minlength=size) - np.bincount(place + stop, minlength=size)
    return np.asarray(change.reshape(height, width + 1).cumsum(1)[:, :width] > 0)
