"""The colours of labels: one fixed colour per label, and for drawings on an image colours that contrast with it.

Differences between colours are distances in CIELAB (CIE 1976); people notice differences above about 2.
"""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]

TINT = 0.5  # share of the label's colour inside its mask; the same on the pages
ENOUGH = 20.0  # CIELAB distance: a tint that differs this much is easily seen
SAMPLES = 16  # side of the grid of pixels, over an object and its surroundings, on which contrast is measured
AROUND = 8  # the surroundings reach 1 / AROUND of the object's longer side beyond it
_GOLDEN = 0.381966  # share of the hue circle: the golden angle keeps successive hues far apart


def colour(index: int) -> RGB:
    """Returns the RGB colour, 0 to 255, of the label with this index, the same for all images."""
    bright = (0.95, 0.75, 0.55)[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.97 + index * _GOLDEN) % 1.0, 0.85, bright)
    return round(red * 255), round(green * 255), round(blue * 255)


def voc_colour(number: int) -> RGB:
    """Returns the RGB colour of entry `number`, 0 to 255, of Pascal VOC's palette: 0 is black, 255 is "void"."""
    bits = [[number >> (3 * place + channel) & 1 for place in range(3)] for channel in range(3)]
    red, green, blue = (high << 7 | middle << 6 | low << 5 for high, middle, low in bits)
    return red, green, blue


# three brightnesses of eight hues each: any two colours of an image leave one that contrasts with both
_PALETTE = [colour(index) for index in range(24)]


def contrasting(pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.uint8]]) -> list[RGB]:
    """Returns the RGB colour of each label on an image, uint8 (H, W, 3).

    A mask is uint8 (H, W); its values are weights, 0 to 255. A label keeps its fixed colour if this colour, as a tint,
    differs by ENOUGH from the image under the mask, from the image around it and from the tints of the other labels.
    Any other label gets the colour that differs most. An empty mask keeps its fixed colour.
    """
    chosen = [colour(index) for index in range(len(masks))]
    own = {k: _contrasts(pixels, mask, [chosen[k]])[0] for k, mask in enumerate(masks) if cv2.hasNonZero(mask)}
    taken: list[RGB] = []
    for k in sorted(own, key=lambda each: (own[each] < ENOUGH, each)):  # those that may keep their colour come first
        if own[k] < ENOUGH or _apart([chosen[k]], taken)[0] < ENOUGH:
            contrasts, apart = _contrasts(pixels, masks[k], _PALETTE), _apart(_PALETTE, taken)
            score = np.where(contrasts < ENOUGH, contrasts - ENOUGH, np.minimum(contrasts, apart))
            chosen[k] = _PALETTE[int(score.argmax())]
        taken.append(chosen[k])
    return chosen


def _apart(colours: list[RGB], taken: list[RGB]) -> NDArray[np.float32]:
    """Returns how much a tint in each colour differs at least from a tint in a taken one: CIELAB distances, float32."""
    if not taken:
        return np.full(len(colours), np.inf, np.float32)
    distances = np.linalg.norm(_lab(colours)[:, None] - _lab(taken), axis=-1)
    return np.asarray(TINT * distances.min(1), np.float32)


def _contrasts(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], colours: list[RGB]) -> NDArray[np.float32]:
    """Returns how much a mask, tinted in each colour, differs from the image under it or, if less, around it.

    These are mean distances in CIELAB, float32, one per colour.
    """
    x, y, w, h = cv2.boundingRect(mask)
    margin = max(w, h) // AROUND + 2
    window = slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)
    step = -(-(max(w, h) + 2 * margin) // SAMPLES)
    photo = pixels[window][::step, ::step].reshape(-1, 3)
    share = mask[window][::step, ::step].ravel() / np.float32(255)
    inside = share if share.any() else np.ones_like(share)  # no sample hits a thin mask: its surroundings are near
    tinted = _lab((1 - TINT) * photo + TINT * np.array(colours, np.float32)[:, None])
    plain = _lab(photo)
    inside, outside = inside / inside.sum(), (1 - share) / max(1, (1 - share).sum())
    under = np.linalg.norm(tinted - plain, axis=-1) @ inside
    if not outside.any():
        return np.asarray(under, np.float32)
    around = np.linalg.norm((inside @ tinted)[:, None] - plain, axis=-1) @ outside
    return np.asarray(np.minimum(under, around), np.float32)


def _lab(rgb: object) -> NDArray[np.float32]:
    """Returns RGB colours (..., 3), 0 to 255, in CIELAB, float32 (..., 3)."""
    colours = np.asarray(rgb, np.float32) / 255
    return np.asarray(cv2.cvtColor(colours.reshape(-1, 1, 3), cv2.COLOR_RGB2LAB), np.float32).reshape(colours.shape)
