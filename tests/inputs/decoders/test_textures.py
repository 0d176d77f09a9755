"""TGA, ICO, DDS and QOI: orientation, transparency, depths, and the largest of several images."""

import io
import struct

import imagecodecs
import numpy as np
import PIL.Image
import pytest
from PIL import DdsImagePlugin

from image_files import as_rgb, overwritten, png, read, refused, saved


def tga(pixels: np.ndarray, kind: int, bits: int, descriptor: int = 0x20) -> bytes:
    """Returns an uncompressed TGA of raw pixels."""
    height, width = pixels.shape[:2]
    return struct.pack("<BBB5x4xHHBB", 0, 0, kind, width, height, bits, descriptor) + pixels.tobytes()


def test_tga_is_upright_in_each_orientation(photo: np.ndarray) -> None:
    """The bits of the descriptor say from which corner the rows come."""
    stored = photo[:, :, ::-1]  # blue first
    turned = {0x20: stored, 0: stored[::-1], 0x30: stored[:, ::-1], 0x10: stored[::-1, ::-1]}
    for descriptor, pixels in turned.items():
        assert np.array_equal(read(tga(pixels, 2, 24, descriptor)).pixels, photo)


def test_alpha_of_a_tga_counts_only_if_announced(photo: np.ndarray) -> None:
    """Without alpha bits in the descriptor, or if it is 0 everywhere, the image is opaque. Grey and 16 bits load."""
    alpha = np.zeros((90, 130), np.uint8)
    stored = np.dstack([photo[:, :, ::-1], alpha])
    for descriptor in (0x20, 0x28):
        assert np.array_equal(read(tga(stored, 2, 32, descriptor)).pixels, photo)
    stored[50:, :, 3] = 255
    assert np.array_equal(read(tga(stored, 2, 32, 0x20)).pixels, photo)
    image = read(tga(stored, 2, 32, 0x28))
    assert (image.pixels[:50] == 255).all()
    assert np.array_equal(image.pixels[50:], photo[50:])
    assert np.array_equal(read(tga(photo[:, :, 0].copy(), 3, 8)).pixels, as_rgb(photo[:, :, 0]))
    red, green, blue = (photo[:, :, band].astype(np.uint16) >> 3 for band in range(3))
    pixels = read(tga((red << 10 | green << 5 | blue).astype("<u2"), 2, 16)).pixels
    assert np.abs(pixels.astype(int) - photo).max() <= 8


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_run_lengths_of_a_tga_change_nothing(mode: str, photo: np.ndarray) -> None:
    """A compressed TGA equals the plain one."""
    image = PIL.Image.fromarray(photo).convert(mode)
    plain, packed = (read(saved(image, "TGA", compression=name)).pixels for name in (None, "tga_rle"))
    assert np.array_equal(plain, packed)
    assert np.array_equal(plain, np.array(image.convert("RGB")))


@pytest.mark.parametrize("form", ["png", "bmp"])
def test_the_largest_image_of_an_icon_is_read(form: str, photo: np.ndarray) -> None:
    """Whatever the order. A cut file whose largest image is whole loads; one whose largest image is not is corrupt."""
    image = PIL.Image.fromarray(photo[:64, :64])
    data = saved(image, "ICO", sizes=[(16, 16), (64, 64), (32, 32)], bitmap_format=form)
    icon = read(data)
    assert np.array_equal(icon.pixels, photo[:64, :64])
    assert (icon.format, icon.frames) == ("ICO", 1)
    length, start = struct.unpack_from("<II", data, 6 + 2 * 16 + 8)
    assert refused(data[: start + length - 1])[0] == "corrupt"


def test_the_alpha_of_an_icon(photo: np.ndarray) -> None:
    """It is composited on white; if it is 0 everywhere the icon is opaque, as old icons are."""
    rgba = np.dstack([photo[:64, :64], np.zeros((64, 64), np.uint8)])
    options = {"sizes": [(64, 64)], "bitmap_format": "bmp"}
    assert np.array_equal(read(saved(rgba, "ICO", **options)).pixels, photo[:64, :64])
    rgba[:, 32:, 3] = 255
    pixels = read(saved(rgba, "ICO", **options)).pixels
    assert (pixels[:, :32] == 255).all()
    assert np.array_equal(pixels[:, 32:], photo[:64, 32:64])


