"""Loading: every container and pixel mode becomes the right upright RGB array, and every bad file the right error."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage
import tifffile
from PIL import ImageOps
from skimage import color

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.colour import BACKGROUND
from clipseg_cli.inputs.decode import Image, load
from clipseg_cli.inputs.decoders import DECODERS
from clipseg_cli.inputs.kinds import MAGIC
from clipseg_cli.inputs.orientation import read_orientation
from clipseg_cli.inputs.source import Source

PHOTOS = Path(skimage.__file__).parent / "data"
LIMIT = 100_000_000  # pixels
ORIENTATION = 0x0112


def read(data: bytes, max_pixels: int = LIMIT) -> Image:
    """Loads bytes as they would come through standard input."""
    return load(Source("-", "-", "stdin", data=data), max_pixels=max_pixels)


def refused(data: bytes, max_pixels: int = LIMIT) -> tuple[str, str]:
    """Error class and message of bytes that must not load."""
    with pytest.raises(ImageError) as caught:
        read(data, max_pixels)
    assert caught.value.stage == "load"
    return caught.value.kind, str(caught.value)


def saved(image: PIL.Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    """The bytes of a file in this format."""
    file = io.BytesIO()
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG made by hand, for the kinds that Pillow does not write."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = [head, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in body
    )


def spoilt(data: bytes, at: int, new: bytes) -> bytes:
    """The bytes with other ones at a place."""
    return data[:at] + new + data[at + len(new) :]


def tiff(pixels: np.ndarray, others: dict[int, int] | None = None, **tags: int) -> bytes:
    """A little-endian grey TIFF of one strip, made by hand. A tag of two shorts is given as one long."""
    entries = {"width": (256, pixels.shape[1]), "height": (257, pixels.shape[0]), "bits": (258, 8 * pixels.itemsize)}
    entries |= {"compression": (259, 1), "photometric": (262, 1), "offset": (273, 8), "samples": (277, 1)}
    entries |= {"rows": (278, pixels.shape[0]), "bytes": (279, pixels.nbytes), "format": (339, 1)}
    entries |= {name: (entries.get(name, (338,))[0], value) for name, value in tags.items()}
    entries |= {str(tag): (tag, value) for tag, value in (others or {}).items()}
    raw = pixels.tobytes()
    directory = b"".join(
        struct.pack("<HHII", tag, 3 if value >> 16 else 4, 2 if value >> 16 else 1, value)
        for tag, value in sorted(entries.values())
    )
    return b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + struct.pack("<H", len(entries)) + directory + bytes(4)


def planar(planes: np.ndarray, **options: object) -> bytes:
    """A TIFF of RGB with each colour for itself, as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", metadata=None, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A real photograph, uint8 (90, 130, 3), neither square nor symmetric."""
    with PIL.Image.open(PHOTOS / "astronaut.png") as image:
        return np.array(image.convert("RGB").resize((130, 130)))[:90]


@pytest.fixture(scope="module")
def grey(photo: np.ndarray) -> np.ndarray:
    """The same in grey, uint8 (90, 130)."""
    return np.array(PIL.Image.fromarray(photo).convert("L"))


def three(plane: np.ndarray) -> np.ndarray:
    """Grey as RGB."""
    return np.stack([plane] * 3, axis=2)


LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "WEBP": {"lossless": True},
    "JPEG2000": {"irreversible": False},
}
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}, "WEBP": {"quality": 95}}


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_keep_every_pixel(form: str, photo: np.ndarray) -> None:
    """RGB and grey come back exactly, as a contiguous array of their own, with the container's name and no notes."""
    image = read(saved(photo, form, **LOSSLESS[form]))
    assert np.array_equal(image.pixels, photo)
    assert (image.format, image.frames, image.notes) == (form, 1, ())
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert image.pixels.flags.writeable


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_formats_stay_close(form: str, photo: np.ndarray) -> None:
    """The mean difference from the photograph is a few levels."""
    image = read(saved(photo, form, **LOSSY[form]))
    assert image.pixels.shape == photo.shape
    assert np.abs(image.pixels.astype(int) - photo).mean() < 4


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "retina.jpg", "rocket.jpg", "camera.png"])
def test_photographs_equal_what_pillow_shows(name: str) -> None:
    """For ordinary files `load` is Pillow's own reading."""
    image = load(Source(str(PHOTOS / name), name, name), max_pixels=LIMIT)
    with PIL.Image.open(PHOTOS / name) as reference:
        assert np.array_equal(image.pixels, np.array(reference.convert("RGB")))


