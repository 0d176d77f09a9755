"""The threshold of each label, from a run's soft maps and a few true masks.

The threshold chosen is the peak of the score by threshold after that curve is smoothed: with ten masks its own peak
wanders, and that of the smoothed one loses half as much on other pictures (0.007 mean IoU instead of 0.013, over three
labels and three bends of the probabilities, by forty draws that SPREAD was not chosen on). How far it may wander is
measured by drawing the pictures again, with replacement (the bootstrap), and choosing anew each time.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets.ground_truth import Answer
from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation import metrics
from clipseg_cli.evaluation.evaluate import Predicted, compare
from clipseg_cli.evaluation.metrics import Counts
from clipseg_cli.outputs.manifest import RUN
from clipseg_cli.settings.evaluation import Score

THRESHOLDS = np.arange(1, 100) / 100
SPREAD = 0.14  # of probability: the standard deviation of the Gaussian that smooths the score by threshold
DRAWS = 1000  # of the bootstrap
LEAST = 3  # pictures that show the thing: fewer say nothing about the spread
RISK = 0.02  # of score: a choice that is expected to lose more than this is none


@dataclass(frozen=True, slots=True)
class Calibration:
    """One label's threshold."""

    label: str
    text: str | None  # its phrase; None for exemplars and boolean expressions, which a prompts file cannot say
    pictures: int  # with a true mask that is not empty
    absent: int  # with an empty one
    threshold: float
    low: float  # of the middle 90 % of the bootstrap's thresholds
    high: float
    score: float  # on these masks, at the threshold
    before: float  # the same at the run's own threshold
    risk: float  # how much score a choice from so many masks is expected to lose

    @property
    def enough(self) -> bool:
        """Whether the masks decide it."""
        return self.pictures >= LEAST and self.risk <= RISK


def calibrate(run: Path, gt: Path, score: Score = "miou", seed: int = 0) -> tuple[list[Calibration], tuple[str, ...]]:
    """Every label that has a true mask in `gt`, in the run's order, and notes for the user.

    `score`: "miou" is the mean IoU of the pictures that show the thing; "iou_fg" the IoU of all pixels together,
    pictures without the thing among them. Raises UsageError for a run without soft maps, NoInputError without a mask.
    """
    comparison = compare(run, gt)
    found: dict[str, list[tuple[float | None, Counts]]] = {}
    for _, label, counted in comparison.each(_count):
        found.setdefault(label, []).append(counted)
    if not found:
        raise NoInputError(f"no picture of {run} has a mask in {gt}: their paths must end alike")
    texts, rng = phrases(run), np.random.default_rng(seed)
    labels = [label for label in comparison.names if label in found]
    return [_choose(label, texts.get(label), found[label], score, rng) for label in labels], comparison.notes


def _count(predicted: Predicted, answer: Answer) -> tuple[float | None, Counts]:
    levels = predicted.levels(answer)
    if levels is None:
        raise UsageError(f"the run kept no soft map of {predicted.label!r}: run it again with -f soft")
    return predicted.threshold, metrics.count(levels, answer.mask, THRESHOLDS, answer.valid)


def _choose(
    label: str, text: str | None, pairs: list[tuple[float | None, Counts]], score: Score, rng: np.random.Generator
) -> Calibration:
    counts = [each for _, each in pairs]
    shows = np.array([each.positives > 0 for each in counts])
    if not shows.any():
        unknown = float("nan")
        return Calibration(label, text, 0, len(pairs), unknown, unknown, unknown, unknown, unknown, 1.0)
    curves = _Curves(counts, shows, score)
    whole = curves(np.ones((1, len(counts))))[0]
    index = int(peak(whole[None])[0])
    drawn = curves(rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), DRAWS).astype(np.float64))
    chosen = peak(drawn)
    low, high = THRESHOLDS[np.quantile(chosen, (0.05, 0.95)).round().astype(int)]
    own = pairs[0][0]
    before = float("nan") if own is None else whole[int(np.argmin(np.abs(THRESHOLDS - own)))]
    return Calibration(
        label,
        text,
        int(shows.sum()),
        int((~shows).sum()),
        float(THRESHOLDS[index]),
        float(low),
        float(high),
        float(whole[index]),
        float(before),
        float(np.mean(whole.max() - whole[chosen])),
    )


def peak(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The index of the smoothed curve's peak: float64 (B, T) to (B,). Beyond its ends a curve goes on level."""
    steps = np.arange(-len(THRESHOLDS), len(THRESHOLDS) + 1)
    weights = np.exp(-((steps * (THRESHOLDS[1] - THRESHOLDS[0]) / SPREAD) ** 2) / 2)
    wide = np.pad(scores, ((0, 0), (len(THRESHOLDS),) * 2), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(wide, len(steps), axis=1) @ (weights / weights.sum())
    best: NDArray[np.int64] = smooth.argmax(1)
    return best


class _Curves:
    """Score by threshold of any weighting of the pictures."""

    def __init__(self, counts: list[Counts], shows: NDArray[np.bool_], score: Score) -> None:
        self.score, self.shows = score, shows
        self.tp = np.stack([each.tp for each in counts]).astype(np.float64)
        self.either = np.stack([each.fp + each.positives for each in counts]).astype(np.float64)

    def __call__(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 (B, N), how often each picture counts, to (B, T)."""
        if self.score == "iou_fg":
            pooled: NDArray[np.float64] = weights @ self.tp / (1 + weights @ self.either)
            return pooled
        some = weights[:, self.shows]
        means: NDArray[np.float64] = some @ (self.tp / (1 + self.either))[self.shows]
        means /= np.maximum(some.sum(1, keepdims=True), 1)
        return means


def phrases(run: Path) -> dict[str, str]:
    """The phrase of each label that is one, from run.json."""
    try:
        settings = json.loads((run / RUN).read_bytes())["settings"]
        kept = {label for label, *_ in settings.get("embeddings", ())}
        shown = {label for label, *_ in settings.get("exemplars", ())}
        return {
            each["label"]: each["text"]
            for each in settings["prompts"]
            if not each.get("boolean")
            and each["label"] not in kept
            and not (each["label"] in shown and each["text"].startswith("exemplar "))
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run} is not a run's directory: its {RUN} cannot be read ({error!r})") from error


def prompts_file(rows: list[Calibration]) -> str:
    """A CSV file for `segment -P`; where the masks do not decide, the threshold is left to the model."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "text", "threshold"))
    for row in rows:
        if row.text is not None:
            writer.writerow((row.label, row.text, f"{row.threshold:.2f}" if row.enough else ""))
    return text.getvalue()


def told(rows: list[Calibration]) -> Iterator[str]:
    """One line a label, for a person."""
    for row in rows:
        shown = f"{row.pictures} mask{'s' * (row.pictures != 1)}" + f" and {row.absent} empty" * (row.absent > 0)
        if row.pictures == 0:
            yield f"{row.label}: {shown}: nothing to choose a threshold by"
            continue
        gain = "" if np.isnan(row.before) else f" (run: {row.before:.3f})"
        line = (
            f"{row.label}: {row.threshold:.2f}, 90 % within {row.low:.2f} to {row.high:.2f}, IoU {row.score:.3f}{gain}"
        )
        if row.enough:
            flag = "" if row.text is not None else f"; not a phrase, so give -t '{row.label}={row.threshold:.2f}'"
            yield f"{line}, from {shown}{flag}"
        else:
            yield f"{line}: too few to tell, from {shown} (expected loss {row.risk:.3f}); threshold left open"
