"""Clean-up of masks, against scipy, scikit-image and plain loops."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold, threshold_otsu

from clipseg_cli.masks import cleanup, soft_maps
from clipseg_cli.settings.masks import CleanUp
from pictures import Program, picture, records, save

EIGHT = np.ones((3, 3), bool)
SHAPES = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30)
# random dots and blobs, from nearly empty to nearly full
MASKS = st.builds(
    lambda shape, seed, share, blob: np.where(
        ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), blob) > np.quantile(
            ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), blob), share), 255, 0
    ).astype(np.uint8),
    SHAPES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), st.sampled_from([0, 1, 2.5]),
)  # fmt: skip


def disc(radius: int) -> np.ndarray:
    """Returns the structuring element of all offsets within a radius."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(1, 9))
def test_grow_open_and_close_are_morphology_with_a_disc(mask: np.ndarray, radius: int) -> None:
    """Equal to scipy's dilation and erosion. The image border neither grows nor erodes an object."""
    grown = ndimage.binary_dilation(mask > 0, disc(radius))
    shrunk = ndimage.binary_erosion(mask > 0, disc(radius), border_value=1)
    assert np.array_equal(cleanup.clean(mask, CleanUp(grow=radius)) > 0, grown)
    assert np.array_equal(cleanup.clean(mask, CleanUp(grow=-radius)) > 0, shrunk)
    opened = ndimage.binary_dilation(shrunk, disc(radius))
    closed = ndimage.binary_erosion(grown, disc(radius), border_value=1)
    assert np.array_equal(cleanup.clean(mask, CleanUp(open=radius)) > 0, opened)
    assert np.array_equal(cleanup.clean(mask, CleanUp(close=radius)) > 0, closed)
    assert not (opened & (mask == 0)).any() and not (~closed & (mask > 0)).any()


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_filling_all_holes_equals_scipy(mask: np.ndarray) -> None:
    """A hole is background that is not 4-connected to the image border."""
    filled = cleanup.clean(mask, CleanUp(fill_holes="all"))
    assert np.array_equal(filled > 0, ndimage.binary_fill_holes(mask > 0))


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(0, 20))
def test_holes_up_to_a_size_are_filled(mask: np.ndarray, pixels: int) -> None:
    """Each hole is filled if it has at most that many pixels."""
    expected = mask > 0
    holes, count = ndimage.label(ndimage.binary_fill_holes(expected) & ~expected)
    for index in range(1, count + 1):
        if (holes == index).sum() <= pixels:
            expected = expected | (holes == index)
    assert np.array_equal(cleanup.fill_holes(mask, pixels) > 0, expected)


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(0, 40), st.integers(1, 4))
def test_components_are_kept_by_size(mask: np.ndarray, pixels: int, count: int) -> None:
    """Against scipy's labels: components are 8-connected, an area equal to the limit stays, the upper of a tie wins."""
    labels, number = ndimage.label(mask, EIGHT)
    sizes = ndimage.sum_labels(mask > 0, labels, range(1, number + 1))
    large = np.isin(labels, 1 + np.flatnonzero(sizes >= pixels))
    assert np.array_equal(cleanup.min_area(mask, pixels) > 0, large)
    kept, found = cleanup.keep_largest(mask, count) > 0, ndimage.find_objects(labels)
    order = sorted(range(number), key=lambda i: (-sizes[i], found[i][0].start, found[i][1].start))[:count]
    inside = [kept[labels == 1 + i].all() for i in range(number)]
    if len({(sizes[i], found[i][0].start, found[i][1].start) for i in range(number)}) == number:
        assert [i for i in range(number) if inside[i]] == sorted(order)
    assert sorted(sizes[i] for i in range(number) if inside[i]) == sorted(sizes[i] for i in order)
    assert not kept[labels == 0].any() and ndimage.label(kept, EIGHT)[1] == min(count, number)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(10, 150), st.integers(0, 100))
def test_peak_is_hysteresis(seed: int, low: int, more: int) -> None:
    """Keeps components that reach the peak: scikit-image's hysteresis, unless components touch at corners only."""
    levels = (ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 50)), 3) * 3 % 1 * 255).astype(np.uint8)
    weak, strong = levels > low, levels > low + more
    one = soft_maps.StoredMap(levels)
    ours = cleanup.reaching(one.cut(low / 255), one.cut((low + more) / 255)) > 0
    labels, count = ndimage.label(weak, EIGHT)
    assert np.array_equal(ours, np.isin(labels, np.unique(labels[strong])) & weak)
    if ndimage.label(weak)[1] == count:
        assert np.array_equal(ours, apply_hysteresis_threshold(levels, low, low + more))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 256))
