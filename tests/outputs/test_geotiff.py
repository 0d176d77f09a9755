"""GeoTIFFs that a run writes: rasterio, Pillow and tifffile read the same pixels, where the image lies."""

import io
import warnings

import numpy as np
import PIL.Image
import pytest
import rasterio
import tifffile
from rasterio.transform import Affine

from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.georeference import NOWHERE
from clipseg_cli.inputs.orientation import VALUES, stored
from clipseg_cli.outputs.writers import geotiff, raster
from clipseg_cli.outputs.writers.carried import NOTHING, Carried
from geotiffs import PLACE, by_gdal, opened
from image_files import read

ROTATED = PLACE @ Affine.rotation(20) @ Affine.shear(5)


def pattern(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Returns an array without symmetry that fills its type's range."""
    random = np.random.default_rng(0)
    return random.integers(0, np.iinfo(dtype).max, shape, endpoint=True, dtype=dtype)


@pytest.mark.parametrize("shape", [(1, 1), (256, 512), (257, 300), (40, 700, 3), (300, 20, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_pixels_are_those_that_readers_see(shape: tuple[int, ...], dtype: str) -> None:
    """At the edges of tiles too. The file is tiled and compressed."""
    array = pattern(shape, dtype)
    place = read(by_gdal(np.zeros((1, 4, 4), np.uint8))).georeference
    data = geotiff.encoded(array, place, 1, Carried(profiles.srgb()) if array.ndim == 3 else NOTHING)
    with rasterio.MemoryFile(data) as file, file.open() as image:
        found = image.read()
        assert image.block_shapes[0] == (256, 256) and image.compression.name == "deflate"
        assert image.profile["tiled"] is True
    assert np.array_equal(np.moveaxis(found, 0, 2).reshape(shape), array)
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), array)
    if dtype == "uint8" or len(shape) == 2:
        with PIL.Image.open(io.BytesIO(data)) as opened:
            assert np.array_equal(np.array(opened), array) and ("icc_profile" in opened.info) == (len(shape) == 3)
    if len(shape) == 2:
        assert np.array_equal(raster.levels(data), array)


@pytest.mark.parametrize("transform", [PLACE, ROTATED])
@pytest.mark.parametrize("point", [False, True])
def test_transform_system_and_bounds_are_those_of_the_image(transform: Affine, point: bool) -> None:
    """Also rotated and sheared, and where tie points are centres of pixels."""
    tags = {"AREA_OR_POINT": "Point", "SURVEY": "<1> & ü"} if point else {}
    source = by_gdal(np.zeros((3, 30, 40), np.uint8), transform=transform, nodata=0, tags=tags)
    data = geotiff.encoded(pattern((30, 40), "uint8"), read(source).georeference, 1)
    assert opened(data) == opened(source) and tags.items() <= opened(data)[-1].items()


@pytest.mark.parametrize("value", VALUES)
def test_a_turned_image_keeps_its_place(value: int) -> None:
    """GDAL finds each pixel where the file has it; viewers, which apply the orientation, show it upright."""
    shown = pattern((30, 40), "uint8")
    place = read(by_gdal(np.zeros((1, 4, 4), np.uint8))).georeference
    data = geotiff.encoded(shown, place, value)
    with rasterio.MemoryFile(data) as file, file.open() as image:
        assert np.array_equal(image.read(1), stored(shown, value)) and image.transform == PLACE
    assert np.array_equal(raster.levels(data), shown)


def test_a_file_without_any_tags_is_a_sound_tiff() -> None:
    """The georeference may be empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.MemoryFile(geotiff.encoded(pattern((9, 9), "uint8"), NOWHERE, 1)) as file, file.open() as image:
            assert image.crs is None and image.read(1).shape == (9, 9)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_rows_give_the_bytes_of_the_whole(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that are made from rows, a multiple of 256 at a time. A file too large for 32 bits is a BigTIFF."""
    array, place = pattern((700, 530), dtype), read(by_gdal(np.zeros((1, 4, 4), np.uint8))).georeference
    tiles = [tile for top in range(0, 700, 256) for tile in geotiff.tiled(array[top : top + 256])]
    form = geotiff.Form(700, 530, 1, array.dtype)

    def whole() -> bytes:
        before, after = geotiff.around([len(tile) for tile in tiles], form, place)
        return b"".join((before, *tiles, after))

    assert whole() == geotiff.encoded(array, place, 1)
    monkeypatch.setattr(geotiff, "CLASSIC", 1000)
    assert opened(whole()) == opened(geotiff.encoded(array, place, 1))
    with tifffile.TiffFile(io.BytesIO(whole())) as file:
        assert file.is_bigtiff and np.array_equal(file.asarray(), array)
    with rasterio.MemoryFile(whole()) as file, file.open() as image:
        assert np.array_equal(image.read(1), array)


def test_a_map_that_is_too_large_to_be_read_whole_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an error that `post` and the report expect, not as a crash."""
    data = geotiff.encoded(pattern((40, 50), "uint8"), NOWHERE, 1)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(ValueError, match="2000 pixels"):
        raster.levels(data)