def test_the_allowlist_is_what_discovery_recognises() -> None:
    """Each format has its magic bytes and its plug-in."""
    assert set(DECODERS) == set(MAGIC)


def test_a_file_is_read_by_content_not_by_name(tmp_path: Path, photo: np.ndarray) -> None:
    """A PNG named .jpg and a GIF named .jpeg load, and say what they are."""
    for name, form in (("a.jpg", "PNG"), ("b.jpeg", "GIF")):
        (tmp_path / name).write_bytes(saved(photo, form))
        assert load(Source(str(tmp_path / name), name, name), max_pixels=LIMIT).format == form


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # stored -> shown, in the words of the EXIF standard
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.fliplr(np.rot90(a, -1)),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.fliplr(np.rot90(a, 1)),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("value", TURNS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied_as_viewers_do(form: str, value: int, photo: np.ndarray) -> None:
    """Values 1-8 turn the stored rows as the standard says, and as Pillow's exif_transpose does."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = value
    data = saved(photo, form, exif=exif, **LOSSLESS.get(form, LOSSY.get(form)))
    image = read(data)
    with PIL.Image.open(io.BytesIO(data)) as reference:
        assert np.array_equal(image.pixels, np.array(ImageOps.exif_transpose(reference).convert("RGB")))
    expected = TURNS[value](photo)
    assert image.pixels.shape == expected.shape
    assert np.abs(image.pixels.astype(int) - expected).mean() < 4
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_impossible_orientation_is_ignored_with_a_note(form: str, value: int, photo: np.ndarray) -> None:
    """It counts as 1."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = value
    image = read(saved(photo, form, exif=exif))
    assert image.pixels.shape == photo.shape
    assert image.notes == ("orientation outside 1-8 ignored",)


@pytest.mark.parametrize(
    "block", [b"", b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x09\x01", b"II"]
)
def test_broken_exif_is_never_fatal(block: bytes, photo: np.ndarray) -> None:
    """Whatever stands in the EXIF segment, the image loads as stored, and a note says so."""
    image = read(saved(photo, "JPEG", exif=b"Exif\0\0" + block))
    assert image.pixels.shape == photo.shape
    assert image.notes == ("broken EXIF ignored",)


def test_orientation_reads_both_byte_orders_and_every_integer_type() -> None:
    """BYTE, SHORT and LONG in II and MM; no tag means 1; other tags are passed over."""
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        start = mark + struct.pack(order + "I", 8)
        assert read_orientation(start + struct.pack(order + "H", 0)) == 1
        for kind, layout in ((1, "Bxxx"), (3, "Hxx"), (4, "I")):
            other = struct.pack(order + "HHII", 0x0110, 4, 1, 7)
            entry = struct.pack(order + "HHI" + layout, ORIENTATION, kind, 1, 6)
            assert read_orientation(start + struct.pack(order + "H", 2) + other + entry) == 6


def test_16_bit_grey_equals_its_8_bit_version(grey: np.ndarray) -> None:
    """PNG, TIFF of either byte order, PGM and JPEG 2000: 257 times the value is the value."""
    wide = grey.astype(np.uint16) * 257
    pgm = b"P5\n130 90\n65535\n" + wide.astype(">u2").tobytes()
    for data in (saved(wide, "PNG"), saved(wide, "TIFF"), saved(wide, "JPEG2000"), pgm, tiff(wide)):
        image = read(data)
        assert np.array_equal(image.pixels, three(grey))
        assert image.notes == ("16-bit grey scaled to 8 bits",)
    assert np.array_equal(read(tiff(65535 - wide, photometric=0)).pixels, three(grey))
    big = saved(PIL.Image.frombytes("I;16B", (130, 90), wide.astype(">u2").tobytes()), "TIFF")
    assert np.array_equal(read(big).pixels, three(grey))


def test_12_bit_grey_uses_its_own_white() -> None:
    """4095 is white, not a sixteenth of it."""
    pairs = bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00])  # 000 fff 800 800
    data = tiff(np.frombuffer(pairs, np.uint8).reshape(1, 6), width=4, bits=12)
    assert read(data).pixels[0, :, 0].tolist() == [0, 255, 128, 128]


