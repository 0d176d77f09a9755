"""Outlines: masks as polygons. Masks are uint8 (H, W), 0 and 255.

Two kinds, for the two ways in which programs fill a polygon:

    edges    points are pixel corners, so the polygon's area equals the mask's (SVG, COCO)
    centres  points are the outermost pixels of the mask (readers of YOLO and labelme include them when they fill)
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

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


def polygons(mask: NDArray[np.uint8]) -> list[Component]:
    """Returns the exact borders of each 4-connected component, from top to bottom.

    No ring visits a point twice, so GIS programs accept them: two pixels that meet at a corner are two components, and
    if they are joined elsewhere, what they enclose is a hole.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    found = []
    for number in range(1, count):
        x, y, width, height = (int(value) for value in stats[number, :4])
        part = np.where(labels[y : y + height, x : x + width] == number, np.uint8(255), np.uint8(0))
        (component,), corner = edges(part), np.array([x, y], np.int32)
        found.append(Component(component.outer + corner, tuple(hole + corner for hole in component.holes)))
    return found


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
    if not component.holes:
        return component.outer
    rings = [component.outer, *sorted(component.holes, key=lambda hole: int(hole[:, 0].min()))]
    lengths = [len(ring) for ring in rings]
    ends = np.cumsum(lengths)
    starts, points = ends - lengths, np.concatenate(rings)
    after = np.arange(1, len(points) + 1)
    after[ends - 1] = starts
    owner = np.repeat(np.arange(len(rings)), lengths)
    edges, rows, across = _crossings(points, points[after])
    width = int(points[:, 0].max()) + 2
    order = np.lexsort((owner[edges], rows * width + across))
    edges, across, place = edges[order], across[order], (rows * width + across)[order]

    joints = []
    nodes, following = points.tolist(), after.tolist()  # a linked list, which is cheap to cut open
    for number in range(1, len(rings)):
        first = int(starts[number] + rings[number][:, 0].argmin())
        x, y = nodes[first]
        left = int(np.searchsorted(place, y * width + x, "right")) - 1
        while left >= 0 and owner[edges[left]] >= number:  # where rings touch, only those before this one count
            left -= 1
        if left >= 0 and place[left] >= y * width:
            edge, meet = int(edges[left]), [round(float(across[left])), y]
        else:  # a simplified ring may have nothing on its left
            edge = int(np.abs(component.outer - (x, y)).sum(1).argmin())
            meet = nodes[edge]
        joints.append((edge, abs(meet[0] - nodes[edge][0]) + abs(meet[1] - nodes[edge][1]), first, len(nodes), meet))
        before = first - 1 if first > starts[number] else int(ends[number]) - 1
        following[before] = len(nodes)  # the hole's first point, once more
        nodes.append([x, y])
        following.append(-1)
    for edge, _, first, last, meet in sorted(joints, key=lambda joint: (joint[0], -joint[1])):  # the farthest first
        following += [first, following[edge]]
        following[edge], following[last] = len(nodes), len(nodes) + 1
        nodes += [meet, meet]
    ring, node = [nodes[0]], following[0]
    while node:
        ring.append(nodes[node])
        node = following[node]
    joined = np.array(ring, np.int32)
    return np.asarray(joined[(joined != np.roll(joined, 1, 0)).any(1)], np.int32)


def _crossings(start: Ring, end: Ring) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Returns where edges cross rows of pixels: number of the edge and row, int64 (C,), and x, float64 (C,).

    Level edges are left out: their ends are ends of others.
    """
    rise = (end - start)[:, 1].astype(np.int64)
    counts = np.where(rise == 0, 0, np.abs(rise) + 1)
    edges = np.repeat(np.arange(len(start)), counts)
    steps = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = start[edges, 1] + np.sign(rise[edges]) * steps
    across = start[edges, 0] + steps / np.abs(rise[edges]) * (end - start)[edges, 0]
    return edges, rows, across


def _corners(ring: Ring) -> Ring:
    """Drops points that repeat the previous one or lie on the line between their neighbours."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    straight = (before[:, 0] * after[:, 1] == before[:, 1] * after[:, 0]) & ((before * after).sum(1) > 0)
    return np.ascontiguousarray(ring[~straight], np.int32)
