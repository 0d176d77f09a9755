"""`--instances` in a run: numbers, records and annotations agree, whatever the frame of the file."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipseg_cli.errors import UsageError
from clipseg_cli.outputs import writers
from clipseg_cli.settings.masks import MaskOptions
from mask_shapes import components
from pictures import Program, picture, records, save

WORDS = "-p 'a red circle' -p red -t 0.4"


def pair() -> np.ndarray:
    """A photo of two red discs, the left one smaller."""
    return np.hstack([picture(120, 160, 1)[:, 10:], picture(160, 160, 2)])


def numbered(path: Path) -> np.ndarray:
    """The numbers in an instance image of 16 bits."""
    with Image.open(path) as image:
        assert image.mode == "I;16"
        return np.array(image)


@pytest.mark.parametrize("stored", [False, True])
def test_numbers_records_and_annotations_agree(stored: bool, clipseg: Program, tmp_path: Path) -> None:
    """In each label's mask, every component is an instance: numbered from 1 over all labels, the largest first, in the
    image, in the record and in coco.json. A pixel of two labels has the number of the more probable one."""
    save(tmp_path / "i/a.png", pair())
    image = Image.fromarray(np.rot90(pair()))
    image.getexif()[0x0112] = 6
    image.save(tmp_path / "i/turned.jpg", exif=image.getexif(), quality=95)
    turn = "--orientation stored" if stored else ""
    clipseg(f"clipseg segment i {WORDS} --instances {turn} -f mask,labels,instances,coco -o out")
    annotations = json.loads((tmp_path / "out/coco.json").read_text())["annotations"]
    rows = sorted(records(tmp_path / "out/manifest.jsonl"), key=lambda row: row["image"])
    for number, row in enumerate(rows, 1):
        ids = numbered(tmp_path / "out" / row["files"]["instances"])
        labels = np.array(Image.open(tmp_path / "out" / row["files"]["labels"]))
        assert ids.shape == (row["height"], row["width"]) and np.array_equal(ids > 0, labels > 0)
        told = [(label, each) for label, mask in enumerate(row["masks"], 1) for each in mask["instances"]]
        assert [each["id"] for _, each in told] == [*range(1, len(told) + 1)] and len(told) >= 2
        parts = [
            (label, part)
            for label, mask in enumerate(row["masks"], 1)
            for part in components(np.array(Image.open(tmp_path / "out" / mask["path"])))
        ]
        own = [each for each in annotations if each["image_id"] == number]
        for (label, each), (index, part), annotation in zip(told, parts, own, strict=True):
            assert label == index == annotation["category_id"]
            assert each["area"] == np.count_nonzero(part) == annotation["area"]
            assert each["bbox"] == annotation["bbox"] and each["score"] == annotation["score"] > 0.4
            assert np.array_equal(ids == each["id"], (part > 0) & (labels == label))


def test_post_finds_the_instances_of_the_run(clipseg: Program, tmp_path: Path) -> None:
    """From the soft maps it writes the same numbers and records, and other ones with other options; without --instances
    a record has none."""
    save(tmp_path / "i/a.png", pair())
    clipseg(f"clipseg segment i {WORDS} --instances -f soft,instances -o out")
    clipseg("clipseg post out --instances -f instances -o same")
    clipseg("clipseg post out --instances --keep-largest 1 -f instances -o one")
    clipseg("clipseg post out -f mask -o none")
    assert (tmp_path / "out/instances/a.png").read_bytes() == (tmp_path / "same/instances/a.png").read_bytes()
    run, same, one, none = (
        records(tmp_path / name / "manifest.jsonl")[0]["masks"] for name in ["out", "same", "one", "none"]
    )
    assert [mask["instances"] for mask in run] == [mask["instances"] for mask in same]
    assert [len(mask["instances"]) for mask in one] == [1, 1] and numbered(tmp_path / "one/instances/a.png").max() <= 2
    assert not any("instances" in mask for mask in none)


def test_the_numbers_need_the_option() -> None:
    """`-f instances` alone is an error that names it."""
    with pytest.raises(UsageError, match="needs --instances"):
        writers.check(1, MaskOptions(), ("instances",))
