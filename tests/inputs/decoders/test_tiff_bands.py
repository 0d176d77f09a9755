"""Bands of TIFFs: which are shown, how they are stretched, what is transparent, and which pixels have no data."""

import numpy as np
import pytest
from rasterio.enums import ColorInterp

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.colour.conversion import is_uncommon
from clipseg_cli.inputs.decode import Image, load
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import MINMAX, NONE, DecodeOptions
from geotiffs import SCALE, TIE, UTM, by_gdal, by_tags, keys
from image_files import saved, tiff

WHITE = 255


def read(data: bytes, **options: object) -> Image:
    """Loads bytes with these options."""
    return load(Source("-", "-", "stdin", data=data), DecodeOptions(**options))  # type: ignore[arg-type]


@pytest.fixture
def colours(photo: np.ndarray) -> np.ndarray:
    """The photo as bands, uint8 (3, 90, 130)."""
    return np.moveaxis(photo, 2, 0)


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns uint8 (H, W, 3) of bands (3, H, W) whose values `low` and `high` become 0 and 255."""
    return np.moveaxis(((values.astype(float) - low) * 255 / (high - low)).round().clip(0, 255).astype(np.uint8), 0, 2)


def near(image: Image, expected: np.ndarray) -> bool:
    """Returns whether the pixels are these, within one level of rounding."""
    return bool(np.abs(image.pixels.astype(int) - expected).max() <= 1)


TYPES = ("int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


@pytest.mark.parametrize("dtype", TYPES)
def test_a_geotiff_is_stretched_between_percentiles(colours: np.ndarray, dtype: str) -> None:
    """From 2 to 98 %, over all bands that are shown and the whole file; the record says the range."""
    values = colours.astype(float) * {"int8": 0.4, "float32": 0.001}.get(dtype, 7) - 20 * (dtype[0] != "u")
    values = values.astype(dtype)
    values[0, 0, 0] = np.iinfo(dtype).max if dtype[0] in "ui" else 1e30  # one outlier changes nothing
    low, high = np.percentile(values, (2, 98))
    image = read(by_gdal(values))
    assert near(image, stretched(values, low, high))
    assert image.notes == (f"values {low:g} to {high:g} (2 to 98 %) scaled to 8 bits",) and is_uncommon(image.notes)


def test_photos_keep_their_range(colours: np.ndarray) -> None:
    """16 bits with a profile, and TIFFs without a place, go by the range of their type: their exposure is meant so."""
    wide = colours.astype(np.uint16) * 100
    full = stretched(wide, 0, 65535)
    assert near(read(tiff_16(wide)), full)
    geo = read(by_gdal(wide))
    assert not near(geo, full)
    assert near(read(by_gdal(wide), stretch=NONE), full)


def tiff_16(bands: np.ndarray) -> bytes:
    """Returns a 16-bit RGB TIFF without a place."""
    return by_tags(np.moveaxis(bands, 0, 2))


def test_a_profile_makes_it_a_photo(colours: np.ndarray) -> None:
    """A GeoTIFF of 16 bits with an ICC profile is not stretched."""
    wide = np.moveaxis(colours.astype(np.uint16) * 100, 0, 2)
    profile = (34675, "B", len(profiles.srgb()), profiles.srgb(), True)
    image = read(by_tags(wide, SCALE, TIE, keys(*UTM), profile))
    assert image.notes[0] == "16-bit colour scaled to 8 bits" and image.pixels.max() < 110


@pytest.mark.parametrize(
    ("stretch", "low", "high"), [(NONE, 0, 65535), (MINMAX, 100, 25600), ((10.0, 50.0), None, None)]
)
def test_a_stretch_that_is_asked_for_is_used(
    colours: np.ndarray, stretch: tuple[float, float], low: float | None, high: float | None
) -> None:
    """The range of the type, the lowest and highest value, or two percentiles; in any TIFF."""
    wide = colours.astype(np.uint16) * 100 + 100
    wide[:, 0, 0], wide[:, 0, 1] = 100, 25600
    if low is None:
        low, high = np.percentile(wide, stretch)
    for data in (by_gdal(wide), tiff_16(wide)):
        assert near(read(data, stretch=stretch), stretched(wide, low, high))


def test_bands_are_chosen_by_number_or_by_their_names(colours: np.ndarray) -> None:
    """`--bands` counts from 1; without it, GDAL's colour interpretation decides, also in another order."""
    extra = np.concatenate([colours[::-1], 255 - colours[:1]])
    names = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    named = by_gdal(extra, names=names, photometric="minisblack")
    image = read(named)
    assert np.array_equal(image.pixels, np.moveaxis(colours, 0, 2)) and image.notes == ("bands 3,2,1 shown",)
    assert is_uncommon(image.notes)
    image = read(named, bands=(4, 1, 1))
    assert np.array_equal(image.pixels, np.moveaxis(extra[[3, 0, 0]], 0, 2))
    assert np.array_equal(read(named, bands=(4,)).pixels[:, :, 1], extra[3])
    with pytest.raises(ImageError, match="there is no band 5 for --bands: the file has 4"):
        read(named, bands=(1, 2, 5))


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_any_number_of_bands_in_planes_and_tiles(colours: np.ndarray, count: int) -> None:
    """Each can be shown, however GDAL stores them."""
    bands = np.stack([np.roll(colours[band % 3], band, 1) for band in range(count)]).astype(np.int16)
    for options in ({"interleave": "band", "tiled": True, "blockxsize": 32, "blockysize": 48}, {"BIGTIFF": "YES"}):
        for packing in ({"compress": "deflate", "predictor": 2}, {"compress": "lzw"}, {"compress": "zstd"}):
            data = by_gdal(bands, photometric="minisblack", **options, **packing)
            image = read(data, bands=(count,), stretch=MINMAX)
            assert near(image, stretched(np.repeat(bands[-1:], 3, 0), bands[-1].min(), bands[-1].max()))


