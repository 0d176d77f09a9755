"""Decoding: every format gives the right upright RGB array, and every bad file gives the right error."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from claiming import claiming
from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.decode import load
from clipseg_cli.inputs.source import Source
from image_files import IMAGE_KINDS, LIMIT, LOSSLESS, LOSSY, PHOTOS, VALID, read, refused, saved


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_formats_keep_every_pixel(form: str, photo: np.ndarray) -> None:
    """The pixels come back exactly, in a contiguous, writable array, with the name of the format and no notes."""
    image = read(saved(photo, form, **LOSSLESS[form]))
    assert np.array_equal(image.pixels, photo)
    assert (image.format, image.frames, image.notes) == (form, 1, ())
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert image.pixels.flags.writeable


@pytest.mark.parametrize("form", LOSSY)
def test_lossy_formats_stay_close(form: str, photo: np.ndarray) -> None:
    """The mean difference from the photo is below 4 of 255 levels."""
    image = read(saved(photo, form, **LOSSY[form]))
    assert image.pixels.shape == photo.shape
    assert np.abs(image.pixels.astype(int) - photo).mean() < 4


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "retina.jpg", "camera.png"])
def test_photos_equal_what_pillow_decodes(name: str) -> None:
    """For ordinary files without a profile `load` returns what Pillow alone returns."""
    image = load(Source(str(PHOTOS / name), name, name))
    with PIL.Image.open(PHOTOS / name) as reference:
        assert np.array_equal(image.pixels, np.array(reference.convert("RGB")))


def test_the_format_is_decided_by_content_not_by_name(tmp_path: Path, photo: np.ndarray) -> None:
    """A PNG named .jpg and a GIF named .jpeg load, and their format is named."""
    for name, form in (("a.jpg", "PNG"), ("b.jpeg", "GIF")):
        (tmp_path / name).write_bytes(saved(photo, form))
        assert load(Source(str(tmp_path / name), name, name)).format == form


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_first_of_several_frames_is_read(form: str, photo: np.ndarray) -> None:
    """The number of frames is noted."""
    frames = [PIL.Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in (200, 90, 10)]
    image = read(saved(frames[0], form, save_all=True, append_images=frames[1:]))
    assert np.abs(image.pixels.astype(int) - 200).max() <= 2
    assert (image.frames, image.notes) == (3, ("first of 3 frames",))


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (10, 63498)])
def test_extreme_shapes_load(size: tuple[int, int]) -> None:
    """One pixel, one row, one column and a long strip load."""
    for form in ("PNG", "JPEG", "TIFF", "GIF", "BMP"):
        assert read(saved(PIL.Image.new("RGB", size, "red"), form)).pixels.shape == (size[1], size[0], 3)


def test_files_that_are_no_images_are_unsupported() -> None:
    """Text, PostScript, PDF, BLP and FITS are refused by their first bytes; a file without bytes is `empty`."""
    assert refused(b"")[0] == "empty"
    for data in (b"hello, I am a text file named .jpg\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"):
        assert refused(data)[0] == "unsupported"
    for data in (b"BLP2" + bytes(280), b"SIMPLE  = T", b"\0\0\0\0\x12\xaf" + bytes(99)):
        assert refused(data)[0] == "unsupported"
    kind, message = refused(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    assert kind == "unsupported"
    assert "PDF" in message
    assert "JPEG" in message


@pytest.mark.parametrize("form", VALID)
def test_a_file_cut_anywhere_is_refused_or_whole(form: str, photo: np.ndarray) -> None:
    """Cut at every length up to 1,000 bytes, at 100 more and at the last 40, it never loads with other pixels."""
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


MEASURE = """
import resource, sys
import numpy as np
from clipseg_cli.inputs.decode import load
from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import DecodeOptions
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
warm = Source(sys.argv[2], "", "")
load(warm)
before = peak()
for path in sys.argv[3:]:
    try:
        print(load(Source(path, "", ""), DecodeOptions(max_pixels=int(sys.argv[1]))).pixels.shape, peak() - before)
    except ImageError as error:
        print(error.kind, peak() - before, "--max-pixels" in str(error))
