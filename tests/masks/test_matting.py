"""Matting: opacity and colours along edges, on images of known opacity.

Tests that solve for opacity are slow: numba compiles pymatting when it is first imported, which takes a minute or more.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from clipseg_cli.masks import matting
from clipseg_cli.outputs import drawing
from pictures import Program, picture, save
from shapes import fringes

COLOUR = np.array((214, 40, 40), np.float32)


def blurred_disc(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns a photo of a disc with a soft edge, its true opacity in [0, 1], a soft map as coarse as the network's,
    and the mask of that map."""
    ground = np.random.default_rng(0).integers(60, 200, (9, 9, 3), dtype=np.uint8)
    ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32) * (0.4, 1, 1)
    disc = cv2.circle(np.zeros((height, width), np.float32), (width // 2, height // 2), min(width, height) // 4, 1, -1)
    true = cv2.GaussianBlur(disc, (0, 0), max(width, height) / 300)
    photo = np.rint(COLOUR * true[..., None] + ground * (1 - true[..., None])).astype(np.uint8)
    coarse = cv2.resize((255 * true).astype(np.uint8), (22, 22), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(coarse, (width, height))
    return photo, true, soft, np.where(soft > 76, 255, 0).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(320, 240), (2060, 1200)], ids=str)
def test_opacity_and_colours_match_the_ground_truth(size: tuple[int, int]) -> None:
    """Along the edge, the mean error of the opacity is under 0.1, and the colours are the disc's, unlike the mask's and
    the photo's. Two calls give the same bits."""
    photo, true, soft, mask = blurred_disc(*size)
    alpha = matting.alpha(photo, soft, mask)
    edge = (true > 0.02) & (true < 0.98)
    assert np.abs(alpha / 255 - true)[edge].mean() < 0.1 < np.abs(mask / 255 - true)[edge].mean()
    assert np.abs(alpha / 255 - true).mean() < 0.01
    colours = matting.foreground(photo, alpha)
    mixed = (true > 0.2) & (true < 0.9)
    assert np.abs(colours - COLOUR)[mixed].mean() < 15 < np.abs(photo - COLOUR)[mixed].mean()
    assert np.array_equal(colours[alpha == 255], photo[alpha == 255])
    assert np.array_equal(alpha, matting.alpha(photo, soft, mask))
    assert np.array_equal(colours, matting.foreground(photo, alpha))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (60, 40)], ids=str)
@pytest.mark.parametrize("level", [0, 255])
def test_a_mask_without_an_edge_does_not_change(size: tuple[int, int], level: int) -> None:
    """An empty or a full mask is its own opacity, at any size."""
    photo, flat = picture(*size), np.full((size[1], size[0]), level, np.uint8)
    assert np.array_equal(matting.alpha(photo, flat, flat), flat)


def test_a_trimap_is_unknown_along_the_edge() -> None:
    """A band around the edge is unknown; so is an uncertain soft map near it, but not one far away."""
    _, true, soft, mask = blurred_disc(600, 400)
    regions = matting.trimap(soft, mask)
    assert {*np.unique(regions)} == {0, 0.5, 1}
    assert regions[200, 300] == 1 and not regions[:20].any()
    assert (regions[(true > 0.02) & (true < 0.98)] == 0.5).all()
    soft[0, 0], soft[200, 300] = 128, 128
    assert np.array_equal(matting.trimap(soft, mask), regions)


def test_opacity_follows_the_clean_up() -> None:
    """A removed component has opacity 0, a filled hole 255; other edges keep their opacity."""
    cut, cleaned, opacity = (np.zeros((200, 400), np.uint8) for _ in range(3))
    for mask in (cut, cleaned):
        cv2.circle(mask, (100, 100), 40, 255, -1)
    cv2.circle(cut, (100, 100), 10, 0, -1)
    cv2.circle(cut, (330, 100), 20, 255, -1)
    opacity[:] = cv2.GaussianBlur(cut, (0, 0), 2)
    found = matting.limited(opacity, cut, cleaned)
    assert not found[:, 260:].any() and found[100, 100] == 255
    assert np.array_equal(found[50:150, 50:80], opacity[50:150, 50:80]) and 0 < found[100, 59] < 255


@pytest.mark.slow
def test_cutouts_have_the_opacity_and_masks_stay_binary(clipseg: Program, tmp_path: Path) -> None:
    """`segment` and `post` write the same bytes: binary masks, cutouts with partial opacity. stdout has only paths."""
    save(tmp_path / "imgs/a.png", cv2.GaussianBlur(picture(240, 180), (0, 0), 2))
    flags = "--refine matting -f mask -f cutout --keep-largest 1"
    paths = clipseg(f"clipseg segment imgs -p 'a red circle' -f soft {flags} -o run").stdout.splitlines()
    paths += clipseg(f"clipseg post run {flags} -o again").stdout.splitlines()
    assert {*paths} <= {f"{out}/masks/a-red-circle/a.png" for out in ("run", "again")}
    for name in ("masks/a-red-circle/a.png", "cutouts/a-red-circle/a.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    mask = cv2.imread(str(tmp_path / "run/masks/a-red-circle/a.png"), cv2.IMREAD_UNCHANGED)
    alpha = cv2.imread(str(tmp_path / "run/cutouts/a-red-circle/a.png"), cv2.IMREAD_UNCHANGED)[..., 3]
    assert {*np.unique(mask)} <= {0, 255}
    assert np.array_equal(alpha > 127, mask > 0) and len(np.unique(alpha)) > 10


def test_without_the_extra_the_error_says_what_to_install(clipseg: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """A usage error before any input is read, with the pip command."""
    monkeypatch.setitem(sys.modules, "pymatting", None)
    error = clipseg("clipseg segment nowhere -p x --refine matting", expect=2).stderr
    assert "pip install 'clipseg-cli[matting]'" in error


@pytest.mark.slow
@pytest.mark.parametrize("edge", fringes.EDGES)
def test_decontaminated_edges_have_the_colours_of_the_object(edge: str) -> None:
    """Of hard masks too, also where the camera has blurred or sharpened the edge: hardly any old background is left."""
    scenes = [fringes.scene(seed, *fringes.EDGES[edge]) for seed in (0, 1)]
    hard, known = ([of(each) for each in scenes] for of in (fringes.by_mask, fringes.by_opacity))
    for found, share in ((hard, 0.65), (known, 0.65 if edge == "sharpened" else 0.3)):
        wrong, left = (np.mean([each[name] for each in found]) for name in ("photo", "decontaminate"))
        assert left < share * wrong
    if "blurred" in edge:
        assert np.mean([each["decontaminate"] for each in hard]) < np.mean([each["default"] for each in hard])


@pytest.mark.slow
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_decontaminated_cutouts_have_colours_beyond_their_edge(depth: type) -> None:
    """So that programs that scale them blend no black in; further away they are black. Any mask will do: a thin line,
    a single pixel, the whole image, nothing. 16 bits stay 16."""
    photo = picture(60, 40).astype(depth) * (257 if depth is np.uint16 else 1)
    nothing, point, line, whole = (0, 0), (1, 1), (1, 60), (40, 60)
    for height, width in (nothing, point, line, whole):
        mask = np.zeros((40, 60), np.uint8)
        mask[40 - height :, 60 - width :] = 255
        rgba = drawing.cutout(photo, mask, mask, estimated=True)
        assert rgba.dtype == depth and np.array_equal(rgba[..., 3] > 0, mask > 0)
        near = cv2.dilate(mask, np.ones((17, 17))) > 0
        assert not rgba[~near].any() and rgba[near][:, :3].any() == mask.any()
