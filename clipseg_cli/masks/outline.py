"""Outlines: masks as polygons. Masks are uint8 (H, W), 0 and 255.

Two kinds, for the two ways in which programs fill a polygon:

    edges    points are pixel corners, so the polygon's area equals the mask's (SVG, COCO)
    centres  points are the outermost pixels of the mask (readers of YOLO and labelme include them when they fill)
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FAR = 1e6  # pixels: more than any image measures
Ring = NDArray[np.int32]  # int32 (K, 2): x, y in pixels; closed, without repeating the first point


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """One 8-connected component of a mask."""

    outer: Ring
    holes: tuple[Ring, ...]


def edges(mask: NDArray[np.uint8]) -> list[Component]:
    """Returns the exact borders between pixels. A ring visits a point twice if two pixels meet only there."""
    x, y, width, height = cv2.boundingRect(mask)
    # with pixels doubled, a contour point shows on which side of its pixel the border runs
    doubled = np.repeat(np.repeat(mask[y : y + height, x : x + width], 2, 0), 2, 1)
    return [
        Component(
            _corners((component.outer + 1) // 2 + (x, y)),
            tuple(_corners((hole + 1) // 2 + (x, y)) for hole in component.holes),
        )
        for component in centres(doubled)
    ]


def centres(mask: NDArray[np.uint8]) -> list[Component]:
    """Returns the outermost pixels of each component, and its pixels around each hole. Sorted from top to bottom."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [contour[:, 0] for contour in contours]
    holes: dict[int, list[Ring]] = {}
    for ring, (_, _, _, parent) in zip(rings, tree[0] if rings else (), strict=True):
        if parent >= 0:
            holes.setdefault(int(parent), []).append(ring)
    components = [
        Component(ring, tuple(holes.get(index, ())))
        for index, (ring, (_, _, _, parent)) in enumerate(zip(rings, tree[0] if rings else (), strict=True))
        if parent < 0
    ]
    return sorted(
        components, key=lambda component: (int(component.outer[:, 1].min()), int(component.outer[:, 0].min()))
    )


def simplified(component: Component) -> Component:
    """Removes points. Each ring moves by at most 1 pixel, or less if more than 1 % of the area would change."""
    length = sum(cv2.arcLength(ring, True) for ring in (component.outer, *component.holes))
    area = cv2.contourArea(component.outer) - sum(cv2.contourArea(hole) for hole in component.holes)
    tolerance = min(1.0, 0.01 * area / max(length, 1.0))

    def fewer(ring: Ring) -> Ring:
        reduced: Ring = cv2.approxPolyDP(ring[:, None], tolerance, True)[:, 0]
        return reduced if len(reduced) > 2 else ring

    return Component(fewer(component.outer), tuple(fewer(hole) for hole in component.holes))


def cut_open(component: Component) -> Ring:
    """Joins a component and its holes into one ring that fills the same area.

    A horizontal line of zero width leads from the leftmost point of each hole to the ring on its left, and back. Only
    pixels of the component lie between them.
    """
    ring = component.outer
    for hole in sorted(component.holes, key=lambda hole: int(hole[:, 0].min())):  # what is on the left comes first
        loop = np.roll(hole, -int(hole[:, 0].argmin()), axis=0)
        x, y = loop[0].tolist()
        start, end = ring.astype(np.float64), np.roll(ring, -1, 0).astype(np.float64)
        low, high = np.minimum(start, end), np.maximum(start, end)
        level = low[:, 1] == high[:, 1]
        at = np.clip(y, low[:, 1], high[:, 1])
        share = (at - start[:, 1]) / np.where(level, 1, end[:, 1] - start[:, 1])
        across = np.where(level, np.clip(x, low[:, 0], high[:, 0]), start[:, 0] + share * (end[:, 0] - start[:, 0]))
        # a simplified ring may have no edge on the left, or none in this row
        cost = np.where(across <= x, x - across, across - x + FAR) + FAR * np.abs(at - y)
        edge = int(cost.argmin())
        meet = np.rint([[across[edge], at[edge]]]).astype(np.int32)
        ring = np.concatenate([ring[: edge + 1], meet, loop, loop[:1], meet, ring[edge + 1 :]])
    return ring[(ring != np.roll(ring, 1, 0)).any(1)] if len(ring) > 1 else ring


def _corners(ring: Ring) -> Ring:
    """Drops points that repeat the previous one or lie on the line between their neighbours."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & ((before * after).sum(1) > 0)
    return np.ascontiguousarray(ring[~straight], np.int32)