def test_floats_and_wide_integers_are_scaled_by_a_stated_rule(grey: np.ndarray) -> None:
    """0..1 is black to white whatever it spans; other ranges are stretched; NaN is black, infinities are the ends."""
    unit = grey.astype(np.float32) / 255
    assert np.array_equal(read(saved(unit, "TIFF")).pixels, three(grey))
    assert np.array_equal(read(saved(unit / 2, "TIFF")).pixels, three(np.rint(grey / 2).astype(np.uint8)))
    full = grey.copy()
    full[0, :2] = 0, 255
    for wide in (full.astype(np.float32) * 7 - 300, full.astype(np.int32) * 100_000 - 5):
        assert np.array_equal(read(saved(wide, "TIFF")).pixels, three(full))
    odd = np.array([[np.nan, np.inf, -np.inf, 0.0, 1.0]], np.float32)
    assert read(saved(odd, "TIFF")).pixels[0, :, 0].tolist() == [0, 255, 0, 0, 255]
    for flat in (np.full((2, 2), np.nan, np.float32), np.full((2, 2), 3e38, np.float32)):
        assert read(saved(flat, "TIFF")).pixels.max() == 0
    assert read(saved(np.array([[-3e38, 3e38]], np.float32), "TIFF")).pixels[0, :, 0].tolist() == [0, 255]


def test_16_bit_colour_keeps_its_high_byte(photo: np.ndarray) -> None:
    """A PNG of 16 bits a channel, made by hand, with and without alpha."""
    wide = photo.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide.astype(">u2"))
    assert np.array_equal(read(png(130, 90, 16, 2, rows)).pixels, photo)
    solid = np.concatenate([wide, np.full((90, 130, 1), 65535)], axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in solid)
    assert np.array_equal(read(png(130, 90, 16, 6, rows)).pixels, photo)


