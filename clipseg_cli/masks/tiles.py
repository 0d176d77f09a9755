"""Big pictures: the network looks at overlapping tiles too, and its maps become one. numpy in, numpy out.

A picture of any size costs a fixed number of looks, and the joined map has the network's resolution of a tile, so
memory does not grow with the picture beyond the picture itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import soft_maps

OVERLAP = 0.25  # of a tile's side, with each neighbour
CONTEXT = 0.5  # share of the whole picture's map in the joined one: a tile alone does not know what it is a part of


@dataclass(frozen=True, slots=True)
class View:
    """What the network is shown: a box of the picture, in pixels, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool = False

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (height, width, 3) of a picture."""
        box = pixels[self.top : self.top + self.height, self.left : self.left + self.width]
        return (box[:, ::-1] if self.flipped else box).copy()  # one column mirrored counts as contiguous, but runs back


def views(height: int, width: int, tiles: int, flip: bool) -> tuple[View, ...]:
    """The whole picture, then with `tiles` over 1 so many tiles along its longer side and as many rows of them as the
    shorter needs; with `flip` each of these mirrored too, right after it."""
    found = [View(0, 0, height, width)]
    if tiles > 1:
        side = max(1.0, max(height, width) / (tiles - (tiles - 1) * OVERLAP))
        rows, columns = _spans(height, side), _spans(width, side)
        found += [View(top, left, tall, wide) for top, tall in rows for left, wide in columns]
    return tuple(
        View(one.top, one.left, one.height, one.width, flipped)
        for one in found
        for flipped in ((False, True) if flip else (False,))
    )


def joined(seen: Sequence[View], maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits float32 (T, h, w) of a picture, of those (T, S, S) of its `views`; the first alone is itself."""
    upright = [one[..., ::-1] if view.flipped else one for view, one in zip(seen, maps, strict=True)]
    boxes = dict.fromkeys((view.top, view.left, view.height, view.width) for view in seen)
    means: list[NDArray[np.float32]] = [
        np.stack([one for view, one in zip(seen, upright, strict=True) if _box(view) == box]).mean(0) for box in boxes
    ]
    (whole, *tiles), (_, *places) = means, boxes
    if not tiles:
        return whole
    (_, _, height, width), side = next(iter(boxes)), whole.shape[1]
    scale = min(1.0, side / max(max(tall, wide) for _, _, tall, wide in places))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    total, weights = np.zeros((len(whole), *size), np.float32), np.zeros(size, np.float32)
    for one, (top, left, tall, wide) in zip(tiles, places, strict=True):
        y0, y1, x0, x1 = (round(edge * scale) for edge in (top, top + tall, left, left + wide))
        y1, x1 = max(y1, y0 + 1), max(x1, x0 + 1)
        window = np.outer(_tent(y1 - y0), _tent(x1 - x0))
        place = slice(y0, y1), slice(x0, x1)
        weights[place] += window
        for term, logits in enumerate(one):
            total[term][place] += window * soft_maps.upsample(np.ascontiguousarray(logits), y1 - y0, x1 - x0)
    total /= weights
    for term, logits in enumerate(whole):
        total[term] = CONTEXT * soft_maps.upsample(np.ascontiguousarray(logits), *size) + (1 - CONTEXT) * total[term]
    return total


def _box(view: View) -> tuple[int, int, int, int]:
    return view.top, view.left, view.height, view.width


def _spans(length: int, side: float) -> list[tuple[int, int]]:
    """(start, length) of the tiles along one side, evenly placed, overlapping by OVERLAP or more."""
    count = max(1, int(np.ceil((length - side * OVERLAP) / (side * (1 - OVERLAP)) - 1e-6)))
    wide = min(length, round(side))
    starts = [0] if count == 1 else [round(index * (length - wide) / (count - 1)) for index in range(count)]
    return [(start, wide if count > 1 else length) for start in starts]


def _tent(length: int) -> NDArray[np.float32]:
    """Weights of a tile's pixels along one side: 1 in the middle, near 0 at both ends, never 0."""
    place = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)
    tent: NDArray[np.float32] = np.minimum(1, 2 * np.minimum(place, 1 - place) / OVERLAP).astype(np.float32)
    return tent
