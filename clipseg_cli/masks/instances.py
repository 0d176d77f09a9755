"""Instances: the objects of one label, kept apart. Arrays in, values out."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import cleanup, peaks, soft_maps

FINE = 512  # points per side of the grid on which objects are divided

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

    def moved(self, mask: NDArray[np.uint8]) -> "Instance":
        """Returns the same object with another mask, uint8 (H, W), of the image turned."""
        turned = single(mask, self.score)
        assert turned is not None
        return turned

    def common(self, other: "Instance") -> int:
        """Returns how many pixels it shares with another instance of the same image."""
        (x, y, w, h), (left, top, width, height) = self.box, other.box
        x0, y0, x1, y1 = max(x, left), max(y, top), min(x + w, left + width), min(y + h, top + height)
        if x1 <= x0 or y1 <= y0:
            return 0
        own = self.mask[y0 - y : y1 - y, x0 - x : x1 - x]
        return int(np.count_nonzero(own & other.mask[y0 - top : y1 - top, x0 - left : x1 - left]))


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Which object each pixel is of, if components hold several."""

    owner: NDArray[np.uint16]  # (H, W): the number of the object, from 1
    seeds: tuple[tuple[int, int, int], ...]  # x, y in pixels, and the number of the object that is surely there


def divide(
    found: peaks.Peaks, shape: tuple[int, int], answers: Sequence[tuple[int, NDArray[np.float32]]] = ()
) -> Division:
    """Returns a division of an image of this shape (H, W), with an object for each peak.

    answers: numbers of peaks, each with logits (side, side) that are above 0 on its object. A pixel goes to the answer
    with the highest logit, or to the peak that it belongs to, if no answer takes it.
    """
    count, (height, width) = len(found.places), shape
    regions = [(number, (found.numbers == number).astype(np.float32)) for number in range(1, count + 1)]
    owner, _ = _strongest(regions)
    if answers:
        answered, logits = _strongest(answers)
        owner = np.where(logits > 0, answered, owner)
    large = cv2.resize(owner, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return Division(large, tuple(found.seeds(height, width)))


def _strongest(fields: Sequence[tuple[int, NDArray[np.float32]]]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Returns the number whose field is the highest at each point of a grid of FINE x FINE, and that field."""
    best = np.full((FINE, FINE), -np.inf, np.float32)
    owner = np.zeros(best.shape, np.uint16)
    for number, field in fields:
        value = cv2.resize(field, best.shape, interpolation=cv2.INTER_LINEAR)
        owner[value > best] = number
        np.maximum(best, value, out=best)
    return owner, best


def separate(
    mask: NDArray[np.uint8], soft: NDArray[np.uint8], division: Division | None = None
) -> tuple[Instance, ...]:
    """Returns the connected components of a mask, uint8 (H, W), 0 and 255, as instances; each pixel is in one of them.

    `soft` is the soft map, uint8 (H, W), probability x 255. A component with the seeds of several objects of the
    `division` becomes one instance for each. The largest comes first; of equal ones the topmost, then the leftmost.
    """
    numbers, stats = cleanup.numbered(mask)
    found = []
    for number, (x, y, width, height, _) in enumerate(stats[1:].tolist(), 1):
        window = _window((x, y, width, height))
        own = cv2.inRange(numbers[window], number, number)
        seeds = () if division is None else division.seeds
        seeded = {number_of for left, top, number_of in seeds if numbers[top, left] == number}
        pieces = [own] if division is None or len(seeded) < 2 else _pieces(own, division.owner[window], seeded)
        for piece in pieces:
            score = int(soft[window][piece > 0].max()) / soft_maps.LEVELS
            instance = single(piece, score)
            assert instance is not None
            left, top, *sides = instance.box
            found.append(replace(instance, box=(x + left, y + top, *sides)))
    return tuple(sorted(found, key=lambda each: (-each.area, each.box[1], each.box[0])))


def _pieces(own: NDArray[np.uint8], owner: NDArray[np.uint16], seeded: Collection[int]) -> list[NDArray[np.uint8]]:
    """Returns the pieces of a component, one for each object that is seeded in it and has pixels.

    All other pixels go to the nearest piece.
    """
    numbers = peaks.divided(own, owner, seeded)
    present = np.unique(numbers[numbers > 0]).tolist()
    return [cv2.inRange(numbers, number, number) for number in present]


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
