"""Draws masks on images: the overlay, with every label tinted, outlined and named, and the cutout. Arrays only."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clipseg_cli.outputs.colours import RGB, TINT, contrasting

LIGHT, DARK = (255, 255, 255), (0, 0, 0)  # of the two lines along an edge
FRINGE = 2.0  # pixels: width of the band along an object's edge that may contain background colour


def overlay(
    pixels: NDArray[np.uint8],
    masks: Sequence[NDArray[np.uint8]],
    labels: Sequence[str],
    tints: Sequence[RGB] | None = None,
) -> NDArray[np.uint8]:
    """Returns a copy of an RGB image, uint8 (H, W, 3), with each mask drawn on it: tint, edge and label.

    A mask is uint8 (H, W), 0 or 255. Its tint contrasts with the image, unless `tints` are given. Its edge is a light
    line on a dark one, so that one of them is seen on any image. Inside it is a line of the label's own colour, as on
    the plate with its name.
    """
    out = pixels.copy()
    height, width = out.shape[:2]
    stroke = max(1, round(min(height, width) / 240))  # pixels: 2 for a shorter side of 480, 12 for 3000
    tags = []
    for mask, label, tint in zip(masks, labels, tints or contrasting(pixels, masks), strict=True):
        x, y, w, h = cv2.boundingRect(mask)
        if w == 0:
            continue
        window, inside = out[y : y + h, x : x + w], mask[y : y + h, x : x + w]
        tinted = cv2.addWeighted(window, 1 - TINT, (*tint, 0), TINT, 0)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(tinted, contours, -1, tint, 5 * stroke, offset=(-x, -y))
        cv2.copyTo(tinted, inside, window)
        cv2.drawContours(out, contours, -1, DARK, 2 * stroke + 1)
        cv2.drawContours(out, contours, -1, LIGHT, stroke)
        largest = max(contours, key=cv2.contourArea)
        top = largest[largest[:, 0, 1].argmin(), 0]
        tags += [(label, (int(top[0]), int(top[1])), tint)] if label else []
    for tag in tags:  # last, so that no mask covers a label
        _draw_label(out, *tag)
    return out


def cutout(pixels: NDArray[np.uint8], mask: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the object alone as RGBA, uint8 (H, W, 4), without a fringe of background colour along its edge.

    `mask` is uint8 (H, W), 0 or 255. `alpha` is the mask with a hard or a feathered edge, uint8 (H, W).

    Pixels within FRINGE of the background mix both colours. Each takes the colour of the nearest pixel further inside
    the object, if one is near. Nearly or fully transparent pixels along the edge get the same colours, because
    programs that scale the cutout blend them in.
    """
    out = np.dstack([pixels, alpha])
    # the distance is to the nearest zero of the mask, so the image border is not an edge of the object
    deep = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > FRINGE
    visible = cv2.dilate(np.maximum(mask, alpha), np.ones((3, 3), np.uint8)) > 0
    if deep.any():
        rest = np.where(deep, 0, 255).astype(np.uint8)
        far, nearest = cv2.distanceTransformWithLabels(
            rest, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        position = np.zeros(int(nearest.max()) + 1, np.int64)  # OpenCV's label of a pixel -> the pixel's flat index
        inner = np.flatnonzero(deep)
        position[nearest.ravel()[inner]] = inner
        recoloured = np.flatnonzero((visible & ~deep & ((mask == 0) | (far <= 2 * FRINGE + 1))).ravel())
        out.reshape(-1, 4)[recoloured, :3] = pixels.reshape(-1, 3)[position[nearest.ravel()[recoloured]]]
    out[~visible] = 0
    return out


def flattened(rgba: NDArray[np.uint8], backdrop: RGB) -> NDArray[np.uint8]:
    """Returns an RGBA image on an opaque RGB backdrop, uint8 (H, W, 3)."""
    share = rgba[..., 3:].astype(np.float32) / 255
    flat = np.array(backdrop, np.float32)
    return np.rint(rgba[..., :3] * share + flat * (1 - share)).astype(np.uint8)


def fitted(array: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Returns an image, uint8 (H, W) or (H, W, C), shrunk so that its longer side is at most `side` pixels."""
    height, width = array.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return array
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA), np.uint8)


def _draw_label(pixels: NDArray[np.uint8], label: str, anchor: tuple[int, int], tint: RGB) -> None:
    """Draws the label on a plate of its colour just above the anchor (x, y), inside the image. Changes `pixels`."""
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