def test_other_kinds_of_files_refuse_the_options(photo: np.ndarray) -> None:
    """With what to do."""
    for options in ({"bands": (1, 2, 3)}, {"stretch": MINMAX}):
        with pytest.raises(ImageError, match="for PNG is not supported; leave it out, or save the image as TIFF"):
            read(saved(photo, "PNG"), **options)
    palette = tiff(np.zeros((2, 2), np.uint8), photometric=3)
    with pytest.raises(ImageError, match="--bands for a TIFF with a palette"):
        read(palette, bands=(1,))


def test_near_infrared_is_no_transparency(colours: np.ndarray) -> None:
    """GDAL marks a fourth band as alpha by default. If its values vary, it is ignored, and the record says so."""
    infrared = np.clip(colours[1].astype(int) + 40, 0, 250).astype(np.uint8)
    image = read(by_gdal(np.concatenate([colours, infrared[None]])))
    assert np.array_equal(image.pixels, np.moveaxis(colours, 0, 2)) and image.clear is None
    assert image.notes == ("band 4 is marked as transparency, but does not look like it: ignored",)
    infrared[:, :110] = 0  # also where most of the file is empty
    assert read(by_gdal(np.concatenate([colours, infrared[None]]))).clear is None


@pytest.mark.parametrize(("dtype", "full"), [("uint8", 255), ("uint16", 65535), ("uint16", 255), ("float32", 1)])
def test_transparency_that_looks_like_it_is_no_data(colours: np.ndarray, dtype: str, full: float) -> None:
    """Its values are 0 or the highest, but for a soft edge. Transparent pixels are white, and have no data."""
    alpha = np.zeros(colours.shape[1:])
    alpha[:, 30:], alpha[:, 30] = full, full / 2
    bands = np.concatenate([colours, alpha[None]]).astype(dtype)
    names = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    image = read(by_gdal(bands, names=names, photometric="rgb"))
    assert image.clear is not None and np.array_equal(image.clear, alpha == 0)
    assert (image.pixels[:, :30] == WHITE).all()
    assert "band 4 taken as transparency" in image.notes and image.notes[-1] == "23 % of the pixels have no data"


