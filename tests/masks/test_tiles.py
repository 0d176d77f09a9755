"""Tiles, mirrored views, and other input sizes of the network."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipseg_cli.masks import soft_maps, tiles
from clipseg_cli.model.segmenter import Segmenter
from pictures import Program, iou, picture, save


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 6), st.booleans())
def test_the_views_cover_the_image(height: int, width: int, count: int, flip: bool) -> None:
    """The whole image comes first. Tiles lie inside it, leave no pixel out, and their number along the longer side is
    the given one. `flip` doubles the views."""
    views = tiles.views(height, width, count, flip)
    assert (views[0].height, views[0].width) == (height, width)
    upright = [view for view in views if not view.flipped]
    assert len(views) == len(upright) * (2 if flip else 1)
    grid = upright[1:]
    assert bool(grid) == (count > 1)
    covered = np.zeros((height, width), bool)
    for view in grid:
        assert view.height > 0 and view.width > 0 and view.top >= 0 and view.left >= 0
        assert view.top + view.height <= height and view.left + view.width <= width
        covered[view.top : view.top + view.height, view.left : view.left + view.width] = True
    assert covered.all() or not grid
    if max(height, width) > 50 * count and grid:
        along = {view.top if height > width else view.left for view in grid}
        assert len(along) == count


@pytest.mark.parametrize("size", [(900, 1200), (1200, 900), (300, 3000), (7, 5)])
def test_views_of_one_field_join_to_that_field(size: tuple[int, int]) -> None:
    """If each view's map is its crop of one smooth field, the joined map is that field. Views are mirrored too."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    field = (3 * x - 2 * y).astype(np.float32)
    views = tiles.views(*size, 3, True)
    maps = []
    for view in views:
        crop = field[view.top : view.top + view.height, view.left : view.left + view.width]
        small = cv2.resize(crop[:, ::-1] if view.flipped else crop, (64, 64), interpolation=cv2.INTER_AREA)
        maps.append(np.stack([small, -small]))
    joined = tiles.joined(views, maps, *size)
    large = soft_maps.upsample(joined[0], *size)
    assert np.array_equal(joined[0], -joined[1])
    np.testing.assert_allclose(large, field, atol=0.08 if min(size) > 100 else 0.6)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 700), st.booleans())
def test_windows_have_their_size(height: int, width: int, side: int, flip: bool) -> None:
    """Windows of one size cover the image, row by row, and overlap by a quarter or more. There is no other view."""
    upright = tiles.views(height, width, 1, flip, side)[:: 1 + flip]
    assert {(view.height, view.width) for view in upright} == {(min(height, side), min(width, side))}
    assert sorted(upright, key=lambda view: (view.top, view.left)) == list(upright)
    for starts, length in (({view.top for view in upright}, height), ({view.left for view in upright}, width)):
        places = sorted(starts)
        assert places[0] == 0 and places[-1] == max(0, length - side)
        assert all(after - before <= 0.75 * side + 1 for before, after in itertools.pairwise(places))


@settings(deadline=None, max_examples=40)
@given(st.integers(40, 900), st.integers(40, 900), st.integers(32, 300), st.sampled_from([16, 64]), st.data())
def test_rows_are_blended_as_the_whole(height: int, width: int, side: int, map_side: int, data: st.DataObject) -> None:
    """From any row on, the blocks of rows are those of the joined map, bit for bit, from the tiles that have these."""
    views, random = tiles.views(height, width, 1, False, side), np.random.default_rng(0)
    maps = [random.normal(size=(2, map_side, map_side)).astype(np.float32) for _ in views]
    scale = tiles.Scale.of(views[0], map_side, height, width)
    pairs = list(zip(views, maps, strict=True))
    whole = np.concatenate([*tiles.blended(pairs, scale, 2)], axis=1)
    assert whole.shape == (2, scale.height, scale.width) and (whole > tiles.NOTHING).all()
    start = data.draw(st.integers(0, scale.height - 1))
    needed = [pair for pair in pairs if scale.span(pair[0].top, pair[0].height)[1] > start]
    rest = np.concatenate([*tiles.blended(needed, scale, 2, start)], axis=1)
    assert np.array_equal(rest, whole[:, start:])