def over(photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Alpha compositing on the background, in floats."""
    weight = alpha[:, :, None] / 255
    return np.rint(photo * weight + np.array(BACKGROUND) * (1 - weight))


def test_transparency_shows_the_background(photo: np.ndarray, grey: np.ndarray) -> None:
    """RGBA, LA and premultiplied alpha are composited on white, to one level of rounding; opaque alpha is no note."""
    alpha = np.linspace(0, 255, 130).astype(np.uint8)[None].repeat(90, 0)
    rgba = PIL.Image.fromarray(np.dstack([photo, alpha]))
    la = PIL.Image.merge("LA", [PIL.Image.fromarray(grey), PIL.Image.fromarray(alpha)])
    for data in (saved(rgba, "PNG"), saved(rgba, "TIFF"), saved(rgba, "WEBP", lossless=True, exact=True)):
        image = read(data)
        assert np.abs(image.pixels - over(photo, alpha)).max() <= 1
        assert image.notes == ("transparency shown on white",)
    for data in (saved(la, "PNG"), saved(la, "TIFF")):
        assert np.abs(read(data).pixels - over(three(grey), alpha)).max() <= 1
    scaled = np.rint(grey * (alpha / 255)).astype(np.uint8)
    premultiplied = tiff(np.dstack([scaled, alpha]), samples=2, bits=8 << 16 | 8, extra=1)
    assert np.abs(read(premultiplied).pixels - over(three(grey), alpha)).max() <= 2
    opaque = read(saved(PIL.Image.fromarray(photo).convert("RGBA"), "PNG"))
    assert np.array_equal(opaque.pixels, photo)
    assert opaque.notes == ()


def test_transparent_colours_and_palettes_show_the_background() -> None:
    """tRNS of grey, 16-bit grey and RGB; a palette entry of PNG and GIF; palette with alpha in TIFF."""
    palette = PIL.Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    white, ink = list(BACKGROUND), [200, 100, 50]
    for form in ("PNG", "GIF"):
        assert read(saved(palette, form, transparency=0)).pixels.tolist() == [[white, ink]]
    assert read(saved(palette, "PNG")).pixels.tolist() == [[[10, 20, 30], ink]]
    assert read(saved(palette, "PNG", transparency=b"\xff\x80")).pixels[0, 1].tolist() == [227, 177, 152]
    plain = read(png(2, 1, 8, 0, b"\0\x07\x08", (b"tRNS", b"\0\x07")))
    assert plain.pixels.tolist() == [[white, [8, 8, 8]]]
    wide = read(png(2, 1, 16, 0, b"\0\x12\x34\x08\x08", (b"tRNS", b"\x12\x34")))
    assert wide.pixels.tolist() == [[white, [8, 8, 8]]]
    colour = read(png(2, 1, 8, 2, b"\0\x01\x02\x03\x04\x05\x06", (b"tRNS", b"\0\x01\0\x02\0\x03")))
    assert colour.pixels.tolist() == [[white, [4, 5, 6]]]
    assert read(saved(palette.convert("PA"), "TIFF")).pixels.tolist() == [[[10, 20, 30], ink]]


def test_palette_bilevel_and_ycbcr_come_out_as_their_colours(photo: np.ndarray, grey: np.ndarray) -> None:
    """Each against an expectation made without this program."""
    image = PIL.Image.fromarray(photo)
    quantised = image.quantize(64)
    expected = np.array(quantised.getpalette(), np.uint8).reshape(-1, 3)[np.array(quantised)]
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(read(saved(quantised, form)).pixels, expected)
    for form in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(
            read(saved(PIL.Image.fromarray(grey > 99), form)).pixels, three((grey > 99) * np.uint8(255))
        )
        assert np.array_equal(read(saved(grey, form)).pixels, three(grey))
    assert np.abs(read(saved(image.convert("YCbCr"), "TIFF")).pixels.astype(int) - photo).max() <= 3


def test_lab_becomes_srgb(photo: np.ndarray) -> None:
    """A CIELAB TIFF computed by scikit-image comes back within rounding of its 8-bit steps."""
    lab = color.rgb2lab(photo)  # relative to the photo's own white, which is what adaptation to D50 comes to
    codes = (lab * [2.55, 1, 1]).round().astype(np.int16).astype(np.uint8)  # L unsigned, a and b signed bytes
    image = read(saved(PIL.Image.frombytes("LAB", (130, 90), codes.tobytes()), "TIFF"))
    assert np.abs(image.pixels.astype(int) - photo).mean() < 4
    assert image.notes == ("LAB converted to sRGB",)


def cmyk_profile() -> bytes:
    """A CMYK ICC profile made by hand: a table of the sixteen full inks in Lab, cyan and magenta swapped."""
    corners = np.array([[c, m, y, k] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)])
    rgb = (1 - corners[:, [1, 0, 2]]) * (1 - corners[:, 3:])
    lab = color.rgb2lab(rgb[None].astype(float))[0]
    table = np.stack([lab[:, 0] * 2.55, lab[:, 1] + 128, lab[:, 2] + 128], axis=1).round().clip(0, 255).astype(np.uint8)
    unit = struct.pack(">9i", *(65536 if index % 4 == 0 else 0 for index in range(9)))
    a2b = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + unit
        + bytes(range(256)) * 4
        + table.tobytes()
        + bytes(range(256)) * 3
    )
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, offset, body = [(b"desc", text), (b"wtpt", white), (b"A2B0", a2b)], 128 + 4 + 36, b""
    index = struct.pack(">I", len(tags))
    for name, data in tags:
        data += bytes(-len(data) % 4)
        index += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = 128 + len(index) + len(body)
    head = struct.pack(">I", size) + b"lcms" + struct.pack(">I", 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + index + body


def test_cmyk_has_sane_colours_with_and_without_a_profile(photo: np.ndarray) -> None:
    """Without: the photograph, as from an Adobe JPEG or a TIFF. With: the profile's colours. A broken one is noted."""
    cmyk = PIL.Image.fromarray(photo).convert("CMYK")
    for data in (saved(cmyk, "JPEG", quality=95), saved(cmyk, "TIFF")):
        image = read(data)
        assert np.abs(image.pixels.astype(int) - photo).mean() < 4
        assert image.notes == ("CMYK converted without a profile",)
    inks = PIL.Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for form in ("JPEG", "TIFF"):
        image = read(saved(inks, form, icc_profile=cmyk_profile()))
        assert image.notes == ("CMYK converted by its profile",)
        assert np.abs(image.pixels[8, 8].astype(int) - [255, 0, 255]).max() < 12
    image = read(saved(cmyk, "JPEG", quality=95, icc_profile=b"no profile at all"))
    assert image.notes == ("broken colour profile ignored", "CMYK converted without a profile")
    assert np.abs(image.pixels.astype(int) - photo).mean() < 4


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_first_of_several_frames_is_read(form: str, photo: np.ndarray) -> None:
    """Its pixels come out, and the number of frames is noted."""
    frames = [PIL.Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (200, 90, 10)]
    image = read(saved(frames[0], form, save_all=True, append_images=frames[1:]))
    assert np.abs(image.pixels.astype(int) - 200).max() <= 2
    assert (image.frames, image.notes) == (3, ("first of 3 frames",))


def test_counting_frames_is_cheap_and_ends() -> None:
    """20,000 TIFF pages cost no more than a thousand; a damaged second frame does not spoil the first."""
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


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (10, 63498)])
def test_extreme_shapes_load(size: tuple[int, int]) -> None:
    """One pixel, one row, one column, a long strip."""
    for form in ("PNG", "JPEG", "TIFF", "GIF", "BMP"):
        assert read(saved(PIL.Image.new("RGB", size, "red"), form)).pixels.shape == (size[1], size[0], 3)


