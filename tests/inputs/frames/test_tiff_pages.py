"""Pages of a TIFF: which directories count, in which order, and how each is decoded."""

import io
import random
import struct
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decoders import pillow, tiff
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.settings.inputs import DecodeOptions
from image_files import as_rgb, overwritten, read, refused, saved


def counted(data: bytes, limit: int = 1000) -> int:
    """Returns the number of pages, after checking that the decoder lists as many."""
    number = tiff_pages.pages(io.BytesIO(data), limit)
    assert len(tiff.Pages("TIFF", io.BytesIO(data), DecodeOptions(), limit).pages) == number
    return number


def decoded(data: bytes) -> list[np.ndarray]:
    """Returns the pixels of every page."""
    pages = tiff.sequence("TIFF", io.BytesIO(data), DecodeOptions())
    return [pages.decode(index).pixels for index in range(len(pages.pages))]


def mixed(photo: np.ndarray, **options: object) -> tuple[bytes, list[np.ndarray]]:
    """Returns a TIFF whose pages have different sizes, types, compressions and orientations, and their pixels."""
    file = io.BytesIO()
    wide = (photo[:40].astype(np.float64) / 255).astype(np.float32)
    with tifffile.TiffWriter(file, **options) as writer:
        writer.write(photo, photometric="rgb", metadata=None)
        writer.write(wide, photometric="rgb", compression="zlib", metadata=None)
        writer.write(photo[:, :60, 0], compression="lzw", metadata=None)
        writer.write(photo[:50], photometric="rgb", extratags=[(274, "H", 1, 6, True)], metadata=None)
        writer.write(
            np.moveaxis(photo.astype(np.uint16) * 257, 2, 0), photometric="rgb", planarconfig="separate", metadata=None
        )
    turned = np.array(PIL.Image.fromarray(photo[:50]).transpose(PIL.Image.Transpose.ROTATE_270))
    return file.getvalue(), [photo, photo[:40], as_rgb(photo[:, :60, 0]), turned, photo]


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"byteorder": ">", "bigtiff": True}])
def test_every_page_is_decoded_like_a_file_of_its_own(photo: np.ndarray, options: dict[str, object]) -> None:
    """Pages that Pillow reads and others, in any order, upright; in both byte orders, also in BigTIFF."""
    data, expected = mixed(photo, **options)
    assert counted(data) == len(expected)
    for found, wanted in zip(decoded(data), expected, strict=True):
        assert np.array_equal(found, wanted)
    pages = tiff.sequence("TIFF", io.BytesIO(data), DecodeOptions())
    for index in (4, 0, 2, 2, 3, 1):
        assert np.array_equal(pages.decode(index).pixels, expected[index])
    with pytest.raises(ImageError, match="page 5 is missing"):
        pages.decode(5)
    assert read(data).frames == 5


