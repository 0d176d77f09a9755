"""Outlines of masks."""

import numpy as np

from clipseg_cli.masks import cleanup, outline
from mask_shapes import every_mask


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
    assert len(outline.edges(mask)) == len(cleanup.components(mask))