def test_what_is_no_image_is_unsupported() -> None:
    """Text, PostScript, PSD, HEIC and their kin are refused by their first bytes; no bytes at all are `empty`."""
    assert refused(b"")[0] == "empty"
    for data in (b"hello, I am a text file named .jpg\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"):
        assert refused(data)[0] == "unsupported"
    for data in (b"8BPS\0\1", b"BLP2" + bytes(280), b"SIMPLE  = T", b"\0\0\0\0\x12\xaf" + bytes(99)):
        assert refused(data)[0] == "unsupported"
    kind, message = refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert kind == "unsupported"
    assert "HEIC" in message
    assert "JPEG" in message


def test_pixel_kinds_without_a_reading_are_unsupported_not_corrupt() -> None:
    """A sound TIFF of seven bands says what to do."""
    kind, message = refused(tiff(np.zeros((2, 14), np.uint8), width=2, samples=7))
    assert kind == "unsupported"
    assert "8-bit RGB" in message
    assert "compression 34712" in refused(tiff(np.zeros((2, 2), np.uint8), compression=34712))[1]
    plain = saved(np.zeros((8, 8, 3), np.uint8), "BMP")
    for strange in (spoilt(plain, 30, b"\4"), spoilt(plain, 28, b"\2")):  # a JPEG within; two bits a pixel
        assert refused(strange)[0] == "unsupported"
    assert refused(b"PF 1 1\n-1\n" + bytes(12))[0] == "unsupported"
    assert "BigTIFF" in refused(b"MM\0+\0\x08\0\0" + struct.pack(">Q", 16) + bytes(99))[1]


def test_colour_planes_of_a_tiff_come_out_as_its_colours_or_not_at_all(photo: np.ndarray) -> None:
    """Of 8 bits, in one strip or tiles, and of 16 where they are compressed; 16 uncompressed Pillow would misread."""
    wide = photo.astype(np.uint16) * 257
    for pixels, options in ((photo, {}), (photo, {"tile": (32, 48)}), (wide, {"compression": "zlib"})):
        planes = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        assert np.array_equal(read(planar(planes, **options)).pixels, photo)
    kind, message = refused(planar(np.ascontiguousarray(np.moveaxis(wide, 2, 0))))
    assert kind == "unsupported"
    assert "planes" in message
    assert refused(tiff(wide[:, :, 0], others={284: 2}))[0] == "unsupported"


