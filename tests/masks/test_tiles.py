"""Big pictures by tiles, mirrored looks, and other sizes of what the network sees."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipseg_cli.masks import soft_maps, tiles
from clipseg_cli.model.segmenter import Segmenter
from pictures import Shell, iou, picture, save


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 6), st.booleans())
def test_the_views_cover_the_picture(height: int, width: int, count: int, flip: bool) -> None:
    """The whole comes first; tiles lie inside, overlap, leave no pixel out, and are as many as asked for along the
    longer side; mirroring doubles everything."""
    seen = tiles.views(height, width, count, flip)
    assert (seen[0].height, seen[0].width) == (height, width)
    upright = [view for view in seen if not view.flipped]
    assert len(seen) == len(upright) * (2 if flip else 1)
    rest = upright[1:]
    assert bool(rest) == (count > 1)
    covered = np.zeros((height, width), bool)
    for view in rest:
        assert view.height > 0 and view.width > 0 and view.top >= 0 and view.left >= 0
        assert view.top + view.height <= height and view.left + view.width <= width
        covered[view.top : view.top + view.height, view.left : view.left + view.width] = True
    assert covered.all() or not rest
    if max(height, width) > 50 * count and rest:
        along = {view.top if height > width else view.left for view in rest}
        assert len(along) == count


@pytest.mark.parametrize("size", [(900, 1200), (1200, 900), (300, 3000), (7, 5)])
def test_what_all_views_agree_on_is_what_comes_out(size: tuple[int, int]) -> None:
    """Maps that are each the view's own part of one smooth field join to that field, mirrored looks included."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    field = (3 * x - 2 * y).astype(np.float32)
    seen = tiles.views(*size, 3, True)
    maps = []
    for view in seen:
        part = field[view.top : view.top + view.height, view.left : view.left + view.width]
        small = cv2.resize(part[:, ::-1] if view.flipped else part, (64, 64), interpolation=cv2.INTER_AREA)
        maps.append(np.stack([small, -small]))
    found = tiles.joined(seen, maps)
    large = soft_maps.upsample(found[0], *size)
    assert np.array_equal(found[0], -found[1])
    np.testing.assert_allclose(large, field, atol=0.08 if min(size) > 100 else 0.6)


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (1, 5)])
def test_the_narrowest_views_are_arrays_like_any_other(size: tuple[int, int]) -> None:
    """A mirrored column runs forwards in memory: torch takes no other."""
    pixels = picture(*reversed(size))
    for view in tiles.views(*size, 3, True):
        one = view.of(pixels)
        box = pixels[view.top : view.top + view.height, view.left : view.left + view.width]
        assert min(one.strides) > 0 and np.array_equal(one[:, ::-1] if view.flipped else one, box)


def test_one_look_is_the_map_itself() -> None:
    """Without tiles and mirror not a bit changes; with mirror alone, the mean of both looks."""
    one, other = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    assert np.array_equal(tiles.joined(tiles.views(40, 50, 1, False), [one]), one)
    both = tiles.joined(tiles.views(40, 50, 1, True), [one, other])
    np.testing.assert_allclose(both, (one + other[..., ::-1]) / 2, atol=1e-6)


def test_tiles_find_what_the_whole_picture_is_too_small_for(shell: Shell, tmp_path: Path) -> None:
    """A disc of a 20th of the picture's width: its mask is better with --tile and --flip; the options are in run.json,
    and the batch does not change the bits."""
    ground = picture(1600, 1200, 4)
    ground[:] = np.median(ground.reshape(-1, 3), 0)
    truth = cv2.circle(np.zeros((1200, 1600), np.uint8), (420, 380), 40, 255, -1)
    ground[truth > 0] = (214, 40, 40)
    save(tmp_path / "imgs/a.png", ground)
    shell("clipseg segment imgs -p 'a red circle' -f mask -o plain")
    shell("clipseg segment imgs -p 'a red circle' -f mask --tile 3 --flip -b 2 -o tiled")
    plain, tiled = (cv2.imread(str(tmp_path / out / "masks/a-red-circle/a.png"), 0) for out in ("plain", "tiled"))
    assert iou(tiled, truth) > max(0.8, iou(plain, truth))
    kept = json.loads((tmp_path / "tiled/run.json").read_text())["settings"]
    assert kept["tile"] == 3 and kept["flip"] is True
    assert "try 96" in shell("clipseg segment imgs -p x --size 100", expect=2).stderr


def test_another_size_is_what_the_network_sees(shell: Shell, tmp_path: Path) -> None:
    """--size 96: the map is that of a network loaded for 96 pixels, enlarged to the picture."""
    image = picture(200, 150)
    save(tmp_path / "imgs/a.png", image)
    shell("clipseg segment imgs -p 'a red circle' -f soft --size 96 --dtype fp32 --device cpu -o small")
    segmenter = Segmenter.load("shapes", device="cpu", dtype="fp32", size=96)
    logits = segmenter.logits(segmenter.encode([image]), segmenter.embed(["a red circle"]))[0, 0]
    assert logits.shape == (96, 96)
    expected = soft_maps.soft(soft_maps.upsample(logits, 150, 200)).astype(int)
    found = cv2.imread(str(tmp_path / "small/soft/a-red-circle/a.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(found - expected).max() <= 1
    assert json.loads((tmp_path / "small/run.json").read_text())["settings"]["size"] == 96
