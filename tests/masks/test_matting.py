"""`--refine matting`: the opacity of edges and the object's own colours, on pictures whose opacity is known."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from clipseg_cli.masks import matting
from pictures import Shell, picture, save

COLOUR = np.array((214, 40, 40), np.float32)


def blurred_disc(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A photo of a disc with a soft edge on a mottled ground, its true opacity in [0, 1], a soft map as coarse as the
    network's, and its mask."""
    ground = np.random.default_rng(0).integers(60, 200, (9, 9, 3), dtype=np.uint8)
    ground = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32) * (0.4, 1, 1)
    disc = cv2.circle(np.zeros((height, width), np.float32), (width // 2, height // 2), min(width, height) // 4, 1, -1)
    true = cv2.GaussianBlur(disc, (0, 0), max(width, height) / 300)
    photo = np.rint(COLOUR * true[..., None] + ground * (1 - true[..., None])).astype(np.uint8)
    coarse = cv2.resize((255 * true).astype(np.uint8), (22, 22), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(coarse, (width, height))
    return photo, true, soft, np.where(soft > 76, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("size", [(320, 240), (2060, 1200)], ids=str)
def test_opacity_and_colours_are_the_true_ones(size: tuple[int, int]) -> None:
    """Where the edge mixes both, the opacity is within a tenth of the truth's in the mean, where the mask is far off,
    and the colours are the disc's, where the photo's are not; each time the same bits."""
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
def test_a_mask_without_an_edge_stays(size: tuple[int, int], level: int) -> None:
    """Nothing there, or nothing else, at any size."""
    photo, flat = picture(*size), np.full((size[1], size[0]), level, np.uint8)
    assert np.array_equal(matting.alpha(photo, flat, flat), flat)


def test_what_was_cleaned_away_leaves_no_ghost() -> None:
    """A part that clean-up removed has no opacity left, a hole that it filled is full, the rest keeps its edge."""
    cut, cleaned, opacity = (np.zeros((200, 400), np.uint8) for _ in range(3))
    for mask in (cut, cleaned):
        cv2.circle(mask, (100, 100), 40, 255, -1)
    cv2.circle(cut, (100, 100), 10, 0, -1)
    cv2.circle(cut, (330, 100), 20, 255, -1)
    opacity[:] = cv2.GaussianBlur(cut, (0, 0), 2)
    found = matting.limited(opacity, cut, cleaned)
    assert not found[:, 260:].any() and found[100, 100] == 255
    assert np.array_equal(found[50:150, 50:80], opacity[50:150, 50:80]) and 0 < found[100, 59] < 255


def test_cutouts_carry_the_opacity_and_masks_stay_hard(shell: Shell, tmp_path: Path) -> None:
    """`segment` and `post` write the same bytes: masks of 0 and 255, cutouts with levels between; stdout has paths."""
    save(tmp_path / "imgs/a.png", cv2.GaussianBlur(picture(240, 180), (0, 0), 2))
    flags = "--refine matting -f mask -f cutout --keep-largest 1"
    told = shell(f"clipseg segment imgs -p 'a red circle' -f soft {flags} -o run && clipseg post run {flags} -o again")
    assert {*told.stdout.splitlines()} <= {f"{out}/masks/a-red-circle/a.png" for out in ("run", "again")}
    for name in ("masks/a-red-circle/a.png", "cutouts/a-red-circle/a.png"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    mask = cv2.imread(str(tmp_path / "run/masks/a-red-circle/a.png"), cv2.IMREAD_UNCHANGED)
    alpha = cv2.imread(str(tmp_path / "run/cutouts/a-red-circle/a.png"), cv2.IMREAD_UNCHANGED)[..., 3]
    assert {*np.unique(mask)} <= {0, 255}
    assert np.array_equal(alpha > 127, mask > 0) and len(np.unique(alpha)) > 10


def test_without_the_extra_it_says_what_to_install() -> None:
    """A usage error before anything is read, with the pip line."""
    code = (
        "import sys; sys.modules['pymatting'] = None; sys.argv[0] = 'clipseg'\n"
        "from clipseg_cli.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "segment", "nowhere", "-p", "x", "--refine", "matting"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install 'clipseg-cli[matting]'" in done.stderr
