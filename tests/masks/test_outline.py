"""Outlines of masks."""

import cv2
import numpy as np

from clipseg_cli.masks import outline
from mask_shapes import components, every_mask


def even_odd(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Fills rings along pixel edges: counts, in each row, the edges to the left of each pixel."""
    inside = np.zeros(shape, bool)
    for points in rings:
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            assert x0 == x1 or y0 == y1
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside


@every_mask
def test_outlines_run_between_the_pixels(mask: np.ndarray) -> None:
    """The exact outline, filled by the even-odd rule, is the mask, pixel for pixel."""
    rings = [ring for part in outline.edges(mask) for ring in (part.outer, *part.holes)]
    assert np.array_equal(even_odd(rings, mask.shape), mask > 0)
    assert len(outline.edges(mask)) == len(components(mask))


@every_mask
def test_a_ring_cut_open_fills_the_mask(mask: np.ndarray) -> None:
    """One ring per component, holes included, is the component: between pixels by the even-odd rule, and on pixels by
    OpenCV, which draws the lines to the holes too."""
    rings = [outline.cut_open(part) for part in outline.edges(mask)]
    assert np.array_equal(even_odd(rings, mask.shape), mask > 0)
    drawn = np.zeros_like(mask)
    for part in outline.centres(mask):
        cv2.fillPoly(drawn, [outline.cut_open(part)], 255)
    assert np.array_equal(drawn, mask)


def test_a_component_with_thousands_of_holes_is_cut_open() -> None:
    """Holes that touch at corners, follow one another in a row, or lie around one another: the mask comes back."""
    mask = np.where(np.random.default_rng(0).random((200, 300)) > 0.15, 255, 0).astype(np.uint8)
    (part,) = outline.centres(mask)
    assert len(part.holes) > 5000
    assert np.array_equal(cv2.fillPoly(np.zeros_like(mask), [outline.cut_open(part)], 255), mask)


@every_mask
def test_polygons_are_simple(mask: np.ndarray) -> None:
    """They fill the mask exactly, no ring visits a point twice, and there is one for each 4-connected component."""
    parts = outline.polygons(mask)
    rings = [ring for part in parts for ring in (part.outer, *part.holes)]
    assert np.array_equal(even_odd(rings, mask.shape), mask > 0)
    assert all(len(np.unique(ring, axis=0)) == len(ring) for ring in rings)
    assert len(parts) == cv2.connectedComponents(mask, connectivity=4)[0] - 1