@pytest.mark.parametrize(("marker", "name"), [(0xC3, "without loss"), (0xC7, "layers"), (0xCB, "loss"), (0xF7, "-LS")])
def test_kinds_of_jpeg_that_no_decoder_reads_are_unsupported(marker: int, name: str, photo: np.ndarray) -> None:
    """JPEG without loss, hierarchical or JPEG-LS is no broken file; one of 12 bits neither."""
    data = saved(photo, "JPEG")
    frame = data.index(b"\xff\xc0")
    kind, message = refused(spoilt(data, frame + 1, bytes([marker])))
    assert kind == "unsupported"
    assert name in message
    assert refused(spoilt(data, frame + 4, b"\x0c"))[0] == "unsupported"


def test_camera_raw_files_are_unsupported_not_their_thumbnails() -> None:
    """DNG, CR2, and a TIFF whose first picture is the small one of another within: never a mask of a thumbnail."""
    small = np.zeros((2, 2), np.uint8)
    for tags in ({0xC612: 1}, {254: 1, 330: 8}):
        kind, message = refused(tiff(small, tags))
        assert kind == "unsupported"
        assert "raw" in message
    kind, message = refused(b"II*\0\x10\0\0\0CR\2\0" + bytes(99))
    assert kind == "unsupported"
    assert "CR2" in message


def test_pixels_that_were_never_written_are_corrupt(photo: np.ndarray) -> None:
    """A PNG whose stream ends well behind half its rows, of each kind and interlaced; one without its palette; a TIFF
    with fewer strips than rows, or with a strip in its own header. A black picture is not mistaken for one."""
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
        data = spoilt(png(130, 90, 8, 2, b"".join(woven[:count])), 28, b"\1")
        data = spoilt(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))
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


def test_what_is_not_pixels_spoils_none(photo: np.ndarray) -> None:
    """Texts of megabytes when inflated, profiles, damaged notes and false frames of a PNG: the picture, exactly."""
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
        assert (image.frames, image.notes) == (1, ())
    for name, notes in ((b"tEXt", ()), (b"eXIf", ("broken EXIF ignored",))):
        image = read(png(130, 90, 8, 2, rows, (name, b"a\0b")).replace(b"a\0b", b"a\0c"))
        assert np.array_equal(image.pixels, photo)
        assert image.notes == notes


def test_a_tile_is_no_way_around_the_limit() -> None:
    """One pixel in a tile of 400 million: too large, whatever the picture's size."""
    kind, message = refused(tiff(np.zeros((1, 1), np.uint8), {322: 20_000, 323: 20_000}))
    assert kind == "too_large"
    assert "tile" in message


VALID = {
    "JPEG": {}, "PNG": {}, "GIF": {}, "WEBP": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "AVIF": {}, "JPEG2000": {},
    "JPEG ": {"progressive": True}, "JPEG  ": {"restart_marker_blocks": 2}, "WEBP ": {"lossless": True},
    "TIFF ": {"compression": "tiff_adobe_deflate"}, "TIFF  ": {"compression": "tiff_lzw"},
    "TIFF   ": {"compression": "packbits"}, "TIFF    ": {"compression": "jpeg"},
    "JPEG   ": {"subsampling": 2, "quality": 30}, "PNG ": {"optimize": True}, "GIF ": {"interlace": False},
    "JPEG2000 ": {"irreversible": True},
}  # fmt: skip