def test_otsu_equals_scikit_image(seed: int, span: int) -> None:
    """Splits a map as well as scikit-image does. A map of one level gets an empty mask."""
    rng = np.random.default_rng(seed)
    levels = np.concatenate([rng.normal(60, 20, 500), rng.normal(180, 9, rng.integers(1, 500))]).clip(0, span - 1)
    one = soft_maps.StoredMap(levels.astype(np.uint8)[None])
    flat = soft_maps.StoredMap(np.full((1, 9), levels[0], np.uint8))
    assert not flat.cut(cleanup.otsu(histogram(flat.levels)) / 255).any()
    theirs = one.levels > threshold_otsu(one.levels)
    ours = one.cut(cleanup.otsu(histogram(one.levels)) / 255) > 0
    assert within(one.levels, ours) <= within(one.levels, theirs) * (1 + 1e-9)


def histogram(levels: np.ndarray) -> np.ndarray:
    """Counts the pixels of each of the 256 levels."""
    return np.bincount(levels.ravel(), minlength=256)


def within(levels: np.ndarray, mask: np.ndarray) -> float:
    """Returns the sum of squares within the two classes, which Otsu's threshold minimises."""
    sides = [levels[mask].astype(float), levels[~mask].astype(float)]
    return float(sum(((side - side.mean()) ** 2).sum() for side in sides if side.size))


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, (7, 13)), st.integers(0, 1000).map(lambda n: n / 10))
def test_a_percentile_equals_numpy(levels: np.ndarray, percent: float) -> None:
    """The threshold is numpy's percentile of the map. A saturated map keeps its highest level."""
    one = soft_maps.StoredMap(levels)
    limit = min(np.percentile(levels, percent, method="inverted_cdf"), 254) if percent else 0
    assert np.array_equal(one.cut(cleanup.percentile(histogram(levels), percent) / 255) > 0, levels > limit)


def test_a_feather_softens_the_edge_only() -> None:
    """Half on a straight edge, unchanged three radii away, monotone between."""
    mask = np.zeros((60, 200), np.uint8)
    mask[:, 100:] = 255
    row = cleanup.feather(mask, 10)[30].astype(int)
    assert row[70] == 0 and row[130] == 255 and (np.diff(row) >= 0).all() and abs(row[99] + row[100] - 255) <= 1
    assert cleanup.feather(mask, 0) is mask


@pytest.mark.parametrize("radius", [127.9, 200.0, 1e9, float("inf")])
def test_a_wide_feather_is_a_gaussian(radius: float) -> None:
    """Within three of 255 levels of scipy's filter. The radius is limited to the longer side."""
    mask = np.zeros((180, 240), np.uint8)
    mask[50:130, 80:170] = 255
    expected = ndimage.gaussian_filter(mask.astype(float), min(radius, 240) / 2, mode="nearest", truncate=3)
    assert np.abs(cleanup.feather(mask, radius) - expected).max() <= 3


def test_the_options_reach_the_masks(clipseg: Program, tmp_path: Path) -> None:
    """A run's masks equal its soft maps after the same steps in other libraries."""
    save(tmp_path / "imgs/a.jpg", picture(200, 150, 3))
    clipseg("clipseg segment imgs -p 'a red circle' -p red -f mask,soft -t otsu -t red=p90 --grow 4 --invert -o out")
    rows = records(tmp_path / "out/manifest.jsonl")[0]["masks"]
    for row, percent in zip(rows, (None, 90), strict=True):
        mask, soft = (cv2.imread(str(tmp_path / "out" / row[key]), cv2.IMREAD_UNCHANGED) for key in ("path", "soft"))
        # a saturated map keeps its highest level
        limit = min(np.percentile(soft, percent), 254) if percent else 255 * row["threshold"] + 1e-9
        assert np.array_equal(mask == 0, ndimage.binary_dilation(soft > limit, disc(4)))
        assert row["area"] == np.count_nonzero(mask)
    recorded = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    assert recorded["prompts"][1]["threshold"] == "p90" and recorded["grow"] == 4


@pytest.mark.parametrize("flags", ["--min-area x", "--min-area 101%", "--fill-holes some", "--open -1", "-t p101"])
def test_wrong_values_are_usage_errors(clipseg: Program, flags: str) -> None:
    """Exit 2 before any input is read, with the name of the option."""
    name = flags.split()[0].replace("-t", "--threshold")
    assert name in clipseg(f"clipseg segment nowhere -p x {flags}", expect=2).stderr
