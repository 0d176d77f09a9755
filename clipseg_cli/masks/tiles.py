"""Tiles: the network also sees overlapping tiles of a large image, and their soft maps are joined into one.

`--tile 3` fixes the number of tiles, so the cost does not depend on the image's size. The whole image is seen too, and
the joined soft map has the network's resolution inside a tile.

`--tile 512px` fixes the size of a tile, which is then called a window: an object has the same size for the network in
every image. The whole image is not seen. `blended` joins the windows row by row, so an image can be read, segmented and
written by parts; `joined` is the same for an image in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import soft_maps

OVERLAP = 0.25  # share of a tile's side that it shares with each neighbour
CONTEXT = 0.5  # weight of the whole image in the joined soft map: a tile lacks context
NOTHING = np.float32(-80)  # the logit where no window looks: a probability of 0


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

    @property
    def margin(self) -> int:
        """Pixels around a window that `is_blank` looks at: more than a pixel of a soft map of 32 x 32 and more."""
        return max(self.height, self.width) // 32 + 2

    def is_blank(self, clear: NDArray[np.bool_]) -> bool:
        """Returns whether no pixel in the box and around it has data. `clear`, bool (H, W), says which have none.

        Around it, since an enlarged soft map mixes neighbours.
        """
        top, left = max(0, self.top - self.margin), max(0, self.left - self.margin)
        bottom, right = self.top + self.height + self.margin, self.left + self.width + self.margin
        return bool(clear[top:bottom, left:right].all())


@dataclass(frozen=True, slots=True)
class Scale:
    """How the pixels of an image become those of the joined soft map of its tiles."""

    factor: float  # at most 1
    height: int  # of the joined map
    width: int

    @classmethod
    def of(cls, tile: View, side: int, height: int, width: int) -> "Scale":
        """Returns the scale at which a tile keeps its soft map's resolution, (S, S). All tiles have the same size."""
        factor = min(1.0, side / max(tile.height, tile.width))
        return cls(factor, max(1, round(height * factor)), max(1, round(width * factor)))

    def span(self, start: int, length: int) -> tuple[int, int]:
        """Returns the first pixel of the joined map, and that behind the last one, of pixels of the image."""
        first = round(start * self.factor)
        return first, max(round((start + length) * self.factor), first + 1)


def views(height: int, width: int, tiles: int, flip: bool, window: int = 0) -> tuple[View, ...]:
    """Returns the views of an image of height x width pixels. The first is the whole image.

    If `tiles` is over 1, that many tiles along the longer side follow, with as many along the shorter side as needed.
    If `window` is not 0, tiles of that many pixels a side take the place of the whole image, unless it is one tile.
    They come row by row. With `flip`, each view is followed by its mirror image.
    """
    boxes = [View(0, 0, height, width)]
    if window:
        boxes = _grid(height, width, window)
    elif tiles > 1:
        boxes += _grid(height, width, max(1.0, max(height, width) / (tiles - (tiles - 1) * OVERLAP)))
    return tuple(replace(box, flipped=flipped) for box in boxes for flipped in ((False, True) if flip else (False,)))


def seen(views: Sequence[View], clear: NDArray[np.bool_] | None) -> tuple[View, ...]:
    """Returns the windows that show data, at least one. `clear`, bool (H, W), says which pixels have none."""
    return tuple(view for view in views if clear is None or not view.is_blank(clear)) or tuple(views[:1])


def joined(views: Sequence[View], maps: Iterable[NDArray[np.float32]], height: int, width: int) -> NDArray[np.float32]:
    """Joins the soft maps of the views of an image, height x width pixels, each logits (T, S, S), into one (T, h, w).

    A view and its mirror image are averaged. Tiles are blended with weights that fall towards their borders. The logits
    of the whole image are returned unchanged if it is the only view.
    """
    boxes, means = zip(*upright(views, maps), strict=True)
    whole = boxes[0] == View(0, 0, height, width)
    if whole and len(boxes) == 1:
        return np.asarray(means[0])
    scale = Scale.of(boxes[-1], means[0].shape[1], height, width)
    pairs = zip(boxes[whole:], means[whole:], strict=True)
    total = np.concatenate([*blended(pairs, scale, len(means[0]))], axis=1)
    if whole:
        for term, logits in enumerate(means[0]):
            context = soft_maps.upsample(np.ascontiguousarray(logits), scale.height, scale.width)
            total[term] = CONTEXT * context + (1 - CONTEXT) * total[term]
    return total


