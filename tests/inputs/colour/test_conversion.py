"""Colour: images of every mode become 8-bit RGB by the stated rules."""

import numpy as np
import PIL.Image
from skimage import color

import icc
from clipseg_cli.inputs.colour.conversion import BACKGROUND
from image_files import as_rgb, png, read, saved, tiff


def test_16_bit_grey_equals_its_8_bit_version(grey: np.ndarray) -> None:
    """PNG, TIFF of either byte order, PGM and JPEG 2000: 257 times an 8-bit value becomes that value."""
    wide = grey.astype(np.uint16) * 257
    pgm = b"P5\n130 90\n65535\n" + wide.astype(">u2").tobytes()
    for data in (saved(wide, "PNG"), saved(wide, "TIFF"), saved(wide, "JPEG2000"), pgm, tiff(wide)):
        image = read(data)
        assert np.array_equal(image.pixels, as_rgb(grey))
        assert image.notes == ("16-bit grey scaled to 8 bits",)
    assert np.array_equal(read(tiff(65535 - wide, photometric=0)).pixels, as_rgb(grey))
    big = saved(PIL.Image.frombytes("I;16B", (130, 90), wide.astype(">u2").tobytes()), "TIFF")
    assert np.array_equal(read(big).pixels, as_rgb(grey))


def test_12_bit_grey_uses_its_own_white() -> None:
    """4095 is white, not a sixteenth of white."""
    pairs = bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00])  # 000 fff 800 800
    data = tiff(np.frombuffer(pairs, np.uint8).reshape(1, 6), width=4, bits=12)
    assert read(data).pixels[0, :, 0].tolist() == [0, 255, 128, 128]


def test_floats_and_wide_integers_are_scaled_by_a_stated_rule(grey: np.ndarray) -> None:
    """0..1 is black to white, even if only a part is used; other ranges are stretched; NaN is black."""
    unit = grey.astype(np.float32) / 255
    assert np.array_equal(read(saved(unit, "TIFF")).pixels, as_rgb(grey))
    assert np.array_equal(read(saved(unit / 2, "TIFF")).pixels, as_rgb(np.rint(grey / 2).astype(np.uint8)))
    full = grey.copy()
    full[0, :2] = 0, 255
    for wide in (full.astype(np.float32) * 7 - 300, full.astype(np.int32) * 100_000 - 5):
        assert np.array_equal(read(saved(wide, "TIFF")).pixels, as_rgb(full))
    odd = np.array([[np.nan, np.inf, -np.inf, 0.0, 1.0]], np.float32)
    assert read(saved(odd, "TIFF")).pixels[0, :, 0].tolist() == [0, 255, 0, 0, 255]
    for flat in (np.full((2, 2), np.nan, np.float32), np.full((2, 2), 3e38, np.float32)):
        assert read(saved(flat, "TIFF")).pixels.max() == 0
    assert read(saved(np.array([[-3e38, 3e38]], np.float32), "TIFF")).pixels[0, :, 0].tolist() == [0, 255]


def test_16_bit_colour_keeps_its_high_byte(photo: np.ndarray) -> None:
    """A PNG of 16 bits per channel, with and without alpha, equals its 8-bit version."""
    wide = photo.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide.astype(">u2"))
    assert np.array_equal(read(png(130, 90, 16, 2, rows)).pixels, photo)
    solid = np.concatenate([wide, np.full((90, 130, 1), 65535)], axis=2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in solid)
    assert np.array_equal(read(png(130, 90, 16, 6, rows)).pixels, photo)


