"""One file in place of a folder: its suffix is what it contains, and no mask is ever stored lossy."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.outputs.writers import WRITERS, one_file, pixels
from clipseg_cli.outputs.writers.one_file import FITTING, OneFile, choose, is_file
from clipseg_cli.settings.outputs import ExportOptions
from mask_shapes import MASKS, read_coco, result, ring

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # by pycocotools

PLAIN = ExportOptions()
PAIRS = [(form, suffix) for form, fitting in FITTING.items() for suffix in fitting]
KINDS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".pgm": "PPM", ".ppm": "PPM"}


def content(form: Any, suffix: str, image: Any) -> bytes:
    """The bytes of one file."""
    ((path, _, data),) = one_file.write(OneFile(f"out{suffix}", form, suffix), "sub/a", image)
    assert path == f"out{suffix}"
    return data


@pytest.mark.parametrize(
    ("out", "file"),
    [
        *((name, True) for name in ("-", "a.png", "a.JPG", "a.tif", "s3://bucket/a.npy", "a.bmp", "a.mp4")),
        *((name, False) for name in ("a", "run.v2", "a.tif/", ".png", "s3://bucket/a")),
    ],
)
def test_a_name_with_a_suffix_of_files_is_a_file(out: str, file: bool, tmp_path: Path) -> None:
    """Also if it cannot be written, so that no folder is called a.bmp. A slash at the end, or a folder of that name,
    makes it a folder."""
    assert is_file(out) == file
    (tmp_path / "b.png").mkdir()
    assert not is_file(str(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("out", "formats", "chosen"),
    [
        ("-", (), ("mask", ".png")),
        ("-", ("coco",), ("coco", ".json")),
        ("a.PNG", (), ("mask", ".png")),
        ("a.webp", (), ("mask", ".webp")),
        ("a.tiff", (), ("mask", ".tif")),
        ("a.jpeg", (), ("overlay", ".jpg")),
        ("a.npy", (), ("mask", ".npy")),
        ("a.npz", (), ("npz", ".npz")),
        ("a.json", (), ("coco", ".json")),
        ("a.json", ("labelme",), ("labelme", ".json")),
        ("a.xml", (), ("cvat", ".xml")),
        ("a.gpkg", (), ("gpkg", ".gpkg")),
        ("a.svg", (), ("svg", ".svg")),
        ("a.png", ("overlay",), ("overlay", ".png")),
        ("a.png", ("soft16",), ("soft16", ".png")),
        ("a.pgm", (), ("mask", ".pgm")),
        ("a.ppm", (), ("overlay", ".ppm")),
    ],
)
def test_the_suffix_decides_the_format(out: str, formats: Any, chosen: tuple[Any, str]) -> None:
    """Or, with -f, only how it is encoded. On stdout each format has its usual encoding."""
    assert choose(out, formats, 1, PLAIN) == OneFile(out, *chosen)
    assert choose("folder", formats, 1, PLAIN) is None


@pytest.mark.parametrize(
    ("out", "formats", "message"),
    [
        ("a.jpg", ("mask",), "a mask is never stored lossy; use .png, .tif, .webp, .npy"),
        ("a.jpg", ("soft",), "-f soft is never stored lossy; use .png"),
        ("a.jpg", ("labels",), "never stored lossy; use .png, .tif, .npy"),
        ("a.jpg", ("cutout",), "add --backdrop"),
        ("a.webp", ("soft16",), "-f soft16 cannot be written as .webp; use .png, .tif, .npy"),
        ("a.npy", ("overlay",), "use .jpg, .png"),
        ("a.png", ("coco",), "use .json"),
        ("a.gif", (), ".gif cannot be written; use .*.png.*slash for a folder"),
        ("a.txt", ("yolo",), "more than one file; name a folder"),
        ("-", ("webdataset",), "more than one file; name a folder"),
        ("a.png", ("mask", "overlay"), "takes one format"),
    ],
)
def test_what_does_not_fit_is_refused(out: str, formats: Any, message: str) -> None:
    """The message names the suffixes that fit, or says that a folder does."""
    with pytest.raises(UsageError, match=message):
        choose(out, formats, 1, PLAIN)


def test_a_file_holds_all_labels_or_is_refused() -> None:
    """A mask, a soft map and a cutout hold one label each; the other formats hold them all."""
    for form, fitting in FITTING.items():
        if form in one_file.ONE_LABEL:
            with pytest.raises(UsageError, match="of one prompt, but there are 2"):
                choose(f"a{fitting[0]}", (form,), 2, PLAIN)
        else:
            assert choose(f"a{fitting[0]}", (form,), 2, PLAIN) is not None


def test_stdout_may_name_a_suffix() -> None:
    """It says how the outputs are encoded. What does not fit is refused as for a file. A file may have such a name."""
    assert choose("-.ppm", (), 1, PLAIN) == OneFile("-", "overlay", ".ppm")
    assert choose("-.PGM", ("soft16",), 1, PLAIN) == OneFile("-", "soft16", ".pgm")
    assert choose("-.png", ("overlay",), 1, PLAIN) == OneFile("-", "overlay", ".png")
    assert choose("./-.png", (), 1, PLAIN) == OneFile("./-.png", "mask", ".png")
    for out, form in (("-.jpg", "mask"), ("-.ppm", "mask"), ("-.ppm", "cutout"), ("-.mp4", "mask")):
        with pytest.raises(UsageError, match=f"-o {out}"):
            choose(out, (form,), 1, PLAIN)  # type: ignore[arg-type]


def test_a_cutout_on_a_backdrop_may_be_opaque() -> None:
    """It has no transparency to lose."""
    assert choose("-.ppm", ("cutout",), 1, ExportOptions(backdrop=(255, 255, 255))) is not None
    assert choose("a.jpg", ("cutout",), 1, ExportOptions(backdrop=(255, 255, 255))) is not None
    image = Image.open(io.BytesIO(content("cutout", ".jpg", result(ring(), backdrop=(255, 255, 255)))))
    assert image.format == "JPEG" and min(image.getpixel((0, 0))) > 250  # type: ignore[type-var, arg-type]


@pytest.mark.parametrize(("form", "suffix"), [pair for pair in PAIRS if pair[1] in (*KINDS, ".npy")])
def test_a_file_is_what_its_suffix_says_and_holds_the_values(form: Any, suffix: str) -> None:
    """Read by Pillow or numpy: the values of the PNG in a folder. A lossy overlay is close to the drawn one, any other
    equals it."""
    image = replace(result(ring(), apart=True), index=ring() // 255)
    data = content(form, suffix, image)
    if suffix == ".npy":
        array = np.load(io.BytesIO(data), allow_pickle=False)
    else:
        opened = Image.open(io.BytesIO(data))
        assert opened.format == KINDS[suffix]
        array = np.array(opened)
        if suffix == ".pgm" and form in ("soft16", "instances"):
            array = array.astype(np.uint16)  # Pillow opens a PGM of 16 bits as int32
    ((_, _, usual),) = WRITERS[form]("a", image)
    expected = pixels.overlay(image) if form == "overlay" else np.array(Image.open(io.BytesIO(usual)))
    if suffix == ".webp" and expected.ndim == 2:
        array = array[..., 0]
    assert array.dtype == expected.dtype and array.shape == expected.shape
    if form == "overlay" and suffix in (".jpg", ".webp"):
        assert np.abs(array.astype(int) - expected).mean() < 8
    else:
        assert np.array_equal(array, expected)


@pytest.mark.parametrize("form", sorted(FITTING.keys() - {"coco", "cvat", "labelme", "overlay", "geojson", "gpkg"}))
def test_the_usual_file_is_that_of_a_folder(form: Any) -> None:
    """Byte for byte; a file for all images excepted."""
    image = replace(result(ring(), apart=True), index=ring() // 255)
    ((_, _, usual),) = WRITERS[form]("sub/a", image)
    assert content(form, FITTING[form][0], image) == usual


def test_a_coco_file_of_one_image_is_whole(tmp_path: Path) -> None:
    """pycocotools reads it: one image, all labels, and the masks."""
    (tmp_path / "a.json").write_bytes(content("coco", ".json", result(ring(), MASKS["empty"])))
    data = read_coco(tmp_path / "a.json")
    assert [*data.imgs] == [1] and [*data.cats] == [1, 2] and [*data.anns] == [1]
    assert np.array_equal(data.annToMask(data.anns[1]) * 255, ring())
    assert json.loads((tmp_path / "a.json").read_text())["images"][0]["file_name"] == "a.jpg"


def test_a_labelme_file_alone_has_its_photo_inside() -> None:
    """Since no other file is written. The shapes are those of a file in a folder, which has its photo beside it."""
    alone = json.loads(content("labelme", ".json", result(ring())))
    data, photo = (data for _, _, data in WRITERS["labelme"]("sub/a", result(ring())))
    assert base64.b64decode(alone["imageData"]) == photo
    assert alone | {"imageData": None} == json.loads(data)


def test_no_file_of_an_absent_object_with_empty_skip() -> None:
    """--empty skip leaves out the mask and the cutout, not the formats of all labels."""
    image = replace(result(MASKS["empty"]), skip=(True,))
    assert not [*one_file.write(OneFile("a.png", "mask", ".png"), "a", image)]
    assert len([*one_file.write(OneFile("a.svg", "svg", ".svg"), "a", image)]) == 1


def test_a_side_that_webp_cannot_hold_is_an_error_of_the_image() -> None:
    """The message names what can hold it."""
    wide = result(np.zeros((1, one_file.WEBP_SIDE + 1), np.uint8))
    with pytest.raises(ImageError, match=r"use \.png or \.tif"):
        content("mask", ".webp", wide)
