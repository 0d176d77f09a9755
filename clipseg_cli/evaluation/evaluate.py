"""Predictions against ground truth: a run's directory or a folder of masks in, scores out.

Pairs are read, counted and forgotten one by one, so their number costs no memory. A label that is in no pixel of a
picture has no IoU: such pairs count in all scores of pixels together (`iou_fg`, `iou_bin`, `ap`, `precision`) and in
`presence_ap`, and are left out of `miou` and `boundary_f`, as the paper's data sets leave them out.
"""

import heapq
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets.ground_truth import (
    Answer,
    Truth,
    is_picture,
    label_folders,
    open_truth,
    pair,
    read_mask,
    read_values,
    walk,
)
from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation import metrics
from clipseg_cli.evaluation.metrics import Counts
from clipseg_cli.inputs import names
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.manifest import MANIFEST, RUN
from clipseg_cli.settings.evaluation import Classes

T = TypeVar("T")
AHEAD = 64  # pictures read at once
HALF = np.array([0.5])
CURVES = {"miou": metrics.miou, "iou_fg": metrics.iou_fg, "iou_bin": metrics.iou_bin}  # one score a threshold
SCORES = (*CURVES, "dice", "precision", "recall", "boundary_f", "ap", "presence_ap")  # in the order of the table


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was found of one label in one picture."""

    label: str
    mask: Path | None = None
    soft: Path | None = None
    threshold: float | None = None  # of the mask; None: not known
    empty: bool = False  # nothing was found, and there is no file because of that

    def levels(self, answer: Answer) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
        """The soft map, (H, W), or None where none was kept. Raises UsageError for one of another size."""
        return None if self.soft is None else _fitting(read_values(self.soft), answer, self.soft)

    def found(self, answer: Answer) -> NDArray[np.bool_]:
        """The mask, bool (H, W); from the soft map where no mask was kept. Raises UsageError."""
        if self.mask is not None:
            return _fitting(read_mask(self.mask).mask, answer, self.mask)
        levels = self.levels(answer)
        if levels is not None and self.threshold is not None:
            return levels > math.floor(metrics.LARGEST[levels.dtype.name] * self.threshold + 1e-9)
        if self.empty:
            return np.zeros_like(answer.mask)
        raise UsageError(f"the run kept neither a mask nor a soft map of {self.label!r}: run it again with -f mask")


@dataclass(frozen=True, slots=True)
class Picture:
    """The predictions of one picture, and the paths without extension that its truth may have."""

    stems: tuple[str, ...]
    predicted: tuple[Predicted, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Predictions, and the truth that their labels meet."""

    truth: Truth
    names: dict[str, str]  # predicted label: the truth's
    pictures: Iterator[Picture]
    notes: tuple[str, ...]  # what a user should know before the scores

    def each(self, judge: Callable[[Predicted, Answer], T]) -> Iterator[tuple[str, str, T]]:
        """(picture, label, verdict) of every pair, in order; files are read ahead on all cores."""

        def judged(picture: Picture) -> list[tuple[str, str, T]]:
            verdicts = []
            for one in picture.predicted:
                answers = (self.truth.answer(self.names[one.label], stem) for stem in picture.stems)
                answer = next((each for each in answers if each is not None), None)
                if answer is not None:
                    verdicts.append((picture.stems[0], one.label, judge(one, answer)))
            return verdicts

        with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 1))) as pool:
            while batch := list(itertools.islice(self.pictures, AHEAD)):
                for verdicts in pool.map(judged, batch):
                    yield from verdicts


