"""`clipseg oneshot`: exemplars in place of text prompts."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pictures import SAMPLES, Program, iou, picture, records, save


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """An image of a red disc, without a mask."""
    return save(tmp_path / "ref.png", picture(200, 160, 5))


def test_an_exemplar_finds_similar_objects(clipseg: Program, tmp_path: Path) -> None:
    """`oneshot --support` with a list on stdin marks the red circles of the samples."""
    paths = "".join(f"{path}\n" for path in sorted((SAMPLES / "images").iterdir()))
    clipseg(f"clipseg oneshot --support {SAMPLES}/exemplars/red_circle.png -o out", stdin=paths.encode())
    rows = records(tmp_path / "out/manifest.jsonl")
    scores = []
    for row in rows:
        mask = cv2.imread(str(tmp_path / "out" / row["masks"][0]["path"]), cv2.IMREAD_UNCHANGED)
        truth = cv2.imread(str(SAMPLES / f"masks/a-red-circle/{Path(row['image']).stem}.png"), cv2.IMREAD_UNCHANGED)
        if truth.any():
            scores.append(iou(mask, truth))
    assert len(scores) >= 4 and np.mean(scores) > 0.6
    assert rows[0]["masks"][0]["label"] == "exemplar" and "red_circle.png" in rows[0]["masks"][0]["prompt"]


def test_a_label_names_the_exemplar(clipseg: Program, reference: Path, tmp_path: Path) -> None:
    """`--support label=FILE` names the folder of the masks, also with a NUL-separated list on stdin."""
    save(tmp_path / "imgs/new\nline.jpg", picture())
    clipseg("clipseg oneshot --support ball=ref.png --files-from - -0 -o out", stdin=b"imgs/new\nline.jpg\0")
    assert records(tmp_path / "out/manifest.jsonl")[0]["masks"][0]["path"].startswith("masks/ball/")


def test_show_exemplar_writes_what_the_model_sees(clipseg: Program, reference: Path, tmp_path: Path) -> None:
    """The exemplar as its recipe shows it, in the model's size."""
    save(tmp_path / "a.jpg", picture())
    clipseg("clipseg oneshot a.jpg --support ref.png --support-box 60,40,80,80 --show-exemplar seen.png -o out")
    seen = cv2.cvtColor(cv2.imread(str(tmp_path / "seen.png")), cv2.COLOR_BGR2RGB)
    assert seen.shape == (224, 224, 3)
    assert np.abs(seen[112, 112].astype(int) - (214, 40, 40)).max() < 12, "the disc is in the middle"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "needs an exemplar"),
        ("--support none.png", "no such file"),
        ("--support ref.png --highlight x", "crop-blur-dim"),
    ],
)
def test_errors_say_what_is_missing(clipseg: Program, reference: Path, flags: str, message: str) -> None:
    """Usage errors, exit 2."""
    assert message in clipseg(f"clipseg oneshot ref.png {flags}", expect=2).stderr
