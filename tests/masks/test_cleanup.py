"""Cleaning masks, held to scipy, scikit-image and plain loops."""

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
from clipseg_cli.run import finish
from clipseg_cli.settings.masks import CleanUp
from pictures import Shell, picture, records, save

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
    """All offsets within a radius."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(1, 9))
def test_growing_and_shrinking_are_morphology_with_a_disc(mask: np.ndarray, radius: int) -> None:
    """Against scipy's dilation and erosion; the frame neither adds to an object nor wears it away."""
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
def test_filling_all_holes_is_scipys(mask: np.ndarray) -> None:
    """A hole is ground that no path by sides joins to the frame."""
    filled = cleanup.clean(mask, CleanUp(fill_holes="all"))
    assert np.array_equal(filled > 0, ndimage.binary_fill_holes(mask > 0))


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(0, 20))
def test_filling_small_holes_counts_their_pixels(mask: np.ndarray, pixels: int) -> None:
    """Holes of at most so many pixels, one by one."""
    wanted = mask > 0
    holes, count = ndimage.label(ndimage.binary_fill_holes(wanted) & ~wanted)
    for index in range(1, count + 1):
        if (holes == index).sum() <= pixels:
            wanted = wanted | (holes == index)
    assert np.array_equal(cleanup.fill_holes(mask, pixels) > 0, wanted)


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(0, 40), st.integers(1, 4))
def test_small_parts_go_and_large_ones_stay(mask: np.ndarray, pixels: int, count: int) -> None:
    """Parts by size, against scipy's labels: corners join, an area on the limit stays, the higher of equals wins."""
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
    assert len(cleanup.parts(mask)) == number
    assert np.array_equal(sum(cleanup.parts(mask), np.zeros_like(mask)), mask)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(10, 150), st.integers(0, 100))
def test_peaks_are_hysteresis(seed: int, low: int, more: int) -> None:
    """Parts above the threshold that reach the peak: scikit-image's hysteresis where no two parts touch by corners."""
    levels = (ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 50)), 3) * 3 % 1 * 255).astype(np.uint8)
    weak, strong = levels > low, levels > low + more
    one = soft_maps.KeptMap(levels)
    ours = cleanup.reaching(one.cut(low / 255), one.cut((low + more) / 255)) > 0
    labels, by_corners = ndimage.label(weak, EIGHT)
    assert np.array_equal(ours, np.isin(labels, np.unique(labels[strong])) & weak)
    if ndimage.label(weak)[1] == by_corners:
        assert np.array_equal(ours, apply_hysteresis_threshold(levels, low, low + more))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 256))
def test_otsu_is_scikit_images(seed: int, span: int) -> None:
    """The same split of the same map, and a map of one level has an empty mask."""
    rng = np.random.default_rng(seed)
    levels = np.concatenate([rng.normal(60, 20, 500), rng.normal(180, 9, rng.integers(1, 500))]).clip(0, span - 1)
    one = soft_maps.KeptMap(levels.astype(np.uint8)[None])
    flat = soft_maps.KeptMap(np.full((1, 9), levels[0], np.uint8))
    assert not flat.cut(finish.chosen("otsu", flat)).any()
    theirs = one.levels > threshold_otsu(one.levels)
    between = [within(one.levels, one.levels > 0 if mask is None else mask) for mask in (theirs,)]
    ours = one.cut(finish.chosen("otsu", one)) > 0
    assert within(one.levels, ours) <= between[0] * (1 + 1e-9)


def within(levels: np.ndarray, mask: np.ndarray) -> float:
    """What Otsu's threshold minimises: the sum of squares within the two sides."""
    sides = [levels[mask].astype(float), levels[~mask].astype(float)]
    return float(sum(((side - side.mean()) ** 2).sum() for side in sides if side.size))


