"""Tiles: the network also sees overlapping tiles of a large image, and their soft maps are joined into one.

The number of tiles is fixed, not the size of a tile, so the cost does not depend on the image's size. The joined soft
map has the network's resolution inside a tile, so apart from the image itself, memory does not grow with it either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import soft_maps

OVERLAP = 0.25  # share of a tile's side that it shares with each neighbour
CONTEXT = 0.5  # weight of the whole image in the joined soft map: a tile lacks context


@dataclass(frozen=True, slots=True)
class View:
    """One input of the network: a box of the image, in pixels, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool = False

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the view of an image, uint8 (H, W, 3): uint8 (height, width, 3), a contiguous copy."""
        box = pixels[self.top : self.top + self.height, self.left : self.left + self.width]
        # always a copy: numpy calls a mirrored column contiguous, but its stride is negative, which torch refuses
        return (box[:, ::-1] if self.flipped else box).copy()


def views(height: int, width: int, tiles: int, flip: bool) -> tuple[View, ...]:
    """Returns the views of an image of height x width pixels. The first is the whole image.

    If `tiles` is over 1, that many tiles along the longer side follow, with as many along the shorter side as needed.
    With `flip`, each view is followed by its mirror image.
    """
    boxes = [View(0, 0, height, width)]
    if tiles > 1:
        side = max(1.0, max(height, width) / (tiles - (tiles - 1) * OVERLAP))
        rows, columns = _spans(height, side), _spans(width, side)
        boxes += [View(top, left, tall, wide) for top, tall in rows for left, wide in columns]
    return tuple(replace(box, flipped=flipped) for box in boxes for flipped in ((False, True) if flip else (False,)))


def joined(views: Sequence[View], maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Joins the soft maps of an image's views, each logits (T, S, S), into logits float32 (T, h, w).

    A view and its mirror image are averaged. Tiles are blended with weights that fall towards their borders. A single
    view's logits are returned unchanged.
    """
    upright = [logits[..., ::-1] if view.flipped else logits for view, logits in zip(views, maps, strict=True)]
    boxes = dict.fromkeys(_box(view) for view in views)
    means: list[NDArray[np.float32]] = [
        np.stack([logits for view, logits in zip(views, upright, strict=True) if _box(view) == box]).mean(0)
        for box in boxes
    ]
    (whole, *tiles), (_, *tile_boxes) = means, boxes
    if not tiles:
        return whole
    (_, _, height, width), side = next(iter(boxes)), whole.shape[1]
    scale = min(1.0, side / max(max(tall, wide) for _, _, tall, wide in tile_boxes))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    total, weights = np.zeros((len(whole), *size), np.float32), np.zeros(size, np.float32)
    for tile, (top, left, tall, wide) in zip(tiles, tile_boxes, strict=True):
        y0, y1, x0, x1 = (round(edge * scale) for edge in (top, top + tall, left, left + wide))
        y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)
        weight = np.outer(_tent(y1 - y0), _tent(x1 - x0))
        target = slice(y0, y1), slice(x0, x1)
        weights[target] += weight
        for term, logits in enumerate(tile):
            total[term][target] += weight * soft_maps.upsample(np.ascontiguousarray(logits), y1 - y0, x1 - x0)
    total /= weights
    for term, logits in enumerate(whole):
        total[term] = CONTEXT * soft_maps.upsample(np.ascontiguousarray(logits), *size) + (1 - CONTEXT) * total[term]
    return total


def _box(view: View) -> tuple[int, int, int, int]:
    return view.top, view.left, view.height, view.width


def _spans(length: int, side: float) -> list[tuple[int, int]]:
    """Returns (start, length) of the tiles along one side, evenly spaced, with an overlap of OVERLAP or more."""
    count = max(1, int(np.ceil((length - side * OVERLAP) / (side * (1 - OVERLAP)) - 1e-6)))
    wide = min(length, round(side))
    starts = [0] if count == 1 else [round(index * (length - wide) / (count - 1)) for index in range(count)]
    return [(start, wide if count > 1 else length) for start in starts]


def _tent(length: int) -> NDArray[np.float32]:
    """Returns the weights of a tile's pixels along one side: 1 in the middle, falling towards both ends, never 0."""
    position = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)
    tent: NDArray[np.float32] = np.minimum(1, 2 * np.minimum(position, 1 - position) / OVERLAP).astype(np.float32)
    return tent