def upright(views: Iterable[View], maps: Iterable[NDArray[np.float32]]) -> Iterator[tuple[View, NDArray[np.float32]]]:
    """Yields each view and its logits (T, S, S). A view and its mirror image become their mean."""
    turned = ((view, logits[..., ::-1] if view.flipped else logits) for view, logits in zip(views, maps, strict=True))
    for box, both in groupby(turned, lambda pair: replace(pair[0], flipped=False)):
        yield box, np.stack([logits for _, logits in both]).mean(0)


def blended(
    seen: Iterable[tuple[View, NDArray[np.float32]]], scale: Scale, terms: int, start: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Yields the joined soft map of tiles in blocks of rows, float32 (terms, rows, w), as soon as they are final.

    The tiles come row by row, each with its logits (terms, S, S). Rows before `start` are left out; tiles that only
    they need may be missing. Where no tile is, the logit is `NOTHING`.
    """
    first = start  # the row of the joined map with which these begin
    total = np.zeros((terms, 0, scale.width), np.float32)
    weights = np.zeros((0, scale.width), np.float32)
    for box, logits in seen:
        (top, bottom), (left, right) = scale.span(box.top, box.height), scale.span(box.left, box.width)
        if top > first:
            total, weights = _longer(total, top - first), _longer(weights, top - first)
            yield _mean(total[:, : top - first], weights[: top - first])
            total, weights, first = total[:, top - first :], weights[top - first :], top
        total, weights = _longer(total, bottom - first), _longer(weights, bottom - first)
        inside, target = (
            slice(max(0, first - top), None),
            (slice(max(0, top - first), bottom - first), slice(left, right)),
        )
        weight = np.outer(_tent(bottom - top), _tent(right - left))[inside]
        weights[target] += weight
        for term, own in enumerate(logits):
            large = soft_maps.upsample(np.ascontiguousarray(own), bottom - top, right - left)
            total[term][target] += weight * large[inside]
    rest = scale.height - first
    yield _mean(_longer(total, rest)[:, :rest], _longer(weights, rest)[:rest])


def _longer(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Returns rows (..., R, w) with zeros after them, if they are fewer than `count`."""
    missing = max(0, count - rows.shape[-2])
    return np.concatenate([rows, np.zeros((*rows.shape[:-2], missing, rows.shape[-1]), np.float32)], -2)


def _mean(total: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(weights > 0, total / np.where(weights > 0, weights, np.float32(1)), NOTHING)


def _grid(height: int, width: int, side: float) -> list[View]:
    """Returns the tiles of this side that cover an image, row by row."""
    rows, columns = _spans(height, side), _spans(width, side)
    return [View(top, left, tall, wide) for top, tall in rows for left, wide in columns]


def _spans(length: int, side: float) -> list[tuple[int, int]]:
    """Returns (start, length) of the tiles along one side, evenly spaced, with an overlap of OVERLAP or more."""
    count = max(1, int(np.ceil((length - side * OVERLAP) / (side * (1 - OVERLAP)) - 1e-6)))
    wide = min(length, max(round(side), -(-length // count)))  # in an image of a few pixels, rounding could leave gaps
    starts = [0] if count == 1 else [round(index * (length - wide) / (count - 1)) for index in range(count)]
    return [(start, wide if count > 1 else length) for start in starts]


def _tent(length: int) -> NDArray[np.float32]:
    """Returns the weights of a tile's pixels along one side: 1 in the middle, falling towards both ends, never 0."""
    position = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)
    tent: NDArray[np.float32] = np.minimum(1, 2 * np.minimum(position, 1 - position) / OVERLAP).astype(np.float32)
    return tent