@settings(deadline=None, max_examples=60)
@given(arrays.arrays(np.uint8, (7, 13)), st.integers(0, 1000).map(lambda n: n / 10))
def test_a_percentile_leaves_the_share_above_it(levels: np.ndarray, percent: float) -> None:
    """numpy's own percentile of the map; a map full of the highest level keeps it."""
    one = soft_maps.KeptMap(levels)
    limit = min(np.percentile(levels, percent, method="inverted_cdf"), 254) if percent else 0
    assert np.array_equal(one.cut(finish.chosen(f"p{percent}", one)) > 0, levels > limit)


def test_a_feather_is_soft_on_the_edge_and_hard_beyond_it() -> None:
    """Half way on a straight edge, untouched three radii away, monotone between."""
    mask = np.zeros((60, 200), np.uint8)
    mask[:, 100:] = 255
    row = cleanup.feather(mask, 10)[30].astype(int)
    assert row[70] == 0 and row[130] == 255 and (np.diff(row) >= 0).all() and abs(row[99] + row[100] - 255) <= 1
    assert cleanup.feather(mask, 0) is mask


@pytest.mark.parametrize("radius", [127.9, 200.0, 1e9, float("inf")])
def test_a_wide_feather_is_a_wide_gaussian(radius: float) -> None:
    """Against scipy's, to three levels of 255; wider than the picture it is one of its longer side, and costs no
    more."""
    mask = np.zeros((180, 240), np.uint8)
    mask[50:130, 80:170] = 255
    wanted = ndimage.gaussian_filter(mask.astype(float), min(radius, 240) / 2, mode="nearest", truncate=3)
    assert np.abs(cleanup.feather(mask, radius) - wanted).max() <= 3


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_sixteen_bits_hold_the_eight(seed: int) -> None:
    """The soft map of a 16-bit soft map is the soft map, to the bit, and both are the rounded probability."""
    logits = np.random.default_rng(seed).normal(0, 5, (40, 40)).astype(np.float32)
    logits.flat[:255], logits.flat[255:510] = soft_maps.EDGES[1:256], np.nextafter(soft_maps.EDGES[1:256], -np.inf)
    fine = soft_maps.fine(logits)
    assert np.array_equal(soft_maps.coarse(fine), soft_maps.soft(logits))
    assert np.abs(fine - 65535 / (1 + np.exp(-logits.astype(np.float64)))).max() < 0.51
    assert np.array_equal(soft_maps.KeptMap(fine).soft(), soft_maps.LogitMap(logits).soft())


def test_the_flags_reach_the_masks(shell: Shell, tmp_path: Path) -> None:
    """Options on a real shell line, against the same done to the soft map by other libraries."""
    save(tmp_path / "imgs/a.jpg", picture(200, 150, 3))
    shell("clipseg segment imgs -p 'a red circle' -p red -f mask,soft -t otsu -t red=p90 --grow 4 --invert -o out")
    rows = records(tmp_path / "out/manifest.jsonl")[0]["masks"]
    for row, percent in zip(rows, (None, 90), strict=True):
        mask, soft = (cv2.imread(str(tmp_path / "out" / row[key]), cv2.IMREAD_UNCHANGED) for key in ("path", "soft"))
        # a saturated map keeps its highest level
        limit = min(np.percentile(soft, percent), 254) if percent else 255 * row["threshold"] + 1e-9
        assert np.array_equal(mask == 0, ndimage.binary_dilation(soft > limit, disc(4)))
        assert row["area"] == np.count_nonzero(mask)
    kept = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    assert kept["prompts"][1]["threshold"] == "p90" and kept["clean"]["grow"] == 4


@pytest.mark.parametrize("flags", ["--min-area x", "--min-area 101%", "--fill-holes some", "--open -1", "-t p101"])
def test_wrong_values_are_usage_errors(shell: Shell, flags: str) -> None:
    """Exit 2 before anything is read, with the flag's name."""
    assert (
        flags.split()[0].split("=")[0].replace("-t", "--threshold")
        in shell(f"clipseg segment nowhere -p x {flags}", expect=2).stderr
    )
