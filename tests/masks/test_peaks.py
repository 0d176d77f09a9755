"""Objects that touch: the peaks of a soft map, and the division of a mask between them."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from clipseg_cli.masks import peaks
from clipseg_cli.masks.instances import divide, separate

SIZE = (240, 320)


def blurred(*discs: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A soft map, uint8, in which discs x, y, radius are blurred; and the numbers of the discs, from 1."""
    soft, true = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.uint8)
    for number, (x, y, radius) in enumerate(discs, 1):
        disc = cv2.circle(np.zeros(SIZE, np.float32), (x, y), radius, 1, -1)
        true[(disc > 0) & (true == 0)] = number
        soft = np.maximum(soft, cv2.GaussianBlur(disc, (0, 0), radius / 3))
    return np.rint(250 * soft).astype(np.uint8), true


@pytest.mark.parametrize(
    "discs",
    [
        ((160, 120, 60),),
        ((100, 120, 50), (192, 120, 50)),
        ((60, 60, 40), (134, 60, 40), (97, 124, 40), (260, 180, 40)),
    ],
    ids=len,
)
def test_discs_that_touch_are_divided(discs: tuple[tuple[int, int, int], ...]) -> None:
    """One instance for each disc, alone or not, that has nearly all of its pixels; the instances are the mask, and
    without a division the components, which are fewer."""
    soft, true = blurred(*discs)
    found = peaks.find(soft, 0.5)
    assert found is not None and len(found.places) == len(discs)
    assert {true[y, x] for x, y, _ in found.seeds(*SIZE)} == {*range(1, len(discs) + 1)}
    mask = np.where(soft > 127, 255, 0).astype(np.uint8)
    instances = separate(mask, soft, divide(found, SIZE))
    assert len(instances) == len(discs)
    assert np.array_equal(sum(each.whole(SIZE).astype(int) for each in instances), mask)
    for each in instances:
        number = np.bincount(true[each.whole(SIZE) > 0]).argmax()
        own = (each.whole(SIZE) > 0) & (mask > 0)
        assert np.count_nonzero(own & (true == number)) > 0.95 * np.count_nonzero((true == number) & (mask > 0))
    assert len(separate(mask, soft)) == ndimage.label(mask, np.ones((3, 3)))[1] == (len(discs) + 1) // 2


def test_a_soft_map_without_an_object_has_no_peak() -> None:
    """Nor has one below the threshold."""
    assert peaks.find(np.zeros(SIZE, np.uint8), 0.5) is None
    assert peaks.find(np.full(SIZE, 100, np.uint8), 0.5) is None
    whole = peaks.find(np.full((3, 5000), 255, np.uint8), 0.5)
    assert whole is not None and len(whole.places) == 1 and (whole.numbers == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_division_loses_no_pixel(seed: int) -> None:
    """Whatever the soft map and the mask, which clean-up may have changed: instances are disjoint, none is empty, and
    together they are the mask. There are no more than components and peaks."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((150, 90)), 6)
    soft = np.rint(255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    found = peaks.find(soft, 0.4)
    assert found is not None and len(found.places) > 3
    mask = np.where((soft > 90) & (rng.random(soft.shape) < 0.98), 255, 0).astype(np.uint8)
    answers = [(1, rng.normal(size=(64, 64)).astype(np.float32)), (3, np.full((64, 64), -1, np.float32))]
    for division in (
        divide(found, soft.shape),
        divide(found, soft.shape, answers),
        divide(found.joined([(1, 2)]), soft.shape),
    ):
        instances = separate(mask, soft, division)
        assert np.array_equal(sum(each.whole(mask.shape).astype(int) for each in instances), mask)
        assert all(each.area == np.count_nonzero(each.mask) > 0 for each in instances)
        parts = ndimage.label(mask, np.ones((3, 3)))[1]
        assert parts <= len(instances) < parts + len(found.places)


def test_joined_peaks_are_one_object() -> None:
    """Two touching discs whose peaks are of one object are one instance."""
    soft, _ = blurred((100, 120, 50), (192, 120, 50))
    found = peaks.find(soft, 0.5)
    assert found is not None
    mask = np.where(soft > 127, 255, 0).astype(np.uint8)
    assert len(separate(mask, soft, divide(found.joined([(2, 1)]), SIZE))) == 1
