"""Masks as polygons. numpy in, numpy out; masks are uint8 (H, W), 0 and 255.

Two manners, for the two ways in which readers fill a polygon:

    edges    points are corners of pixels, so that the polygon's area is the mask's (SVG, COCO)
    centres  points are pixels, the last ones that belong to the mask (YOLO and labelme draw them inclusively)
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_COMPARED = 500  # points of a ring, evenly taken, when a near point of a hole is looked for: bounds the memory
Ring = NDArray[np.int32]  # (K, 2): x, y in pixels; closed without repeating its first point


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One connected part of a mask: parts touch by sides or corners."""

    outer: Ring
    holes: tuple[Ring, ...]


def edges(mask: NDArray[np.uint8]) -> list[Part]:
    """The exact borders between pixels; a point where two corners touch is passed twice."""
    x, y, width, height = cv2.boundingRect(mask)
    # of doubled pixels the contour's points tell on which side of the pixel they lie
    doubled = np.repeat(np.repeat(mask[y : y + height, x : x + width], 2, 0), 2, 1)
    return [
        Part(_corners((part.outer + 1) // 2 + (x, y)), tuple(_corners((hole + 1) // 2 + (x, y)) for hole in part.holes))
        for part in centres(doubled)
    ]


def centres(mask: NDArray[np.uint8]) -> list[Part]:
    """The outermost pixels of each part, and the pixels of it around each of its holes."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [contour[:, 0] for contour in contours]
    inside: dict[int, list[Ring]] = {}
    for ring, (_, _, _, parent) in zip(rings, tree[0] if rings else (), strict=True):
        if parent >= 0:
            inside.setdefault(int(parent), []).append(ring)
    parts = [
        Part(ring, tuple(inside.get(index, ())))
        for index, (ring, (_, _, _, parent)) in enumerate(zip(rings, tree[0] if rings else (), strict=True))
        if parent < 0
    ]
    return sorted(parts, key=lambda part: (int(part.outer[:, 1].min()), int(part.outer[:, 0].min())))


def simplified(part: Part) -> Part:
    """With fewer points: each ring moves by at most 1 pixel, and by less where the area would notice (1 %)."""
    length = sum(cv2.arcLength(ring, True) for ring in (part.outer, *part.holes))
    area = cv2.contourArea(part.outer) - sum(cv2.contourArea(hole) for hole in part.holes)
    tolerance = min(1.0, 0.01 * area / max(length, 1.0))

    def fewer(ring: Ring) -> Ring:
        found: Ring = cv2.approxPolyDP(ring[:, None], tolerance, True)[:, 0]
        return found if len(found) > 2 else ring

    return Part(fewer(part.outer), tuple(fewer(hole) for hole in part.holes))


def cut_open(part: Part) -> Ring:
    """One ring for a part with holes: a line of no width leads to each hole and back, which fills as the part does."""
    ring = part.outer
    for hole in sorted(part.holes, key=lambda hole: int(hole[:, 0].min())):
        step, stride = (1 + len(each) // MOST_COMPARED for each in (ring, hole))
        away = ((ring[::step, None].astype(np.int64) - hole[None, ::stride]) ** 2).sum(2)
        here, there = np.unravel_index(int(away.argmin()), away.shape)
        here, turn = here * step, np.roll(hole, -int(there * stride), axis=0)
        ring = np.concatenate([ring[: here + 1], turn, turn[:1], ring[here:]])
    return ring


def _corners(ring: Ring) -> Ring:
    """Without points that repeat the one before or lie on the line between their neighbours."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & ((before * after).sum(1) > 0)
    return np.ascontiguousarray(ring[~straight], np.int32)