def test_pages_of_a_large_file_are_read_in_place(
    photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is too large to be copied into memory gives the same pages."""
    data, expected = mixed(photo)
    (tmp_path / "a.tif").write_bytes(data)
    monkeypatch.setattr(pillow, "READ_WHOLE", 0)
    with open(tmp_path / "a.tif", "rb") as file:
        pages = tiff.sequence("TIFF", file, DecodeOptions())
        for index, wanted in enumerate(expected):
            assert np.array_equal(pages.decode(index).pixels, wanted)


def test_pyramid_levels_and_masks_are_no_pages(photo: np.ndarray) -> None:
    """Reduced copies, by the new and the old tag, and transparency masks, unless the first directory is one."""
    small, mask = photo[::2, ::2], photo[:, :, 0] > 99

    def made(*types: int) -> bytes:
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            for kind in types:
                writer.write(mask if kind & 4 else small if kind & 1 else photo, subfiletype=kind, metadata=None)
        return file.getvalue()

    assert counted(made(0, 1, 4, 5, 0, 1)) == 2
    assert np.array_equal(decoded(made(0, 1, 0))[1], photo)
    assert counted(made(2, 2, 2)) == 3
    assert counted(made(1, 0, 1)) == 3
    old = made(2, 0, 2).replace(struct.pack("<HHII", 254, 4, 1, 2), struct.pack("<HHII", 255, 3, 1, 2))
    assert counted(old) == 3
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(photo, subifds=1, metadata=None)
        writer.write(small, subfiletype=1, metadata=None)
        writer.write(photo, metadata=None)
    assert counted(file.getvalue()) == 2


def stacked(planes: np.ndarray, axes: str) -> bytes:
    """Returns the planes as ImageJ saves a large stack: one directory, and the planes behind it."""
    file = io.BytesIO()
    tifffile.imwrite(file, planes, imagej=True, metadata={"axes": axes})
    data = file.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        end = opened.pages[0].dataoffsets[0] + planes.nbytes
    (tags,) = struct.unpack_from("<H", data, 8)
    return overwritten(data, 10 + 12 * tags, bytes(4))[:end]


def test_planes_of_an_imagej_stack_are_pages(photo: np.ndarray) -> None:
    """With one directory for all planes, grey and RGB, or with one for each."""
    planes = np.stack([np.roll(photo[:, :, 0], shift, 1).astype(np.uint16) * 257 for shift in range(6)])
    data = stacked(planes.reshape(3, 2, 90, 130), "TCYX")
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        assert np.array_equal(opened.asarray().reshape(planes.shape), planes)  # its own reading of the metadata
    for found, plane in zip(decoded(data), planes, strict=True):
        assert np.array_equal(found, as_rgb((plane // 257).astype(np.uint8)))
    assert (counted(data), counted(data, 4), read(data).frames) == (6, 4, 6)
    colours = np.stack([photo, 255 - photo])
    for found, plane in zip(decoded(stacked(colours, "ZYXS")), colours, strict=True):
        assert np.array_equal(found, plane)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for plane in planes:
            writer.write(plane, description="ImageJ=1.54f\nimages=6\nslices=6\n", metadata=None)
    assert counted(file.getvalue()) == 6


def test_a_cut_imagej_stack_ends_with_a_corrupt_page(photo: np.ndarray) -> None:
    """The page that lacks pixels is `corrupt`; those behind it are not listed. A number of planes is never believed."""
    data = stacked(np.stack([photo[:, :, 0]] * 6), "ZYX")
    pages = tiff.sequence("TIFF", io.BytesIO(data[: len(data) - 2 * 90 * 130 - 50]), DecodeOptions())
    assert len(pages.pages) == 4
    assert np.array_equal(pages.decode(2).pixels, as_rgb(photo[:, :, 0]))
    with pytest.raises(ImageError) as caught:
        pages.decode(3)
    assert caught.value.kind == "corrupt"
    assert counted(data.replace(b"images=6\nslices=6", b"images=99999999\ns")) == 6


def test_ome_planes_are_pages(photo: np.ndarray) -> None:
    """Each plane of an OME-TIFF has a directory, also of a pyramid."""
    file = io.BytesIO()
    stack = np.stack([photo[:, :, 0]] * 4)
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(stack, subifds=1, metadata={"axes": "ZYX"})
        writer.write(stack[:, ::2, ::2], subfiletype=1)
    assert counted(file.getvalue()) == 4


def test_chains_without_an_end_are_counted_in_bounded_time() -> None:
    """Loops of one and of two directories, a chain that runs backwards, 500,000 directories, and overlapping ones."""
    one = saved(np.zeros((4, 4), np.uint8), "TIFF")
    (start,) = struct.unpack_from("<I", one, 4)
    (tags,) = struct.unpack_from("<H", one, start)
    end = start + 2 + 12 * tags
    assert counted(overwritten(one, end, struct.pack("<I", start))) == 1
    assert counted(overwritten(one, end, struct.pack("<I", 1 << 31))) == 1
    two = overwritten(one, end, struct.pack("<I", len(one))) + one[start:end] + struct.pack("<I", start)
    assert counted(two) == 2
    entry = struct.pack("<HHII", 256, 4, 1, 1)
    tiny = struct.pack("<H", 1) + entry
    chain = b"II*\0" + struct.pack("<I", 8)
    chain += b"".join(tiny + struct.pack("<I", 8 + 18 * (index + 1)) for index in range(500_000))
    began = time.process_time()
    assert tiff_pages.pages(io.BytesIO(chain), 1000) == 1000
    assert tiff_pages.pages(io.BytesIO(chain), 10**9) > 30_000
    # each directory is 4096 tags long, and begins 18 bytes behind the one before
    wide = struct.pack("<H", 4096) + entry
    overlapping = b"II*\0" + struct.pack("<I", 8)
    overlapping += b"".join(wide + struct.pack("<I", 8 + 18 * (index + 1)) for index in range(100_000))
    assert tiff_pages.pages(io.BytesIO(overlapping), 10**9) <= 1000
    assert time.process_time() - began < 10


def test_counting_reads_little_of_a_large_file(tmp_path: Path, photo: np.ndarray) -> None:
    """A terabyte of zeros behind the directory is not read; a directory at its end is."""
    path = tmp_path / "a.tif"
    path.write_bytes(saved(photo, "TIFF"))
    with path.open("r+b") as file:
        file.truncate(1 << 40)
        assert tiff_pages.pages(file, 1000) == 1


@pytest.mark.parametrize("big", [False, True])
def test_damaged_directories_never_raise(photo: np.ndarray, big: bool) -> None:
    """Flipped bytes and cuts give a count of at least 1 and at most the limit, whatever the file says."""
    data, _ = mixed(photo[:20, :20], bigtiff=big)
    choose = random.Random(7)
    for _ in range(3000):
        broken = bytearray(data)
        for _ in range(choose.randrange(1, 5)):
            broken[choose.randrange(len(broken))] = choose.choice((0, 1, 255, choose.randrange(256)))
        assert 1 <= tiff_pages.pages(io.BytesIO(bytes(broken[: choose.randrange(len(broken))])), 50) <= 50


@pytest.mark.slow
def test_damaged_pages_are_errors_or_pixels(photo: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    """3000 damaged files, every page of each: no other exception, and nothing is printed."""
    data, _ = mixed(photo[:20, :20])
    choose = random.Random(8)
    for _ in range(3000):
        broken = bytearray(data)
        for _ in range(choose.randrange(1, 4)):
            broken[choose.randrange(len(broken))] = choose.choice((0, 1, 255, choose.randrange(256)))
        try:
            pages = tiff.sequence("TIFF", io.BytesIO(bytes(broken)), DecodeOptions(max_pixels=10**6))
        except ImageError:
            continue
        for index in range(len(pages.pages)):
            try:
                assert pages.decode(index).pixels.dtype == np.uint8
            except ImageError:
                continue
    assert capfd.readouterr() == ("", "")


def test_damage_behind_the_first_page_does_not_spoil_it(photo: np.ndarray) -> None:
    """It ends the count. Damage in the first directory is `corrupt`."""
    data, _ = mixed(photo)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        second, first = file.pages[1].offset, file.pages[0].offset
    image = read(overwritten(data, second, bytes(2)))
    assert np.array_equal(image.pixels, photo)
    assert image.frames == 1
    assert refused(overwritten(data, first, bytes(2)))[0] == "corrupt"
