"""Contact sheets of held-out images, and the charts beside the log."""

import json
import xml.etree.ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipseg_cli.datasets.training_data import Example
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training import charts, samples
from clipseg_cli.training.encoded_data import split
from labelled import encoded_data
from pictures import save

SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def sheets(tmp_path: Path) -> samples.Samples:
    """The samples of twenty grey photos of different shapes, with a random mask of 8 x 8 squares and an empty one."""
    data, recipe = encoded_data(), Recipe(hold=0.5)
    for number in range(20):
        save(tmp_path / f"{number}.png", np.full((60 + 20 * number, 200, 3), 120, np.uint8))
    examples = [Example(tmp_path / f"{n // 2}.png", f"prompt {n}", lambda: None, ()) for n in range(40)]
    held_out, _ = split(data, recipe)
    fit: Any = SimpleNamespace(data=data, recipe=recipe, held_out=held_out)
    return samples.Samples(fit, examples)


def cells(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the pairs of images on a sheet, without the lines of text above them: (H, W, 3) each."""
    sheet, side = np.asarray(Image.open(path)).astype(int), samples.CELL + 2 * samples.GAP
    rows = [
        sheet[y + samples.CAPTION : y + side + samples.CAPTION] for y in range(0, len(sheet), side + samples.CAPTION)
    ]
    return [(row[:, x : x + side], row[:, x + side : x + 2 * side]) for row in rows for x in (0, 2 * side)]


def test_a_sheet_shows_the_truth_beside_the_decoders_masks(sheets: samples.Samples, tmp_path: Path) -> None:
    """At most six held-out examples with an object, then at most two without. Where the decoder finds the truth, both
    images are the same; where it finds nothing, the second is the plain photo."""
    data, rows = sheets.fit.data, sheets.rows
    assert data.nonempty()[rows].tolist() == [True] * 6 + [False] * 2
    assert set(rows) <= set(sheets.fit.held_out) and len(set(rows)) == 8
    targets = np.stack([data.target(row) for row in rows]).astype(np.float32)
    for found, name in ((targets, "right.jpg"), (0 * targets, "nothing.jpg")):
        sheets.fit.maps = lambda rows, found=found: found
        sheets.write(tmp_path / name, 0.5)
    pink = [[np.abs(cell[..., 0] - cell[..., 1]) > 40 for cell in pair] for pair in cells(tmp_path / "right.jpg")]
    for index, (truth, mask) in enumerate(pink):
        share = targets[index].mean()
        assert truth.mean() > share / 10 if share else not truth.any()
        assert (truth & mask).sum() >= 0.7 * (truth | mask).sum()  # their edges are scaled in different ways
    assert not any(mask.any() for mask in (np.ptp(cell, axis=-1) > 30 for _, cell in cells(tmp_path / "nothing.jpg")))


def test_sheets_become_rarer() -> None:
    """A long training does not fill the disk with them."""
    assert [check for check in range(40) if samples.due(check)] == [0, 1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("losses", "top"), [((0.31, 0.04), "0.5"), ((0.0021, 0.0004), "0.005"), ((7.2, float("nan")), "10")]
)
def test_the_charts_show_the_log(tmp_path: Path, losses: tuple[float, float], top: str) -> None:
    """One point per check with a value, also for a loss that is not a number; the axis of steps is that of the whole
    training, and the axis of the loss ends above the largest."""
    values = ((0, None, 0.1), (10, losses[0], 0.7), (20, losses[1], 0.6))
    lines = [{"step": step, "loss": loss, "miou": miou} for step, loss, miou in values]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    charts.write(tmp_path / "train.jsonl", 50)
    for name, count, end in (("loss", sum(np.isfinite(losses)), top), ("miou", 3, "1")):
        root = xml.etree.ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        texts = [text.text for text in root.findall(f"{SPACE}text")]
        points = root.find(f"{SPACE}polyline").get("points").split()
        assert len(points) == count and {"50", end} <= set(texts)
        assert float(points[-1].split(",")[0]) <= 48 + 320 * 20 / 50
    assert "mean IoU (0.700 at 10)" in texts
