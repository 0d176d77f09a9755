"""Scores of predictions against ground truth.

A label has no IoU in an image without a true pixel of it. Such pairs count in the scores over all pixels (`iou_fg`,
`iou_bin`, `ap`, `precision`) and in `presence_ap`; `miou` and `boundary_f` leave them out, as the paper's data sets do.
"""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets.ground_truth import TrueMask
from clipseg_cli.evaluation import metrics
from clipseg_cli.evaluation.metrics import Counts
from clipseg_cli.evaluation.predictions import Prediction, compare
from clipseg_cli.settings.evaluation import Classes

HALF = np.array([0.5])
CURVES = {"miou": metrics.miou, "iou_fg": metrics.iou_fg, "iou_bin": metrics.iou_bin}  # one score per threshold
SCORES = (*CURVES, "dice", "precision", "recall", "boundary_f", "ap", "presence_ap")  # in the order of the table


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The counts of one pair of prediction and true mask, or the sum over many pairs."""

    pairs: int
    own: Counts  # of the masks
    curve: Counts | None  # of the soft maps, at every threshold
    boundary_sum: float  # sum of boundary F over `boundary_pairs` pairs
    boundary_pairs: int
    peaks: NDArray[np.int64]  # of `metrics.peak_histogram`
    thresholds: frozenset[float | None]  # of the masks; only None if they differ

    def __add__(self, other: Self) -> Self:
        """Returns the sum."""
        curve = self.curve if other.curve is None else other.curve
        if self.curve is not None and other.curve is not None:
            curve = self.curve + other.curve
        thresholds = self.thresholds | other.thresholds
        return type(self)(
            self.pairs + other.pairs,
            self.own + other.own,
            curve,
            self.boundary_sum + other.boundary_sum,
            self.boundary_pairs + other.boundary_pairs,
            self.peaks + other.peaks,
            thresholds if len(thresholds) == 1 else frozenset((None,)),
        )

    def as_class(self) -> Self:
        """Returns the same counts as a single class of `miou`."""
        return replace(self, own=self.own.as_class(), curve=None if self.curve is None else self.curve.as_class())

    def document(self) -> dict[str, Any]:
        """Returns the scores by name; None if undefined. Scores of soft maps are left out if there are none."""
        document: dict[str, Any] = {"pairs": self.pairs, "threshold": next(iter(self.thresholds))}
        document |= {name: _rounded(function(self.own)[0]) for name, function in CURVES.items()}
        for function in (metrics.dice, metrics.precision, metrics.recall):
            document[function.__name__] = _rounded(function(self.own)[0])
        document["boundary_f"] = _rounded(self.boundary_sum / self.boundary_pairs if self.boundary_pairs else math.nan)
        if self.curve is not None:
            curve = self.curve
            document["ap"] = _rounded(metrics.ap(curve))
            document["best"] = {
                name: [_rounded(part) for part in metrics.best(function(curve))] for name, function in CURVES.items()
            }
            document["presence_ap"] = _rounded(metrics.presence_ap(self.peaks))
        return document


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def tally(prediction: Prediction, truth: TrueMask) -> Tally:
    """Returns the counts of one pair. Raises UsageError for files that cannot be read or differ in size."""
    mask, levels = prediction.read_mask(truth), prediction.read_soft(truth)
    own = metrics.count(mask.view(np.uint8) * np.uint8(255), truth.mask, HALF, truth.valid)
    curve = None if levels is None else metrics.count(levels, truth.mask, valid=truth.valid)
    present = own.positives > 0
    boundary = math.nan
    if present:
        valid = True if truth.valid is None else truth.valid
        boundary = metrics.boundary_f(mask & valid, truth.mask & valid)
    return Tally(
        1,
        own,
        curve,
        0.0 if math.isnan(boundary) else boundary,
        int(not math.isnan(boundary)),
        np.zeros((2, metrics.PEAK_BINS), np.int64) if levels is None else metrics.peak_histogram(levels, present),
        frozenset((prediction.threshold,)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The counts of all pairs, together and by label."""

    images: int
    total: Tally
    labels: dict[str, Tally]  # by predicted label
    notes: tuple[str, ...]  # for the user

    def document(self) -> dict[str, Any]:
        """Returns the JSON object of `clipseg eval`."""
        labels = {label: {"images": each.pairs} | each.document() for label, each in self.labels.items()}
        return {"images": self.images} | self.total.document() | {"labels": labels}


def evaluate(pred: Path, gt: Path, classes: Classes = "images") -> Evaluation:
    """Scores the predictions in `pred` against the ground truth in `gt`.

    `classes`: what `miou` averages over. "images": every pair of image and label, as the paper does on PhraseCut.
    "labels": every label, as it does on Pascal and COCO. Raises UsageError if the two do not match,
    NoInputError if no prediction has ground truth.
    """
    comparison = compare(pred, gt)
    by_label: dict[str, Tally] = {}
    images, last = 0, None
    for stem, label, pair in comparison.each(tally):
        images, last = images + (stem != last), stem
        if classes == "images" and pair.own.positives:
            pair = pair.as_class()
        by_label[label] = by_label[label] + pair if label in by_label else pair
    notes = comparison.told({label: each.pairs for label, each in by_label.items()}, pred, gt)
    if classes == "labels":
        by_label = {label: each.as_class() for label, each in by_label.items()}
    total = by_label[next(iter(by_label))]
    for each in itertools.islice(by_label.values(), 1, None):
        total += each
    return Evaluation(images, total, by_label, notes)
