"""ICC profiles: pixels become sRGB by what their file says about them."""

import shutil
import struct
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageCms

import icc
from clipseg_cli.inputs.colour import profiles
from image_files import PHOTOS, as_rgb, png, read, saved

WIDE = ("Display P3", "Adobe RGB (1998)", "ProPhoto RGB", "Rec. 2020")
GRID = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(18, -1, 3)


def note(name: str) -> str:
    """Returns the note on an image that was converted."""
    return f"colours converted from {name} to sRGB"


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("name", WIDE)
def test_matrix_profiles_are_applied_as_they_are_defined(name: str, version: int) -> None:
    """Every colour of a grid is within 2 levels of the definition in float64, and within 1 on average."""
    notes: list[str] = []
    seen = profiles.to_srgb(GRID, icc.profile(name, version), notes).astype(int)
    apart = np.abs(seen - icc.in_srgb(GRID, name))
    assert apart.max() <= 2 and apart.mean() < 0.3
    assert notes == [note(name)]


def test_a_real_photo_in_adobe_rgb_has_the_colours_of_its_definition() -> None:
    """NASA's photo of a rocket: within 2 levels of the float64 definition, up to 79 from the stored values."""
    image = read((PHOTOS / "rocket.jpg").read_bytes())
    with PIL.Image.open(PHOTOS / "rocket.jpg") as file:
        stored = np.array(file.convert("RGB"))
    right = icc.in_srgb(stored, "Adobe RGB (1998)").astype(int)
    assert np.abs(image.pixels - right).max() <= 2
    assert np.abs(right - stored).max() > 30
    assert image.notes == (note("Adobe RGB (1998)"),)


def test_every_format_that_embeds_a_profile_is_converted(photo: np.ndarray) -> None:
    """JPEG, PNG, TIFF, WebP, AVIF and JPEG 2000 with a Display P3 profile: the photo in sRGB, and a note."""
    profile = icc.profile("Display P3")
    right = icc.in_srgb(photo, "Display P3").astype(int)
    assert np.abs(right - photo).max() > 20
    lossy = {"JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    for form, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, **lossy}.items():
        image = read(saved(photo, form, icc_profile=profile, **options))
        assert np.abs(image.pixels - right).mean() < (0.5 if form not in lossy else 2), form
        assert image.notes == (note("Display P3"),), form


def test_a_profile_in_several_segments_of_a_jpeg_is_joined(photo: np.ndarray) -> None:
    """A profile of 150 KB, which needs three segments, is applied."""
    profile = icc.profile("Display P3")
    padded = len(profile) + 150_000
    long = padded.to_bytes(4, "big") + profile[4:] + bytes(150_000)
    data = saved(photo, "JPEG", quality=100, icc_profile=long)
    assert data.count(b"ICC_PROFILE\0") == 3
    assert read(data).notes == (note("Display P3"),)


def test_srgb_profiles_change_nothing(photo: np.ndarray) -> None:
    """Profiles that are sRGB in effect, whoever wrote them and in whatever way: the bytes without a profile."""
    lcms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    built = [icc.profile("sRGB"), icc.profile("sRGB", 4), lcms]
    for profile in (*built, profiles.srgb()):
        for form, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 90}}.items():
            image = read(saved(photo, form, icc_profile=profile, **options))
            assert np.array_equal(image.pixels, read(saved(photo, form, **options)).pixels)
            assert image.notes == ()
    grey = photo[..., 0].copy()
    assert np.array_equal(read(saved(grey, "PNG", icc_profile=built[0])).pixels, as_rgb(grey))


def test_grey_profiles_and_rgb_profiles_of_grey_images_are_applied(grey: np.ndarray) -> None:
    """A gamma of 1.0 brightens as defined, at 8 and 16 bits; a P3 profile leaves grey as it is."""
    right = icc.encoded(grey / 255)
    wide = grey.astype(np.uint16) * 257
    for pixels in (grey, wide):
        image = read(saved(pixels, "PNG", icc_profile=icc.grey_profile(1.0)))
        assert np.abs(image.pixels.astype(int) - as_rgb(right)).max() <= 1
        assert image.notes[-1] == note("Gray Gamma 1.0")
    assert (
        np.abs(
            read(saved(grey, "JPEG", quality=100, icc_profile=icc.profile("Display P3"))).pixels
            - as_rgb(grey).astype(int)
        ).max()
        < 4
    )


