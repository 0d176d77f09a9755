"""Instances: a label's objects, kept apart."""

import numpy as np
from scipy import ndimage

from clipseg_cli.masks.instances import separate
from mask_shapes import components, every_mask


@every_mask
def test_instances_are_the_components(mask: np.ndarray) -> None:
    """Against scipy: every component, single pixels too, with its box, area and the soft map's maximum in it."""
    soft = np.random.default_rng(3).integers(0, 256, mask.shape, dtype=np.uint8)
    found = separate(mask, soft)
    assert len(found) == len(components(mask))
    for each, expected in zip(found, components(mask), strict=True):
        assert np.array_equal(each.whole(mask.shape), expected)
        assert each.window == ndimage.find_objects(expected // 255)[0]
        assert each.box == (each.window[1].start, each.window[0].start, *each.mask.shape[::-1])
        assert each.area == np.count_nonzero(expected)
        assert each.score == soft[expected > 0].max() / 255