@pytest.mark.parametrize("form", VALID)
def test_a_file_cut_anywhere_is_refused_or_whole(form: str, photo: np.ndarray) -> None:
    """At every length to 1,000 bytes, every hundredth after, and the last 40: never `ok` with other pixels."""
    data = saved(photo[:48, :64], form.strip(), **VALID[form])
    whole = read(data).pixels
    lengths = {*range(min(1000, len(data))), *range(1000, len(data), max(len(data) // 100, 1))}
    for length in sorted(lengths | set(range(len(data) - 40, len(data)))):
        try:
            pixels = read(data[:length]).pixels
        except ImageError as error:
            assert error.kind in (("empty", "unsupported", "corrupt") if length < 20 else ("corrupt",))
        else:
            assert np.array_equal(pixels, whole)


def test_garbage_behind_a_valid_header_is_corrupt(photo: np.ndarray) -> None:
    """Noise or zeros in place of the second half, also where libjpeg alone would fill in grey."""
    noise = np.random.default_rng(0)
    for form in ("JPEG", "JPEG  ", "JPEG ", "PNG"):
        data = saved(photo, form.strip(), **VALID[form])
        half = len(data) // 2
        for tail in (noise.bytes(len(data) - half), bytes(len(data) - half), noise.bytes(100_000)):
            assert refused(data[:half] + tail)[0] == "corrupt"


def test_a_thumbnail_inside_a_jpeg_is_not_mistaken_for_its_end(photo: np.ndarray) -> None:
    """EXIF may hold a whole JPEG, and bytes may follow the end."""
    inner = saved(photo[:20, :20], "JPEG")
    data = saved(photo, "JPEG", quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + inner)
    assert np.array_equal(read(data).pixels, read(data + b"\xff\xd8 trailing \xff\x12").pixels)


def claiming(form: str, width: int, height: int) -> bytes:
    """A tiny file whose header claims this size."""
    data = bytearray(saved(PIL.Image.new("RGB", (8, 8), "red"), form, **LOSSLESS.get(form, {})))
    big, little = struct.pack(">II", width, height), struct.pack("<II", width, height)
    if form == "PNG":
        data[16:24] = big
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif form == "JPEG":
        place = data.index(b"\xff\xc0")
        data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    elif form == "GIF":
        place = data.index(b",")
        data[6:10] = data[place + 5 : place + 9] = struct.pack("<HH", width, height)
    elif form == "BMP":
        data[18:26] = little
    elif form == "WEBP":
        data[21:25] = struct.pack("<I", width - 1 | height - 1 << 14)
    elif form == "AVIF":
        place = data.index(b"ispe")
        data[place + 8 : place + 16] = big
    elif form == "PPM":
        data = data.replace(b"8 8\n", b"%d %d\n" % (width, height))
    elif form == "TIFF":
        return tiff(np.zeros((2, 2), np.uint8), width=width, height=height)
    else:
        place = data.index(b"\xff\x4f\xff\x51")
        data[place + 8 : place + 16] = data[place + 24 : place + 32] = big
        place = data.index(b"ihdr")
        data[place + 4 : place + 12] = struct.pack(">II", height, width)
    return bytes(data)


MEASURE = """
import resource, sys
import numpy as np
from clipseg_cli.inputs.decode import load
from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.source import Source
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
warm = Source(sys.argv[2], "", "")
load(warm, max_pixels=10**8)
before = peak()
for path in sys.argv[3:]:
    try:
        print(load(Source(path, "", ""), max_pixels=int(sys.argv[1])).pixels.shape, peak() - before)
    except ImageError as error:
        print(error.kind, peak() - before, "--max-pixels" in str(error))
print([name for name in sys.modules if name.startswith("PIL.") and name[4:7] in ("Eps", "Blp", "Psd", "Fli")])
"""


def measured(limit: int, *paths: Path) -> list[str]:
    """Loads files in a fresh process; a line each with the megabytes that its peak memory grew by."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", MEASURE, str(limit), str(PHOTOS / "coffee.png"), *map(str, paths)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    """165 megapixels claimed by a few hundred bytes of any format: `too_large`, 50 MB at most, the flag is named."""
    paths = [tmp_path / form for form in DECODERS]
    for path in paths:
        path.write_bytes(claiming(path.name, 12845, 12845))
        assert path.stat().st_size < 1000
    *lines, plugins = measured(LIMIT, *paths)
    for line in lines:
        kind, grown, named = line.split()
        assert (kind, named) == ("too_large", "True")
        assert int(grown) < 50
    assert plugins == "[]"


def test_a_small_file_that_claims_an_allowed_size_takes_little_memory(tmp_path: Path) -> None:
    """90 megapixels, within the limit, claimed by a few hundred bytes: corrupt, or cut short before memory is used."""
    paths = [tmp_path / form for form in ("JPEG", "PNG", "BMP", "TIFF", "PPM")]
    for path in paths:
        path.write_bytes(claiming(path.name, 9487, 9487))
    for line in measured(LIMIT, *paths)[:-1]:
        kind, grown, _ = line.split()
        assert kind == "corrupt"
        assert int(grown) < 300


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path, photo: np.ndarray) -> None:
    """A terabyte of nothing behind a small picture is `too_large`, and no time goes by."""
    for form in ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000"):
        path = tmp_path / form
        path.write_bytes(saved(photo, form))
        os.truncate(path, 1 << 40)
        assert fail(path) == "too_large"


def test_the_limit_is_the_users(photo: np.ndarray) -> None:
    """One pixel fewer than the image refuses it; the limit may exceed Pillow's own."""
    data = saved(photo, "PNG")
    assert read(data, max_pixels=90 * 130).pixels.shape == photo.shape
    kind, message = refused(data, max_pixels=90 * 130 - 1)
    assert kind == "too_large"
    assert "130 x 90" in message
    assert refused(claiming("TIFF", 16383, 16383), max_pixels=300_000_000)[0] == "corrupt"


def fail(path: Path | str) -> str:
    """Error class of a path that must not load."""
    with pytest.raises(ImageError) as caught:
        load(Source(str(path), "x", "x"), max_pixels=LIMIT)
    return caught.value.kind


def test_what_is_not_a_readable_file_is_named_and_never_waited_for(tmp_path: Path) -> None:
    """Gone, a folder, a FIFO without a writer, a device, an impossible name: an error each, at once."""
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    kinds = {"gone.jpg": "vanished", "fifo.jpg": "not_a_file", "empty.jpg": "empty", "dangling.jpg": "vanished"}
    assert {name: fail(tmp_path / name) for name in kinds} == kinds
    assert fail(tmp_path) == "not_a_file"
    assert fail("/dev/zero") == "not_a_file"
    assert fail("nul\0byte.jpg") == "vanished"
    assert fail(tmp_path / ("x" * 5000)) == "permission"
    known = ImageError("vanished", "discover", "gone")
    with pytest.raises(ImageError) as caught:
        load(Source("x", "x", "x", error=known), max_pixels=1)
    assert caught.value is known


def test_a_file_written_while_it_is_read_is_changed_whatever_it_looks_like(tmp_path: Path) -> None:
    """A writer that never stops: each load is the image, or `changed`; half a picture is never called corrupt."""
    path, stop, seen = tmp_path / "live.bmp", threading.Event(), set()
    noise = np.random.default_rng(0)
    data = saved(noise.integers(0, 255, (1500, 1500, 3), np.uint8), "BMP")
    path.write_bytes(data)

    def write() -> None:
        while not stop.is_set():
            with path.open("r+b") as file:
                file.write(data[: 1 << 20])
                file.truncate(1 << 20)
                file.flush()
                file.write(data[1 << 20 :])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        deadline = time.monotonic() + 20
        while "changed" not in seen and time.monotonic() < deadline:
            try:
                load(Source(str(path), "x", "x"), max_pixels=LIMIT)
            except ImageError as error:
                seen.add(error.kind)
    finally:
        stop.set()
        writer.join()
    assert "changed" in seen
    assert load(Source(str(path), "x", "x"), max_pixels=LIMIT).pixels.shape == (1500, 1500, 3)


def test_threads_load_at_once_in_silence(photo: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    """Eight threads and files that make Pillow warn: the same pixels, no warning, nothing on stderr."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    files = [saved(photo, "JPEG", exif=exif), saved(photo, "PNG"), saved(photo, "JPEG", exif=b"Exif\0\0II*\0\x08")]
    files.append(saved(photo, "TIFF")[:-1] + b"\0")
    expected = [read(data).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda index: read(files[index % 4]).pixels, range(200)))
    assert all(np.array_equal(pixels, expected[index % 4]) for index, pixels in enumerate(results))
    assert capfd.readouterr().err == ""
