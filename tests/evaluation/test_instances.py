"""`clipseg eval --instances`: mask AP as pycocotools computes it, and panoptic quality as the paper defines it."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from clipseg_cli.datasets.ground_truth import Objects
from clipseg_cli.evaluation.instances import Quality, quality
from clipseg_cli.masks.instances import of_numbers
from labelled import grey
from pictures import SAMPLES, Program

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # by pycocotools
SIZE = (60, 80)


def objects(numbers: np.ndarray, crowd: np.ndarray | None = None) -> Objects:
    """The objects of an image of numbers, and a crowd region."""
    crowds = () if crowd is None else tuple(each for _, each in of_numbers(crowd))
    return Objects(tuple(each for _, each in of_numbers(numbers)), crowds, SIZE, "here")


def numbered(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """An image of boxes x0, y0, x1, y1, numbered in steps of 7, the later on top."""
    image = np.zeros(SIZE, np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        image[y0:y1, x0:x1] = 7 * number
    return image


def test_panoptic_quality_of_a_case_by_hand() -> None:
    """Two matches of IoU 1 and 0.6, a pair at exactly 0.5, which is no match, and a prediction on the background."""
    true = numbered((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    predicted = numbered((0, 0, 10, 10), (20, 0, 30, 6), (40, 0, 50, 5), (60, 40, 70, 50))
    found = quality(objects(predicted), objects(true))
    assert found == Quality(matched=2, iou=pytest.approx(1.6), false=2, missed=1)
    assert found.sq == pytest.approx(0.8) and found.rq == pytest.approx(2 / 3.5)
    assert found.pq == pytest.approx(1.6 / 3.5) == pytest.approx(found.sq * found.rq)
    nothing = quality(objects(numbered()), objects(numbered()))
    assert nothing == Quality() and all(math.isnan(score) for score in (nothing.pq, nothing.sq, nothing.rq))


def test_a_prediction_in_a_crowd_does_not_count() -> None:
    """If more than half of it lies there; a prediction that matches an object does."""
    crowd = numbered((40, 0, 80, 20))
    predicted = numbered((50, 0, 60, 10), (35, 0, 45, 10), (30, 12, 42, 20), (0, 0, 10, 10))
    true = objects(numbered((0, 0, 10, 10)), crowd)
    assert quality(objects(predicted), true) == Quality(matched=1, iou=1.0, false=2, missed=0)


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_equals_that_of_label_images(seed: int) -> None:
    """Against the definition over all pairs of numbers, on images of many objects that touch."""
    rng = np.random.default_rng(seed)
    true, predicted = (
        cv2.resize(rng.integers(0, 40, (8, 10)).astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        for _ in range(2)
    )
    predicted = np.where(rng.random(SIZE) < 0.1, predicted, np.roll(true, seed, 1) * (true != 3))
    ious = [
        np.count_nonzero((true == t) & (predicted == p)) / np.count_nonzero((true == t) | (predicted == p))
        for t in np.unique(true[true > 0])
        for p in np.unique(predicted[predicted > 0])
    ]
    hits = [iou for iou in ious if iou > 0.5]
    counts = [len(np.unique(each[each > 0])) for each in (true, predicted)]
    found = quality(objects(predicted), objects(true))
    assert 3 < found.matched == len(hits) and found.sq == pytest.approx(np.mean(hits))
    assert found.pq == pytest.approx(sum(hits) / (np.sum(counts) / 2)) and found.missed == counts[0] - len(hits)


def scene(rng: np.random.Generator, labels: int, noise: float) -> list[dict[str, Any]]:
    """Annotations of discs at set places, moved and resized by `noise` pixels, some left out."""
    rows = []
    for index in range(12):
        x, y = 10 + 20 * (index % 4), 10 + 20 * (index // 4)
        dx, dy, radius = rng.normal(0, 1, 3) * noise
        mask = cv2.circle(np.zeros(SIZE, np.uint8), (int(x + dx), int(y + dy)), max(1, int(8 + radius)), 1, -1)
        if noise and rng.random() < 0.2:
            continue
        packed = coco_masks.encode(np.asfortranarray(mask))
        rows.append({
            "category_id": 1 + index % labels, "iscrowd": int(not noise and index == 5), "area": int(mask.sum()),
            "bbox": coco_masks.toBbox(packed).tolist(), "score": float(rng.random()),
            "segmentation": {"size": list(SIZE), "counts": packed["counts"].decode()},
        })  # fmt: skip
    return rows


def coco_file(path: Path, labels: int, noise: float) -> Path:
    """Writes a COCO file of ten images."""
    rng = np.random.default_rng(int(noise * 10))
    images = [{"id": 3 * n, "file_name": f"a/{n}.jpg", "width": SIZE[1], "height": SIZE[0]} for n in range(1, 11)]
    rows = [each | {"image_id": image["id"]} for image in images for each in scene(rng, labels, noise)]
    names = [{"id": number, "name": f"label {number}"} for number in range(1, labels + 1)]
    rows = [each | {"id": number} for number, each in enumerate(rows, 1)]
    path.write_text(json.dumps({"images": images, "categories": names, "annotations": rows}))
    return path


@pytest.mark.parametrize("labels", [1, 3])
def test_average_precision_is_that_of_pycocotools(labels: int, clipseg: Program, tmp_path: Path) -> None:
    """On COCO files with scores, no two equal, and crowds: AP, AP50 and AP75, as its own summary has them."""
    gt, pred = coco_file(tmp_path / "gt.json", labels, 0), coco_file(tmp_path / "pred.json", labels, 1.2)
    document = json.loads(clipseg("clipseg eval pred.json gt.json --instances --json").stdout)
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO(str(gt))
        theirs = COCOeval(true, true.loadRes(json.loads(pred.read_text())["annotations"]), "segm")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    assert [document[name] for name in ("mask_ap", "mask_ap50", "mask_ap75")] == pytest.approx(
        theirs.stats[:3], abs=1e-6
    )
    assert 0.1 < document["mask_ap"] < document["mask_ap50"] < 1
    assert document["images"] == 10 and document["objects"] == 110 and len(document["labels"]) == labels
    each = document["labels"].values()
    assert document["pq"] == pytest.approx(np.mean([row["pq"] for row in each]), abs=1e-6)


def test_a_run_is_scored_against_its_own_objects(clipseg: Program, tmp_path: Path) -> None:
    """Its coco.json and PNGs of numbers for each label are both read as ground truth, and all scores are 1; also if the
    run is in the frame of the file. The table has a row for each label."""
    words = "-p red='a red circle' -p star='a blue star'"
    clipseg(f"clipseg segment {SAMPLES}/images {words} --instances -f instances,coco,mask -o out")
    document = json.loads(clipseg("clipseg eval out out/coco.json --instances --json").stdout)
    assert [document[name] for name in ("mask_ap", "mask_ap50", "mask_ap75", "pq", "sq", "rq")] == [1] * 6
    assert document["objects"] == document["predictions"] >= 8
    rows = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    for row in rows:
        numbers = cv2.imread(str(tmp_path / "out" / row["files"]["instances"]), cv2.IMREAD_UNCHANGED)
        for mask in row["masks"]:
            own = np.isin(numbers, [each["id"] for each in mask["instances"]]) * numbers
            grey(tmp_path / "gt" / mask["label"] / f"{Path(row['image']).stem}.png", own)
    done = clipseg("clipseg eval out gt --instances --fail-under pq=1 --fail-under mask_ap=1")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["label", "red", "star", "all"]
    assert json.loads(clipseg("clipseg eval gt gt --instances --json").stdout)["pq"] == 1
    low = clipseg("clipseg eval out/masks gt --instances --fail-under pq=0.999", expect=1)  # masks: one object each
    assert "pq is" in low.stderr


def test_what_keeps_no_objects_apart_is_an_error(clipseg: Program, tmp_path: Path) -> None:
    """A run without the numbers, indexed masks, colour, and scores or options that are of pixels."""
    coco_file(tmp_path / "gt.json", 1, 0)
    clipseg(f"clipseg segment {SAMPLES}/images -p 'a red circle' -f mask -o out")
    grey(tmp_path / "gt/a.png", numbered((0, 0, 9, 9)))
    (tmp_path / "gt/classes.txt").write_text("red\n")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "colour").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "colour/a.png")
    (tmp_path / "plain").mkdir()
    grey(tmp_path / "plain/a.png", numbered((0, 0, 9, 9)))
    for command, words in (
        (f"out {SAMPLES}/masks", "-f instances"),
        ("plain gt", "numbers of labels"),
        ("plain colour", "not RGB"),
        ("plain plain --curves c", "--curves"),
        ("plain plain --classes labels", "--classes"),
        ("plain plain --fail-under 0.5", "like pq=0.5"),
        ("gt.json gt.json", "run it again"),
    ):
        pixels = "" if command.startswith("gt.json") else "--instances"
        assert words in clipseg(f"clipseg eval {command} {pixels}", expect=2).stderr.replace("\n", " "), command
    assert "needs --instances" in clipseg("clipseg eval plain plain --fail-under pq=0.5", expect=2).stderr