def test_no_data_by_value_mask_and_nan(colours: np.ndarray) -> None:
    """A pixel without data is the no-data value in all bands, or left out by the file's mask, or no number."""
    hole = np.zeros(colours.shape[1:], bool)
    hole[20:50, 40:90] = True
    valued = np.where(hole, np.uint8(7), np.maximum(colours, 8))
    valued[0, 0, 0] = 7  # in one band only
    floats = np.where(hole, np.nan, colours / 255).astype(np.float32)
    floats[1, 20, 40] = np.inf
    masked = {"mask": np.where(hole, 0, 255).astype(np.uint8)}
    files = {
        "value": by_gdal(valued, nodata=7),
        "wide": by_gdal(valued.astype(np.int16) - 50, nodata=-43),
        "outside": by_gdal(valued.astype(np.float32), nodata=7),
        "nan": by_gdal(floats),
        "mask": by_gdal(colours, **masked, compress="deflate"),
        "jpeg": by_gdal(colours, **masked, compress="jpeg", photometric="ycbcr"),
        "planes": by_gdal(valued, nodata=7, interleave="band", compress="deflate"),
        "palette": by_gdal(valued[1:2], nodata=7, photometric="palette"),
    }
    for name, data in files.items():
        image = read(data)
        assert image.clear is not None and np.array_equal(image.clear, hole), name
        assert (image.pixels[hole] == WHITE).all() and image.notes[-1].endswith("13 % of the pixels have no data")


def test_no_data_does_not_count_for_the_stretch(colours: np.ndarray) -> None:
    """A fill value far away does not make the image dark."""
    wide = colours.astype(np.int32)
    wide[:, :60] = -2_000_000_000
    low, high = np.percentile(wide[:, 60:], (2, 98))
    image = read(by_gdal(wide, nodata=-2_000_000_000))
    assert near(image, np.where(image.clear[..., None], WHITE, stretched(wide, low, high)))  # type: ignore[index]


@pytest.mark.parametrize("value", [0, 255])
def test_a_file_without_any_data_is_noted(value: int) -> None:
    """It is read, and all its pixels have none."""
    for bands in (np.full((3, 8, 9), value, np.uint8), np.full((1, 8, 9), np.nan, np.float32)):
        image = read(by_gdal(bands, nodata=value if bands.dtype == np.uint8 else None))
        assert image.clear is not None and image.clear.all() and image.notes[-1] == "all of the pixels have no data"


def test_no_data_that_no_pixel_can_have_is_ignored(colours: np.ndarray) -> None:
    """A value outside the type, a fraction, or no number."""
    for text in (b"-9999\0", b"7.5\0", b"nan\0", b"what?\0", b"1e999\0"):
        data = by_tags(np.moveaxis(colours, 0, 2), SCALE, (42113, "s", len(text), text, True))
        assert read(data).clear is None


def test_no_data_turns_with_the_image(colours: np.ndarray) -> None:
    """An EXIF orientation turns both."""
    pixels = np.moveaxis(np.maximum(colours, 1), 0, 2).copy()
    pixels[:10, :20] = 0
    tags = ((42113, "s", 2, b"0\0", True), (274, "H", 1, 6, True))
    for values in (pixels, pixels.astype(np.uint16)):
        image = read(by_tags(values, *tags))
        assert image.orientation == 6 and image.clear is not None
        assert np.array_equal(image.clear, np.rot90((pixels == 0).all(axis=2), -1))


def test_damaged_tags_are_an_error_of_the_image(colours: np.ndarray) -> None:
    """Whatever byte of the directory is changed, the file is read or fails with a reason."""
    good = by_gdal(np.concatenate([colours, colours[:1]]).astype(np.int16), nodata=3)
    at = int.from_bytes(good[4:8], "little")
    random = np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(good)
        bad[at + int(random.integers(300))] = int(random.integers(256))
        try:
            image = read(bytes(bad), max_pixels=100_000)
        except ImageError:
            continue
        assert image.clear is None or image.clear.shape == image.pixels.shape[:2]
