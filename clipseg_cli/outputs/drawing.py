"""Draws masks on images: the overlay, with every label tinted, outlined and named, and the cutout. Arrays only."""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_cli.masks import matting
from clipseg_cli.outputs.colours import RGB, TINT, contrasting

Pixels = NDArray[Any]  # uint8 or uint16
LIGHT, DARK = (255, 255, 255), (0, 0, 0)  # of the two lines along an edge
MIXED = 5  # pixels on both sides of a mask's edge that may hold colours of both
MARGIN = 8  # pixels outside an object that get its estimated colours, for programs that scale the cutout
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


def cutout(
    pixels: Pixels, mask: NDArray[np.uint8], alpha: NDArray[np.uint8], opacity: bool = False, estimated: bool = False
) -> Pixels:
    """Returns the object alone as RGBA, (H, W, 4), with the depth of the RGB image, uint8 or uint16.

    `mask` is uint8 (H, W), 0 or 255. `alpha` is the mask with a hard or a feathered edge, or the `opacity` of matting,
    uint8 (H, W). Along its edge the object has no fringe of background colour: its colours there are `estimated`, as
    always with matting, or they are those of the nearest pixels further inside.
    """
    deep = alpha if pixels.dtype == np.uint8 else alpha * np.uint16(257)
    if estimated:
        return np.dstack([_estimated(pixels, mask, alpha, opacity), deep])
    if opacity:
        return np.dstack([matting.foreground(pixels, alpha) * (alpha[..., None] > 0), deep])
    return _extended(pixels, mask, deep)


def _estimated(pixels: Pixels, mask: NDArray[np.uint8], alpha: NDArray[np.uint8], opacity: bool) -> Pixels:
    """Returns the object's colours, RGB (H, W, 3), also `MARGIN` beyond its edge: programs that scale it blend them in.

    All else is black.
    """
    out = np.zeros_like(pixels)
    seen = cv2.dilate(np.maximum(mask, alpha), np.ones((2 * MARGIN + 1,) * 2, np.uint8))
    x, y, w, h = cv2.boundingRect(seen)
    if w:
        window = slice(y, y + h), slice(x, x + w)
        part, shape = pixels[window], np.ascontiguousarray(mask[window])
        found = matting.foreground(part, alpha[window]) if opacity else matting.inner_colours(part, shape, MIXED)
        out[window] = found * (seen[window][..., None] > 0)
    return out


def _extended(pixels: Pixels, mask: NDArray[np.uint8], alpha: Pixels) -> Pixels:
    """Returns the object as RGBA, its inner colours extended to its edge.

    Pixels within FRINGE of the background mix both colours. Each takes the colour of the nearest pixel further inside
    the object, if one is near. Nearly or fully transparent pixels along the edge get the same colours, because
    programs that scale the cutout blend them in.
    """
    out = np.dstack([pixels, alpha])
    # the distance is to the nearest zero of the mask, so the image border is not an edge of the object
    deep = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > FRINGE
    visible = cv2.dilate(((mask > 0) | (alpha > 0)).view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if deep.any():
        position, far = matting.nearest(deep)
        recoloured = np.flatnonzero((visible & ~deep & ((mask == 0) | (far <= 2 * FRINGE + 1))).ravel())
        out.reshape(-1, 4)[recoloured, :3] = pixels.reshape(-1, 3)[position.ravel()[recoloured]]
    out[~visible] = 0
    return out


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
    from PIL import ImageDraw, ImageFont

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
