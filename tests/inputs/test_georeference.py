"""Georeferences: read as they are stored, from tags of either byte order and from the files beside an image."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from clipseg_cli.inputs import georeference
from clipseg_cli.inputs.decode import load
from clipseg_cli.inputs.georeference import NOWHERE, for_masks
from clipseg_cli.inputs.source import Source
from geotiffs import SCALE, TIE, UTM, by_gdal, by_tags, keys
from image_files import read

WORLD = b"0.5\n0.1\n0.2\n-0.5\n500000.25\n5499999.75\n"


def test_tags_are_equal_whatever_the_byte_order(photo: np.ndarray) -> None:
    """A big-endian BigTIFF and a little-endian TIFF have one georeference, with numbers as little-endian bytes."""
    tags = (SCALE, TIE, keys(*UTM), (42113, "s", 2, b"0\0", True))
    places = [read(by_tags(photo, *tags, order=order, big=big)).georeference for order, big in (("<", 0), (">", 1))]
    assert places[0] == places[1] and places[0].is_geotiff
    numbers = {field.tag: field for field in places[0].tags}
    assert np.frombuffer(numbers[33550].content, "<f8").tolist() == [0.5, 0.5, 0]
    assert np.frombuffer(numbers[34735].content, "<u2").tolist() == list(keys(*UTM)[3])


def test_a_plain_tiff_lies_nowhere(photo: np.ndarray) -> None:
    """And damaged tags are left out: a type without a size, and more values than the file has bytes."""
    assert read(by_tags(photo)).georeference == NOWHERE
    good = by_tags(photo, SCALE, TIE)
    at = good.index((33550).to_bytes(2, "little") + b"\x0c\0")
    for kind, count in ((99, 3), (12, 1 << 30), (12, 0)):
        entry = (33550).to_bytes(2, "little") + kind.to_bytes(2, "little") + count.to_bytes(4, "little")
        place = read(good[:at] + entry + good[at + 8 :]).georeference
        assert [field.tag for field in place.tags] == [33922]


@pytest.mark.parametrize(
    ("name", "world"),
    [("a.jpg", "a.jgw"), ("A.JPG", "A.JGW"), ("a.png", "a.pngw"), ("a.tif", "a.tfw"), ("a.b.bmp", "a.b.wld")],
)  # fmt: skip
def test_a_world_file_is_found_by_its_name(tmp_path: Path, photo: np.ndarray, name: str, world: str) -> None:
    """In lower case or in capitals, with the `.prj` beside it."""
    PIL.Image.fromarray(photo).save(tmp_path / name)
    source = Source(str(tmp_path / name), name, "a")
    (tmp_path / name).with_suffix(".prj").write_text("a system")
    assert load(source).georeference == NOWHERE
    (tmp_path / world).write_bytes(WORLD)
    place = load(source).georeference
    assert (place.world, place.projection) == (WORLD, b"a system") and not place.is_geotiff


@pytest.mark.parametrize("content", [b"", b"1 2 3 4 5", b"a b c d e f", b"1 2 3 4 5 nan", b"\xff" * 20, b"0" * 100_000])
def test_other_files_are_no_world_files(tmp_path: Path, photo: np.ndarray, content: bytes) -> None:
    """A file of that name that holds no six numbers, or is far too large, is ignored."""
    PIL.Image.fromarray(photo).save(tmp_path / "a.png")
    (tmp_path / "a.pgw").write_bytes(content)
    assert load(Source(str(tmp_path / "a.png"), "a.png", "a")).georeference == NOWHERE


def test_a_world_file_may_have_decimal_commas() -> None:
    """As programs write it in some languages."""
    assert georeference.numbers(WORLD.replace(b".", b",")) == georeference.numbers(WORLD)


def test_masks_do_not_take_what_describes_the_values_of_bands(photo: np.ndarray) -> None:
    """Metadata of the file stays; that of bands, and a no-data value that would hide the object, do not."""
    metadata = b'<GDALMetadata>\n<Item name="A">1 &lt; 2</Item>\n<Item name="S" sample="0">9</Item></GDALMetadata>\0'
    for value, most, kept in ((b"0", 255, True), (b"255", 255, False), (b"300", 255, True), (b"300", 65535, False)):
        tags = ((42112, "s", len(metadata), metadata, True), (42113, "s", len(value) + 1, value + b"\0", True))
        found = {
            field.tag: field.content for field in for_masks(read(by_tags(photo, SCALE, TIE, *tags)).georeference, most)
        }
        assert found[42112] == b'<GDALMetadata><Item name="A">1 &lt; 2</Item></GDALMetadata>\0'
        assert (42113 in found) == kept
    only = b'<GDALMetadata><Item name="S" sample="0">9</Item></GDALMetadata>\0'
    place = read(by_tags(photo, SCALE, TIE, (42112, "s", len(only), only, True))).georeference
    assert [field.tag for field in for_masks(place, 255)] == [33550, 33922]


def test_a_page_has_its_own_georeference(photo: np.ndarray) -> None:
    """GDAL's internal mask is no page: the file has one."""
    image = read(by_gdal(np.moveaxis(photo, 2, 0), mask=photo[:, :, 0] | 1))
    assert image.frames == 1 and image.georeference.is_geotiff
