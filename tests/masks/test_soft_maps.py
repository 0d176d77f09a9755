"""Soft maps and masks from logits, against torch and plain formulas."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.special import expit

from clipseg_cli.masks import soft_maps


@pytest.mark.parametrize(
    ("height", "width"), [(352, 352), (480, 640), (1000, 353), pytest.param(2000, 3000, marks=pytest.mark.slow)]
)
def test_upsampling_equals_bilinear_interpolation_in_torch(height: int, width: int) -> None:
    """Half-pixel centres, edges repeated, like `interpolate(mode="bilinear", align_corners=False)`."""
    logits = np.random.default_rng(0).normal(0, 4, (352, 352)).astype(np.float32)
    ours = soft_maps.upsample(logits, height, width)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], (height, width), mode="bilinear")
    assert ours.shape == (height, width)
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=2e-3)


def test_downsampling_averages_over_areas() -> None:
    """A pixel of an image smaller than the map gets the mean of the logits under it."""
    logits = np.random.default_rng(0).normal(0, 4, (352, 352)).astype(np.float32)
    ours = soft_maps.upsample(logits, 44, 88)
    np.testing.assert_allclose(ours, logits.reshape(44, 8, 88, 4).mean((1, 3)), atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(0, 500), st.integers(1, 90), st.integers(0, 200), st.data())
def test_some_rows_are_those_of_the_whole(rows: int, more: int, w: int, wider: int, data: st.DataObject) -> None:
    """Bit for bit, from only the rows of the soft map that they need."""
    height, width = rows + more, w + wider
    logits = np.random.default_rng(0).normal(0, 4, (rows, w)).astype(np.float32)
    top = data.draw(st.integers(0, height - 1))
    bottom = data.draw(st.integers(top + 1, height))
    part, needed = soft_maps.Part.of(rows, height, top, bottom)
    whole, some = (
        soft_maps.LogitMap(logits, (height, width)),
        soft_maps.LogitMap(logits[needed].copy(), (height, width), part),
    )
    assert some.shape == (bottom - top, width)
    for name in ("soft", "soft16"):
        assert np.array_equal(getattr(some, name)(), getattr(whole, name)()[top:bottom])
    assert np.array_equal(some.cut(0.3), whole.cut(0.3)[top:bottom])


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7), (63498, 10)])
def test_a_map_fits_any_image_size(size: tuple[int, int]) -> None:
    """One pixel, one line, one long strip: the map has the image's size and stays in the range of the logits."""
    logits = np.random.default_rng(0).normal(0, 4, (64, 64)).astype(np.float32)
    large = soft_maps.upsample(logits, *size)
    assert large.shape == size
    assert logits.min() - 1e-4 <= large.min() and large.max() <= logits.max() + 1e-4


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (20, 700), (700, 20), (391, 509), (2, 5000), (1500, 3)])
def test_strips_do_not_change_a_map(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks and soft maps made from strips of any height equal those of the whole map, to the bit."""
    logits = np.random.default_rng(1).normal(0, 4, (40, 40)).astype(np.float32)
    whole, one = soft_maps.upsample(logits, *size), soft_maps.LogitMap(logits, size)
    for strip in (soft_maps.STRIP, 1, 7 * size[1], whole.size):
        monkeypatch.setattr(soft_maps, "STRIP", strip)
        assert np.array_equal(soft_maps.upsample(logits, *size), whole)
        assert np.array_equal(one.cut(0.3), soft_maps.cut(whole, 0.3))
        assert np.array_equal(one.soft(), soft_maps.soft(whole))
        assert np.array_equal(one.soft16(), soft_maps.soft16(whole))


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_masks_from_logits_and_from_soft_maps_are_equal(seed: int, threshold: float) -> None:
    """The mask of logits equals the mask of their soft map, to the bit, at every threshold."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 5, (40, 40)).astype(np.float32)
    edges = soft_maps.EDGES[1:256]
    logits.flat[: edges.size] = edges  # exactly on every edge
    logits.flat[edges.size : 2 * edges.size] = np.nextafter(edges, -np.inf)  # and just below
    assert np.array_equal(soft_maps.cut(logits, threshold), soft_maps.cut_soft(soft_maps.soft(logits), threshold))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_a_16_bit_soft_map_contains_the_8_bit_one(seed: int) -> None:
    """Reducing 16 bits to 8 gives the 8-bit soft map, to the bit. Both are rounded probabilities."""
    logits = np.random.default_rng(seed).normal(0, 5, (40, 40)).astype(np.float32)
    logits.flat[:255], logits.flat[255:510] = soft_maps.EDGES[1:256], np.nextafter(soft_maps.EDGES[1:256], -np.inf)
    levels = soft_maps.soft16(logits)
    assert np.array_equal(soft_maps.soft_of_soft16(levels), soft_maps.soft(logits))
    assert np.abs(levels - 65535 / (1 + np.exp(-logits.astype(np.float64)))).max() < 0.51
    assert np.array_equal(soft_maps.StoredMap(levels).soft(), soft_maps.LogitMap(logits).soft())


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
def test_the_smallest_images_get_masks(shape: tuple[int, int]) -> None:
    """An image of one pixel, or of one row or column, keeps its shape."""
    logits = np.full(shape, 3, np.float32)
    for one in (
        soft_maps.LogitMap(logits),
        soft_maps.StoredMap(soft_maps.soft(logits)),
        soft_maps.StoredMap(soft_maps.soft16(logits)),
    ):
        assert (one.cut(0.3) == 255).all() and one.cut(0.3).shape == shape and not one.cut(0.99).any()


def test_a_soft_map_is_the_rounded_probability() -> None:
    """Level = probability x 255, rounded, against float64."""
    logits = np.linspace(-20, 20, 100_001, dtype=np.float32)
    expected = 255 * expit(logits.astype(np.float64))
    assert np.abs(soft_maps.soft(logits) - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("threshold", "lowest"), [(0, 1), (0.2, 52), (0.3, 77), (0.5, 128), (0.999, 255), (1, 256)])
def test_a_mask_has_the_levels_above_the_threshold(threshold: float, lowest: int) -> None:
    """The lowest level of a mask is the first above 255 t. At the threshold 1 the mask is empty."""
    assert soft_maps.lowest_level(threshold) == lowest
    levels = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(soft_maps.cut_soft(levels, threshold) > 0, levels > 255 * threshold + 1e-9)


def test_extreme_logits_give_0_and_1() -> None:
    """Infinite and huge logits give no warning."""
    logits = np.array([[-np.inf, -1e30, -100, 0, 100, 1e30, np.inf]], np.float32)
    assert soft_maps.soft(logits).tolist() == [[0, 0, 0, 128, 255, 255, 255]]
    assert soft_maps.sigmoid(logits)[0, [0, 3, 6]].tolist() == pytest.approx([0, 0.5, 1])


@given(st.integers(0, 2**32 - 1))
def test_a_box_fits_the_mask(seed: int) -> None:
    """x, y, width and height equal scipy's find_objects. An empty mask has None."""
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((17, 23)) < rng.choice([0, 0.005, 0.1]), 255, 0).astype(np.uint8)
    found = ndimage.find_objects((mask > 0).astype(int))
    if not found:
        assert soft_maps.bbox(mask) is None
        return
    rows, columns = found[0]
    assert soft_maps.bbox(mask) == (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)