def test_transparency_is_composited_after_conversion(photo: np.ndarray) -> None:
    """Half transparent P3 colours are converted first, then mixed with white, and so are palettes and grey."""
    alpha = np.full((*photo.shape[:2], 1), 128, np.uint8)
    image = read(saved(np.concatenate([photo, alpha], axis=2), "PNG", icc_profile=icc.profile("Display P3")))
    right = icc.in_srgb(photo, "Display P3") * (128 / 255) + 255 * (127 / 255)
    assert np.abs(image.pixels - right).max() <= 2.5
    assert image.notes == (note("Display P3"), "transparency composited on white")
    pair = PIL.Image.fromarray(np.concatenate([photo[..., :1], alpha], axis=2), "LA")
    right = icc.encoded(photo[..., 0] / 255) * (128 / 255) + 255 * (127 / 255)
    seen = read(saved(pair, "PNG", icc_profile=icc.grey_profile(1.0)))
    assert np.abs(seen.pixels - as_rgb(right)).max() <= 2.5
    red = PIL.Image.new("P", (4, 4))
    red.putpalette([200, 30, 30])
    seen = read(saved(red, "PNG", icc_profile=icc.profile("Display P3")))
    assert np.abs(seen.pixels[0, 0].astype(int) - icc.in_srgb(np.array([[200, 30, 30]]), "Display P3")[0]).max() <= 2


def test_a_profile_that_cannot_be_used_is_a_note(photo: np.ndarray) -> None:
    """A broken profile, one of other pixels, and one of more than 16 MiB leave the pixels as they are."""
    huge = icc.profile("Display P3") + bytes(profiles.LARGEST)
    cases = {
        b"no profile at all": "broken ICC profile ignored",
        icc.profile("Display P3")[:300]: "broken ICC profile ignored",
        icc.swapped_inks(): "ICC profile ignored: it describes CMYK pixels, not RGB",
        icc.grey_profile(1.0): "ICC profile ignored: it describes GRAY pixels, not RGB",
        huge: f"ICC profile of {len(huge)} bytes ignored",
    }
    for profile, expected in cases.items():
        image = read(saved(photo, "TIFF", icc_profile=profile))
        assert np.array_equal(image.pixels, photo)
        assert image.notes == (expected,)
    inks = read(saved(PIL.Image.fromarray(photo).convert("CMYK"), "TIFF", icc_profile=icc.profile("Display P3")))
    assert inks.notes == (
        "ICC profile ignored: it describes RGB pixels, not CMYK",
        "CMYK converted without an ICC profile",
    )


def test_a_png_with_a_damaged_or_endless_profile_loads(photo: np.ndarray) -> None:
    """Its chunk may be empty, hold no zlib stream, or inflate to a gigabyte: a note, and the same pixels."""
    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(64)) + bomb.flush()
    for chunk in (b"", b"name\0", b"name\0\0none", b"name\0\0" + packed, b"name\0\0" + zlib.compress(b"")):
        image = read(png(photo.shape[1], photo.shape[0], 8, 2, rows, (b"iCCP", chunk)))
        assert np.array_equal(image.pixels, photo)
        assert len(image.notes) == 1 and "ICC profile" in image.notes[0]


def cicp(*codes: int) -> tuple[bytes, bytes]:
    """Returns the chunk of a PNG that names a colour space by codes."""
    return b"cICP", bytes((*codes, 0, 1))


P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ICCP = (b"iCCP", b"name\0\0" + zlib.compress(icc.profile("Adobe RGB (1998)")))


@pytest.mark.parametrize(
    ("chunks", "space", "name"),
    [
        ([cicp(12, 13)], "Display P3", "Display P3"),
        ([ICCP, cicp(12, 13)], "Display P3", "Display P3"),
        ([cicp(2, 2), ICCP], "Adobe RGB (1998)", "Adobe RGB (1998)"),
        ([(b"sRGB", b"\0"), (b"cHRM", P3)], "sRGB", None),
        ([(b"cHRM", P3)], "Display P3", "gAMA and cHRM"),
        ([(b"cHRM", P3), (b"gAMA", struct.pack(">I", 45455))], "Display P3", "gAMA and cHRM"),
        ([(b"cHRM", SRGB), (b"gAMA", struct.pack(">I", 45455))], "sRGB", None),
        ([cicp(1, 13)], "sRGB", None),
        ([cicp(1, 1)], "sRGB", None),
    ],
)
def test_a_png_is_converted_by_its_chunks_of_colour(
    chunks: list[tuple[bytes, bytes]], space: str, name: str | None, photo: np.ndarray
) -> None:
    """cICP wins over iCCP, iCCP over sRGB, sRGB over gAMA and cHRM. What is sRGB in effect stays exact."""
    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    image = read(png(photo.shape[1], photo.shape[0], 8, 2, rows, *chunks))
    apart = np.abs(image.pixels - icc.in_srgb(photo, space).astype(int)).max()
    assert apart <= (2 if name else 0)
    assert image.notes == ((note(name),) if name else ())


def test_the_gamma_of_a_png_is_applied(grey: np.ndarray) -> None:
    """Linear values, as renderers write them, are brightened; impossible gammas and primaries are ignored."""
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    linear = read(png(grey.shape[1], grey.shape[0], 8, 0, rows, (b"gAMA", struct.pack(">I", 100_000))))
    assert np.abs(linear.pixels.astype(int) - as_rgb(icc.encoded(grey / 255))).max() <= 2
    same = struct.pack(">8I", *[31270, 32900] * 4)
    for chunk in (
        (b"gAMA", bytes(4)),
        (b"gAMA", b"\xff" * 4),
        (b"cHRM", bytes(32)),
        (b"cHRM", same),
        (b"cHRM", b"\xff" * 32),
    ):
        image = read(png(grey.shape[1], grey.shape[0], 8, 0, rows, chunk))
        assert np.array_equal(image.pixels, as_rgb(grey)) and image.notes == ()


