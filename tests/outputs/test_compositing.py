"""Mattes for compositing programs, read by OpenEXR, tifffile, rasterio, Pillow and psd-tools."""

import io
from dataclasses import replace

import numpy as np
import OpenEXR
import PIL.Image
import psd_tools
import pytest
import tifffile

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.georeference import NOWHERE
from clipseg_cli.outputs.writers import compositing, pixels
from clipseg_cli.prompts.slugs import unique_slugs
from geotiffs import by_gdal, opened
from image_files import read
from mask_shapes import MASKS, result, ring, written

LABELS = ("a red circle", "Größe", "2nd, left", "red", "Z", "a.b", "a b")
CHANNELS = ("a_red_circle", "grösse", "_2nd_left", "red_", "z_", "a_b", "a_b_2")


def labelled(*labels: str, feather: float = 0, **changes: object):  # type: ignore[no-untyped-def]
    """The result of an image that shows a ring for every label."""
    image = result(*[ring()] * len(labels))
    return replace(image, labels=labels, slugs=unique_slugs(labels), feather=feather, **changes)  # type: ignore[arg-type]


def test_an_exr_has_one_channel_per_label() -> None:
    """Named after it by letters, digits and underscores, never a dot, and never like a channel of colour."""
    data = written("exr", labelled(*LABELS))["exr/sub/a.exr"]
    with OpenEXR.File(io.BytesIO(data), separate_channels=True) as file:
        assert {*file.channels()} == {*CHANNELS}
        assert file.header()["compression"] == OpenEXR.ZIP_COMPRESSION
        assert file.header()["labels"] == [f"{name}={label}" for name, label in zip(CHANNELS, LABELS, strict=True)]
        for channel in file.channels().values():
            assert channel.pixels.dtype == np.float16
            assert np.array_equal(channel.pixels, ring() / np.float16(255))


def test_a_tiff_has_one_named_page_per_label() -> None:
    """16 bits from 0 to 65535. Pillow and tifffile read the pages, in the order of the labels."""
    data = written("tiff", labelled(*LABELS, georeference=NOWHERE))["tiff/sub/a.tif"]
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert [page.tags["PageName"].value for page in file.pages] == [*LABELS]
        assert all(np.array_equal(page.asarray(), ring().astype(np.uint16) * 257) for page in file.pages)
    with PIL.Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == len(LABELS) and image.mode == "I;16"  # type: ignore[attr-defined]


def test_the_mattes_of_a_geotiff_lie_where_it_does() -> None:
    """Every page has the georeference."""
    source = by_gdal(np.zeros((3, 90, 130), np.uint8))
    data = compositing.tiff(labelled("a", "b", georeference=read(source).georeference))
    assert opened(data)[:3] == opened(source)[:3]
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert [page.tags["PageName"].value for page in file.pages] == ["a", "b"]
        assert all("GeoKeyDirectoryTag" in page.tags for page in file.pages)


def test_edges_have_more_levels_than_eight_bits() -> None:
    """A feathered matte is smooth in 16 bits, and close to the feathered mask; half floats keep it to 1/2048."""
    image = labelled("a", feather=30)
    matte = pixels.matte(image, 0)
    assert len(np.unique(matte)) > 256
    assert np.abs(matte / 257 - pixels.mask(image, 0)).max() <= 2  # an 8-bit blur rounds twice
    with OpenEXR.File(io.BytesIO(compositing.exr(image)), separate_channels=True) as file:
        assert np.abs(file.channels()["a_"].pixels - matte / 65535).max() <= 1 / 2048
    soft = np.arange(90 * 130, dtype=np.uint32).reshape(90, 130).astype(np.uint8)
    assert np.array_equal(pixels.matte(replace(image, alphas=(soft,)), 0), soft * np.uint16(257))


def test_a_psd_has_the_image_and_a_masked_layer_per_label() -> None:
    """Layers have the labels' names, whatever their letters. The flat image that viewers show is the photo."""
    labels = ("a red circle", "物体 🚲", "x" * 300, "none")
    image = labelled(*labels)
    image = replace(image, masks=(*image.masks[:3], MASKS["empty"]))
    document = psd_tools.PSDImage.open(io.BytesIO(written("psd", image)["psd/sub/a.psd"]))
    photo = image.photo()
    assert np.array_equal(np.array(document.topil()), photo)
    below, *layers = document
    assert np.array_equal(np.array(below.topil().convert("RGB")), photo)  # type: ignore[union-attr]
    assert [layer.name for layer in layers] == [labels[0], labels[1], "x" * 255, "none"]
    for layer, mask in zip(layers, image.masks, strict=True):
        matte, shown = np.zeros_like(mask), np.zeros_like(photo)
        box = np.s_[layer.top : layer.bottom, layer.left : layer.right]
        assert layer.mask is not None and layer.mask.bbox == layer.bbox
        matte[box] = np.array(layer.mask.topil())
        shown[box] = np.array(layer.topil().convert("RGB"))  # type: ignore[union-attr]
        assert np.array_equal(matte, mask) and np.array_equal(shown[mask > 0], photo[mask > 0])


def test_a_psd_of_a_converted_photo_says_that_it_is_srgb() -> None:
    """As other colour files do; without a conversion it says nothing."""
    for converted, profile in ((True, profiles.srgb()), (False, None)):
        data = compositing.psd(labelled("a", converted=converted))
        document = psd_tools.PSDImage.open(io.BytesIO(data))
        assert document.image_resources.get_data(1039) == profile


def test_an_image_that_a_psd_cannot_hold_is_refused() -> None:
    """The message names the formats that can."""
    wide = replace(result(np.zeros((1, 30_001), np.uint8)), photo=lambda: np.zeros((1, 30_001, 3), np.uint8))
    with pytest.raises(ImageError, match="30000 pixels a side: use -f exr or -f tiff"):
        compositing.psd(wide)