def test_an_overlay_does_not_change_the_photo() -> None:
    """Inside a mask pixels are tinted; outside only outline and label are drawn. The input is not written to."""
    from clipseg_cli.outputs import colours, drawing

    photo = np.full((200, 300, 3), 128, np.uint8)
    mask = cv2.circle(np.zeros((200, 300), np.uint8), (150, 140), 30, 255, -1)
    before = photo.copy()
    drawn = drawing.overlay(photo, [mask, np.zeros_like(mask)], ["a disc", "nothing"])
    assert np.array_equal(photo, before)
    tint = np.array(colours.colour(0))
    np.testing.assert_allclose(drawn[140, 150], 128 * (1 - colours.TINT) + tint * colours.TINT, atol=2)
    far = cv2.dilate(mask, np.ones((9, 9), np.uint8)) == 0
    far[:140] = False  # the label is drawn above
    assert np.array_equal(drawn[far], photo[far])
    assert not np.array_equal(drawn[70:110], photo[70:110]), "the label is drawn above the mask"


def test_presence_is_the_mean_of_the_most_probable_pixels() -> None:
    """Equal to a sort of all probabilities. One wrong pixel changes it little, an object changes it much."""
    rng = np.random.default_rng(3)
    logits = rng.normal(-4, 1, (224, 224)).astype(np.float32)
    count = round(soft_maps.PRESENCE_SHARE * logits.size)
    highest = np.sort(1 / (1 + np.exp(-logits.astype(np.float64))), axis=None)[-count:]
    assert soft_maps.presence(logits) == pytest.approx(highest.mean(), abs=1e-6)
    before = soft_maps.presence(logits)
    logits[0, 0] = 8
    assert soft_maps.presence(logits) < before + 0.02
    logits[50:90, 50:90] = 8
    assert soft_maps.presence(logits) > 0.99
    assert soft_maps.presence(np.full((1, 1), 2, np.float32)) == pytest.approx(0.8808, abs=1e-4)