def compare(pred: Path, gt: Path) -> Comparison:
    """Opens both sides. `pred`: a run's directory, or masks as PRED/<label>/<dir>/<stem>.png or PRED/<dir>/<stem>.png.

    Raises UsageError where one of them is neither, or where they have no label in common.
    """
    labels, pictures = _run(pred) if (pred / MANIFEST).is_file() else _folder(pred)
    truth = open_truth(gt, labels)
    if truth.labels == ("",) or (labels == ("",) and len(truth.labels) == 1):
        if len(labels) > 1:
            raise UsageError(f"{gt} holds the masks of one label, and {pred} has {len(labels)}: {', '.join(labels)}")
        return Comparison(truth, {labels[0]: truth.labels[0]}, pictures, ())
    met = {label: known for label, known in pair(labels, truth.labels).items() if known is not None}
    if not met:
        raise UsageError(
            f"no label in common: {pred} has {', '.join(map(repr, labels))}, "
            f"{gt} has {', '.join(map(repr, truth.labels))}; name them alike (-p label=phrase names a prompt's)"
        )
    notes = [f"no truth for the label {label!r}" for label in labels if label not in met]
    notes += [f"nothing predicted for the label {name!r}" for name in truth.labels if name not in met.values()]

    def known(picture: Picture) -> Picture:
        return Picture(picture.stems, tuple(one for one in picture.predicted if one.label in met))

    return Comparison(truth, met, map(known, pictures), tuple(notes))


def _run(out: Path) -> tuple[tuple[str, ...], Iterator[Picture]]:
    def documents() -> Iterator[dict[str, Any]]:
        return (each for each in manifest.documents(out / MANIFEST) if each.get("status") == "ok")

    def pictures() -> Iterator[Picture]:
        for document in documents():
            try:
                picture = _picture(out, document)
            except (KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{out / MANIFEST}: the record of {document['image']} is broken ({error!r}); run it again"
                ) from error
            yield picture

    try:
        labels = [prompt["label"] for prompt in json.loads((out / RUN).read_bytes())["settings"]["prompts"]]
    except (OSError, ValueError, KeyError, TypeError):
        labels = [one.label for one in next(pictures(), Picture((), ())).predicted]
    if not labels:
        raise NoInputError(f"the run in {out} has no picture that was segmented")
    return tuple(labels), pictures()


def _picture(out: Path, document: dict[str, Any]) -> Picture:
    """What a record says of its picture."""
    stems, predicted = [names.stem(document["image"])], []
    for mask in document["masks"]:
        soft = mask.get("soft") or mask.get("soft16")
        for path in (mask["path"], soft):
            if path and len(parts := path.split("/", 2)) == 3:
                stems.insert(0, parts[2].removesuffix(".png"))
        predicted.append(
            Predicted(
                mask["label"],
                out / mask["path"] if mask["path"] else None,
                out / soft if soft else None,
                mask["threshold"] if isinstance(mask["threshold"], float | int) else None,
                mask["area"] == 0,
            )
        )
    return Picture(tuple(dict.fromkeys(stems)), tuple(predicted))


def _folder(path: Path) -> tuple[tuple[str, ...], Iterator[Picture]]:
    if not path.is_dir():
        raise UsageError(f"no predictions at {path}: give the directory of a run, or a folder of masks")
    with os.scandir(path) as entries:
        alone = any(is_picture(entry) for entry in entries)
    labels = ("",) if alone else tuple(label_folders(path))
    if not labels:
        raise NoInputError(f"{path} holds neither a {MANIFEST} nor a mask")

    def found(label: str) -> Iterator[tuple[list[str], str, Predicted]]:
        for stem, file in walk(path / label):
            yield stem.split("/"), stem, Predicted(label, file)

    def pictures() -> Iterator[Picture]:
        merged = heapq.merge(*map(found, labels), key=lambda item: item[0])
        for stem, items in itertools.groupby(merged, key=lambda item: item[1]):
            yield Picture((stem,), tuple(item[2] for item in items))

    return labels, pictures()