def over(photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Returns the photo composited on the background, in floats."""
    weight = alpha[:, :, None] / 255
    return np.rint(photo * weight + np.array(BACKGROUND) * (1 - weight))


def test_transparent_pixels_are_composited_on_white(photo: np.ndarray, grey: np.ndarray) -> None:
    """RGBA, LA and premultiplied alpha, within one level of rounding. Opaque alpha adds no note."""
    alpha = np.linspace(0, 255, 130).astype(np.uint8)[None].repeat(90, 0)
    rgba = PIL.Image.fromarray(np.dstack([photo, alpha]))
    la = PIL.Image.merge("LA", [PIL.Image.fromarray(grey), PIL.Image.fromarray(alpha)])
    for data in (saved(rgba, "PNG"), saved(rgba, "TIFF"), saved(rgba, "WEBP", lossless=True, exact=True)):
        image = read(data)
        assert np.abs(image.pixels - over(photo, alpha)).max() <= 1
        assert image.notes == ("transparency composited on white",)
    for data in (saved(la, "PNG"), saved(la, "TIFF")):
        assert np.abs(read(data).pixels - over(as_rgb(grey), alpha)).max() <= 1
    scaled = np.rint(grey * (alpha / 255)).astype(np.uint8)
    premultiplied = tiff(np.dstack([scaled, alpha]), samples=2, bits=8 << 16 | 8, extra=1)
    assert np.abs(read(premultiplied).pixels - over(as_rgb(grey), alpha)).max() <= 2
    opaque = read(saved(PIL.Image.fromarray(photo).convert("RGBA"), "PNG"))
    assert np.array_equal(opaque.pixels, photo)
    assert opaque.notes == ()


def test_transparent_colours_and_palette_entries_become_white() -> None:
    """tRNS of grey, 16-bit grey and RGB; palette entries of PNG and GIF; a palette with alpha in TIFF."""
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


def test_palette_bilevel_and_ycbcr_images_keep_their_colours(photo: np.ndarray, grey: np.ndarray) -> None:
    """Each is compared with an expectation that is computed without this program."""
    image = PIL.Image.fromarray(photo)
    quantised = image.quantize(64)
    expected = np.array(quantised.getpalette(), np.uint8).reshape(-1, 3)[np.array(quantised)]
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        assert np.array_equal(read(saved(quantised, form)).pixels, expected)
    for form in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(
            read(saved(PIL.Image.fromarray(grey > 99), form)).pixels, as_rgb((grey > 99) * np.uint8(255))
        )
        assert np.array_equal(read(saved(grey, form)).pixels, as_rgb(grey))
    assert np.abs(read(saved(image.convert("YCbCr"), "TIFF")).pixels.astype(int) - photo).max() <= 3


def test_lab_becomes_srgb(photo: np.ndarray) -> None:
    """A CIELAB TIFF computed by scikit-image returns the photo within the rounding of its 8-bit steps."""
    lab = color.rgb2lab(photo)  # relative to the white of the photo, which equals adaptation to D50
    codes = (lab * [2.55, 1, 1]).round().astype(np.int16).astype(np.uint8)  # L unsigned, a and b signed bytes
    image = read(saved(PIL.Image.frombytes("LAB", (130, 90), codes.tobytes()), "TIFF"))
    assert np.abs(image.pixels.astype(int) - photo).mean() < 4
    assert image.notes == ("LAB converted to sRGB",)


def test_cmyk_is_converted_with_and_without_a_profile(photo: np.ndarray) -> None:
    """Without a profile: the photo. With one: the colours of the profile. A broken profile adds a note."""
    cmyk = PIL.Image.fromarray(photo).convert("CMYK")
    for data in (saved(cmyk, "JPEG", quality=95), saved(cmyk, "TIFF")):
        image = read(data)
        assert np.abs(image.pixels.astype(int) - photo).mean() < 4
        assert image.notes == ("CMYK converted without an ICC profile",)
    inks = PIL.Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for form in ("JPEG", "TIFF"):
        image = read(saved(inks, form, icc_profile=icc.swapped_inks()))
        assert image.notes == ("CMYK converted with its ICC profile",)
        assert np.abs(image.pixels[8, 8].astype(int) - [255, 0, 255]).max() < 12
    image = read(saved(cmyk, "JPEG", quality=95, icc_profile=b"no profile at all"))
    assert image.notes == ("broken ICC profile ignored", "CMYK converted without an ICC profile")
    assert np.abs(image.pixels.astype(int) - photo).mean() < 4
