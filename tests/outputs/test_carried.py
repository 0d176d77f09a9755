"""What cutouts and overlays carry: profile, EXIF and XMP, as Pillow, tifffile, LittleCMS and exiftool read them."""

import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
from PIL import ImageCms
from PIL.TiffImagePlugin import IFDRational

import icc
from clipseg_cli.inputs import metadata
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.decoders.result import Native
from clipseg_cli.inputs.georeference import NOWHERE
from clipseg_cli.outputs.writers import one_file
from clipseg_cli.outputs.writers.result import Result
from mask_shapes import result, ring
from pictures import picture

P3 = icc.profile("Display P3")
SUFFIXES = (".png", ".webp", ".tif")
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    b'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" tiff:Orientation="6" xmpNote:HasExtendedXMP="AB">'
    b"<xmp:Thumbnails><rdf:Alt><rdf:li>SMALLVIEW</rdf:li></rdf:Alt></xmp:Thumbnails><xmp:Label>kept</xmp:Label>"
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def about() -> metadata.Metadata:
    """Returns what a camera says: maker, time of exposure, size, place, and XMP."""
    exif = PIL.Image.Exif()
    exif[0x0112], exif[271], exif[33432] = 6, "Acme", "(c) somebody"
    exif.get_ifd(metadata.EXIF).update({33434: IFDRational(1, 50), 37500: b"MAKER", 40962: 4000, 40963: 3000})
    exif.get_ifd(metadata.GPS).update({1: "N", 2: (48.0, 8.0, 15.0)})
    return metadata.of_block(exif.tobytes(), XMP)


def image(photo: np.ndarray, profile: bytes = P3, grey: bool = False, **options: Any) -> Result:
    """Returns the result for a photo in its own colours, with the metadata of `about`."""
    export = {name: options.pop(name) for name in ("metadata", "backdrop") if name in options}
    made = replace(result(ring(), **export), georeference=NOWHERE, converted=True, orientation=6, turn=6)
    return replace(made, native=lambda: Native(photo, profile, grey, about()), **options)


def content(form: Any, suffix: str, of: Result) -> bytes:
    """Returns the bytes of the only file of a format."""
    ((_, data),) = one_file.encoded(form, suffix, "a", of)
    return data


def own(dtype: str = "uint8") -> np.ndarray:
    """Returns a photo of the size of the ring, in this type."""
    height, width = ring().shape
    return picture(width, height).astype(dtype) * (257 if dtype == "uint16" else 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cutout_carries_profile_exif_and_xmp(suffix: str) -> None:
    """The profile byte for byte; the orientation and the size are those of the pixels; no small view of the photo."""
    data = content("cutout", suffix, image(own()))
    with PIL.Image.open(io.BytesIO(data)) as opened:
        assert opened.info["icc_profile"] == P3
        assert ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(P3))).strip() == "Display P3"
        exif = opened.getexif()
        inner, place = exif.get_ifd(metadata.EXIF), exif.get_ifd(metadata.GPS)
        assert exif[0x0112] == 1 and exif[271] == "Acme" and exif[33432] == "(c) somebody"
        assert inner[33434] == IFDRational(1, 50) and (inner[40962], inner[40963]) == opened.size
        assert 37500 not in inner and place[1] == "N" and [float(each) for each in place[2]] == [48, 8, 15]
        assert np.array_equal(np.array(opened)[..., 3], ring())
    assert b'tiff:Orientation="1"' in data and b"kept" in data and b"SMALLVIEW" not in data and b"Extended" not in data


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stripped_files_keep_only_the_profile(suffix: str) -> None:
    """`--metadata strip`: nothing of EXIF and XMP is left in the bytes; colours mean what they did."""
    data = content("cutout", suffix, image(own(), metadata="strip"))
    assert not any(word in data for word in (b"Acme", b"somebody", b"xmpmeta", b"Exif"))
    with PIL.Image.open(io.BytesIO(data)) as opened:
        assert opened.info["icc_profile"] == P3 and not opened.getexif().get_ifd(metadata.GPS)


def test_an_overlay_keeps_the_metadata_only_if_told() -> None:
    """Its default is strip. With keep, a JPEG has EXIF and XMP where readers look."""
    plain, kept = (content("overlay", ".jpg", image(own(), metadata=each)) for each in (None, "keep"))
    assert b"Acme" not in plain and b"xmpmeta" not in plain
    with PIL.Image.open(io.BytesIO(plain)) as opened:
        assert opened.info["icc_profile"] == P3
    with PIL.Image.open(io.BytesIO(kept)) as opened:
        assert opened.info["icc_profile"] == P3 and b'tiff:Orientation="1"' in opened.info["xmp"]
        assert opened.getexif()[271] == "Acme" and opened.getexif()[0x0112] == 1


def test_a_long_profile_goes_into_several_segments() -> None:
    """As those of presses, which JPEG splits; Pillow joins them."""
    profile = icc.profile("Display P3", more={b"xtra": b"text" + bytes(150_000)})
    with PIL.Image.open(io.BytesIO(content("overlay", ".jpg", image(own(), profile)))) as opened:
        assert opened.info["icc_profile"] == profile


