"""Chooses each label's threshold from a run's soft maps and a few ground-truth masks.

The threshold is the peak of the score-by-threshold curve after smoothing, because with ten masks the peak of the raw
curve is noisy. On other images the smoothed peak loses half as much: 0.007 mean IoU instead of 0.013 (three labels,
three distortions of the probabilities, forty draws that were not used to choose SPREAD). A bootstrap measures the
uncertainty: it draws the images again with replacement and chooses a threshold for each draw.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets.ground_truth import TrueMask
from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation import metrics
from clipseg_cli.evaluation.metrics import Counts
from clipseg_cli.evaluation.predictions import Prediction, compare
from clipseg_cli.outputs.manifest import RUN
from clipseg_cli.settings.evaluation import Score

THRESHOLDS = np.arange(1, 100) / 100
SPREAD = 0.14  # of probability: standard deviation of the Gaussian that smooths the score-by-threshold curve
DRAWS = 1000  # draws of the bootstrap
MIN_IMAGES = 3  # images that show the object: with fewer, the uncertainty is unknown
MAX_RISK = 0.02  # a threshold with a larger expected loss of score is not used


@dataclass(frozen=True, slots=True)
class Calibration:
    """The threshold of one label, and how certain it is."""

    label: str
    text: str | None  # the text prompt; None for exemplars and boolean expressions, which a prompts file cannot hold
    images: int  # images whose true mask is not empty
    absent: int  # images whose true mask is empty
    threshold: float
    low: float  # 5th percentile of the bootstrap's thresholds
    high: float  # 95th percentile
    score: float  # on these masks, at `threshold`
    before: float  # on these masks, at the run's threshold
    risk: float  # expected loss of score because there are few masks

    @property
    def enough(self) -> bool:
        """Whether there are enough masks for the threshold to be used."""
        return self.images >= MIN_IMAGES and self.risk <= MAX_RISK


def calibrate(run: Path, gt: Path, score: Score = "miou", seed: int = 0) -> tuple[list[Calibration], tuple[str, ...]]:
    """Returns a calibration for every label with ground truth in `gt`, in the run's order, and notes for the user.

    `score`: "miou" is the mean IoU over images that show the object; "iou_fg" is the IoU over the pixels of all images.
    Raises UsageError for a run without soft maps, NoInputError if no image has a true mask.
    """
    comparison = compare(run, gt)
    by_label: dict[str, list[tuple[float | None, Counts]]] = {}
    for _, label, pair in comparison.each(_count):
        by_label.setdefault(label, []).append(pair)
    if not by_label:
        raise NoInputError(
            f"no image of {run} has a mask in {gt}: their paths, without extension, must have the same ending"
        )
    texts, rng = prompt_texts(run), np.random.default_rng(seed)
    labels = [label for label in comparison.label_pairs if label in by_label]
    return [_choose(label, texts.get(label), by_label[label], score, rng) for label in labels], comparison.notes


def _count(prediction: Prediction, truth: TrueMask) -> tuple[float | None, Counts]:
    """Returns the run's threshold, and the counts of one pair at every threshold."""
    levels = prediction.read_soft(truth)
    if levels is None:
        raise UsageError(f"the run kept no soft map of {prediction.label!r}: run it again with -f soft")
    return prediction.threshold, metrics.count(levels, truth.mask, THRESHOLDS, truth.valid)


def _choose(
    label: str, text: str | None, pairs: list[tuple[float | None, Counts]], score: Score, rng: np.random.Generator
) -> Calibration:
    counts = [each for _, each in pairs]
    present = np.array([each.positives > 0 for each in counts])
    if not present.any():
        unknown = float("nan")
        return Calibration(label, text, 0, len(pairs), unknown, unknown, unknown, unknown, unknown, 1.0)
    curves = _ScoreCurves(counts, present, score)
    whole = curves(np.ones((1, len(counts))))[0]
    index = int(smoothed_peak(whole[None])[0])
    weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), DRAWS).astype(np.float64)
    drawn = smoothed_peak(curves(weights))
    low, high = THRESHOLDS[np.quantile(drawn, (0.05, 0.95)).round().astype(int)]
    own = pairs[0][0]
    before = float("nan") if own is None else whole[int(np.argmin(np.abs(THRESHOLDS - own)))]
    return Calibration(
        label,
        text,
        int(present.sum()),
        int((~present).sum()),
        float(THRESHOLDS[index]),
        float(low),
        float(high),
        float(whole[index]),
        float(before),
        float(np.mean(whole.max() - whole[drawn])),
    )