def test_windows_without_data_are_left_out() -> None:
    """Windows that show only pixels without data, also around them, are not seen; of an image without any, one is."""
    views, clear = tiles.views(1000, 1000, 1, True, 256), np.zeros((1000, 1000), bool)
    assert tiles.seen(views, None) == tiles.seen(views, clear) == views
    clear[:600] = True
    left = tiles.seen(views, clear)
    assert {view for view in views if view.top + view.height + view.margin > 600} == {*left}
    assert tiles.seen(views, clear | True) == views[:1]
    seen = [(view, np.ones((1, 64, 64), np.float32)) for view in left[::2]]
    joined = np.concatenate([*tiles.blended(seen, tiles.Scale.of(views[0], 64, 1000, 1000), 1)], axis=1)[0]
    large = soft_maps.upsample(joined, 1000, 1000)
    assert (large[600:] == 1).all() and (large[:100] == tiles.NOTHING).all()


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (1, 5)])
def test_the_narrowest_views_have_positive_strides(size: tuple[int, int]) -> None:
    """torch refuses arrays with negative strides, also for a mirrored column."""
    pixels = picture(*reversed(size))
    for view in tiles.views(*size, 3, True):
        one = view.of(pixels)
        box = pixels[view.top : view.top + view.height, view.left : view.left + view.width]
        assert min(one.strides) > 0 and np.array_equal(one[:, ::-1] if view.flipped else one, box)


def test_a_single_view_keeps_its_map() -> None:
    """Without tiles and `flip` the map does not change. With `flip` alone it is the mean of both views."""
    one, other = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    assert np.array_equal(tiles.joined(tiles.views(40, 50, 1, False), [one], 40, 50), one)
    both = tiles.joined(tiles.views(40, 50, 1, True), [one, other], 40, 50)
    np.testing.assert_allclose(both, (one + other[..., ::-1]) / 2, atol=1e-6)


def test_tiles_segment_small_objects_better(clipseg: Program, tmp_path: Path) -> None:
    """The mask of a disc of a 20th of the image's width is better with --tile and --flip. run.json has both options."""
    image = picture(1600, 1200, 4)
    image[:] = np.median(image.reshape(-1, 3), 0)
    disc = cv2.circle(np.zeros((1200, 1600), np.uint8), (420, 380), 40, 255, -1)
    image[disc > 0] = (214, 40, 40)
    save(tmp_path / "imgs/a.png", image)
    clipseg("clipseg segment imgs -p 'a red circle' -f mask -o plain")
    clipseg("clipseg segment imgs -p 'a red circle' -f mask --tile 3 --flip -b 2 -o tiled")
    plain, tiled = (cv2.imread(str(tmp_path / out / "masks/a-red-circle/a.png"), 0) for out in ("plain", "tiled"))
    assert iou(tiled, disc) > max(0.8, iou(plain, disc))
    recorded = json.loads((tmp_path / "tiled/run.json").read_text())["settings"]
    assert recorded["tile"] == 3 and recorded["flip"] is True
    assert "try 96" in clipseg("clipseg segment imgs -p x --size 100", expect=2).stderr


def test_size_sets_the_input_size_of_the_network(clipseg: Program, tmp_path: Path) -> None:
    """With --size 96 the soft map is that of a network loaded for 96 pixels, resized to the image."""
    image = picture(200, 150)
    save(tmp_path / "imgs/a.png", image)
    clipseg("clipseg segment imgs -p 'a red circle' -f soft --size 96 --dtype fp32 --device cpu -o small")
    segmenter = Segmenter.load("shapes", device="cpu", dtype="fp32", size=96)
    logits = segmenter.logits(segmenter.encode([image]), segmenter.embed(["a red circle"]))[0, 0]
    assert logits.shape == (96, 96)
    expected = soft_maps.soft(soft_maps.upsample(logits, 150, 200)).astype(int)
    found = cv2.imread(str(tmp_path / "small/soft/a-red-circle/a.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(found - expected).max() <= 1
    assert json.loads((tmp_path / "small/run.json").read_text())["settings"]["size"] == 96
