"""Images in their file's own colours and depth: pixels, profile and metadata are what other readers find there."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.TiffImagePlugin
import pytest
import tifffile

import icc
from clipseg_cli.inputs import metadata
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.decode import load, native
from clipseg_cli.inputs.decoders.result import Native
from clipseg_cli.inputs.orientation import stored
from clipseg_cli.inputs.source import Source
from image_files import png, saved
from written_files import FILES, scene

P3 = icc.profile("Display P3")
XMP = b'<x:xmpmeta tiff:Orientation="6"/>'


def read(data: bytes) -> Native:
    """Reads a file in its own colours."""
    return native(Source("-", "-", "stdin", data))


def deep(channels: int = 3) -> np.ndarray:
    """Returns pixels of all 16 bits: uint16 (23, 31, channels), with transparency if they are four."""
    return np.random.default_rng(channels).integers(0, 65536, (23, 31, channels), dtype=np.uint16)


def with_chunks(data: bytes, **chunks: bytes) -> bytes:
    """Returns a PNG with further chunks after its header."""
    made = [
        struct.pack(">I", len(each)) + name.encode() + each + struct.pack(">I", zlib.crc32(name.encode() + each))
        for name, each in chunks.items()
    ]
    return data[:33] + b"".join(made) + data[33:]


def exif() -> PIL.Image.Exif:
    """Returns EXIF of orientation 6 with a place, a maker's notes and a thumbnail's directory."""
    found = PIL.Image.Exif()
    found[0x0112], found[271] = 6, "Acme"
    found.get_ifd(metadata.EXIF).update({33434: PIL.TiffImagePlugin.IFDRational(1, 50), 37500: b"NOTES" * 9, 40962: 31})
    found.get_ifd(metadata.GPS).update({1: "N", 2: (48.0, 8.0, 15.0)})
    return found


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pixels_profile_and_metadata_are_the_files_own(form: str) -> None:
    """Nothing is converted, the EXIF orientation is applied, and the maker's notes are left out."""
    photo = scene(40, 30)
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {"quality": 100, "subsampling": 0}
    turned = PIL.Image.fromarray(np.ascontiguousarray(stored(photo, 6)))
    data = saved(turned, form, icc_profile=P3, exif=exif(), **({} if form in ("PNG", "TIFF") else options))
    found = read(data)
    assert found.pixels.shape == photo.shape and found.pixels.dtype == np.uint8
    assert np.abs(found.pixels.astype(int) - photo).max() <= (4 if form == "JPEG" else 0)
    assert found.profile == P3 and not found.grey
    tags = {field.tag: field for field in (*found.metadata.main, *found.metadata.exif, *found.metadata.gps)}
    assert tags[271].content == b"Acme\0"
    if form != "TIFF":  # in which Pillow writes only the main directory
        assert tags[1].content == b"N\0" and struct.unpack("<II", tags[33434].content) == (1, 50)
    assert not {0x0112, 37500} & tags.keys()
    assert not np.array_equal(load(Source("-", "-", "stdin", data)).pixels, found.pixels)


@pytest.mark.parametrize("channels", [3, 4])
def test_all_sixteen_bits_are_read_from_pngs_and_tiffs(channels: int) -> None:
    """As OpenCV and tifffile wrote them; transparency is composited on white in 16 bits."""
    pixels = deep(channels)
    made = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGRA))[1]
    wide = with_chunks(made.tobytes(), iCCP=b"x\0\0" + zlib.compress(P3), iTXt=b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    tiff = io.BytesIO()
    extra: dict[str, Any] = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tiff, pixels, photometric="rgb", iccprofile=P3, extratags=[(700, 1, len(XMP), XMP, True)], **extra)
    share = pixels[..., 3:] / 65535 if channels == 4 else 1
    expected = np.rint(pixels[..., :3] * share + 65535 * (1 - share))
    for data in (wide, tiff.getvalue()):
        found = read(data)
        assert found.pixels.dtype == np.uint16 and found.profile == P3 and found.metadata.xmp == XMP
        assert np.abs(found.pixels.astype(int) - expected).max() <= (1 if channels == 4 else 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_keeps_its_profile(form: str) -> None:
    """Its three channels are equal, and the profile is said to be one of grey."""
    grey, profile = deep()[..., 0], icc.grey_profile(1.8)
    found = read(saved(PIL.Image.fromarray(grey), form, icc_profile=profile))
    assert found.grey and found.profile == profile
    assert np.array_equal(found.pixels, np.repeat(grey[..., None], 3, axis=2))


def test_grey_with_transparency_is_read_in_eight_bits() -> None:
    """A PNG of 16 bits: Pillow has only its high bytes."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep(2))
    data = png(31, 23, 16, 4, rows)
    found = read(data)
    assert np.array_equal(found.pixels, load(Source("-", "-", "stdin", data)).pixels)


def test_where_0_is_white_it_becomes_65535() -> None:
    """Pillow inverts only 8 bits."""
    file = io.BytesIO()
    tifffile.imwrite(file, deep()[..., 0], photometric="miniswhite")
    assert np.array_equal(read(file.getvalue()).pixels[..., 0], 65535 - deep()[..., 0])


def test_what_no_rgb_profile_describes_is_srgb() -> None:
    """CMYK is converted and says that it is sRGB if a profile told how. A broken profile is not kept."""
    cmyk = PIL.Image.fromarray(scene(40, 30)).convert("CMYK")
    for profile, expected in ((icc.swapped_inks(), profiles.srgb()), (b"", b"")):
        data = saved(cmyk, "TIFF", **({"icc_profile": profile} if profile else {}))
        found = read(data)
        assert found.profile == expected
        assert np.array_equal(found.pixels, load(Source("-", "-", "stdin", data)).pixels)
    assert read(saved(scene(40, 30), "PNG", icc_profile=b"no profile at all")).profile == b""


def test_a_profile_that_changes_nothing_is_kept() -> None:
    """Byte for byte, also if it is sRGB."""
    profile = icc.profile("sRGB")
    found = read(saved(scene(40, 30), "PNG", icc_profile=profile))
    assert found.profile == profile and np.array_equal(found.pixels, scene(40, 30))


def test_a_heic_is_turned_once_and_keeps_what_it_says() -> None:
    """Its EXIF orientation repeats its rotation."""
    pytest.importorskip("pi_heif")
    found = read((FILES / "phone.heic").read_bytes())
    assert np.array_equal(found.pixels, scene(64, 48)) and found.profile == P3
    assert b"Phone\0" in [field.content for field in found.metadata.main]
    assert found.metadata.xmp.startswith(b"<x:xmpmeta")


@pytest.mark.parametrize("cut", [0, 6, 9, 20, 60])
def test_damaged_exif_is_none(cut: int) -> None:
    """However much of it is left: nothing is raised, and XMP is read all the same."""
    found = metadata.of_block(exif().tobytes()[:cut], XMP)
    assert found.xmp == XMP and not found.gps


def test_descriptions_for_programs_are_left_out() -> None:
    """ImageJ's and tifffile's say how to read the pixels of the file that they are in."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((3, 8, 8), np.uint8), imagej=True)
    assert 270 not in [field.tag for field in read(file.getvalue()).metadata.main]
    file = io.BytesIO()
    tifffile.imwrite(file, scene(40, 30), description="A caption", metadata=None)
    assert b"A caption\0" in [field.content for field in read(file.getvalue()).metadata.main]
