"""Cutouts carry no colour of the background."""

import cv2
import numpy as np
import pytest

from clipseg_cli.inputs.colour import conversion
from clipseg_cli.masks import cleanup
from clipseg_cli.outputs import drawing
from pictures import picture


def antialiased() -> tuple[np.ndarray, np.ndarray]:
    """A red disc on green, with an edge that mixes both colours, and its mask."""
    large = np.zeros((800, 800, 3), np.uint8)
    large[:] = (20, 200, 30)
    cv2.circle(large, (400, 400), 250, (210, 30, 40), -1)
    small = cv2.resize(large, (100, 100), interpolation=cv2.INTER_AREA)
    return small, np.where(small[..., 0] > 60, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("feather", [0.0, 3.0])
def test_a_cutout_carries_no_fringe(feather: float) -> None:
    """No green of the background shows on the edge of the red disc, hard or feathered, even if the cutout is scaled."""
    photo, mask = antialiased()
    assert (photo[mask > 0][:, 1] > 60).any(), "the photo's own edge is greenish"
    rgba = drawing.cutout(photo, mask, cleanup.feather(mask, feather))
    assert rgba.shape == (100, 100, 4) and np.array_equal(rgba[50, 50], [*photo[50, 50], 255])
    assert (rgba[rgba[..., 3] > 0][:, 1] < 60).all()
    white = conversion.composited(rgba, ground=(255, 255, 255)).astype(int)
    assert (white[..., 0] >= white[..., 1] - 1).all() and (white[0, 0] == 255).all()
    half = cv2.resize(rgba, (55, 55), interpolation=cv2.INTER_LINEAR)
    assert (half[half[..., 3] > 127][:, 1] < 60).all()


def test_a_thin_object_keeps_its_own_colours() -> None:
    """Where no pixel is well inside the object, colours stay as they are."""
    photo = picture(60, 40)
    mask = np.zeros((40, 60), np.uint8)
    mask[20, 10:50] = 255
    rgba = drawing.cutout(photo, mask, mask)
    assert np.array_equal(rgba[mask > 0][:, :3], photo[mask > 0])
