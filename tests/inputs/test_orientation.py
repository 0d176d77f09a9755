"""EXIF orientation: pixels come out the way viewers show them, and a broken EXIF block never costs an image."""

import io
import struct
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
from PIL import ImageOps

from clipseg_cli.inputs.orientation import TAG, matrix, read_orientation
from image_files import LOSSLESS, LOSSY, read, saved

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # stored -> shown, as the EXIF standard says
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
def test_orientation_is_applied_as_in_viewers(form: str, value: int, photo: np.ndarray) -> None:
    """Values 1-8 turn the stored rows as the standard says and as Pillow's exif_transpose does."""
    exif = PIL.Image.Exif()
    exif[TAG] = value
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
    """A value outside 1-8 counts as 1."""
    exif = PIL.Image.Exif()
    exif[TAG] = value
    image = read(saved(photo, form, exif=exif))
    assert image.pixels.shape == photo.shape
    assert image.notes == ("orientation outside 1-8 ignored",)


@pytest.mark.parametrize(
    "block", [b"", b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x09\x01", b"II"]
)
def test_broken_exif_is_never_fatal(block: bytes, photo: np.ndarray) -> None:
    """Whatever the EXIF segment contains, the image loads as stored, with a note."""
    image = read(saved(photo, "JPEG", exif=b"Exif\0\0" + block))
    assert image.pixels.shape == photo.shape
    assert image.notes == ("broken EXIF ignored",)


def test_orientation_reads_both_byte_orders_and_every_integer_type() -> None:
    """BYTE, SHORT and LONG in II and MM are read; no tag means 1; other tags are skipped."""
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        start = mark + struct.pack(order + "I", 8)
        assert read_orientation(start + struct.pack(order + "H", 0)) == 1
        for kind, layout in ((1, "Bxxx"), (3, "Hxx"), (4, "I")):
            other = struct.pack(order + "HHII", 0x0110, 4, 1, 7)
            entry = struct.pack(order + "HHI" + layout, TAG, kind, 1, 6)
            assert read_orientation(start + struct.pack(order + "H", 2) + other + entry) == 6


@pytest.mark.parametrize("value", TURNS)
def test_the_matrix_leads_from_upright_to_stored_pixels(value: int) -> None:
    """The centre of each upright pixel is that of the same pixel in the file."""
    stored = np.arange(12).reshape(3, 4)
    shown = TURNS[value](stored)
    for (row, column), content in np.ndenumerate(shown):
        x, y, _ = matrix(value, *shown.shape) @ (column + 0.5, row + 0.5, 1)
        assert stored[int(y), int(x)] == content and (x % 1, y % 1) == (0.5, 0.5)
