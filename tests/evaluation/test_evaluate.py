"""`clipseg eval`: scores of runs and mask folders against every layout of ground truth."""

import json
import re
import shutil
import tracemalloc
import xml.etree.ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn.metrics

from clipseg_cli.evaluation.evaluate import evaluate
from labelled import blob, grey, mask_folders, run_lengths
from pictures import SAMPLES, SCHEMA, Program, Shell

RNG = np.random.default_rng(11)


def test_scores_of_the_samples_equal_those_of_scikit_learn(clipseg: Program, shell: Shell, tmp_path: Path) -> None:
    """The README's line works in a pipe, the scores are scikit-learn's, and the command does not load torch."""
    clipseg(f"clipseg segment {SAMPLES}/images -p 'a red circle' -p 'everything green' -f mask -f soft -o out")
    shutil.copytree(SAMPLES / "masks", tmp_path / "gt")
    document = json.loads(clipseg("clipseg eval out gt --json").stdout)
    assert set(document["labels"]) == {"a red circle", "everything green"} and document["images"] == 8
    assert document["miou"] <= 0.999
    predicted, truth = (
        np.concatenate([cv2.imread(str(file), 0).ravel() > 0 for file in sorted(folder.iterdir())])
        for folder in (tmp_path / "out/masks/a-red-circle", tmp_path / "gt/a-red-circle")
    )
    scores = document["labels"]["a red circle"]
    assert scores["dice"] == pytest.approx(sklearn.metrics.f1_score(truth, predicted), abs=1e-5)
    assert scores["precision"] == pytest.approx(sklearn.metrics.precision_score(truth, predicted), abs=1e-5)
    assert scores["iou_fg"] == pytest.approx(sklearn.metrics.jaccard_score(truth, predicted), abs=1e-5)
    assert 0 < scores["presence_ap"] <= 1 and scores["best"]["miou"][0] >= scores["miou"] - 0.005
    table = clipseg("clipseg eval out gt").stdout
    assert re.search(r"^all +16 ", table, re.MULTILINE) and "best thresholds: miou" in table
    done = shell("clipseg eval out gt --json | jq -e '.miou > 0.6'", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported and not imported & {"torch", "transformers"}


def test_fail_under_and_curves(clipseg: Program, tmp_path: Path) -> None:
    """`--fail-under` exits with 1 and names the low score; `--curves` writes two SVG files with a curve per label."""
    masks = mask_folders(RNG, tmp_path / "gt", ("cat", "<dog>"), ("a", "sub/b"))
    for (label, stem), mask in masks.items():
        noisy = np.clip(mask * 0.5 + RNG.integers(0, 120, mask.shape), 0, 255).astype(np.uint8)
        grey(tmp_path / f"out/soft/{label}/{stem}.png", noisy)
    lines = []
    for stem in ("a", "sub/b"):
        rows = [
            {"label": label, "prompt": label, "threshold": 0.4, "area": 1, "path": None}
            | {"soft": f"soft/{label}/{stem}.png"}
            for label in ("cat", "<dog>")
        ]
        lines.append(json.dumps(SCHEMA | {"image": f"x/{stem}.jpg", "status": "ok", "masks": rows}))
    lines.append(json.dumps(SCHEMA | {"image": "x/c.jpg", "status": "failed", "error": {"class": "corrupt"}}))
    (tmp_path / "out/manifest.jsonl").write_text("\n".join(lines) + "\n")
    clipseg("clipseg eval out gt --fail-under 0.3 --fail-under ap=0.1 --curves curves")
    low = clipseg("clipseg eval out gt --fail-under recall=0.1 --fail-under miou=0.9999", expect=1)
    assert "miou is" in low.stderr and "recall" not in low.stderr.replace("recall=", "")
    for name in ("precision-recall", "iou"):
        root = xml.etree.ElementTree.parse(tmp_path / f"curves/{name}.svg").getroot()
        space = "{http://www.w3.org/2000/svg}"
        assert len(root.findall(f"{space}polyline")) == 2
        assert any("<dog> (" in (text.text or "") for text in root.findall(f"{space}text"))
    for wrong in ("good", "nan", "60", "recall=-1"):
        assert "number" in clipseg(f"clipseg eval out gt --fail-under {wrong}", expect=2).stderr
    assert "no such score" in clipseg("clipseg eval out gt --fail-under good=1", expect=2).stderr
    assert "-f soft" in clipseg("clipseg eval out/soft gt --fail-under ap=1", expect=2).stderr


def test_folders_of_masks_in_both_layouts(clipseg: Program, tmp_path: Path) -> None:
    """Masks may lie in label folders or in one folder; `--classes` is images or labels; an empty true mask has no
    IoU."""
    truth = mask_folders(RNG, tmp_path / "gt", ("cat", "dog"), ("a", "sub/b", "sub/c"))
    predicted = mask_folders(RNG, tmp_path / "pred", ("cat", "dog"), ("a", "sub/b", "sub/c"))
    truth["dog", "a"][:] = 0
    grey(tmp_path / "gt/dog/a.png", truth["dog", "a"])

    def iou(*keys: tuple[str, str]) -> float:
        pairs = [(predicted[key] > 0, truth[key] > 0) for key in keys]
        return sum(np.sum(a & b) for a, b in pairs) / (1 + sum(np.sum(a | b) for a, b in pairs))

    document = evaluate(tmp_path / "pred", tmp_path / "gt").document()
    present = [key for key in truth if key != ("dog", "a")]
    assert document["miou"] == pytest.approx(np.mean([iou(key) for key in present]), abs=1e-6)
    assert document["iou_fg"] == pytest.approx(iou(*truth), abs=1e-6) and document["pairs"] == 6
    assert document["images"] == 3 and document["labels"]["dog"]["images"] == 3 and "ap" not in document
    by_class = [iou(*(key for key in truth if key[0] == label)) for label in ("cat", "dog")]
    by_label = evaluate(tmp_path / "pred", tmp_path / "gt", "labels").document()
    assert json.loads(clipseg("clipseg eval pred gt --classes labels --json").stdout) == by_label
    assert json.loads(clipseg("clipseg eval pred gt --classes images --json").stdout) == document
    clipseg("clipseg eval pred gt --classes pictures", expect=2)
    assert by_label["miou"] == pytest.approx(np.mean(by_class), abs=1e-6)
    single = evaluate(tmp_path / "pred/cat", tmp_path / "gt/cat").document()
    assert single["miou"] == document["labels"]["cat"]["miou"] and single["threshold"] is None


def test_unknown_pixels_of_indexed_masks_are_not_scored(tmp_path: Path) -> None:
    """A pixel of 255 is neither a hit nor a miss of any label."""
    index = np.array([[0, 1, 2, 2], [1, 1, 255, 0]], np.uint8)
    grey(tmp_path / "gt/a.png", index)
    grey(tmp_path / "pred/cat/a.png", np.array([[0, 255, 0, 0], [255, 0, 255, 0]], np.uint8))
    grey(tmp_path / "pred/dog/a.png", np.array([[0, 0, 255, 255], [0, 0, 255, 0]], np.uint8))
    for content in ("cat\ndog\n", "background\ncat\ndog\n"):
        (tmp_path / "gt/classes.txt").write_text(content)
        labels = evaluate(tmp_path / "pred", tmp_path / "gt").document()["labels"]
        assert labels["cat"]["precision"] == 1 and labels["cat"]["recall"] == pytest.approx(2 / 3, abs=1e-6)
        assert labels["dog"]["precision"] == labels["dog"]["recall"] == 1


def test_scores_against_a_coco_file(tmp_path: Path) -> None:
    """Perfect masks score 1; an image without annotations counts as a pair; `b.jpg` and `b.png` are two images."""
    height, width = 50, 70
    wanted = cv2.resize(blob(RNG), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    annotation = {"image_id": 5, "category_id": 9, "segmentation": {"counts": run_lengths(wanted)}}
    content = {
        "images": [
            {"id": 5, "file_name": "imgs/a.jpg", "height": height, "width": width},
            {"id": 6, "file_name": "imgs/b.jpg", "height": height, "width": width},
        ],
        "categories": [{"id": 9, "name": "a cat"}],
        "annotations": [annotation],
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    grey(tmp_path / "pred/a-cat/a.png", (wanted * 255).astype(np.uint8))
    grey(tmp_path / "pred/a-cat/b.png", np.zeros((height, width), np.uint8))
    document = evaluate(tmp_path / "pred", tmp_path / "gt.json").document()
    assert document["precision"] == document["recall"] == document["boundary_f"] == 1 and document["pairs"] == 2
    assert document["miou"] == pytest.approx(wanted.sum() / (1 + wanted.sum()), abs=1e-6)
    content["images"].append({"id": 7, "file_name": "imgs/b.png", "height": height, "width": width})
    (tmp_path / "gt.json").write_text(json.dumps(content))
    (tmp_path / "pred/a-cat/b.png").rename(tmp_path / "pred/a-cat/b.jpg.png")
    grey(tmp_path / "pred/a-cat/b.png.png", np.zeros((height, width), np.uint8))
    assert evaluate(tmp_path / "pred", tmp_path / "gt.json").document()["pairs"] == 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    """Twelve times the pairs, spread over folders, take at most 600 kB more, which threads hold at the same time."""
    small = (blob(RNG, size=(8, 8)) > 0).astype(np.uint8) * 255
    peaks = []
    for name, folders in (("few", 1), ("many", 12)):
        for side in ("pred", "gt"):
            for folder in range(folders):
                for index in range(100):
                    grey(tmp_path / name / side / f"x/{folder:02}/{index:03}.png", small)
        evaluate(tmp_path / name / "pred", tmp_path / name / "gt")
        tracemalloc.start()
        assert evaluate(tmp_path / name / "pred", tmp_path / name / "gt").images == 100 * folders
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 600_000, peaks