@pytest.mark.skipif(not shutil.which("avifenc"), reason="libavif's encoder is not installed")
def test_an_avif_is_converted_by_its_codes(photo: np.ndarray, tmp_path: Path) -> None:
    """Files of libavif's own encoder: Display P3 is converted, BT.709 and sRGB keep their values, PQ is noted."""
    (tmp_path / "a.png").write_bytes(saved(photo, "PNG"))
    notes = {(12, 13): note("Display P3"), (9, 16): "PQ brightness is shown without tone mapping"}
    plain = None
    for codes in ((1, 13), (1, 1), (12, 13), (9, 16)):
        cicp = "/".join(map(str, (*codes, 6)))
        subprocess.run(
            ["avifenc", "--min", "0", "--max", "2", "--cicp", cicp, "a.png", "a.avif"],
            cwd=tmp_path,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        image = read((tmp_path / "a.avif").read_bytes())
        plain = image.pixels if plain is None else plain
        right = icc.in_srgb(plain, "Display P3") if codes[0] == 12 else plain
        assert np.abs(image.pixels - right.astype(int)).max() <= 2
        assert image.notes == ((notes[codes],) if codes in notes else ())


def test_hdr_curves_are_noted(photo: np.ndarray) -> None:
    """A PNG in PQ or HLG keeps its values, and says that they are not tone mapped."""
    rows = b"".join(b"\0" + row.tobytes() for row in photo)
    for code, curve in ((16, "PQ"), (18, "HLG")):
        image = read(png(photo.shape[1], photo.shape[0], 8, 2, rows, cicp(9, code)))
        assert np.array_equal(image.pixels, photo)
        assert image.notes == (f"{curve} brightness is shown without tone mapping",)


def test_a_name_in_a_profile_that_is_unfit_for_a_note_is_not_quoted(photo: np.ndarray) -> None:
    """Control characters and long texts do not reach the record."""
    for name in ("P3\x1b[31m\n", "x" * 1000):
        icc.SPACES[name] = icc.SPACES["Display P3"]
        try:
            profile = icc.profile(name)
        finally:
            del icc.SPACES[name]
        assert read(saved(photo, "PNG", icc_profile=profile)).notes == (note("the embedded profile"),)


def test_a_small_profile_cannot_ask_for_endless_work(photo: np.ndarray) -> None:
    """A chain of a million processing elements in a tag of version 4 is not run: the other tags are used."""
    curve = b"curf" + bytes(4) + struct.pack(">HH", 1, 0) + b"parf" + bytes(8) + struct.pack(">4f", 1.01, 1, 0, 0)
    curves = b"cvst" + bytes(4) + struct.pack(">HH", 3, 3) + struct.pack(">II", 36, len(curve)) * 3 + curve
    count = 1_000_000
    chain = struct.pack(">4sIHHI", b"mpet", 0, 3, 3, count) + struct.pack(">II", 16 + 8 * count, len(curves)) * count
    hostile = icc.profile("Display P3", 4, {b"D2B0": chain + curves, b"D2B1": chain + curves})
    notes: list[str] = []
    seen = profiles.to_srgb(photo, hostile, notes)
    assert np.array_equal(seen, profiles.to_srgb(photo, icc.profile("Display P3", 4), []))
    assert notes == [note("Display P3")]


def test_threads_share_a_profile(photo: np.ndarray) -> None:
    """Sixteen threads that convert flat images, whose pixels repeat, get the pixels of one thread."""
    profile = icc.profile("Adobe RGB (1998)")
    flat = [np.full((64, 64, 3), (value, 255 - value, 7), np.uint8) for value in range(0, 256, 4)]
    alone = [profiles.to_srgb(pixels, profile, []) for pixels in flat]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda pixels: profiles.to_srgb(pixels, profile, []), flat * 4))
    assert all(np.array_equal(seen, alone[index % len(flat)]) for index, seen in enumerate(together))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_hostile_profiles_never_fail(data: st.DataObject) -> None:
    """Profiles of every kind that are cut, or have any bytes overwritten: pixels of the same size, at most a note."""
    profile = bytearray(data.draw(st.sampled_from(WHOLE)))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(profile) - 1), st.integers(0, 255)), max_size=8)):
        profile[at] = value
    damaged = bytes(profile[: data.draw(st.integers(0, len(profile)))])
    notes: list[str] = []
    assert profiles.to_srgb(GRID, damaged, notes).shape == GRID.shape
    assert profiles.to_srgb(GRID[..., 0], damaged, notes).shape == GRID.shape
    inks = profiles.from_cmyk(np.dstack([GRID, GRID[..., 0]]), damaged, notes)
    assert inks is None or inks.shape == GRID.shape
    assert len(notes) <= 3


WHOLE = (icc.profile("Display P3"), icc.profile("Rec. 2020", 4), icc.grey_profile(2.2), icc.swapped_inks())
