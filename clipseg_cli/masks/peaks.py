"""Peaks of a soft map: objects that touch form one component, but the soft map is often higher inside of each.

The soft map is looked at on a grid of SIDE x SIDE cells over the image, and blurred: finer detail than the network's
patches is noise. A peak counts if it is PROMINENCE above the highest pass to a higher peak (topographic prominence).
`python -m shapes.touching` measures it.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import soft_maps

SIDE = 112  # cells per side
BLUR = 2.0  # cells: sigma
PROMINENCE = 0.25  # logits
LIMIT = 6.5  # logits: just above those of the highest level below 1, so that saturated areas stay peaks

Numbers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """The peaks of a soft map above its threshold, numbered from 1."""

    numbers: Numbers  # (SIDE, SIDE): the peak that each cell belongs to, or whose cells are the nearest
    places: NDArray[np.float64]  # (K, 2): where each peak is highest; x and y as shares of the image's sides

    def seeds(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Returns x and y of each peak on a grid of height x width, and its number."""
        points = (self.places * (width, height)).astype(int).tolist()
        rows, columns = (self.places[:, ::-1] * SIDE).astype(int).T
        return [(x, y, number) for (x, y), number in zip(points, self.numbers[rows, columns].tolist(), strict=True)]

    def joined(self, pairs: Iterable[tuple[int, int]]) -> "Peaks":
        """Returns the peaks with both of each pair under one number, which is that of the first."""
        number_of = np.arange(len(self.places) + 1, dtype=np.int32)
        for first, second in pairs:
            number_of[number_of == number_of[second]] = number_of[first]
        return Peaks(number_of[self.numbers], self.places)


def find(levels: NDArray[np.uint8], threshold: float) -> Peaks | None:
    """Returns the peaks of a soft map, uint8 (H, W); None if it has none above the threshold, a probability."""
    soft = onto_grid(levels, SIDE)
    inside = soft > soft_maps.LEVELS * threshold
    if not inside.any():
        return None
    logits = np.clip(soft_maps.logit(soft / np.float32(soft_maps.LEVELS)), -LIMIT, LIMIT)
    numbers, cells = _basins(cv2.GaussianBlur(logits, (0, 0), BLUR), inside)
    return Peaks(nearest(numbers), (cells[:, ::-1] + 0.5) / SIDE)


def onto_grid(plane: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Returns a plane, uint8 (H, W), on a grid over it: float32 (side, side), means over the cells, 0 to 255."""
    height, width = plane.shape
    for size, shrinks in (((side, height), side < width), ((side, side), side < height)):
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return plane.astype(np.float32)


def nearest(numbers: Numbers) -> Numbers:
    """Returns the number of the nearest cell that has one, for each cell of int32 (h, w), 0 for none."""
    outside = (numbers == 0).view(np.uint8)
    _, seeds = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    number_of = np.zeros(int(seeds.max()) + 1, np.int32)
    number_of[seeds[numbers > 0]] = numbers[numbers > 0]
    found: Numbers = number_of[seeds]
    return found


def divided(own: NDArray[np.uint8], numbers: NDArray[np.integer[Any]], seeded: Collection[int]) -> Numbers:
    """Returns the number of each non-zero pixel of a mask (h, w), int32, 0 outside.

    A pixel whose number is not among `seeded` gets that of the nearest pixel of the mask whose number is.
    """
    sure = np.where((own > 0) & np.isin(numbers, [*seeded]), numbers, 0).astype(np.int32)
    return np.where(own > 0, nearest(sure) if sure.any() else 1, 0).astype(np.int32)


def _basins(height: NDArray[np.float32], inside: NDArray[np.bool_]) -> tuple[Numbers, NDArray[np.int64]]:
    """Returns the number of each cell's peak, 0 outside, and the row and column of each peak, int64 (K, 2).

    Cells are flooded from the highest down. A cell without a flooded neighbour is a new peak; any other is of the peak
    of its highest neighbour. Where two floods meet, the lower peak is joined to the higher if it is less than
    PROMINENCE above the cell; otherwise both go on.
    """
    rows, columns = np.nonzero(inside)
    order = np.argsort(-height[rows, columns], kind="stable")
    peaks: list[tuple[int, int]] = []  # by number, from 1
    root = [0]  # of a number: the peak that it was joined to, maybe by way of others
    numbers, heights = np.pad(np.zeros(height.shape, np.int32), 1), np.pad(height, 1, constant_values=-np.inf)

    def top(number: int) -> float:
        return float(height[peaks[number - 1]])

    def joined(number: int) -> int:
        while root[number] != number:
            number = root[number]
        return number

    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        window = slice(row, row + 3), slice(column, column + 3)
        flooded = numbers[window]
        near = sorted(
            {joined(number) for number in flooded[flooded > 0].tolist()}, key=lambda number: (-top(number), number)
        )
        if not near:
            peaks.append((row, column))
            root.append(len(peaks))
            numbers[row + 1, column + 1] = len(peaks)
            continue
        highest = np.where(flooded > 0, heights[window], -np.inf).argmax()  # uphill: the other flood must not leak in
        numbers[row + 1, column + 1] = flooded.flat[highest]
        for number in near[1:]:
            if top(number) - height[row, column] < PROMINENCE:
                root[number] = near[0]
    roots = np.array([joined(number) for number in range(len(root))])
    kept, renumbered = np.unique(roots, return_inverse=True)  # 0 first: outside
    return renumbered.astype(np.int32)[numbers[1:-1, 1:-1]], np.array([peaks[number - 1] for number in kept[1:]])
