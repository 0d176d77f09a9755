"""Random views of a training image: cropped, scaled, mirrored, in another light. Arrays in, arrays out."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.settings.training import Augment

FEW = 500  # images: with fewer, `auto` makes views
VIEWS = 8  # of an image at most, the unchanged one included
ENOUGH = 1000  # views of all images together: more are not needed, and each is encoded
ZOOM = (0.5, 1.2)  # sides of a crop, as shares of the image's; above 1, the image is reflected at its borders
STRETCH = 0.15  # largest natural logarithm by which a crop is wider, and less high, than the image's shape
KEEP = 0.5  # of the pixels of every mask must be inside a crop
TRIES = 20  # crops that are drawn before the whole image is taken
LIGHT = 0.2  # largest relative change of brightness and of contrast
SATURATION = 0.3  # largest relative change of saturation; hues stay, because prompts name colours
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue: ITU-R BT.601

SIDE_WORDS = re.compile(r"\b(left|right|(counter|anti)?-?clockwise)", re.IGNORECASE)

Box = tuple[int, int, int, int]  # pixels: x0, y0, x1, y1, ends exclusive; may reach beyond the image


def names_side(prompt: str) -> bool:
    """Returns whether a prompt names a side or a turn, like "the left shoe": its mask is wrong in a mirrored image."""
    return SIDE_WORDS.search(prompt) is not None


def view(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], rng: np.random.Generator, mirror: bool
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Returns a random view of an image uint8 (H, W, 3), and of its masks bool (H, W). The view has another size.

    `mirror`: half of the views are mirrored left to right.
    """
    height, width = image.shape[:2]
    box = crop_box(masks, (height, width), rng)
    turn = -1 if mirror and rng.random() < 0.5 else 1
    pixels: NDArray[np.uint8] = cropped(image, box)[:, ::turn]
    parts = [cropped(mask.view(np.uint8), box)[:, ::turn].astype(bool) for mask in masks]
    return relit(pixels, rng), parts


def crop_box(masks: Sequence[NDArray[np.bool_]], shape: tuple[int, int], rng: np.random.Generator) -> Box:
    """Returns a random crop of an image of `shape` that keeps KEEP of the pixels of every mask, or the whole image."""
    height, width = shape
    areas = [int(mask.sum()) for mask in masks]
    for _ in range(TRIES):
        zoom, stretch = rng.uniform(*ZOOM), np.exp(rng.uniform(-STRETCH, STRETCH))
        across, down = max(round(width * zoom * stretch), 1), max(round(height * zoom / stretch), 1)
        x0, y0 = (int(rng.integers(min(room, 0), max(room, 0) + 1)) for room in (width - across, height - down))
        rows, columns = slice(max(y0, 0), y0 + down), slice(max(x0, 0), x0 + across)
        kept = (int(mask[rows, columns].sum()) for mask in masks)
        if all(part >= KEEP * area for part, area in zip(kept, areas, strict=True)):
            return x0, y0, x0 + across, y0 + down
    return 0, 0, width, height


def cropped(array: NDArray[np.uint8], box: Box) -> NDArray[Any]:
    """Returns the part of an array (H, W, ...) in a box. Beyond its borders it is reflected."""
    height, width = array.shape[:2]
    x0, y0, x1, y1 = box
    inside = array[max(y0, 0) : y1, max(x0, 0) : x1]
    beyond = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    return cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REFLECT) if any(beyond) else inside


def relit(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns an image uint8 (H, W, 3) in a random brightness, contrast and saturation."""
    gain, contrast = 1 + rng.uniform(-LIGHT, LIGHT, 2)
    grey = image @ LUMA
    colour = 1 + rng.uniform(-SATURATION, SATURATION)
    saturated = grey[..., None] + (image - grey[..., None]) * np.float32(colour)
    mean = np.float32(grey.mean())
    lit = ((saturated - mean) * np.float32(contrast) + mean) * np.float32(gain)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def count(choice: Augment, images: int) -> int:
    """Returns how many views of each image a training set of so many images gets, the image itself included."""
    if choice == "off" or (choice == "auto" and images >= FEW):
        return 1
    return min(max(math.ceil(ENOUGH / images), 2), VIEWS)


def views(
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    number: int,
    side: int,
    mirror: bool,
    key: Sequence[int],
) -> Iterator[tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]]:
    """Yields `number` views of an image and its masks; the first is the image itself. `key` seeds the others.

    They are made from an image of at least `side` pixels across, reduced if it is far larger.
    """
    yield image, list(masks)
    height, width = image.shape[:2]
    scale = side / (ZOOM[0] * min(height, width))
    if scale < 1 and number > 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        masks = [cv2.resize(mask.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool) for mask in masks]
    for index in range(1, number):
        yield view(image, masks, np.random.default_rng([*key, index]), mirror)