def test_what_does_not_fit_into_a_jpeg_is_left_out() -> None:
    """EXIF and XMP of more than 64 KB: the rest of the file is whole."""
    long = about()._replace(xmp=XMP * 200)
    made = replace(image(own(), metadata="keep"), native=lambda: Native(own(), P3, False, long))
    with PIL.Image.open(io.BytesIO(content("overlay", ".jpg", made))) as opened:
        opened.load()
        assert "xmp" not in opened.info and opened.getexif()[271] == "Acme"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_stay_sixteen(suffix: str) -> None:
    """Deep inside the object the samples are the photo's, bit for bit; alpha is 0 or 65535."""
    photo = own("uint16") + np.random.default_rng(0).integers(0, 200, own().shape, dtype=np.uint16)
    data = content("cutout", suffix, image(photo))
    if suffix == ".tif":
        found = tifffile.imread(io.BytesIO(data))
    else:
        found = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA)
    deep = cv2.distanceTransform(ring(), cv2.DIST_L2, 5) > 3
    assert found.dtype == np.uint16 and deep.any() and np.array_equal(found[deep][:, :3], photo[deep])
    assert {*np.unique(found[..., 3])} == {0, 65535} and np.array_equal(found[..., 3] > 0, ring() > 0)


def test_webp_and_overlays_of_sixteen_bits_have_eight() -> None:
    """They hold no more: the values are rounded."""
    photo = own("uint16")
    for form, suffix in (("cutout", ".webp"), ("overlay", ".png")):
        with PIL.Image.open(io.BytesIO(content(form, suffix, image(photo)))) as opened:
            same = (np.array(opened)[..., :3] == own()).all(axis=2)
            assert opened.info["icc_profile"] == P3
            inside = cv2.distanceTransform(ring(), cv2.DIST_L2, 5) > 3
            assert same[inside].all() if form == "cutout" else same.mean() > 0.4  # the label and the edges are drawn


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_grey_profile_stays_with_grey_pixels(depth: str, suffix: str) -> None:
    """The file has grey and transparency, in both depths; a WebP and an overlay are sRGB instead."""
    grey = np.repeat(own(depth)[..., :1], 3, axis=2)
    profile = icc.grey_profile(1.8)
    data = content("cutout", suffix, image(grey, profile, True))
    if suffix == ".tif":
        found = tifffile.imread(io.BytesIO(data))
        assert found.shape == (*ring().shape, 2) and found.dtype == depth
    else:
        assert data[24:26] == bytes((8 * grey.itemsize, 4))
        with PIL.Image.open(io.BytesIO(data)) as opened:
            assert opened.mode == ("LA" if depth == "uint8" else "RGBA") and opened.info["icc_profile"] == profile
            found = np.array(opened)
    deep = cv2.distanceTransform(ring(), cv2.DIST_L2, 5) > 3
    shift = 8 if found.dtype == np.uint8 and depth == "uint16" else 0
    assert np.array_equal(found[deep][:, 0], grey[deep][:, 0] >> shift)
    for form, other in (("cutout", ".webp"), ("overlay", ".jpg")):
        with PIL.Image.open(io.BytesIO(content(form, other, image(grey, profile, True)))) as opened:
            assert opened.info["icc_profile"] == profiles.srgb()


def test_a_backdrop_is_the_colour_that_was_named() -> None:
    """In a file of Display P3 the pixels of sRGB's red are others, so that it looks the same."""
    with PIL.Image.open(io.BytesIO(content("cutout", ".png", image(own(), backdrop=(255, 0, 0))))) as opened:
        pixel = opened.getpixel((0, 0))
    shown = icc.in_srgb(np.array([[pixel]]), "Display P3")[0, 0]
    assert pixel != (255, 0, 0) and np.abs(shown.astype(int) - (255, 0, 0)).max() <= 3


def test_pixels_in_the_frame_of_the_file_have_its_orientation() -> None:
    """With `--orientation stored`, EXIF turns the cutout as it turns the photo."""
    height, width = ring().shape
    turned = image(own()).stored(6)
    with PIL.Image.open(io.BytesIO(content("cutout", ".png", turned))) as opened:
        assert opened.size == (height, width) and opened.getexif()[0x0112] == 6
    assert b'tiff:Orientation="6"' in content("cutout", ".webp", turned)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("suffix", (*SUFFIXES, ".jpg"))
def test_exiftool_finds_no_error(suffix: str, tmp_path: Path) -> None:
    """It reads all that was kept, and validates the structure of the file."""
    form: Any = "overlay" if suffix == ".jpg" else "cutout"
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content(form, suffix, image(own(), metadata="keep")))
    words = ["exiftool", "-j", "-n", "-a", "-validate", "-error", "-Make", "-ExposureTime", "-GPSLatitude",
             "-ProfileDescription", "-Orientation", "-XMP:Label", str(path)]  # fmt: skip
    (found,) = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)
    assert "Error" not in found and found["Validate"].split()[0] == "0"
    assert (found["Make"], found["ExposureTime"], found["Orientation"]) == ("Acme", 0.02, 1)
    assert found["GPSLatitude"] == pytest.approx(48.1375) and found["ProfileDescription"] == "Display P3"
    assert found["Label"] == "kept"
