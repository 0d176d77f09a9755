"""Charts of a training beside its log: the loss, and the mean IoU of the held-out images, by step."""

import json
import math
from pathlib import Path

import numpy as np

from clipseg_cli.evaluation import curves
from clipseg_cli.storage import store

NAMES = {"loss": "loss.svg", "miou": "miou.svg"}  # key of the log's lines: file


def write(log: Path, steps: int) -> None:
    """Draws the lines of a log into its folder, as SVG. `steps`: of the whole training. Raises OutputError."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    step = np.array([line["step"] for line in lines], float)
    values = {key: np.array([line[key] for line in lines], float) for key in NAMES}  # None becomes NaN
    best = lines[int(np.argmax(values["miou"]))]
    loss = {f"loss ({lines[-1]['loss'] or math.nan:.4f})": (step, values["loss"])}
    miou = {f"mean IoU ({best['miou']:.3f} at {best['step']})": (step, values["miou"])}
    texts = {
        "loss": curves.chart("Loss (last)", "step", "loss", loss, (steps, _round_up(values["loss"]))),
        "miou": curves.chart("Held-out images (best)", "step", "mean IoU", miou, (steps, 1)),
    }
    for key, text in texts.items():
        store.write(log.with_name(NAMES[key]), text.encode())


def _round_up(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """Returns the least 1, 2 or 5 times a power of ten that no finite value exceeds; 1 if there is none above 0."""
    largest = float(values[np.isfinite(values)].max(initial=0))
    if largest <= 0:
        return 1
    power = 10.0 ** math.floor(math.log10(largest))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= largest)
