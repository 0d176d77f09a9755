"""Instances: the objects of one label, kept apart. Arrays in, values out."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import cleanup, soft_maps


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object of a label."""

    mask: NDArray[np.uint8]  # (h, w), 0 or 255: what lies in its box
    box: tuple[int, int, int, int]  # x, y, width, height in pixels
    area: int  # pixels
    score: float  # the soft map's maximum in it, in [0, 1]

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of its box."""
        x, y, width, height = self.box
        return slice(y, y + height), slice(x, x + width)

    def whole(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Returns its mask in an image of this shape (H, W), uint8, 0 or 255."""
        mask = np.zeros(shape, np.uint8)
        mask[self.window] = self.mask
        return mask


def separate(mask: NDArray[np.uint8], soft: NDArray[np.uint8]) -> tuple[Instance, ...]:
    """Returns the connected components of a mask, uint8 (H, W), 0 and 255, as instances; each pixel is in one of them.

    `soft` is the soft map, uint8 (H, W), probability x 255. The largest comes first; of equal ones the topmost, then
    the leftmost.
    """
    numbers, stats = cleanup.numbered(mask)
    found = []
    for number, (x, y, width, height, area) in enumerate(stats[1:].tolist(), 1):
        window = slice(y, y + height), slice(x, x + width)
        own = cv2.inRange(numbers[window], number, number)
        score = int(soft[window][own > 0].max()) / soft_maps.LEVELS
        found.append(Instance(own, (x, y, width, height), area, score))
    return tuple(sorted(found, key=lambda each: (-each.area, each.box[1], each.box[0])))
