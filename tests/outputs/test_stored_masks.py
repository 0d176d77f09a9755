"""Masks are read back from the files of every layout, and from data sets without mask files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from clipseg_cli.outputs.stored_masks import StoredMasks
from clipseg_cli.settings.layouts import LAYOUTS
from pictures import Program, iou, picture, records
from reports import data_of
from yolo_readers import LEAST

RUN = "clipseg segment imgs -p red -p 'a blue star'"


@pytest.fixture
def images(tmp_path: Path) -> None:
    """Images of different scenes, one of them turned and in a folder."""
    for seed, (name, turn) in enumerate({"a.png": 1, "sub/ü b.jpg": 6}.items()):
        exif = PIL.Image.Exif()
        exif[0x0112] = turn
        (tmp_path / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(picture(90, 60, seed)).save(tmp_path / "imgs" / name, exif=exif)


def settings(out: Path) -> dict[str, Any]:
    """Those of a run."""
    return dict(json.loads((out / "run.json").read_text())["settings"])


def agree(form: str | None, found: list[np.ndarray], masks: np.ndarray, boxes: list[list[int]]) -> bool:
    """Whether masks, bool (H, W), are as a format holds them."""
    if form in ("joined", "alpha"):  # within the box of the label
        inside = np.zeros_like(masks)
        for box, (x, y, w, h) in zip(inside, boxes, strict=True):
            box[y : y + h, x : x + w] = True
        masks = inside & masks.any(0)
    if form in ("labels", "semantic"):  # a pixel has one label
        return np.array_equal(np.any(found, 0), masks.any(0)) and not (found & ~masks).any()
    least = LEAST if form in ("ultralytics", "polygons") else 1
    return all(iou(*pair) >= least or not pair[1].any() for pair in zip(found, masks, strict=True))


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    "flags", [*(f"--layout {name}" for name in LAYOUTS), "--layout colmap --keep", "-f coco --polygons", "-f labels"]
)
def test_masks_come_back(quick_clipseg: Program, tmp_path: Path, flags: str) -> None:
    """One per label, as the run found them: exactly, from polygons almost, and from a joined mask within the box of the
    label. The report shows them."""
    out = tmp_path / "out"
    quick_clipseg(f"{RUN} {flags} -o out --report")
    quick_clipseg(f"{RUN} -f npz --orientation {settings(out).get('orientation', 'upright')} -o truth")
    stored = StoredMasks.of(out, settings(out))
    truth = {row["image"]: row["files"]["npz"] for row in records(tmp_path / "truth/manifest.jsonl")}
    shown = [
        sum(each is not None for each in image["pixels"]["sides"][0]["maps"])
        for image in data_of(out / "report.html")["images"]
    ]
    assert shown == [2, 2]
    for row in records(out / "manifest.jsonl"):
        found, masks = stored.read(row), np.load(tmp_path / "truth" / truth[row["image"]])["masks"]
        assert found is not None and masks.any()
        assert all(mask.dtype == np.uint8 and {*np.unique(mask)} <= {0, 255} for mask in found)
        form = "polygons" if "polygons" in flags else stored.form
        assert agree(form, [mask > 0 for mask in found], masks, [mask["bbox"] for mask in row["masks"]])


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("flags", ["--layout kohya", "--layout coco", "-f yolo", "-f overlay", "-f mask"])
def test_masks_that_are_gone_are_none(quick_clipseg: Program, tmp_path: Path, flags: str) -> None:
    """Also damaged ones, and those of formats that are not read. A run with mask files needs none of this."""
    out = tmp_path / "out"
    quick_clipseg(f"{RUN} {flags} -o out")
    for damage in (lambda path: path.write_bytes(b"1 2"), Path.unlink):
        for path in out.rglob("*"):
            if path.is_file() and path.suffix != ".jsonl" and path.name != "run.json":
                damage(path)
        stored = StoredMasks.of(out, settings(out))
        assert all(stored.read(row) is None for row in records(out / "manifest.jsonl"))