def _fitting(found: NDArray[Any], answer: Answer, path: Path) -> NDArray[Any]:
    if found.shape != answer.mask.shape:
        sizes = " and ".join(f"{shape[1]} x {shape[0]}" for shape in (found.shape, answer.mask.shape))
        raise UsageError(
            f"sizes differ: {path} and {answer.where} are {sizes} pixels; masks must have the picture's own"
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """What was counted of one pair, or of many added up."""

    pairs: int
    own: Counts  # of the masks
    curve: Counts | None  # of the soft maps, at every threshold
    outlines: float  # the sum of the boundary F of `outlined` pairs
    outlined: int
    bins: NDArray[np.int64]  # of `metrics.peaks`
    thresholds: frozenset[float | None]  # of the masks; more than one: None among them

    def __add__(self, other: Self) -> Self:
        """Both together."""
        curve = self.curve if other.curve is None else other.curve
        if self.curve is not None and other.curve is not None:
            curve = self.curve + other.curve
        thresholds = self.thresholds | other.thresholds
        return type(self)(
            self.pairs + other.pairs,
            self.own + other.own,
            curve,
            self.outlines + other.outlines,
            self.outlined + other.outlined,
            self.bins + other.bins,
            thresholds if len(thresholds) == 1 else frozenset((None,)),
        )

    def as_class(self) -> Self:
        """The same, all its pixels being one class of `miou`."""
        return type(self)(
            self.pairs,
            self.own.as_class(),
            None if self.curve is None else self.curve.as_class(),
            self.outlines,
            self.outlined,
            self.bins,
            self.thresholds,
        )

    def document(self) -> dict[str, Any]:
        """The scores by name; None where one is undefined. Those of soft maps stand only where there are any."""
        document: dict[str, Any] = {"pairs": self.pairs, "threshold": next(iter(self.thresholds))}
        document |= {name: _number(function(self.own)[0]) for name, function in CURVES.items()}
        for function in (metrics.dice, metrics.precision, metrics.recall):
            document[function.__name__] = _number(function(self.own)[0])
        document["boundary_f"] = _number(self.outlines / self.outlined if self.outlined else math.nan)
        if self.curve is not None:
            curve = self.curve
            document["ap"] = _number(metrics.ap(curve))
            document["best"] = {
                name: [_number(part) for part in metrics.best(function(curve))] for name, function in CURVES.items()
            }
            document["presence_ap"] = _number(metrics.presence_ap(self.bins))
        return document


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def judge(predicted: Predicted, answer: Answer) -> Score:
    """Counts one pair."""
    mask, levels = predicted.found(answer), predicted.levels(answer)
    own = metrics.count(mask.view(np.uint8) * np.uint8(255), answer.mask, HALF, answer.valid)
    curve = None if levels is None else metrics.count(levels, answer.mask, valid=answer.valid)
    there = own.positives > 0
    outline = math.nan
    if there:
        kept = True if answer.valid is None else answer.valid
        outline = metrics.boundary_f(mask & kept, answer.mask & kept)
    return Score(
        1,
        own,
        curve,
        0.0 if math.isnan(outline) else outline,
        int(not math.isnan(outline)),
        np.zeros((2, metrics.PEAKS), np.int64) if levels is None else metrics.peaks(levels, there),
        frozenset((predicted.threshold,)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The scores of all pairs together and of each label's."""

    images: int
    total: Score
    labels: dict[str, Score]  # by predicted label
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The contract's object."""
        labels = {label: {"images": score.pairs} | score.document() for label, score in self.labels.items()}
        return {"images": self.images} | self.total.document() | {"labels": labels}


def evaluate(pred: Path, gt: Path, classes: Classes = "images") -> Evaluation:
    """Scores `pred` against `gt`. `classes`: what `miou` is the mean of, every picture and label (as on the paper's
    PhraseCut) or every label (as on its Pascal and COCO).

    Raises UsageError for sides that do not fit, NoInputError where nothing of one has a counterpart in the other.
    """
    comparison = compare(pred, gt)
    by_label: dict[str, Score] = {}
    images, last = 0, None
    for stem, label, score in comparison.each(judge):
        images, last = images + (stem != last), stem
        if classes == "images" and score.own.positives:
            score = score.as_class()
        by_label[label] = by_label[label] + score if label in by_label else score
    if not by_label:
        raise NoInputError(
            f"nothing in {pred} has a mask in {gt}: their paths must end alike, "
            f"like {next(comparison.truth.stems(next(iter(comparison.names.values()))), '<dir>/<stem>')}"
        )
    if classes == "labels":
        by_label = {label: score.as_class() for label, score in by_label.items()}
    notes = list(comparison.notes)
    for label, score in by_label.items():
        known = sum(1 for _ in comparison.truth.stems(comparison.names[label]))
        if known > score.pairs:
            notes.append(f"{known - score.pairs} of {known} true masks of {label or 'the label'} have no prediction")
    total = by_label[next(iter(by_label))]
    for score in itertools.islice(by_label.values(), 1, None):
        total += score
    return Evaluation(images, total, by_label, tuple(notes))
