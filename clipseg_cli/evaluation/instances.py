"""Scores of instances against ground truth: COCO's average precision of masks, and panoptic quality.

Every label is scored alone; the scores of all labels are the means over the labels that have one, as in both papers.
"""

import contextlib
import importlib.util
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Self

import numpy as np

from clipseg_cli.datasets.ground_truth import Objects
from clipseg_cli.errors import UsageError
from clipseg_cli.evaluation.predictions import Prediction, compare

SCORES = ("mask_ap", "mask_ap50", "mask_ap75", "pq", "sq", "rq")  # in the order of the table
MATCH = 0.5  # two segments match if their IoU is above this: then no other of disjoint segments can match either
MOST = 100  # predictions of an image and label that COCO's AP looks at, the surest ones

Annotations = list[dict[str, Any]]  # COCO's, without ids


@dataclass(frozen=True, slots=True)
class Quality:
    """The counts of panoptic quality: Kirillov et al., Panoptic Segmentation (2019), section 4."""

    matched: int = 0  # true positives: pairs of a predicted and a true segment
    iou: float = 0.0  # the sum over these pairs
    false: int = 0  # predicted segments without a match
    missed: int = 0  # true segments without a match

    def __add__(self, other: Self) -> Self:
        """Returns the sum."""
        return type(self)(
            self.matched + other.matched, self.iou + other.iou, self.false + other.false, self.missed + other.missed
        )

    @property
    def segments(self) -> float:
        """TP + FP/2 + FN/2."""
        return self.matched + (self.false + self.missed) / 2

    @property
    def pq(self) -> float:
        """The sum of IoU over `segments`; NaN without any segment. It is `sq` times `rq`."""
        return self.iou / self.segments if self.segments else math.nan

    @property
    def sq(self) -> float:
        """Segmentation quality: the mean IoU of the matches; NaN without one."""
        return self.iou / self.matched if self.matched else math.nan

    @property
    def rq(self) -> float:
        """Recognition quality: the F1 score of finding the segments; NaN without any segment."""
        return self.matched / self.segments if self.segments else math.nan


def quality(predicted: Objects, true: Objects) -> Quality:
    """Returns the counts of one image and label.

    Of overlapping segments, which the paper has not, the best pairs match first. A prediction without a match of which
    more than MATCH lies in a crowd region does not count.
    """
    pairs = []
    for row, one in enumerate(predicted.instances):
        for column, other in enumerate(true.instances):
            common = one.common(other)
            iou = common / (one.area + other.area - common)
            pairs += [(iou, row, column)] if iou > MATCH else []
    rows, columns, total = set[int](), set[int](), 0.0
    for iou, row, column in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            total += iou
    free = [one for row, one in enumerate(predicted.instances) if row not in rows]
    counted = [one for one in free if sum(map(one.common, true.crowds)) <= MATCH * one.area]
    return Quality(len(rows), total, len(counted), len(true.instances) - len(columns))


@dataclass(frozen=True, slots=True)
class Judged:
    """One pair of predicted and true objects: what the scores need of it."""

    quality: Quality
    predicted: Annotations
    true: Annotations
    shape: tuple[int, int]  # (H, W)


def judge(prediction: Prediction, true: Objects) -> Judged:
    """Returns the counts and the annotations of one pair. Raises UsageError for files that cannot be read."""
    predicted = replace(prediction.read_objects(true), crowds=())
    return Judged(quality(predicted, true), _annotations(predicted), _annotations(true), true.shape)


def _annotations(objects: Objects) -> Annotations:
    from pycocotools import mask as masks

    return [
        {
            "category_id": 1,
            "segmentation": masks.encode(np.asfortranarray(each.whole(objects.shape))),
            "area": each.area,
            "bbox": list(each.box),
            "iscrowd": int(crowd),
            "score": each.score,
        }
        for crowd, group in enumerate((objects.instances, objects.crowds))
        for each in group
    ]


