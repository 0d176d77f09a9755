"""From soft maps to files and records: thresholds, competing labels, absent objects, and what a defect costs."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.masks.soft_maps import Scored, StoredMap
from clipseg_cli.outputs import colours
from clipseg_cli.outputs.record import Record
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run.finish import MaskPlan, finish
from clipseg_cli.settings.masks import MaskOptions
from pictures import Program, picture, records, save

PROMPTS = "-p red -p circle -p 'a star'"


def scored(presence: float = 1.0) -> Iterator[Scored]:
    """Yields one soft map of 4 x 6 pixels whose right half is the object."""
    levels = np.zeros((4, 6), np.uint8)
    levels[:, 3:] = 200
    yield Scored(StoredMap(levels), 200 / 255, 100 / 255, presence)


def no_photo() -> np.ndarray:
    """Fails where a photo is loaded that nobody needs."""
    raise AssertionError("the photo was loaded")


def plan(*formats: str, masks: MaskOptions = MaskOptions()) -> MaskPlan:  # noqa: B008
    """Returns a plan of one label."""
    return MaskPlan((Prompt("cat", "a cat"),), (0.5,), masks, formats)  # type: ignore[arg-type]


def test_a_record_measures_its_mask() -> None:
    """Area, share, box, score and paths. The photo is not loaded for a mask and a soft map."""
    written: dict[str, bytes] = {}
    record = finish(Record("a.jpg", 6, 4), "sub/a", no_photo, scored(), plan("mask", "soft"), written.__setitem__)
    (mask,) = record.masks
    assert (mask.area, mask.area_frac, mask.bbox, mask.threshold) == (12, 0.5, (3, 0, 3, 4), 0.5)
    assert [path for _, path in mask.files] == [*written] == ["masks/cat/sub/a.png", "soft/cat/sub/a.png"]
    assert dict(record.outputs) == {path: len(data) for path, data in written.items()}


def test_a_low_presence_score_empties_the_mask() -> None:
    """The soft map stays. With `empty="skip"` the mask has no file."""
    for empty, paths in (("write", ["masks/cat/a.png", "soft/cat/a.png"]), ("skip", ["soft/cat/a.png"])):
        written: dict[str, bytes] = {}
        options = plan("mask", "soft", masks=MaskOptions(min_presence=0.7, empty=empty))  # type: ignore[arg-type]
        record = finish(Record("a.jpg", 6, 4), "a", no_photo, scored(0.6), options, written.__setitem__)
        assert record.masks[0].area == 0 and record.masks[0].bbox == (0, 0, 0, 0) and [*written] == paths
        whole = finish(Record("a.jpg", 6, 4), "a", no_photo, scored(0.7), options, written.__setitem__)
        assert whole.masks[0].area == 12


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("a bug"), "internal"), (MemoryError(), "out_of_memory"),
     (ImageError("vanished", "load", "gone"), "vanished")],
)  # fmt: skip
def test_an_error_costs_one_image(error: Exception, kind: str) -> None:
    """Its record names the error's class."""

    def photo() -> np.ndarray:
        raise error

    record = finish(Record("a.jpg", 6, 4), "a", photo, scored(), plan("overlay"), lambda path, data: None)
    assert not record.ok and record.error is not None and record.error.kind == kind


def test_an_output_that_cannot_be_written_ends_the_run() -> None:
    """An OutputError is raised."""

    def write(path: str, data: bytes) -> None:
        raise OutputError("disk full")

    with pytest.raises(OutputError, match="disk full"):
        finish(Record("a.jpg", 6, 4), "a", no_photo, scored(), plan("mask"), write)


def test_a_soft_map_is_the_mask_before_its_threshold(clipseg: Program, tmp_path: Path) -> None:
    """soft > 255 t is the mask, to the pixel, at any threshold."""
    save(tmp_path / "a.jpg", picture())
    clipseg("clipseg segment a.jpg -p circle -f mask,soft -t 0.37 -o out")
    row = records(tmp_path / "out/manifest.jsonl")[0]["masks"][0]
    mask, soft = (cv2.imread(str(tmp_path / "out" / row[key]), cv2.IMREAD_UNCHANGED) for key in ("path", "soft"))
    assert np.array_equal(mask > 0, soft > 255 * 0.37) and row["threshold"] == 0.37


def test_an_absent_object_gets_an_empty_mask_or_none(clipseg: Program, tmp_path: Path) -> None:
    """It gets an all-zero mask, or with --empty skip no file and a null path. The exit code is 0 both times."""
    save(tmp_path / "a.jpg", picture())
    clipseg("clipseg segment a.jpg -p circle -t 1 -o one")
    clipseg("clipseg segment a.jpg -p circle -t 1 --empty skip -o two")
    one, two = (records(tmp_path / name / "manifest.jsonl")[0]["masks"][0] for name in ("one", "two"))
    assert not cv2.imread(str(tmp_path / "one" / one["path"]), cv2.IMREAD_UNCHANGED).any()
    assert two["path"] == "" and two["bbox"] == [0, 0, 0, 0] and two["area"] == 0
    assert not (tmp_path / "two/masks").exists()


