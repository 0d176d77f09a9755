"""What libtiff reports about a file reaches its record, and never stderr."""

import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.datasets.ground_truth import read_mask
from image_files import odd_tiff, overwritten, packed_tiff, read, refused, saved, tiff
from pictures import Program, Shell, records

Captured = pytest.CaptureFixture[str]
GREY = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
ODD = odd_tiff(GREY, 60001)


def test_a_skipped_tag_is_a_note(capfd: Captured) -> None:
    """The pixels are right, the note names the tag once, and nothing is printed. An uncompressed TIFF has no note."""
    image = read(ODD)
    assert np.array_equal(image.pixels[..., 0], GREY)
    (note,) = image.notes
    assert note.startswith("libtiff: ") and "60001" in note
    directory = len(ODD) - 4 - 12 * 11  # of eleven tags, which are put into the wrong order here
    swapped = ODD[:directory] + ODD[-16:-4] + ODD[directory:-16] + ODD[-4:]
    assert np.array_equal(read(swapped).pixels, image.pixels)
    assert read(tiff(GREY, {60001: 1})).notes == ()
    assert capfd.readouterr() == ("", "")


def test_notes_are_few_and_short(capfd: Captured) -> None:
    """Of many reports three become notes, and one more note has the number of the others."""
    notes = read(odd_tiff(GREY, *range(60001, 60301))).notes
    assert len(notes) == 4 and max(map(len, notes)) < 250
    assert notes[3] == "libtiff: 297 more reports"
    assert capfd.readouterr() == ("", "")


def test_each_thread_keeps_its_own_reports(capfd: Captured) -> None:
    """With eight threads every note belongs to the image that was decoded."""
    tags = [60001 + index % 20 for index in range(400)]
    with ThreadPoolExecutor(8) as pool:
        for tag, image in zip(tags, pool.map(lambda tag: read(odd_tiff(GREY, tag)), tags), strict=True):
            assert len(image.notes) == 1 and f"(Tag {tag})" in image.notes[0]
    assert capfd.readouterr() == ("", "")


def test_lost_pixels_are_an_error_that_says_why(photo: np.ndarray, capfd: Captured) -> None:
    """Of a JPEG inside a TIFF that is damaged in the middle, Pillow returns the first pixels, and no error."""
    data = saved(photo, "TIFF", compression="jpeg")
    middle = data.index(b"\xff\xda") + 300
    kind, message = refused(overwritten(data, middle, b"\xff\x4f" * 4))
    assert kind == "corrupt" and "Unsupported marker type 0x4f" in message
    plain = packed_tiff(GREY, {280: 1})
    for form, count, report in ((2, 1, "Incompatible type"), (4, 0, "Incorrect count")):
        wrong = plain.replace(struct.pack("<HHI", 280, 4, 1), struct.pack("<HHI", 280, form, count))
        assert f'({report} for "MinSampleValue")' in refused(wrong)[1]
    packed = saved(photo, "TIFF", compression="tiff_lzw")
    kind, message = refused(overwritten(packed, 200, bytes(range(256)) * 4))
    assert kind == "corrupt" and re.search("LZW|code", message) and "decoder error" not in message
    assert capfd.readouterr() == ("", "")


def test_masks_of_ground_truth_are_read_in_silence(tmp_path: Path, capfd: Captured) -> None:
    """They have no record, so the reports are dropped."""
    (tmp_path / "a.tif").write_bytes(ODD)
    read_mask(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("line", ["clipseg segment a.tif -p red -f soft -o out", "clipseg segment - -p red -o out"])
def test_a_single_image_prints_nothing(line: str, quick_clipseg: Program, tmp_path: Path, capfd: Captured) -> None:
    """As a file, and through standard input: the note is in its record. So with `post` and `report`."""
    (tmp_path / "a.tif").write_bytes(ODD)
    quick_clipseg(line, stdin=ODD)
    assert "60001" in records(tmp_path / "out/manifest.jsonl")[0]["notes"]
    if "soft" in line:
        quick_clipseg("clipseg post out -f mask,overlay -o post")
        assert "; " not in records(tmp_path / "post/manifest.jsonl")[0]["notes"]
        quick_clipseg("clipseg report out")
    assert capfd.readouterr() == ("", "")


def test_a_worker_process_prints_nothing(quick_shell: Shell, tmp_path: Path) -> None:
    """Every record has the notes of its own image, and stderr has only the program's lines."""
    (tmp_path / "imgs").mkdir()
    for tag in range(60001, 60021):
        (tmp_path / f"imgs/{tag}.tif").write_bytes(odd_tiff(GREY, tag))
    done = quick_shell("clipseg segment imgs -p red -o out")
    assert "TIFF" not in done.stderr and "20 of 20 images done" in done.stderr
    for row in records(tmp_path / "out/manifest.jsonl"):
        note = row["notes"]
        assert f"(Tag {Path(row['image']).stem})" in note