def average_precision(judged: Sequence[Judged]) -> tuple[float, float, float]:
    """Returns COCO's AP of one label: the mean over IoU 0.5, 0.55, ..., 0.95; at 0.5; and at 0.75. By pycocotools.

    NaN without a true object that is no crowd.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def coco(groups: Iterable[Annotations]) -> Any:
        data = COCO()
        annotations = [each | {"image_id": image} for image, group in enumerate(groups, 1) for each in group]
        data.dataset = {
            "images": [
                {"id": image, "height": each.shape[0], "width": each.shape[1]} for image, each in enumerate(judged, 1)
            ],
            "categories": [{"id": 1}],
            "annotations": [each | {"id": number} for number, each in enumerate(annotations, 1)],
        }
        data.createIndex()
        return data

    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        scores = COCOeval(coco(each.true for each in judged), coco(each.predicted for each in judged), "segm")
        scores.params.areaRng, scores.params.areaRngLbl = [[0, math.inf]], ["all"]
        scores.params.maxDets = [MOST]
        scores.evaluate()
        scores.accumulate()
    precision = scores.eval["precision"][:, :, 0, 0, 0]  # by IoU and recall; -1 without a true object
    rows = [precision, precision[:1], precision[5:6]]
    return tuple(float(row.mean()) if (row > -1).all() else math.nan for row in rows)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """The scores of a label."""

    pairs: int
    objects: int  # true ones
    predictions: int
    scores: tuple[float, ...]  # as in SCORES

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Self:
        """Returns the scores of all pairs of one label."""
        total = sum((each.quality for each in judged), Quality())
        true = sum(not each["iscrowd"] for pair in judged for each in pair.true)
        predicted = sum(len(pair.predicted) for pair in judged)
        return cls(len(judged), true, predicted, (*average_precision(judged), total.pq, total.sq, total.rq))

    def document(self) -> dict[str, Any]:
        """Returns counts and scores by name; None if undefined."""
        rounded = (None if math.isnan(score) else round(score, 6) for score in self.scores)
        counts = {"pairs": self.pairs, "objects": self.objects, "predictions": self.predictions}
        return counts | dict(zip(SCORES, rounded, strict=True))


@dataclass(frozen=True, slots=True)
class InstanceEvaluation:
    """The scores of all labels."""

    images: int
    labels: dict[str, InstanceScores]  # by predicted label
    notes: tuple[str, ...]  # for the user

    def document(self) -> dict[str, Any]:
        """Returns the JSON object of `clipseg eval --instances`."""
        rows = [*self.labels.values()]
        columns = zip(*(row.scores for row in rows), strict=True)
        known = ([score for score in column if not math.isnan(score)] for column in columns)
        total = InstanceScores(
            sum(row.pairs for row in rows),
            sum(row.objects for row in rows),
            sum(row.predictions for row in rows),
            tuple(mean(scores) if scores else math.nan for scores in known),
        )
        labels = {label: {"images": each.pairs} | each.document() for label, each in self.labels.items()}
        return {"images": self.images} | total.document() | {"labels": labels}


def evaluate(pred: Path, gt: Path) -> InstanceEvaluation:
    """Scores the instances in `pred` against those of the ground truth in `gt`.

    Raises UsageError if the two do not match, if either does not keep objects apart, or without pycocotools;
    NoInputError if no prediction has ground truth.
    """
    if importlib.util.find_spec("pycocotools") is None:
        raise UsageError("eval --instances needs one more package: pip install 'clipseg-cli[eval]'")
    comparison = compare(pred, gt)
    judged: dict[str, list[Judged]] = {}
    images, last = 0, None
    for stem, label, pair in comparison.each_with_objects(judge):
        images, last = images + (stem != last), stem
        judged.setdefault(label, []).append(pair)
    notes = comparison.told({label: len(each) for label, each in judged.items()}, pred, gt)
    return InstanceEvaluation(images, {label: InstanceScores.of(each) for label, each in judged.items()}, notes)