unsafe = ("Eps", "Wmf", "Blp", "Psd", "Fli", "Fit")
print([name for name in sys.modules if name.startswith("PIL.") and name[4:7] in unsafe])
"""


def measured(limit: int, *paths: Path) -> list[str]:
    """Loads files in a fresh process. Returns a line per file with the growth of peak memory in MB."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", MEASURE, str(limit), str(PHOTOS / "coffee.png"), *map(str, paths)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    """165 megapixels claimed by a few hundred bytes are `too_large`, take at most 50 MB, and the flag is named."""
    paths = [tmp_path / form for form in IMAGE_KINDS]
    for path in paths:
        path.write_bytes(claiming(path.name, 12845, 12845))
        assert path.stat().st_size < 1200
    *lines, plugins = measured(LIMIT, *paths)
    for line in lines:
        kind, grown, named = line.split()
        assert (kind, named) == ("too_large", "True")
        assert int(grown) < 50
    assert plugins == "[]"


def test_a_small_file_that_claims_an_allowed_size_takes_little_memory(tmp_path: Path) -> None:
    """90 megapixels, within the limit, claimed by a few hundred bytes are `corrupt` and take at most 300 MB."""
    paths = [tmp_path / form for form in IMAGE_KINDS if form not in ("WEBP", "AVIF", "JPEG2000")]
    for path in paths:
        path.write_bytes(claiming(path.name, 9487, 9487))
    for line in measured(LIMIT, *paths)[:-1]:
        kind, grown, _ = line.split()
        assert kind == "corrupt"
        assert int(grown) < 300


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path, photo: np.ndarray) -> None:
    """A small image with a terabyte of zeros behind it is `too_large`, at once."""
    for form in ("JPEG", "PNG", "WEBP", "AVIF", "JPEG2000", "HEIC", "JPEG XL", "EXR", "HDR", "PFM", "ICO"):
        path = tmp_path / form
        path.write_bytes(saved(photo, form))
        os.truncate(path, 1 << 40)
        assert fail(path) == "too_large"


def test_the_limit_of_pixels_is_exact(photo: np.ndarray) -> None:
    """A limit of one pixel fewer than the image has refuses it. The limit may exceed Pillow's own."""
    data = saved(photo, "PNG")
    assert read(data, max_pixels=90 * 130).pixels.shape == photo.shape
    kind, message = refused(data, max_pixels=90 * 130 - 1)
    assert kind == "too_large"
    assert "130 x 90" in message
    assert refused(claiming("TIFF", 16383, 16383), max_pixels=300_000_000)[0] == "corrupt"


def fail(path: Path | str) -> str:
    """Returns the error class of a path that must not load."""
    with pytest.raises(ImageError) as caught:
        load(Source(str(path), "x", "x"))
    return caught.value.kind


def test_a_path_that_is_no_readable_file_fails_at_once(tmp_path: Path) -> None:
    """A missing file, a folder, a FIFO without a writer, a device and an invalid name have an error class each."""
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
        load(Source("x", "x", "x", error=known))
    assert caught.value is known


def test_a_file_that_is_written_while_it_is_read_is_changed(tmp_path: Path) -> None:
    """While a writer rewrites the file, loading it fails with `changed`; afterwards the image loads."""
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
                load(Source(str(path), "x", "x"))
            except ImageError as error:
                seen.add(error.kind)
    finally:
        stop.set()
        writer.join()
    assert "changed" in seen
    assert load(Source(str(path), "x", "x")).pixels.shape == (1500, 1500, 3)


def test_several_threads_load_without_output(photo: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    """With eight threads and files that make Pillow warn: the same pixels, no warning, nothing on stderr."""
    exif = PIL.Image.Exif()
    exif[orientation.TAG] = 6
    files = [saved(photo, "JPEG", exif=exif), saved(photo, "PNG"), saved(photo, "JPEG", exif=b"Exif\0\0II*\0\x08")]
    files.append(saved(photo, "TIFF")[:-1] + b"\0")
    expected = [read(data).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda index: read(files[index % 4]).pixels, range(200)))
    assert all(np.array_equal(pixels, expected[index % 4]) for index, pixels in enumerate(results))
    assert capfd.readouterr().err == ""
