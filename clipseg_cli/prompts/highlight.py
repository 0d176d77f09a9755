"""How an exemplar picture and its mask become what CLIPSeg looks at: the paper's visual prompt.

The recipe `crop-blur-dim` is the one that the released models were trained with (their `crop_blur_highlight352`):
blur the surroundings, fade them to a tenth, crop around the object, pad to a square, resize.
All of it happens in normalised colour, where 0 is the mean colour of ImageNet: surroundings fade to that, not to black.
RECIPES holds it beside the others that the paper compares.

The authors warp the picture to a square of 352 pixels first; here it keeps its shape and its pixels until the last
step, and lengths in pixels grow with its longer side, so that a recipe looks the same at any resolution.

Pure functions of arrays. Pictures are uint8 (H, W, 3) RGB; masks are bool (H, W) of the same size.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

MEAN = np.array((0.485, 0.456, 0.406), np.float32)  # of RGB in [0, 1], over ImageNet
STD = np.array((0.229, 0.224, 0.225), np.float32)
PAPER_SIDE = 352  # pixels: the size at which the three lengths below were chosen
BLUR_SIGMA = 3.0  # pixels at PAPER_SIDE
BLUR_RADIUS = 7  # pixels at PAPER_SIDE: 15 taps
OUTLINE = 5  # pixels at PAPER_SIDE: the authors' thickness; cv2 draws such a line over 7 pixels, centred on the edge
BACKGROUND = 0.1  # share of the surroundings' colour that is kept
CONTEXT = 0.1  # of the object's width and height, added on each side
RED = np.array((1, 0, 0), np.float32)  # of an outline, RGB in [0, 1]
DYE = np.array((1, 0.2, 0.2), np.float32)  # times the grey of a dyed object


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to point at an object; without arguments the picture is left as it is.

    background: share of the surroundings' colour that is kept, in [0, 1]. sigma: of their blur, pixels at PAPER_SIDE,
    0 for none. context: of the crop, a share of the object's extent; None for no crop. paint: what is drawn in red,
    a line around the object or the object itself in a grey picture.
    """

    background: float = 1.0
    sigma: float = 0.0
    context: float | None = None
    paint: Literal["outline", "dye"] | None = None


RECIPES: dict[str, Recipe] = {  # the paper's gain in percentage points (its Table 2), where it has that row
    "crop-blur-dim": Recipe(BACKGROUND, BLUR_SIGMA, CONTEXT),  # 23.50: the one in training
    "dim": Recipe(background=BACKGROUND),  # 13.85
    "mask": Recipe(background=0.0),  # 23.40
    "blur": Recipe(sigma=BLUR_SIGMA),  # 13.15
    "blur-dim": Recipe(BACKGROUND, BLUR_SIGMA),  # 21.73
    "crop": Recipe(context=CONTEXT),  # 13.60
    "outline": Recipe(paint="outline"),  # 2.29
    "dye": Recipe(paint="dye"),  # 1.21
    "none": Recipe(),
}


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture in the network's colour units: float32 (H, W, 3), about -2.1 to 2.7."""
    return normalised_floats(image.astype(np.float32))


