"""`--orientation stored`: every output in the pixel frame of the file, for all eight EXIF orientations."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from clipseg_cli.inputs.orientation import VALUES, stored, upright
from output_folder import tree
from pictures import Program, picture, records

FORMATS = "mask,soft,soft16,labels,cutout,overlay,npz"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The same upright scene, without symmetry, in PNGs of every EXIF orientation."""
    scene = picture(150, 100)
    scene[:, :40] = (60, 80, 120)
    scene[70:, :] //= 2
    (tmp_path / "i").mkdir()
    for value in VALUES:
        exif = PIL.Image.Exif()
        exif[0x0112] = value
        PIL.Image.fromarray(np.ascontiguousarray(stored(scene, value))).save(tmp_path / f"i/{value}.png", exif=exif)
    return tmp_path / "i"


def pixels(path: Path) -> np.ndarray:
    """Returns the pixels of a PNG as they are stored."""
    with PIL.Image.open(path) as image:
        return np.array(image)


def test_stored_pixels_turned_upright_and_back_are_equal() -> None:
    """The two functions undo each other for every orientation."""
    array = np.arange(24).reshape(4, 6)
    for value in VALUES:
        assert np.array_equal(upright(stored(array, value), value), array)
        assert np.array_equal(stored(upright(array, value), value), array)


def test_masks_lie_in_the_frame_that_is_asked_for(clipseg: Program, photos: Path, tmp_path: Path) -> None:
    """A stored mask is the upright one, turned into the file's frame: its size, its box, its record say so."""
    clipseg(f"clipseg segment i -p 'a red circle' -f {FORMATS} -o up")
    clipseg(f"clipseg segment i -p 'a red circle' -f {FORMATS} --orientation stored -o raw")
    rows = [{row["image"]: row for row in records(tmp_path / out / "manifest.jsonl")} for out in ("up", "raw")]
    for value in VALUES:
        one, two = (found[f"i/{value}.png"] for found in rows)
        file = pixels(photos / f"{value}.png")
        assert one["orientation"] == two["orientation"] == value
        assert (one["width"], one["height"]) == (150, 100) and (two["height"], two["width"]) == file.shape[:2]
        for key in ("path", "soft", "soft16", "cutout"):
            first, second = (row["masks"][0][key] for row in (one, two))
            turned, given = stored(pixels(tmp_path / "up" / first), value), pixels(tmp_path / "raw" / second)
            if key == "cutout":  # along its edge, colours of equally near pixels may differ
                turned, given = turned[..., 3], given[..., 3]
            assert np.array_equal(given, turned)
        ys, xs = np.nonzero(pixels(tmp_path / "raw" / two["masks"][0]["path"]))
        assert two["masks"][0]["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert one["masks"][0]["area"] == two["masks"][0]["area"] == len(xs) > 0


def test_post_knows_the_frame_of_a_run(clipseg: Program, photos: Path, tmp_path: Path) -> None:
    """From either run, `post` makes either frame, as `segment` does."""
    for frame in ("upright", "stored"):
        clipseg(f"clipseg segment i -p red -f soft16,mask,overlay,cutout --orientation {frame} -o run-{frame}")
    for before in ("upright", "stored"):
        for frame in ("upright", "stored"):
            flags = f"-f mask,overlay,cutout --orientation {frame} --refine guided"
            clipseg(f"clipseg post run-{before} {flags} -o {before}-{frame}")
    for frame in ("upright", "stored"):
        one, two = (tree(tmp_path / f"{before}-{frame}") for before in ("upright", "stored"))
        images = [name for name in one if name.endswith((".png", ".jpg"))]
        assert len(images) == 24 and all(one[name] == two[name] for name in images)


def test_scores_and_report_know_the_frame(clipseg: Program, photos: Path, tmp_path: Path) -> None:
    """`eval` compares the masks of a stored run, turned upright, with upright ground truth. The report shows it."""
    clipseg("clipseg segment i -p red -f mask,soft -o up")
    clipseg("clipseg segment i -p red -f mask,soft --orientation stored -o raw --report")
    for run in ("up", "raw"):
        score = json.loads(clipseg(f"clipseg eval {run} up/masks --json").stdout)
        assert score["images"] == len(VALUES) and score["miou"] > 0.999
