"""Decoders: what each one checks beyond Pillow, for JPEG, PNG and TIFF."""

import struct
import time
import zlib

import numpy as np
import PIL.Image
import pytest

from image_files import VALID, overwritten, planar, png, read, refused, saved, tiff


def test_unsupported_pixel_formats_are_not_called_corrupt() -> None:
    """The message for a valid file says what to do."""
    grey = np.zeros((2, 2), np.uint8)
    for tags in ({"photometric": 32844}, {"format": 6}, {"bits": 5 << 16 | 6, "samples": 2, "width": 1}):
        kind, message = refused(tiff(grey, **tags))
        assert kind == "unsupported"
        assert "save" in message
    assert "volume" in refused(tiff(grey, {32997: 3}, format=3))[1]
    plain = saved(np.zeros((8, 8, 3), np.uint8), "BMP")
    for strange in (
        overwritten(plain, 30, b"\4"),
        overwritten(plain, 28, b"\2"),
    ):  # an embedded JPEG; two bits per pixel
        assert refused(strange)[0] == "unsupported"


def test_garbage_behind_a_valid_header_is_corrupt(photo: np.ndarray) -> None:
    """Noise or zeros replace the second half, also if libjpeg alone would fill in grey."""
    noise = np.random.default_rng(0)
    for form in ("JPEG", "JPEG  ", "JPEG ", "PNG"):
        data = saved(photo, form.strip(), **VALID[form])
        half = len(data) // 2
        for tail in (noise.bytes(len(data) - half), bytes(len(data) - half), noise.bytes(100_000)):
            assert refused(data[:half] + tail)[0] == "corrupt"


@pytest.mark.parametrize(
    ("marker", "name"), [(0xC3, "lossless"), (0xC7, "hierarchical"), (0xCB, "lossless"), (0xF7, "-LS")]
)
def test_jpeg_variants_that_cannot_be_decoded_are_unsupported(marker: int, name: str, photo: np.ndarray) -> None:
    """Lossless, hierarchical, 12-bit JPEG and JPEG-LS are not called corrupt."""
    data = saved(photo, "JPEG")
    frame = data.index(b"\xff\xc0")
    kind, message = refused(overwritten(data, frame + 1, bytes([marker])))
    assert kind == "unsupported"
    assert name in message
    assert refused(overwritten(data, frame + 4, b"\x0c"))[0] == "unsupported"


def test_a_thumbnail_inside_a_jpeg_is_not_mistaken_for_its_end(photo: np.ndarray) -> None:
    """EXIF may contain a whole JPEG, and bytes may follow the end."""
    inner = saved(photo[:20, :20], "JPEG")
    data = saved(photo, "JPEG", quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + inner)
    assert np.array_equal(read(data).pixels, read(data + b"\xff\xd8 trailing \xff\x12").pixels)


def test_pixels_that_were_never_written_are_corrupt(photo: np.ndarray) -> None:
    """A PNG of each kind with missing rows or palette; a TIFF with too few strips, or with a strip inside its header.

    An image with black rows at its end loads.
    """
    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    for count in (1, 45, 89):
        assert refused(png(130, 90, 8, 2, rows[: count * 391]))[0] == "corrupt"
    for depth, kind, length in ((1, 0, 17), (16, 0, 260), (8, 4, 260), (8, 6, 520), (2, 3, 33)):
        palette = (b"PLTE", bytes(range(12)))
        row = b"\0" + b"\x5a" * length
        assert refused(png(130, 90, depth, kind, row * 60, palette))[0] == "corrupt"
        for dark in (row, bytes(len(row))):
            assert read(png(130, 90, depth, kind, row * 80 + dark * 10, palette)).pixels.shape == photo.shape
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    woven = [b"\0" + row.tobytes() for x, y, dx, dy in steps for row in photo[y::dy, x::dx]]
    for count in (len(woven), len(woven) - 1, len(woven) - 50):
        data = overwritten(png(130, 90, 8, 2, b"".join(woven[:count])), 28, b"\1")
        data = overwritten(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))
        if count == len(woven):
            assert np.array_equal(read(data).pixels, photo)
        else:
            assert refused(data)[0] == "corrupt"
    assert "palette" in refused(png(4, 1, 8, 3, b"\0\0\1\2\3"))[1]
    flat = np.full((4, 4), 9, np.uint8)
    for tags in ({"rows": 2}, {"offset": 0}):
        kind, message = refused(tiff(flat, **tags))
        assert kind == "corrupt"
        assert "missing" in message