def normalised_floats(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same of grey levels between whole ones, 0 to 255."""
    return np.asarray((levels / 255 - MEAN) / STD, np.float32)


def denormalised(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The inverse of `normalised`, for showing what the model is shown: uint8 of the same shape, RGB, rounded."""
    return np.asarray(np.rint(np.clip(pixels * STD + MEAN, 0, 1) * 255), np.uint8)


def blurred(pixels: NDArray[np.float32], sigma: float = BLUR_SIGMA, longer: int | None = None) -> NDArray[np.float32]:
    """A Gaussian blur as strong for this size as `sigma` is at 352 pixels: float32 (H, W, 3), edges mirrored.

    The longer side counts: that of the pixels or, of a part, the whole picture's. At 352 pixels it is the authors'
    filter: 15 taps, sigma 3.
    """
    scale = (longer or max(pixels.shape[:2])) / PAPER_SIDE
    taps = 2 * _reach(scale) + 1
    soft = cv2.GaussianBlur(pixels, (taps, taps), sigma * scale, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(soft, np.float32)


def _reach(scale: float) -> int:
    """Pixels on each side that a blurred one is made of."""
    return max(1, round(BLUR_RADIUS * scale))


def highlighted(
    pixels: NDArray[np.float32],
    mask: NDArray[np.bool_],
    background: float = BACKGROUND,
    sigma: float = BLUR_SIGMA,
    longer: int | None = None,
) -> NDArray[np.float32]:
    """The object as it is over its blurred surroundings times `background`: float32 (H, W, 3), normalised colour.

    A `sigma` of 0 leaves them sharp. `longer`: see `blurred`.
    """
    around = blurred(pixels, sigma, longer) if sigma else pixels
    return np.where(mask[..., None], pixels, np.float32(background) * around)


def outlined(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A red line along the outer edge of each part of the mask: float32 (H, W, 3), normalised colour.

    As thick as the authors' where the longer side has 352 pixels, and in proportion elsewhere; holes have no line.
    """
    thickness = max(1, round(OUTLINE * max(mask.shape) / PAPER_SIDE))
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    line = cv2.drawContours(np.zeros(mask.shape, np.uint8), edges, -1, 1, thickness)
    return np.where(np.asarray(line, bool)[..., None], (RED - MEAN) / STD, pixels)


def dyed(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The object in reds, the rest in greys: float32 (H, W, 3), normalised colour."""
    grey = np.asarray(cv2.cvtColor(pixels * STD + MEAN, cv2.COLOR_RGB2GRAY), np.float32)[..., None]
    return np.asarray((np.where(mask[..., None], DYE, np.float32(1)) * grey - MEAN) / STD, np.float32)


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


def highlight(image: NDArray[np.uint8], mask: NDArray[np.bool_], recipe: str, side: int) -> NDArray[np.float32]:
    """The visual prompt of a masked object by a recipe of RECIPES: float32 (side, side, 3), normalised colour.

    Composed at the picture's own size and shape, then cropped, padded to a square with 0 and resized. Raises
    ValueError for a mask that is empty or not of the picture's size, KeyError for another recipe.
    """
    how = RECIPES[recipe]
    if mask.shape != image.shape[:2]:
        raise ValueError(f"the mask is {mask.shape}, the picture {image.shape[:2]}: both must have the same size")
    if not mask.any():
        raise ValueError("the mask is empty: there is no object to show")
    longer, (height, width) = max(mask.shape), mask.shape
    x0, y0, x1, y1 = (0, 0, width, height) if how.context is None else crop_box(mask, how.context)
    reach = _reach(longer / PAPER_SIDE)
    left, top = max(0, x0 - reach), max(0, y0 - reach)  # nothing beyond is seen in the crop: large pictures stay cheap
    image, mask = image[top : y1 + reach, left : x1 + reach], mask[top : y1 + reach, left : x1 + reach]
    lit = highlighted(normalised(image), mask, how.background, how.sigma, longer)
    if how.paint == "outline":
        lit = outlined(lit, mask)
    elif how.paint == "dye":
        lit = dyed(lit, mask)
    return resized_nearest(padded_square(lit[y0 - top : y1 - top, x0 - left : x1 - left]), side)


def crop_blur_dim(image: NDArray[np.uint8], mask: NDArray[np.bool_], side: int = PAPER_SIDE) -> NDArray[np.float32]:
    """The paper's visual prompt of a masked object: float32 (side, side, 3), normalised colour, ready for the encoder.

    An empty mask means that all is surroundings: the whole picture comes back, blurred and dimmed.
    """
    lit = highlighted(normalised(image), mask)
    x0, y0, x1, y1 = crop_box(mask)
    return resized_nearest(padded_square(lit[y0:y1, x0:x1]), side)
