"""Photos in data sets: which are the original files, what they are called, and how others are encoded."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipseg_cli.outputs.writers import photos
from clipseg_cli.storage import store
from mask_shapes import result, ring, written
from pictures import picture

NAMES = st.text("ab_.", min_size=1, max_size=4).filter(lambda name: name.strip("."))
STEMS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def of(kind: str, name: str, **values: Any) -> Any:
    """Returns a result of an image of this kind, whose file is the bytes "original"."""
    export = {key: values.pop(key) for key in ("images", "flat") if key in values}
    return replace(result(ring(), **export), kind=kind, name=name, original=lambda: b"original", **values)


@pytest.mark.parametrize(
    ("form", "kind", "name", "path"),
    [
        ("yolo", "JPEG", "a.JPG", "a.jpg"),
        ("yolo", "JPEG", "a.jpeg", "a.jpeg"),
        ("yolo", "JPEG", "a.mpo", "a.jpg"),
        ("yolo", "PNG", "wrong.jpg", "a.png"),
        ("yolo", "TIFF", "a.tiff", "a.tiff"),
        ("yolo", "WEBP", "none", "a.webp"),
        ("voc", "JPEG", "a.jpeg", "a.jpg"),
        ("labelme", "BMP", "a.bmp", "a.bmp"),
        ("labelstudio", "WEBP", "a.webp", "a.webp"),
        ("webdataset", "TIFF", "a.tiff", "a.tif"),
        ("webdataset", "GIF", "a.gif", "a.gif"),
    ],
)
def test_a_kind_that_the_reader_takes_is_untouched(form: Any, kind: str, name: str, path: str) -> None:
    """Under an extension by which the reader finds it, that of the content if the name says something else."""
    image = of(kind, name)
    assert [*photos.photo(form, "a", image)] == [(path, None, b"original")] and photos.untouched(form, image)


@pytest.mark.parametrize(
    ("form", "image", "path"),
    [
        ("yolo", of("HEIC", "a.heic"), "a.jpg"),
        ("yolo", of("GIF", "a.gif"), "a.png"),
        ("yolo", of("JPEG", "a.jpg", orientation=6), "a.jpg"),
        ("yolo", of("PNG", "a.png", orientation=6), "a.png"),
        ("yolo", of("PNG", "a.png", uncommon=True), "a.png"),
        ("yolo", replace(of("TIFF", "a.tif"), original=None), "a.png"),
        ("yolo", replace(of("MP4", "a.mp4"), original=None), "a.jpg"),
        ("voc", of("PNG", "a.png"), "a.jpg"),
        ("labelstudio", of("TIFF", "a.tif"), "a.png"),
        ("webdataset", of("EXR", "a.exr"), "a.png"),
    ],
)
def test_what_must_change_is_encoded_again(form: Any, image: Any, path: str) -> None:
    """As PNG, exact to the pixel, if the original is lossless, otherwise as JPEG of quality 95. An image that had an
    ICC profile says that it is sRGB now."""
    for converted in (False, True):
        ((found, _, data),) = photos.photo(form, "a", replace(image, converted=converted))
        opened = Image.open(io.BytesIO(data))
        assert (found, opened.format) == (path, "PNG" if path.endswith(".png") else "JPEG")
        pixels, expected = np.array(opened).astype(int), picture(130, 90)
        assert np.array_equal(pixels, expected) if opened.format == "PNG" else np.abs(pixels - expected).mean() < 3
        assert ("srgb" in opened.info or "icc_profile" in opened.info) == converted


def test_stored_images_are_untouched_unless_the_reader_turns_them() -> None:
    """With `--orientation stored`. labelme and browsers apply the EXIF orientation, so they get a photo without."""
    image = of("JPEG", "a.jpg", orientation=6)
    image = replace(image, export=replace(image.export, orientation="stored"))
    assert {form for form in photos.KEPT if photos.untouched(form, image)} == {
        "yolo",
        "annotations",
        "voc",
        "webdataset",
    }
    ((_, _, data),) = photos.photo("labelme", "a", image)
    assert Image.open(io.BytesIO(data)).getexif() == {}


def test_without_images_the_labels_name_the_originals() -> None:
    """No photo is written; the files that name one use the extension of the original."""
    assert not any("image" in path.lower() for path in written("yolo", of("HEIC", "x.HEIC", images="none")))
    files = written("voc", of("HEIC", "x.HEIC", images="none")) | written(
        "labelme", of("HEIC", "x.HEIC", images="none")
    )
    assert b"<filename>a.HEIC</filename>" in files["voc/Annotations/sub/a.xml"]
    assert b'"imagePath":"a.HEIC","imageData":null' in files["labelme/sub/a.json"]
    assert b"original" not in b"".join(written("webdataset", of("JPEG", "x.jpg", images="none")).values())


def test_flat_names_have_no_folders() -> None:
    """In yolo, voc and labelme. A hash follows only where another path could give the name."""
    image = of("JPEG", "a.jpg", flat=True)
    assert "yolo/images/sub__a.jpg" in written("yolo", image) and "labelme/sub__a.jpg" in written("labelme", image)
    assert b"<folder></folder>\n  <filename>sub__a.jpg" in written("voc", image)["voc/Annotations/sub__a.xml"]
    assert [photos.flat(stem, image) for stem in ("IMG_1", "x_y/a_b", "_a")] == ["IMG_1", "x_y__a_b", "_a"]
    assert photos.flat("a__b", image) == "a__b~63e5c1c4" and photos.flat("a_/b", image).startswith("a___b~")


@given(st.sets(STEMS, max_size=12))
def test_flat_names_are_distinct(stems: set[str]) -> None:
    """Whatever folders and underscores the paths have."""
    image = of("JPEG", "a.jpg", flat=True)
    made = {photos.flat(store.portable(stem), image) for stem in stems}
    assert len(made) == len(stems) and not any("/" in name for name in made)
