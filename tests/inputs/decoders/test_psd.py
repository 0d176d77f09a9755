"""Photoshop files: the composite in every mode, depth and compression; no selection, layer or gap is taken for it."""

import io
import struct

import numpy as np
import PIL.Image
import pytest
from PIL import PsdImagePlugin

from clipseg_cli.inputs.colour import conversion
from image_files import as_rgb, overwritten, read, refused
from written_files import light, psd


def bands(image: PIL.Image.Image) -> list[np.ndarray]:
    """Returns the channels of an image."""
    return [np.asarray(band) for band in image.split()]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("compression", [0, 1, 2])
def test_every_compression_gives_the_pixels(version: int, compression: int, photo: np.ndarray) -> None:
    """In PSD and PSB, with 8 and 16 bits, in colour and grey."""
    for planes in (list(np.moveaxis(photo, 2, 0)), [photo[:, :, 0]]):
        mode, expected = (3, photo) if len(planes) == 3 else (1, as_rgb(photo[:, :, 0]))
        wide = [plane.astype(np.uint16) * 257 for plane in planes]
        for stored in (planes, wide):
            image = read(psd(stored, mode, version=version, compression=compression))
            assert np.array_equal(image.pixels, expected)
            assert (image.format, image.frames, image.notes) == ("PSD", 1, ())


def test_every_mode_equals_what_pillow_reads(photo: np.ndarray) -> None:
    """Indexed, CMYK, Lab and duotone, of which Pillow's own plug-in is an independent reader. It inverts bitmaps."""
    image = PIL.Image.fromarray(photo)
    indexed = image.quantize(64)
    palette = np.frombuffer(bytes(indexed.getpalette() or b"").ljust(768, b"\0"), np.uint8).reshape(-1, 3).T.tobytes()
    files = {
        "indexed": psd([np.asarray(indexed)], 2, palette=palette),
        "CMYK": psd([255 - band for band in bands(image.convert("CMYK"))], 4, compression=1),
        "Lab": psd(list(np.moveaxis(photo, 2, 0)), 9),
        "duotone": psd([photo[:, :, 1]], 8, palette=b"inks"),
    }
    for name, data in files.items():
        with PsdImagePlugin.PsdImageFile(io.BytesIO(data)) as reference:
            reference.load()
            assert np.array_equal(read(data).pixels, conversion.rgb(reference, [])), name
    bits = np.asarray(image.convert("1"))
    assert np.array_equal(read(psd([~bits], 0)).pixels, as_rgb(bits * np.uint8(255)))


def test_32_bits_are_light(photo: np.ndarray) -> None:
    """They are shown as sRGB, in colour and grey."""
    values = light(photo).astype(np.float32)
    assert np.abs(read(psd(list(np.moveaxis(values, 2, 0)))).pixels.astype(int) - photo).max() <= 1
    assert np.abs(read(psd([values[:, :, 0]], 1)).pixels.astype(int) - as_rgb(photo[:, :, 0])).max() <= 1


def test_a_further_channel_is_transparency_only_if_the_file_says_so(photo: np.ndarray) -> None:
    """A negative number of layers says so. Colours that are on white already, as Photoshop stores them, stay."""
    alpha = np.full((90, 130), 255, np.uint8)
    alpha[:40, :50] = 0
    alpha[40:60, :50] = 100
    planes = [*np.moveaxis(photo, 2, 0), alpha]
    for layers in (None, 0, 2):
        assert np.array_equal(read(psd(planes, layers=layers)).pixels, photo)
    weight = alpha[:, :, None] / 255
    expected = photo * weight + 255 * (1 - weight)
    image = read(psd(planes, layers=-1))
    assert np.abs(image.pixels - expected).max() <= 1
    assert image.notes == ("transparency composited on white",)
    on_white = expected.round().astype(np.uint8)
    image = read(psd([*np.moveaxis(on_white, 2, 0), alpha], layers=-1))
    assert np.array_equal(image.pixels, on_white)


def test_resources_are_read(photo: np.ndarray) -> None:
    """A transparent colour of a palette becomes white. A file that says it has no composite is refused."""
    indexed = np.tile(np.uint8([0, 1, 2, 3]), (2, 1))
    palette = bytes([10, 20, 30, 40] + [0] * 252) * 3
    data = psd([indexed], 2, palette=palette, resources=[(1000, b"odd"), (1047, struct.pack(">H", 2))])
    assert read(data).pixels[0, :, 0].tolist() == [10, 20, 255, 40]
    for real, version in ((1, 1), (0, 2)):
        data = psd(list(np.moveaxis(photo, 2, 0)), version=version, resources=[(1057, struct.pack(">IB", 1, real))])
        if real:
            assert np.array_equal(read(data).pixels, photo)
        else:
            kind, message = refused(data)
            assert kind == "unsupported"
            assert "Maximize Compatibility" in message


def test_what_cannot_be_read_is_refused(photo: np.ndarray) -> None:
    """Unknown modes, depths and compressions are unsupported; missing channels and rows, and bombs, are not."""
    data = psd(list(np.moveaxis(photo, 2, 0)))
    for at, new in ((25, b"\7"), (23, b"\1"), (39, b"\3")):  # the mode, the bits, the compression
        assert refused(overwritten(data, at, new))[0] == "unsupported"
    assert refused(overwritten(data, 13, b"\2"))[0] == "corrupt"
    assert refused(data[:-1])[0] == "corrupt"
    assert refused(data, max_pixels=90 * 130 - 1)[0] == "too_large"
