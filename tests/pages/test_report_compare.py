"""Reports of two runs: what differs in each image, in the data and in the browser."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from clipseg_cli.pages.report_compare import compared
from pictures import SAMPLES, Program, iou, until
from reports import DRAWN, data_of, opened

FULL = np.full((4, 5), 255, np.uint8)
NONE = np.zeros((4, 5), np.uint8)


def test_masks_are_compared_by_label() -> None:
    """IoU of each label, 1 for two empty masks; the changed share counts pixels of any label. What is missing or of
    another size is not compared."""
    half = NONE.copy()
    half[:2] = 255
    assert compared([half], [FULL]) == {"iou": [0.5], "changed": 0.5}
    assert compared([half, NONE], [half, NONE]) == {"iou": [1.0, 1.0], "changed": 0.0}
    assert compared([NONE, half], [FULL, NONE]) == {"iou": [0.0, 0.0], "changed": 1.0}
    assert compared([half, None], [FULL[:3], FULL]) == {"iou": [None, None], "changed": None}


@pytest.fixture
def runs(clipseg: Program, tmp_path: Path) -> Path:
    """Two runs of the samples in one folder: other thresholds, one label that only the second has, one image less."""
    images = sorted((SAMPLES / "images").iterdir())
    line = "clipseg segment {} -p disc='a red circle' {} -f mask,soft -q -o {}"
    clipseg(line.format(" ".join(map(str, images)), "-t 0.3", "a"))
    clipseg(line.format(" ".join(map(str, images[:-1])), "-p green='everything green' -t 0.7", "b"))
    return tmp_path


def test_a_report_of_two_runs_says_where_they_differ(clipseg: Program, runs: Path) -> None:
    """compare.html in the first run's folder has, for each image and label, the IoU of the two mask files."""
    done = clipseg("clipseg report a b")
    assert done.stdout.strip() == "a/compare.html" and "images differ" in done.stderr
    data = data_of(runs / "a/compare.html")
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    assert [label["name"] for label in data["labels"]] == ["disc", "green"]
    rows = [[json.loads(line) for line in (runs / run / "manifest.jsonl").read_text().splitlines()] for run in "ab"]
    second = {row["image"]: row for row in rows[1]}
    scores = []
    for image, row in zip(data["images"], rows[0], strict=True):
        if row["image"] not in second:
            assert image["sides"][1] is None and image["iou"] == [None, None] and image["changed"] is None
            continue
        one, two = (
            cv2.imread(str(runs / run / each["masks"][0]["path"]), 0)
            for run, each in (("a", row), ("b", second[row["image"]]))
        )
        scores.append(iou(one, two))
        assert image["iou"] == [pytest.approx(scores[-1], abs=1e-4), None]
        assert image["changed"] == pytest.approx(((one > 0) ^ (two > 0)).mean(), abs=1e-6)
        assert image["sides"][0]["presences"][1] is None and image["sides"][1]["presences"][1] is not None
    found = data["compare"]
    assert found["both"] == len(rows[1]) and found["only"] == [1, 0]
    assert found["iou"] == [pytest.approx(np.mean(scores), abs=1e-3), None]
    assert found["different"] == sum(score < 1 for score in scores) > 0


def test_runs_that_name_their_images_differently_are_paired(clipseg: Program, runs: Path) -> None:
    """An absolute and a relative name of one file are the same image."""
    manifest = runs / "b/manifest.jsonl"
    about = json.loads((runs / "b/run.json").read_text()) | {"directory": str(SAMPLES)}
    (runs / "b/run.json").write_text(json.dumps(about))
    manifest.write_text(manifest.read_text().replace(f"{SAMPLES}/images/", "images/"))
    clipseg("clipseg report a b -o c.html")
    assert data_of(runs / "c.html")["compare"]["only"] == [1, 0]


def test_a_refinement_is_compared_with_the_plain_masks(clipseg: Program, tmp_path: Path) -> None:
    """By the documented commands: `post` makes the plain masks from the soft maps of a run with `--refine sam`, and the
    report says how much of each mask the refinement has changed: its edge."""
    clipseg(f"clipseg segment {SAMPLES}/images/balcony.jpg -p 'a red circle' --refine sam -f mask,soft -o refined")
    clipseg("clipseg post refined -f mask -o plain")
    clipseg("clipseg report plain refined")
    data = data_of(tmp_path / "plain/compare.html")
    assert [run["name"] for run in data["runs"]] == ["plain", "refined"]
    plain, refined = (next((tmp_path / name / "masks").rglob("*.png")) for name in ("plain", "refined"))
    one, two = (cv2.imread(str(path), 0) for path in (plain, refined))
    assert data["images"][0]["iou"] == [pytest.approx(iou(one, two), abs=1e-4)] and 0.7 < iou(one, two) < 1
    truth = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    assert iou(two, truth) > iou(one, truth)


@pytest.mark.slow
def test_two_runs_stand_side_by_side(clipseg: Program, page: Any, runs: Path) -> None:
    """Each card has both masks and says how they differ; the images can be sorted by that, and only the differences
    can be tinted. Enlarged, both zoom together."""
    clipseg("clipseg report a b")
    opened(page, runs / "a/compare.html")
    cards = page.locator(".card")
    assert cards.first.locator("canvas").count() == 2
    page.select_option("#sort", "iou")
    lines = page.locator(".card .details").all_inner_texts()
    scores = [float(line.split("disc ")[1][:4]) for line in lines if "disc" in line]
    assert scores == sorted(scores) and len(scores) == cards.count() - 1
    assert "Only in A: 1 images" in page.locator("#comparison").inner_text()
    page.select_option("#found", "different")
    assert 0 < cards.count() <= len(lines)
    page.select_option("#found", "second")
    page.select_option("#which", "1")
    assert all("green" in text for text in page.locator(".card .scores").all_inner_texts())
    page.select_option("#which", "")
    page.select_option("#found", "all")
    page.select_option("#sort", "changed")
    until(page, DRAWN)
    views = [shown(page)]
    for button in ("#differ", "#masks"):
        page.locator(button).click()
        until(page, DRAWN)
        views.append(shown(page))
    both, different = (np.count_nonzero(view != views[2]) for view in views[:2])
    assert 0 < different < both
    page.locator("#masks").click()
    page.locator(".card .image").nth(1).click()
    page.wait_for_timeout(1000)
    page.keyboard.press("+")
    page.wait_for_timeout(500)
    drawn = page.locator("#large canvas").evaluate_all("all => all.map(canvas => canvas.dataset.drawn)")
    assert len(drawn) == 2 and drawn[0] == drawn[1] and " 0.667 " in drawn[0]


def shown(page: Any) -> np.ndarray:
    """The pixels of all cards, one after another: uint8."""
    script = "canvas => canvas.toDataURL('image/png').split(',')[1]"
    urls = page.locator(".card canvas").evaluate_all(f"all => all.map({script})")
    return np.concatenate([np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))).ravel() for url in urls])