def test_metadata_of_a_png_cannot_spoil_its_pixels(photo: np.ndarray) -> None:
    """With compressed texts of megabytes, profiles, damaged chunks and false frames, the pixels stay exact."""
    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    bomb = zlib.compress(bytes(10_000_000))
    for name, data in {
        b"zTXt": b"workflow\0\0" + bomb,
        b"iTXt": b"XML\0\1\0\0\0" + bomb,
        b"iCCP": b"icc\0\0" + bomb,
        b"gAMA": b"",
        b"acTL": b"\0",
        b"fcTL": bytes(26),
    }.items():
        image = read(png(130, 90, 8, 2, rows, (name, data)))
        assert np.array_equal(image.pixels, photo)
        assert (image.frames, image.notes) == (1, ("broken ICC profile ignored",) if name == b"iCCP" else ())
    for name, notes in ((b"tEXt", ()), (b"eXIf", ("broken EXIF ignored",))):
        image = read(png(130, 90, 8, 2, rows, (name, b"a\0b")).replace(b"a\0b", b"a\0c"))
        assert np.array_equal(image.pixels, photo)
        assert image.notes == notes


def test_colour_planes_of_a_tiff_are_decoded(photo: np.ndarray) -> None:
    """Of 8 and 16 bits, compressed or not. Pillow would misread uncompressed ones of 16 bits."""
    wide = photo.astype(np.uint16) * 257
    for pixels, options in ((photo, {}), (photo, {"tile": (32, 48)}), (wide, {"compression": "zlib"}), (wide, {})):
        planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        assert np.array_equal(read(planar(planes, **options)).pixels, photo)


def test_a_thumbnail_is_never_read_as_the_image() -> None:
    """DNG, CR2, and a TIFF whose first page is the thumbnail of another image in it."""
    small = np.zeros((2, 2), np.uint8)
    for data in (tiff(small, {0xC612: 1}), b"II*\0\x10\0\0\0CR\2\0" + bytes(99)):
        kind, message = refused(data)
        assert kind == "unsupported"
        assert "raw" in message
    kind, message = refused(tiff(small, {254: 1, 330: 8}))
    assert kind == "unsupported"
    assert "thumbnail" in message


def test_a_large_tile_is_refused() -> None:
    """An image of one pixel in a tile of 400 million pixels is `too_large`."""
    kind, message = refused(tiff(np.zeros((1, 1), np.uint8), {322: 20_000, 323: 20_000}))
    assert kind == "too_large"
    assert "tile" in message


def test_counting_frames_is_cheap_and_ends() -> None:
    """20,000 TIFF pages take no longer than 1,000. A damaged second frame does not spoil the first."""
    page = PIL.Image.new("L", (1, 1))
    one = saved(page, "TIFF")
    (start,) = struct.unpack_from("<I", one, 4)
    (count,) = struct.unpack_from("<H", one, start)
    entries = one[start : start + 2 + 12 * count]
    chain, place = bytearray(one), start
    for _ in range(20_000):
        struct.pack_into("<I", chain, place + len(entries), len(chain))
        place = len(chain)
        chain += entries + bytes(4)
    started = time.perf_counter()
    image = read(bytes(chain))
    assert time.perf_counter() - started < 3
    assert (image.frames, image.notes) == (1000, ("first of 1000 frames or more",))
    animation = saved(
        page.resize((40, 40)), "GIF", save_all=True, append_images=[PIL.Image.new("L", (40, 40), 255)] * 3
    )
    assert read(animation[: len(animation) - 30]).pixels.shape == (40, 40, 3)