def test_a_bomb_inside_an_icon_is_refused() -> None:
    """A PNG or bitmap that is larger than the list of images says."""
    inner = png(20_000, 20_000, 8, 2, b"")
    data = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    assert refused(data)[0] == "too_large"
    bitmap = struct.pack("<Iii", 40, 20_000, 40_000) + bytes(100)
    data = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(bitmap), 22) + bitmap
    assert refused(data)[0] == "too_large"


def dds(pixels: np.ndarray, bits: int, *masks: int) -> bytes:
    """Returns a DDS of plain colour."""
    height, width = pixels.shape[:2]
    flags = 0x41 if len(masks) == 4 else 0x40
    head = struct.pack("<4s7I44x", b"DDS ", 124, 0x1007, height, width, 0, 0, 0)
    return (
        head
        + struct.pack("<4I", 32, flags, 0, bits)
        + struct.pack("<4I20x", *masks, *[0] * (4 - len(masks)))
        + pixels.tobytes()
    )


def test_plain_colour_of_a_dds_is_unpacked_by_its_masks(photo: np.ndarray) -> None:
    """24 and 32 bits exactly, in any order; 16 bits as Pillow unpacks them."""
    assert np.array_equal(read(dds(photo, 24, 0xFF, 0xFF00, 0xFF0000)).pixels, photo)
    assert np.array_equal(read(dds(photo[:, :, ::-1].copy(), 24, 0xFF0000, 0xFF00, 0xFF)).pixels, photo)
    wide = np.dstack([photo, np.full((90, 130), 255, np.uint8)])
    assert np.array_equal(read(dds(wide, 32, 0xFF, 0xFF00, 0xFF0000, 0xFF000000)).pixels, photo)
    ten = photo.astype(np.uint32) << 2
    packed = ten[:, :, 0] | ten[:, :, 1] << 10 | ten[:, :, 2] << 20
    data = dds(packed.astype("<u4"), 32, 0x3FF, 0xFFC00, 0x3FF00000)
    assert np.abs(read(data).pixels.astype(int) - photo).max() <= 1
    red, green, blue = (photo[:, :, band].astype(np.uint16) >> cut for band, cut in enumerate((3, 2, 3)))
    data = dds((red << 11 | green << 5 | blue).astype("<u2"), 16, 0xF800, 0x7E0, 0x1F)
    with DdsImagePlugin.DdsImageFile(io.BytesIO(data)) as reference:
        assert np.array_equal(read(data).pixels, np.array(reference.convert("RGB")))


@pytest.mark.parametrize("form", ["DXT1", "DXT3", "DXT5", "BC5"])
def test_blocks_of_a_dds_stay_close(form: str, photo: np.ndarray) -> None:
    """Blocks are decoded, also at the edges: 90 and 130 are no multiples of 4. BC5 has red and green only."""
    pixels = read(saved(photo, "DDS", pixel_format=form)).pixels
    assert pixels.shape == photo.shape
    assert np.abs(pixels.astype(int) - photo)[:, :, :2].mean() < 8
    kind, message = refused(overwritten(saved(photo, "DDS", pixel_format="BC5"), 128, b"\x5f"))  # BC6H
    assert kind == "unsupported"
    assert "BC6H" in message


def test_qoi_equals_another_decoder(photo: np.ndarray) -> None:
    """With and without alpha. More pixels than the file can have are corrupt at once."""
    assert np.array_equal(read(imagecodecs.qoi_encode(photo)).pixels, photo)
    rgba = np.dstack([photo, np.full((90, 130), 255, np.uint8)])
    rgba[:40, :, 3] = 0
    pixels = read(imagecodecs.qoi_encode(rgba)).pixels
    assert (pixels[:40] == 255).all()
    assert np.array_equal(pixels[40:], photo[40:])
    data = imagecodecs.qoi_encode(photo)
    assert refused(overwritten(data, 4, struct.pack(">II", 9000, 9000)))[0] == "corrupt"