def test_min_presence_empties_the_masks_of_absent_objects(clipseg: Program, tmp_path: Path) -> None:
    """With `--min-presence` above its score a label's mask is all zero, or has no file. Its soft map stays."""
    save(tmp_path / "a.png", picture())
    line = "clipseg segment a.png -p 'a red circle' -p 'a green star'"
    clipseg(f"{line} -f mask -f soft -o plain")
    disc, star = records(tmp_path / "plain/manifest.jsonl")[0]["masks"]
    assert disc["presence"] > star["presence"] and 0 <= star["presence"] <= star["score"] <= 1
    line += f" -t 0 --min-presence {(disc['presence'] + star['presence']) / 2}"
    clipseg(f"{line} -f mask -f soft -o out")
    clipseg(f"{line} -f mask --empty skip -o skipped")
    kept, gone = records(tmp_path / "out/manifest.jsonl")[0]["masks"]
    assert kept["area"] > 0 and gone["area"] == 0 and gone["bbox"] == [0, 0, 0, 0]
    assert not cv2.imread(str(tmp_path / "out" / gone["path"]), 0).any()
    assert (tmp_path / "out" / gone["soft"]).read_bytes() == (tmp_path / "plain" / star["soft"]).read_bytes()
    assert records(tmp_path / "skipped/manifest.jsonl")[0]["masks"][1]["path"] == ""


def test_labels_compete_for_each_pixel(clipseg: Program, tmp_path: Path) -> None:
    """With `--mode labels` masks do not overlap, and the most probable label wins. `-f labels` writes the same as one
    index image, with and without that mode."""
    save(tmp_path / "a.png", picture())
    line = f"clipseg segment a.png {PROMPTS} -f mask -f soft -f labels"
    for flags in ("--mode labels -o out", "-o both", "--mode labels --background 0.99 -o sure"):
        clipseg(f"{line} {flags}")
    row = records(tmp_path / "out/manifest.jsonl")[0]
    index = np.asarray(Image.open(tmp_path / "out" / row["files"]["labels"]))
    softs = np.stack([cv2.imread(str(tmp_path / "out" / mask["soft"]), 0).astype(int) for mask in row["masks"]])
    cuts = softs > 255 * np.array([mask["threshold"] for mask in row["masks"]])[:, None, None]
    levels = np.where(cuts, softs, -1)
    expected = np.where(levels.max(0) >= 0, levels.argmax(0) + 1, 0)
    np.testing.assert_array_equal(index, expected)
    for number, mask in enumerate(row["masks"], 1):
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / mask["path"]), 0) > 0, index == number)
    names = (tmp_path / "out/labels/classes.txt").read_text().splitlines()
    assert names == ["background", "red", "circle", "a star"]
    overlapping = records(tmp_path / "both/manifest.jsonl")[0]
    assert overlapping["masks"][0]["area"] >= row["masks"][0]["area"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "both" / overlapping["files"]["labels"])), index)
    sure = np.asarray(Image.open(tmp_path / "sure" / row["files"]["labels"]))
    np.testing.assert_array_equal(sure, np.where(levels.max(0) > 255 * 0.99, expected, 0))


def test_more_labels_than_a_byte_holds_are_refused(clipseg: Program, tmp_path: Path) -> None:
    """An index image has 254 labels at most."""
    save(tmp_path / "a.png", picture())
    (tmp_path / "many.txt").write_text("".join(f"object {number}\n" for number in range(255)))
    assert "254" in clipseg("clipseg segment a.png -P many.txt -f voc", expect=2).stderr


def test_label_images_are_grey_or_have_the_colours_of_the_overlay(clipseg: Program, tmp_path: Path) -> None:
    """Plain grey: every reader, OpenCV too, gets numbers. With `--palette`, entry i + 1 is the colour that label i has
    elsewhere, and entry 0 is black. The numbers are the same, in a folder and in a single file."""
    save(tmp_path / "a.png", picture())
    flags = {"": "out/labels/a.png", "-o one.png": "one.png"}
    for out, path in flags.items():
        clipseg(f"clipseg segment a.png -p red -f labels {out or '-o out'}")
        clipseg(f"clipseg segment a.png -p red -f labels --palette {out.replace('one', 'two') or '-o in'}")
        with (
            Image.open(tmp_path / path) as grey,
            Image.open(tmp_path / {"": "in/labels/a.png"}.get(out, "two.png")) as file,
        ):
            assert grey.mode == "L" and file.mode == "P"
            assert file.getpalette()[:6] == [0, 0, 0, *colours.colour(0)]
            numbers = np.array(grey)
            assert {*np.unique(numbers)} == {0, 1} and np.array_equal(numbers, np.array(file))
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / path), cv2.IMREAD_UNCHANGED), numbers)


def test_expressions_combine_soft_maps(clipseg: Program, tmp_path: Path) -> None:
    """AND is the minimum, OR the maximum, NOT the complement, to a level of the soft maps."""
    save(tmp_path / "a.png", picture(224, 224, 3))
    clipseg(
        "clipseg segment a.png -p r=red -p s='a star' --expr both='red AND a star' --expr any='red OR a star' "
        "--expr none='NOT (red OR \"a star\")' --expr 'red*0.5' -f soft -o out"
    )
    found = {row["label"]: row for row in records(tmp_path / "out/manifest.jsonl")[0]["masks"]}
    soft = {
        label: cv2.imread(str(tmp_path / "out" / row["soft"]), cv2.IMREAD_UNCHANGED).astype(int)
        for label, row in found.items()
    }
    for label, expected in (
        ("both", np.minimum(soft["r"], soft["s"])),
        ("any", np.maximum(soft["r"], soft["s"])),
        ("none", 255 - np.maximum(soft["r"], soft["s"])),
        ("red*0.5", soft["r"] / 2),
    ):
        assert np.abs(soft[label] - expected).max() <= 1, label
    message = clipseg("clipseg segment a.png --expr 'cat AND (dog'", expect=2).stderr
    assert "cat AND (dog" in message and "^" in message
