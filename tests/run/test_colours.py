"""Colours and metadata through whole runs: `segment`, `oneshot` and `post` write the same cutouts and overlays."""

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

import icc
from clipseg_cli.inputs.orientation import stored
from output_folder import tree
from pictures import Program, picture, records

P3 = icc.profile("Display P3")


@pytest.fixture
def photos(tmp_path: Path) -> np.ndarray:
    """A photo of Display P3 that is stored turned, and a PNG of 16 bits; returns the pixels of the latter."""
    (tmp_path / "i").mkdir()
    exif = PIL.Image.Exif()
    exif[0x0112], exif[271] = 6, "Acme"
    turned = PIL.Image.fromarray(np.ascontiguousarray(stored(picture(150, 100), 6)))
    turned.save(tmp_path / "i/phone.jpg", quality=100, subsampling=0, icc_profile=P3, exif=exif)
    deep = picture(150, 100).astype(np.uint16) * 257 - np.uint16(3)
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    chunk = b"iCCP" + b"x\0\0" + zlib.compress(P3)
    made = len(chunk[4:]).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "i/deep.png").write_bytes(data[:33] + made + data[33:])
    return deep


def inside(path: Path) -> np.ndarray:
    """Returns the pixels of a mask that are far from its edge."""
    with PIL.Image.open(path) as mask:
        found = cv2.distanceTransform(np.array(mask), cv2.DIST_L2, 5) > 3
    assert found.any()
    return found


def test_cutouts_have_the_pixels_and_the_profile_of_the_photo(
    clipseg: Program, photos: np.ndarray, tmp_path: Path
) -> None:
    """Upright, in 8 and in 16 bits. EXIF is kept; `post` writes the same bytes; `oneshot` too has the profile."""
    clipseg("clipseg segment i -p 'a red circle' -f mask,cutout,overlay,soft -o out")
    clipseg("clipseg post out -f mask,cutout,overlay -o again")
    one, two = tree(tmp_path / "out"), tree(tmp_path / "again")
    shared = [name for name in two if name.endswith((".png", ".jpg"))]
    assert len(shared) == 6 and all(one[name] == two[name] for name in shared)
    with PIL.Image.open(tmp_path / "i/phone.jpg") as file:
        upright = np.rot90(np.array(file), -1)
    deep = inside(tmp_path / "out/masks/a-red-circle/phone.png")
    with PIL.Image.open(io.BytesIO(one["cutouts/a-red-circle/phone.png"])) as cutout:
        assert np.array_equal(np.array(cutout)[deep][:, :3], upright[deep])
        assert cutout.info["icc_profile"] == P3 and cutout.getexif()[271] == "Acme" and cutout.getexif()[0x0112] == 1
    with PIL.Image.open(io.BytesIO(one["overlays/phone.jpg"])) as overlay:
        assert overlay.info["icc_profile"] == P3 and not overlay.getexif()
    deep = inside(tmp_path / "out/masks/a-red-circle/deep.png")
    data = np.frombuffer(one["cutouts/a-red-circle/deep.png"], np.uint8)
    assert np.array_equal(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)[deep][:, 2::-1], photos[deep])
    clipseg("clipseg oneshot i --support i/phone.jpg --support-prompt 'a red circle' -f cutout -o shown")
    (path,) = (tmp_path / "shown/cutouts").rglob("phone.png")
    with PIL.Image.open(path) as cutout:
        assert cutout.info["icc_profile"] == P3 and cutout.getexif()[271] == "Acme"


def test_options_decide_what_is_kept_and_in_which_format(clipseg: Program, photos: np.ndarray, tmp_path: Path) -> None:
    """`--metadata strip`, a WebP by `--name`, and the frame of the file with its orientation."""
    words = "-p 'a red circle' -f cutout --name 'cutout={dir}/{stem}-{label}.webp'"
    clipseg(f"clipseg segment i {words} --orientation stored -o out")
    with PIL.Image.open(tmp_path / "out/phone-a-red-circle.webp") as cutout:
        assert cutout.size == (100, 150) and cutout.getexif()[0x0112] == 6 and cutout.info["icc_profile"] == P3
    clipseg(f"clipseg segment i {words} --metadata strip -o bare")
    with PIL.Image.open(tmp_path / "bare/phone-a-red-circle.webp") as cutout:
        assert cutout.size == (150, 100) and not cutout.getexif() and cutout.info["icc_profile"] == P3
    assert all(row["status"] == "ok" for row in records(tmp_path / "bare/manifest.jsonl"))


def test_a_file_that_is_replaced_before_it_is_read_again_is_noticed(
    clipseg: Program, photos: np.ndarray, tmp_path: Path
) -> None:
    """`post` never cuts a mask out of another photo."""
    clipseg("clipseg segment i/phone.jpg -p 'a red circle' -f soft -o out")
    PIL.Image.fromarray(picture(90, 70)).save(tmp_path / "i/phone.jpg")
    clipseg("clipseg post out -f cutout -o again", expect=3)
    (row,) = records(tmp_path / "again/manifest.jsonl")
    assert row["error"]["class"] == "changed"
