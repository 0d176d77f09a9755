"""Camera raw files: previews and developed images have the size, the orientation and the colours of the scene."""

import importlib.util
import io
import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import rawpy
import tifffile

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decode import Image, load
from clipseg_cli.inputs.decoders import tiff
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import DecodeOptions
from image_files import overwritten, read, refused, saved
from pictures import Program, records
from raw_files import LINEAR, dng, jpeg, scene

SCENE = scene(768, 1152)
PREVIEW = "embedded preview of 1152 x 768 pixels"
DEVELOPED = "developed from the sensor data"


def developed(data: bytes) -> Image:
    """Loads bytes as with `--raw develop`."""
    return load(Source("-", "-", "stdin", data=data), DecodeOptions("develop"))


def shown(orientation: int) -> np.ndarray:
    """Returns the scene as a viewer shows it, 8 bits: Pillow turns it by its own rule."""
    exif = PIL.Image.Exif()
    exif[274] = orientation
    with PIL.Image.open(io.BytesIO(jpeg(SCENE))) as image:
        image.getexif()[274] = orientation
        return np.array(PIL.ImageOps.exif_transpose(image))


def looks_like(pixels: np.ndarray, expected: np.ndarray) -> bool:
    """Returns whether the four areas have the expected hues. Developing changes the brightness."""
    if pixels.shape != expected.shape:
        return False
    centres = [np.s_[y * pixels.shape[0] // 4, x * pixels.shape[1] // 4] for y in (1, 3) for x in (1, 3)]
    found = np.array([pixels[place] for place in centres], float)
    wanted = np.array([expected[place] for place in centres], float)
    white = wanted.min(axis=1) > 150
    same = (found.argmax(axis=1) == wanted.argmax(axis=1)) | white
    return bool(same.all() and np.ptp(found[white]) < 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_ways_have_the_size_and_orientation_that_a_viewer_shows(orientation: int) -> None:
    """The preview, the developed image, and the developed image of a file without a preview."""
    data = dng(SCENE, orientation, SCENE)
    expected = shown(orientation)
    image = read(data)
    assert image.format == "RAW"
    assert np.abs(image.pixels.astype(int) - expected).mean() < 1
    width, height = expected.shape[1::-1]
    assert image.notes == (f"embedded preview of {width} x {height} pixels",)
    for other in (developed(data), read(dng(SCENE, orientation))):
        assert looks_like(other.pixels, expected)
        assert other.notes == (DEVELOPED,)
    with rawpy.imread(io.BytesIO(data)) as raw:
        assert np.array_equal(raw.postprocess(use_camera_wb=True), developed(data).pixels)


def test_a_smaller_preview_is_enlarged_or_not_used() -> None:
    """Of at least 1024 pixels it is enlarged; smaller ones, and those of another aspect, are not used."""
    image = read(dng(SCENE, 6, scene(684, 1026)))
    assert image.notes == ("embedded preview of 684 x 1026 pixels",)
    assert image.pixels.shape == (1152, 768, 3)
    assert np.abs(image.pixels.astype(int) - shown(6)).mean() < 2
    for other in (scene(682, 1022), scene(768, 1130), scene(768, 1176)):
        image = read(dng(SCENE, 6, other))
        assert image.notes == (DEVELOPED,)
        assert looks_like(image.pixels, shown(6))
    assert read(dng(SCENE, 1, scene(768, 1154))).pixels.shape == SCENE.shape


def test_a_preview_that_is_upright_already_is_not_turned_again() -> None:
    """Its shape tells."""
    upright = np.ascontiguousarray(np.rot90(SCENE, -1))
    image = read(dng(SCENE, 6, upright))
    assert np.abs(image.pixels.astype(int) - shown(6)).mean() < 1


def test_linear_and_compressed_dngs() -> None:
    """Lossless JPEG gives the pixels of plain sensor data; linear raw the same scene."""
    plain = developed(dng(SCENE)).pixels
    assert np.array_equal(developed(dng(SCENE, compression="jpeg")).pixels, plain)
    assert looks_like(developed(dng(SCENE, photometric=LINEAR)).pixels, shown(1))


def test_a_monochrome_sensor_gives_grey() -> None:
    """In three equal bands."""
    colours = dng(SCENE, 6, photometric=LINEAR)
    file = io.BytesIO()
    with tifffile.TiffFile(io.BytesIO(colours)) as source:
        tags = [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in source.pages[0].tags if tag.code > 50000]
    tags += [(271, "s", 0, "Maker", True), (274, "H", 1, 6, True), (50717, "H", 1, 65535, True)]
    tifffile.imwrite(file, SCENE[:, :, 1], photometric="minisblack", extratags=tags, metadata=None)
    plain, linear = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, LINEAR))
    image = read(file.getvalue().replace(plain, linear))
    assert image.pixels.shape == (1152, 768, 3)
    assert np.array_equal(image.pixels[:, :, 0], image.pixels[:, :, 2])


@pytest.mark.parametrize("raw", ["preview", "develop"])
def test_truncated_files_are_corrupt(raw: str) -> None:
    """Wherever a file is cut within its sensor data or before, also if its preview is whole."""
    data = dng(SCENE, 1, SCENE)
    options = DecodeOptions(raw)  # type: ignore[arg-type]
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        sensor = file.pages[0].pages[1]
        end = sensor.dataoffsets[-1] + sensor.databytecounts[-1]
    for cut in (*range(100, end, end // 40), end - 1):
        with pytest.raises(ImageError) as caught:
            load(Source("-", "-", "stdin", data=data[:cut]), options)
        assert caught.value.kind in ("corrupt", "unsupported") if cut < 4000 else caught.value.kind == "corrupt"


def test_missing_tiles_are_corrupt() -> None:
    """LibRaw alone would leave them black."""
    data = dng(SCENE, 1, None, tile=(256, 256))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offsets = file.pages[0].pages[0].tags[324]
        assert offsets.count == 15
    assert refused(overwritten(data, offsets.offset + 4, b"\x0e"))[0] == "corrupt"


def test_noise_is_an_error_or_pixels_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """LibRaw prints about damage by itself."""
    data, choose = dng(scene(128, 192), compression="jpeg"), random.Random(3)
    kinds = set()
    for _ in range(150):
        at = choose.randrange(16, len(data) - 8) if choose.random() < 0.5 else choose.randrange(16, 3000)
        try:
            read(overwritten(data, at, choose.randbytes(choose.randrange(1, 9))), 10**6)
            kinds.add("ok")
        except ImageError as error:
            kinds.add(error.kind)
    assert {"ok", "corrupt"} <= kinds <= {"ok", "corrupt", "unsupported", "too_large", "out_of_memory"}
    assert capfd.readouterr() == ("", "")


def test_others_may_print_while_a_file_is_decoded() -> None:
    """What another thread writes on stderr meanwhile is not lost."""
    code = (
        "import os, sys, threading; from clipseg_cli.inputs.decoders import raw\n"
        "with raw._without_complaints():\n"
        "    os.write(2, b'hello\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stderr == "hello\n"


def test_what_libraw_only_prints_is_an_error() -> None:
    """LibRaw leaves the rest of a cut lossy DNG grey, and prints a line."""
    strip = jpeg(SCENE)
    lossy = dng(SCENE, photometric=LINEAR, lossy=strip)
    assert looks_like(developed(lossy).pixels, shown(1))
    half = len(strip) // 2
    kind, message = refused(dng(SCENE, photometric=LINEAR, lossy=strip[:half] + bytes(len(strip) - half)))
    assert kind == "corrupt"
    assert "JPEG" in message or "Data error" in message


def test_the_limit_of_pixels_holds_before_anything_is_unpacked() -> None:
    """One pixel fewer than the sensor has refuses it."""
    data = dng(SCENE, 1, SCENE)
    assert read(data, 768 * 1152).notes == (PREVIEW,)
    kind, message = refused(data, 768 * 1152 - 1)
    assert kind == "too_large"
    assert "1152 x 768" in message


def test_an_ordinary_tiff_of_a_camera_stays_a_tiff(photo: np.ndarray) -> None:
    """With the camera's name and a thumbnail in a SubIFD. A thumbnail with the image in a SubIFD is raw."""
    file = io.BytesIO()
    make = [(271, "s", 0, "NIKON CORPORATION", True), (272, "s", 0, "NIKON D850", True)]
    with tifffile.TiffWriter(file) as writer:
        writer.write(photo, photometric="rgb", subifds=1, extratags=make, metadata=None)
        writer.write(photo[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    image = read(file.getvalue())
    assert (image.format, image.frames) == ("TIFF", 1)
    assert np.array_equal(image.pixels, photo)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(photo[::2, ::2], photometric="rgb", subfiletype=1, subifds=1, extratags=make, metadata=None)
        writer.write(photo, photometric="rgb", metadata=None)
    kind, message = refused(file.getvalue())
    assert kind in ("corrupt", "unsupported")
    assert "raw" in message or "damaged" in message


def test_a_raw_file_is_one_page() -> None:
    """Whatever directories it has; as the only frame of its sequence it is developed or previewed too."""
    data = dng(SCENE, 1, SCENE)
    plain = saved(SCENE[:8, :8, 0], "TIFF", save_all=True, append_images=[PIL.Image.new("L", (8, 8))] * 3)
    assert tiff_pages.pages(io.BytesIO(plain), 100) == 4
    for raw in (data, overwritten(plain, 8, b"CR\2\0"), overwritten(plain, 8, b"IIII"), overwritten(plain, 2, b"U\0")):
        assert tiff_pages.pages(io.BytesIO(raw), 100) == 1
    decoded = tiff.sequence("TIFF", io.BytesIO(data), DecodeOptions()).decode(0)
    assert decoded.kind == "RAW"
    assert np.array_equal(decoded.pixels, read(data).pixels)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A raw file that is a TIFF by its first bytes is not read as its thumbnail."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rawpy" else real(name))
    for data in (dng(SCENE), b"II*\0\x10\0\0\0CR\2\0" + bytes(99)):
        kind, message = refused(data)
        assert kind == "unsupported"
        assert message.endswith("pip install 'clipseg-cli[raw]'")


def test_the_way_is_a_setting_of_the_run(quick_clipseg: Program, tmp_path: Path) -> None:
    """The record says which way was used; `post` uses that of the run."""
    (tmp_path / "a.dng").write_bytes(dng(SCENE, 1, SCENE))
    (tmp_path / "b.jpg").write_bytes(saved(shown(1), "JPEG"))
    quick_clipseg("clipseg segment a.dng b.jpg -p red -f soft -o preview")
    quick_clipseg("clipseg segment a.dng b.jpg -p red -f soft,cutout --raw develop -o develop")
    for name, note in (("preview", PREVIEW), ("develop", DEVELOPED)):
        row = records(tmp_path / name / "manifest.jsonl")[0]
        assert (row["format"], row["notes"]) == ("RAW", note)
        settings = json.loads((tmp_path / name / "run.json").read_bytes())["settings"]
        assert settings.get("raw") == (None if name == "preview" else "develop")
    quick_clipseg("clipseg post develop -f cutout -o again")
    name = next((tmp_path / "develop").glob("cutouts/*/a.png")).relative_to(tmp_path / "develop")
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "develop" / name).read_bytes()
