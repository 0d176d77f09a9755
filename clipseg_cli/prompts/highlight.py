"""Visual prompts: an exemplar and its mask become the image that CLIPSeg sees.

The released models were trained with the recipe `crop-blur-dim` (their `crop_blur_highlight352`): blur the
surroundings, dim them to a tenth, crop around the object, pad to a square, resize. `recipes` has this one and the
others that the paper compares. All steps work in normalised colour, where 0 is ImageNet's mean colour, so surroundings
fade to that colour and not to black.

The authors first warp the image to a square of 352 pixels. Here the image keeps its shape and resolution until the
last step, and lengths in pixels scale with its longer side, so a recipe looks the same at any resolution.

Pure functions of arrays. Images are uint8 (H, W, 3) RGB; masks are bool (H, W) of the same size. "Pixels" are float32
(H, W, 3) in normalised colour.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.prompts.recipes import BACKGROUND, BLUR_SIGMA, CONTEXT, RECIPES

MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # of RGB in [0, 1], over ImageNet
STD = np.array((0.229, 0.224, 0.225), np.float32)
PAPER_SIDE = 352  # pixels: the image side that the three lengths below refer to
BLUR_RADIUS = 7  # pixels at PAPER_SIDE: 15 taps
OUTLINE = 5  # pixels at PAPER_SIDE: the authors' thickness, which cv2 draws 7 pixels wide, centred on the edge
RED = np.array((1, 0, 0), np.float32)  # outline colour, RGB in [0, 1]
DYE = np.array((1, 0.2, 0.2), np.float32)  # RGB factors for the grey level of a dyed object


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the image in normalised colour: float32 (H, W, 3), about -2.1 to 2.7."""
    return normalised_floats(image.astype(np.float32))


def normalised_floats(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns float32 levels from 0 to 255 in normalised colour; otherwise like `normalised`."""
    return np.asarray((levels / 255 - MEAN) / STD, np.float32)


def denormalised(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Inverts `normalised`, to display a visual prompt: RGB uint8 of the same shape, rounded and clipped."""
    return np.asarray(np.rint(np.clip(pixels * STD + MEAN, 0, 1) * 255), np.uint8)


def blurred(pixels: NDArray[np.float32], sigma: float = BLUR_SIGMA, longer: int | None = None) -> NDArray[np.float32]:
    """Applies a Gaussian blur of `sigma` pixels at PAPER_SIDE, scaled to this image: float32 (H, W, 3), edges mirrored.

    If `pixels` is a crop, `longer` is the longer side of the whole image in pixels. At 352 pixels this is the authors'
    filter: 15 taps, sigma 3.
    """
    scale = (longer or max(pixels.shape[:2])) / PAPER_SIDE
    taps = 2 * _reach(scale) + 1
    blurry = cv2.GaussianBlur(pixels, (taps, taps), sigma * scale, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurry, np.float32)


def _reach(scale: float) -> int:
    """Returns the radius in pixels of the blur kernel."""
    return max(1, round(BLUR_RADIUS * scale))


def highlighted(
    pixels: NDArray[np.float32],
    mask: NDArray[np.bool_],
    background: float = BACKGROUND,
    sigma: float = BLUR_SIGMA,
    longer: int | None = None,
) -> NDArray[np.float32]:
    """Blurs the surroundings and multiplies them by `background`; leaves the object as it is: float32 (H, W, 3).

    A `sigma` of 0 leaves the surroundings sharp. `longer`: see `blurred`.
    """
    surroundings = blurred(pixels, sigma, longer) if sigma else pixels
    return np.where(mask[..., None], pixels, np.float32(background) * surroundings)


def outlined(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Draws a red line along the outer edge of each component of the mask: float32 (H, W, 3).

    The thickness is OUTLINE, scaled to the longer side. Holes get no line.
    """
    thickness = max(1, round(OUTLINE * max(mask.shape) / PAPER_SIDE))
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    line = cv2.drawContours(np.zeros(mask.shape, np.uint8), edges, -1, 1, thickness)
    return np.where(np.asarray(line, bool)[..., None], (RED - MEAN) / STD, pixels)


def dyed(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Tints the object red and makes the rest grey: float32 (H, W, 3)."""
    grey = np.asarray(cv2.cvtColor(pixels * STD + MEAN, cv2.COLOR_RGB2GRAY), np.float32)[..., None]
    return np.asarray((np.where(mask[..., None], DYE, np.float32(1)) * grey - MEAN) / STD, np.float32)


def crop_box(mask: NDArray[np.bool_], context: float = CONTEXT) -> tuple[int, int, int, int]:
    """Returns the box around a mask, widened by `context` of its extent on each side, clipped to the image.

    x0, y0, x1, y1 in pixels, ends exclusive; the whole image if the mask is empty.
    """
    height, width = mask.shape
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if columns.size == 0:
        return 0, 0, width, height
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    dx, dy = context * (x1 - x0), context * (y1 - y0)
    return int(max(0, x0 - dx)), int(max(0, y0 - dy)), int(min(width, x1 + dx)), int(min(height, y1 + dy))


def padded_square(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres the image on a square of zeros (the mean colour). An odd pixel of padding goes right or below."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(pixels, ((top, side - height - top), (left, side - width - left), (0, 0)))


def resized_nearest(pixels: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Resizes to (side, side, 3): takes the pixel at floor(index * size / side) on each axis, as the authors do."""
    rows = np.arange(side) * pixels.shape[0] // side
    columns = np.arange(side) * pixels.shape[1] // side
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def highlight(image: NDArray[np.uint8], mask: NDArray[np.bool_], recipe: str, side: int) -> NDArray[np.float32]:
    """Returns the visual prompt of a masked object: float32 (side, side, 3), normalised colour.

    Highlights at the image's own resolution, then crops, pads to a square with 0 and resizes. Raises ValueError if the
    mask is empty or has another size than the image, KeyError if `recipe` is not in RECIPES.
    """
    options = RECIPES[recipe]
    if mask.shape != image.shape[:2]:
        raise ValueError(f"the mask is {mask.shape} and the image {image.shape[:2]}: both must have the same size")
    if not mask.any():
        raise ValueError("the mask is empty: there is no object to highlight")
    longer, (height, width) = max(mask.shape), mask.shape
    x0, y0, x1, y1 = (0, 0, width, height) if options.context is None else crop_box(mask, options.context)
    reach = _reach(longer / PAPER_SIDE)
    # only the crop and the reach of the blur around it are processed, so large images stay cheap
    left, top = max(0, x0 - reach), max(0, y0 - reach)
    image, mask = image[top : y1 + reach, left : x1 + reach], mask[top : y1 + reach, left : x1 + reach]
    pixels = highlighted(normalised(image), mask, options.background, options.sigma, longer)
    if options.paint == "outline":
        pixels = outlined(pixels, mask)
    elif options.paint == "dye":
        pixels = dyed(pixels, mask)
    return resized_nearest(padded_square(pixels[y0 - top : y1 - top, x0 - left : x1 - left]), side)


def crop_blur_dim(image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int = PAPER_SIDE) -> NDArray[np.float32]:
    """Returns the paper's visual prompt of a masked object: float32 (side, side, 3), normalised colour.

    If the mask is empty, the result is the whole image, blurred and dimmed.
    """
    pixels = highlighted(normalised(image), mask)
    x0, y0, x1, y1 = crop_box(mask)
    return resized_nearest(padded_square(pixels[y0:y1, x0:x1]), side)
