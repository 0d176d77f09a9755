"""How an exemplar picture and its mask become what CLIPSeg looks at: the paper's visual prompt.

The recipe `crop-blur-dim` is the one that the released models were trained with (their `crop_blur_highlight352`):
blur the surroundings, fade them to a tenth, crop around the object, pad to a square, resize.
All of it happens in normalised colour, where 0 is the mean colour of ImageNet: surroundings fade to that, not to black.

Pure functions of arrays. Pictures are uint8 (H, W, 3) RGB; masks are bool (H, W) of the same size.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # of RGB in [0, 1], over ImageNet
STD = np.array((0.229, 0.224, 0.225), np.float32)
PAPER_SIDE = 352  # pixels: the size at which the two lengths below were chosen
BLUR_SIGMA = 3.0  # pixels at PAPER_SIDE
BLUR_RADIUS = 7  # pixels at PAPER_SIDE: 15 taps
BACKGROUND = 0.1  # share of the surroundings' colour that is kept
CONTEXT = 0.1  # of the object's width and height, added on each side


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture in the network's colour units: float32 (H, W, 3), about -2.1 to 2.7."""
    return np.asarray((image.astype(np.float32) / 255 - MEAN) / STD, np.float32)


def blurred(pixels: NDArray[np.float32], sigma: float = BLUR_SIGMA) -> NDArray[np.float32]:
    """A Gaussian blur as strong for this size as `sigma` is at 352 pixels: float32 (H, W, 3), edges mirrored.

    The longer side counts. At 352 pixels it is the authors' filter: 15 taps, sigma 3.
    """
    scale = max(pixels.shape[:2]) / PAPER_SIDE
    taps = 2 * max(1, round(BLUR_RADIUS * scale)) + 1
    soft = cv2.GaussianBlur(pixels, (taps, taps), sigma * scale, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(soft, np.float32)


def highlighted(
    pixels: NDArray[np.float32], mask: NDArray[np.bool_], background: float = BACKGROUND, sigma: float = BLUR_SIGMA
) -> NDArray[np.float32]:
    """The object as it is over its blurred surroundings times `background`: float32 (H, W, 3), normalised colour."""
    return np.where(mask[..., None], pixels, np.float32(background) * blurred(pixels, sigma))


def crop_box(mask: NDArray[np.bool_], context: float = CONTEXT) -> tuple[int, int, int, int]:
    """The box around a mask with `context` of its extent on each side: x0, y0, x1, y1 in pixels, ends exclusive.

    Clipped to the picture; the whole picture if the mask is empty.
    """
    height, width = mask.shape
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if columns.size == 0:
        return 0, 0, width, height
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    dx, dy = context * (x1 - x0), context * (y1 - y0)
    return int(max(0, x0 - dx)), int(max(0, y0 - dy)), int(min(width, x1 + dx)), int(min(height, y1 + dy))


def padded_square(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The picture centred on a square of zeros (the mean colour); an odd pixel goes right or below."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(pixels, ((top, side - height - top), (left, side - width - left), (0, 0)))


def resized_nearest(pixels: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Each pixel of the (side, side, 3) result is the one at floor(index * size / side), as the authors resize."""
    rows = np.arange(side) * pixels.shape[0] // side
    columns = np.arange(side) * pixels.shape[1] // side
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def crop_blur_dim(image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int = PAPER_SIDE) -> NDArray[np.float32]:
    """The paper's visual prompt of a masked object: float32 (side, side, 3), normalised colour, ready for the encoder.

    An empty mask means that all is surroundings: the whole picture comes back, blurred and dimmed.
    """
    lit = highlighted(normalised(image), mask)
    x0, y0, x1, y1 = crop_box(mask)
    return resized_nearest(padded_square(lit[y0:y1, x0:x1]), side)
