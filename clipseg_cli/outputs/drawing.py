"""Pictures of masks: the overlay, with every label tinted, outlined and named, and the cutout. numpy in, numpy out."""

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TINT = 0.45  # share of the label's colour inside its mask
FRINGE = 2.0  # pixels at an object's edge that may hold some of the ground's colour
_GOLDEN = 0.381966  # of the colour circle: successive labels are as far apart in hue as can be


def colour(index: int) -> tuple[int, int, int]:
    """RGB, 0 to 255, of the index-th label; the same in every picture and page."""
    bright = (0.95, 0.75, 0.55)[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.97 + index * _GOLDEN) % 1.0, 0.85, bright)
    return round(red * 255), round(green * 255), round(blue * 255)


def overlay(pixels: NDArray[np.uint8], masks: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB picture with each uint8 (H, W) mask (0, 255) drawn over it; `pixels` is left as it was."""
    out = pixels.copy()
    height, width = out.shape[:2]
    stroke = max(1, round(min(height, width) / 240))  # pixels: 2 at 480 lines, 12 at 3000
    tags = []
    for index, (mask, label) in enumerate(zip(masks, labels, strict=True)):
        box = cv2.boundingRect(mask)
        if box[2] == 0:
            continue
        x, y, w, h = box
        window, inside, tint = out[y : y + h, x : x + w], mask[y : y + h, x : x + w], colour(index)
        flat = np.full_like(window, tint)
        cv2.copyTo(cv2.addWeighted(window, 1 - TINT, flat, TINT, 0), inside, window)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(out, contours, -1, tint, stroke, cv2.LINE_AA)
        largest = max(contours, key=cv2.contourArea)
        top = largest[largest[:, 0, 1].argmin(), 0]
        tags.append((label, (int(top[0]), int(top[1])), tint))
    for tag in tags:
        _name(out, *tag)
    return out


def cutout(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (H, W, 4) RGBA: the object alone, its edge in the colours of its inside, so that no fringe of the ground
    shows on another. `mask` uint8 (H, W), 0 and 255; `alpha` is the mask, its edge soft or not.

    Pixels within FRINGE of the outside mix both colours: they take that of the nearest pixel further inside, where
    one is near. The same colours go on under what is nearly or wholly clear, for readers that scale.
    """
    out = np.dstack([pixels, alpha])
    # outside the frame is not outside the object
    deep = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > FRINGE
    shown = cv2.dilate(np.maximum(mask, alpha), np.ones((3, 3), np.uint8)) > 0
    if deep.any():
        rest = np.where(deep, 0, 255).astype(np.uint8)
        far, nearest = cv2.distanceTransformWithLabels(
            rest, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        place = np.zeros(int(nearest.max()) + 1, np.int64)  # of the pixel that each number stands for
        inner = np.flatnonzero(deep)
        place[nearest.ravel()[inner]] = inner
        taken = np.flatnonzero((shown & ~deep & ((mask == 0) | (far <= 2 * FRINGE + 1))).ravel())
        out.reshape(-1, 4)[taken, :3] = pixels.reshape(-1, 3)[place[nearest.ravel()[taken]]]
    out[~shown] = 0
    return out


def on(rgba: NDArray[np.uint8], backdrop: tuple[int, int, int]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3): an RGBA picture over one colour."""
    share = rgba[..., 3:].astype(np.float32) / 255
    flat = np.array(backdrop, np.float32)
    return np.rint(rgba[..., :3] * share + flat * (1 - share)).astype(np.uint8)


def _name(pixels: NDArray[np.uint8], label: str, anchor: tuple[int, int], tint: tuple[int, int, int]) -> None:
    """Writes the label on a plate of its colour just above its anchor (x, y), moved inside the picture; in place."""
    height, width = pixels.shape[:2]
    size = max(11, round(min(height, width) / 26))  # pixels
    font = ImageFont.load_default(size)
    text = label if len(label) <= 40 else label[:39] + "…"
    left, top, right, bottom = font.getbbox(text)
    pad = size // 4
    plate = Image.new("RGB", (math.ceil(right - left) + 2 * pad, math.ceil(bottom - top) + 2 * pad), tint)
    dark = 0.299 * tint[0] + 0.587 * tint[1] + 0.114 * tint[2] > 140  # ITU-R 601 luma
    ink = (0, 0, 0) if dark else (255, 255, 255)
    ImageDraw.Draw(plate).text((pad - left, pad - top), text, fill=ink, font=font)
    x = min(max(anchor[0] - plate.width // 2, 0), max(width - plate.width, 0))
    y = min(max(anchor[1] - plate.height - pad, 0), max(height - plate.height, 0))
    window = pixels[y : y + plate.height, x : x + plate.width]
    window[:] = np.asarray(plate)[: window.shape[0], : window.shape[1]]


def fitted(array: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture with its longer side at most `side` pixels."""
    height, width = array.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return array
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA), np.uint8)
