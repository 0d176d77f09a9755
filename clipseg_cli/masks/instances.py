"""Instances: the objects of one label, kept apart. Arrays in, values out."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import cleanup, soft_maps

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object of a label."""

    mask: NDArray[np.uint8]  # (h, w), 0 or 255: what lies in its box
    box: Box
    area: int  # pixels
    score: float = 1.0  # the soft map's maximum in it, in [0, 1]

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of its box."""
        return _window(self.box)

    def whole(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Returns its mask in an image of this shape (H, W), uint8, 0 or 255."""
        mask = np.zeros(shape, np.uint8)
        mask[self.window] = self.mask
        return mask

    def common(self, other: "Instance") -> int:
        """Returns how many pixels it shares with another instance of the same image."""
        (x, y, w, h), (left, top, width, height) = self.box, other.box
        x0, y0, x1, y1 = max(x, left), max(y, top), min(x + w, left + width), min(y + h, top + height)
        if x1 <= x0 or y1 <= y0:
            return 0
        own = self.mask[y0 - y : y1 - y, x0 - x : x1 - x]
        return int(np.count_nonzero(own & other.mask[y0 - top : y1 - top, x0 - left : x1 - left]))


def separate(mask: NDArray[np.uint8], soft: NDArray[np.uint8]) -> tuple[Instance, ...]:
    """Returns the connected components of a mask, uint8 (H, W), 0 and 255, as instances; each pixel is in one of them.

    `soft` is the soft map, uint8 (H, W), probability x 255. The largest comes first; of equal ones the topmost, then
    the leftmost.
    """
    numbers, stats = cleanup.numbered(mask)
    found = []
    for number, (x, y, width, height, area) in enumerate(stats[1:].tolist(), 1):
        box = x, y, width, height
        own = cv2.inRange(numbers[_window(box)], number, number)
        score = int(soft[_window(box)][own > 0].max()) / soft_maps.LEVELS
        found.append(Instance(own, box, area, score))
    return tuple(sorted(found, key=lambda each: (-each.area, each.box[1], each.box[0])))


def single(mask: NDArray[np.uint8], score: float = 1.0) -> Instance | None:
    """Returns all of a mask, uint8 (H, W), 0 and 255, as one instance; None if it is empty."""
    box = soft_maps.bbox(mask)
    if box is None:
        return None
    own = np.ascontiguousarray(mask[_window(box)])
    return Instance(own, box, int(np.count_nonzero(own)), score)


def of_numbers(numbers: NDArray[np.uint8] | NDArray[np.uint16]) -> Iterator[tuple[int, Instance]]:
    """Yields each number above 0 in an image (H, W) whose pixels are numbers, and its pixels as an instance."""
    for number in np.flatnonzero(np.bincount(numbers.ravel(), minlength=1)[1:]) + 1:
        instance = single(cv2.inRange(numbers, int(number), int(number)))
        assert instance is not None
        yield int(number), instance


def _window(box: Box) -> tuple[slice, slice]:
    x, y, width, height = box
    return slice(y, y + height), slice(x, x + width)