def smoothed_peak(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the index of each smoothed curve's peak: float64 (B, T) to (B,).

    Curves are extended by their end values.
    """
    steps = np.arange(-len(THRESHOLDS), len(THRESHOLDS) + 1)
    weights = np.exp(-((steps * (THRESHOLDS[1] - THRESHOLDS[0]) / SPREAD) ** 2) / 2)
    wide = np.pad(scores, ((0, 0), (len(THRESHOLDS),) * 2), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(wide, len(steps), axis=1) @ (weights / weights.sum())
    best: NDArray[np.int64] = smooth.argmax(1)
    return best


class _ScoreCurves:
    """Curves of score by threshold, for any weights of the images."""

    def __init__(self, counts: list[Counts], present: NDArray[np.bool_], score: Score) -> None:
        self.score, self.present = score, present
        self.tp = np.stack([each.tp for each in counts]).astype(np.float64)
        self.union = np.stack([each.fp + each.positives for each in counts]).astype(np.float64)

    def __call__(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns float64 (B, T) for weights (B, N): how often each image counts."""
        if self.score == "iou_fg":
            pooled: NDArray[np.float64] = weights @ self.tp / (1 + weights @ self.union)
            return pooled
        weights = weights[:, self.present]
        means: NDArray[np.float64] = weights @ (self.tp / (1 + self.union))[self.present]
        means /= np.maximum(weights.sum(1, keepdims=True), 1)
        return means


def prompt_texts(run: Path) -> dict[str, str]:
    """Returns the text prompt of each label that has one, from run.json. Raises UsageError."""
    try:
        settings = json.loads((run / RUN).read_bytes())["settings"]
        embedded = {label for label, *_ in settings.get("embeddings", ())}
        exemplars = {label for label, *_ in settings.get("exemplars", ())}
        return {
            each["label"]: each["text"]
            for each in settings["prompts"]
            if not each.get("boolean")
            and each["label"] not in embedded
            and not (each["label"] in exemplars and each["text"].startswith("exemplar "))
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run} is not a run's output folder: its {RUN} cannot be read ({error!r})") from error


def prompts_file(rows: list[Calibration]) -> str:
    """Returns a CSV file for `segment -P`. A threshold chosen from too few masks is left to the model."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "text", "threshold"))
    for row in rows:
        if row.text is not None:
            writer.writerow((row.label, row.text, f"{row.threshold:.2f}" if row.enough else ""))
    return text.getvalue()


def summary(rows: list[Calibration]) -> Iterator[str]:
    """Yields one line of text per label."""
    for row in rows:
        masks = f"{row.images} mask{'s' * (row.images != 1)}" + f" and {row.absent} empty" * (row.absent > 0)
        if row.images == 0:
            yield f"{row.label}: {masks}: nothing to choose a threshold from"
            continue
        gain = "" if np.isnan(row.before) else f" (run: {row.before:.3f})"
        interval = f"90 % interval {row.low:.2f} to {row.high:.2f}"
        line = f"{row.label}: {row.threshold:.2f}, {interval}, IoU {row.score:.3f}{gain}"
        if row.enough:
            flag = "" if row.text is not None else f"; not a text prompt, so use -t '{row.label}={row.threshold:.2f}'"
            yield f"{line}, from {masks}{flag}"
        else:
            yield f"{line}: too few masks ({masks}, expected loss {row.risk:.3f}); threshold left to the model"
