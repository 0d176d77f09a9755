"""The paper's evaluations, on its data sets' own files: questions in, its scores out, its numbers beside them.

    phrasecut         Table 3: every phrase of the test split, as it is
    pascal-5i         Table 5: one exemplar; pascal-5i-text, Table 7: the class's name instead
    coco-20i          Table 6: one exemplar, 1000 episodes a fold
    pascal-zero-shot  Table 4: which of 21 names has each pixel

Pictures are squared, maps enlarged and pixels counted as the paper's code does it (`warp.py`, `metrics.py`).
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from clipseg_cli.datasets import episodes, training_data, warp
from clipseg_cli.datasets.episodes import Episode
from clipseg_cli.datasets.ground_truth import read_values
from clipseg_cli.errors import NoInputError
from clipseg_cli.evaluation import metrics
from clipseg_cli.evaluation.metrics import Counts
from clipseg_cli.prompts import highlight
from clipseg_cli.settings.evaluation import Protocol, ProtocolOptions

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

Floats = NDArray[np.float32]
Tick = Callable[[], object]  # called after each question
BACKGROUND = 3  # times the probability of the word "background", in the paper's code
SCORES = ("miou", "iou_fg", "iou_bin", "ap")


@dataclass(frozen=True, slots=True)
class Paper:
    """What the paper reports, as shares of 1."""

    table: int
    rows: dict[str, dict[str, float]]  # by the paper's name of the model


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The scores of one protocol."""

    protocol: Protocol
    questions: int
    threshold: float | None  # None: each pixel takes the most probable name
    scores: dict[str, float | None]  # the mean over folds
    folds: list[dict[str, float | None]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON types."""
        paper = PAPERS[self.protocol]
        head = {"protocol": self.protocol, "questions": self.questions, "threshold": self.threshold}
        return head | self.scores | {"folds": self.folds, "paper": {"table": paper.table, "rows": paper.rows}}


def examine(segmenter: "Segmenter", asked: ProtocolOptions, tick: Tick = lambda: None) -> Found:
    """All questions of a protocol. Raises UsageError for files that are missing or of another layout, NoInputError
    where they hold no question."""
    if asked.protocol == "pascal-zero-shot":
        return _named(segmenter, asked, tick)
    read, square, threshold = READERS[asked.protocol]
    questions, folds = 0, []
    for fold in range(1) if asked.protocol == "phrasecut" else asked.folds:
        total, count = _counted(segmenter, read(asked, fold), asked, square, tick)
        questions += count
        folds.append(_scores(total, threshold))
    names = list(folds[0])
    mean = {name: _mean([each[name] for each in folds]) for name in names}
    return Found(asked.protocol, questions, threshold, mean, folds if len(folds) > 1 else [])


def _counted(
    segmenter: "Segmenter", questions: Iterator[Episode], asked: ProtocolOptions, square: "Square", tick: Tick
) -> tuple[Counts, int]:
    """The pixels of every question, added up by group."""
    groups: dict[int, Counts] = {}
    total, count = metrics.nothing(len(metrics.THRESHOLDS)), 0
    for image, some in itertools.groupby(itertools.islice(questions, asked.limit), key=lambda one: one.image):
        features = segmenter.encode(_stack(square(training_data.pixels(image), segmenter.side)))
        for one in some:
            soft = segmenter.decode(features, _embedded(segmenter, one, square))[0, 0]
            counted = _count(soft, one.truth(), segmenter.side, asked.protocol)
            count += 1
            if asked.protocol == "phrasecut":  # every question is a group
                total += counted.as_class()
            else:
                groups[one.group] = groups[one.group] + counted if one.group in groups else counted
            tick()
    if not count:
        raise NoInputError(f"{asked.data} holds no question of {asked.protocol}")
    return sum((each.as_class() for each in groups.values()), total), count


def _count(soft: Floats, truth: NDArray[np.uint8], side: int, protocol: Protocol) -> Counts:
    """Pascal-5i at the mask's own size, squared with unknown pixels; the others at the network's."""
    if protocol.startswith("pascal"):
        truth = warp.squared(truth)
        soft = warp.corners(soft, len(truth), len(truth))
    else:
        truth = warp.nearest(truth, side)
    return metrics.count(soft, truth == 1, valid=truth != episodes.UNKNOWN)


def _embedded(segmenter: "Segmenter", one: Episode, square: "Square") -> Any:
    if one.support is None or one.support_mask is None:
        return segmenter.embed([one.phrase])
    pixels, mask = square(training_data.pixels(one.support), segmenter.side), one.support_mask()
    fit = warp.padded_mask if square is warp.padded else warp.nearest
    return segmenter.embed_images(_stack(warp.shown(pixels, fit(mask, segmenter.side) == 1)))


def _named(segmenter: "Segmenter", asked: ProtocolOptions, tick: Tick) -> Found:
    """Which of VOC's names has each pixel, and the mean IoU of the seen and the unseen ones."""
    names = list(episodes.VOC)
    embeddings, size = segmenter.embed(names), len(names)
    matrix, questions = np.zeros((size, size), np.int64), 0  # (true, found)
    for image, mask in itertools.islice(episodes.voc(asked.data), asked.limit):
        features = segmenter.encode(_stack(warp.sampled(training_data.pixels(image), segmenter.side)))
        soft = segmenter.decode(features, embeddings)[0]
        soft[0] *= BACKGROUND
        truth, found = warp.nearest(read_values(mask).astype(np.uint8), segmenter.side), soft.argmax(0)
        counts = truth < size
        matrix += np.bincount(truth[counts] * np.int64(size) + found[counts], minlength=size * size).reshape(size, size)
        questions += 1
        tick()
    if not questions:
        raise NoInputError(f"{asked.data} lists no validation picture")
    right = np.diag(matrix)
    either = matrix.sum(0) + matrix.sum(1) - right
    ious = np.divide(right, either, out=np.zeros(size), where=either > 0)
    scores: dict[str, float | None] = {"miou": _rounded(ious.mean())}
    for count in (10, 4):
        unseen = np.isin(np.arange(size), episodes.UNSEEN[:count])
        scores |= {f"seen_{count}": _rounded(ious[~unseen].mean()), f"unseen_{count}": _rounded(ious[unseen].mean())}
    return Found(asked.protocol, questions, None, scores)


def told(found: Found, model: str) -> Iterator[str]:
    """A table for a person: the scores, and the paper's models below."""
    paper = PAPERS[found.protocol]
    shown = [name for name in found.scores if any(name in row for row in paper.rows.values())]
    shown += [name for name in found.scores if name not in shown]
    rows = {model: found.scores} | {f"paper, Table {paper.table}: {name}": row for name, row in paper.rows.items()}
    width = max(map(len, rows))
    at = "" if found.threshold is None else f" at threshold {found.threshold:g}"
    yield f"{found.protocol}: {found.questions} questions{at}"
    yield " " * width + "".join(f"{name:>14}" for name in shown)
    for name, row in rows.items():
        values = ("" if row.get(score) is None else f"{row[score]:.3f}" for score in shown)
        yield (f"{name:<{width}}" + "".join(f"{value:>14}" for value in values)).rstrip()


def _scores(total: Counts, threshold: float) -> dict[str, float | None]:
    index = int(np.argmin(np.abs(metrics.THRESHOLDS - threshold)))
    curves = {"miou": metrics.miou(total), "iou_fg": metrics.iou_fg(total), "iou_bin": metrics.iou_bin(total)}
    found = {name: _rounded(curve[index]) for name, curve in curves.items()} | {"ap": _rounded(metrics.ap(total))}
    return found | {f"{name}_best": _rounded(metrics.best(curve)[0]) for name, curve in curves.items()}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(np.mean(known)) if len(known) == len(values) else None


def _rounded(value: Any) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _stack(pixels: Floats) -> Floats:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]


def antialiased(image: NDArray[np.uint8], side: int) -> Floats:
    """COCO-20i: warped to the square by Pillow."""
    square = PIL.Image.fromarray(image).resize((side, side), PIL.Image.Resampling.BILINEAR)
    return highlight.normalised(np.asarray(square))


Square = Callable[[NDArray[np.uint8], int], Floats]  # uint8 (H, W, 3) to float32 (S, S, 3), normalised colour
READERS: dict[str, tuple[Callable[[ProtocolOptions, int], Iterator[Episode]], Square, float]] = {
    "phrasecut": (lambda asked, _: episodes.phrasecut(asked.data, asked.split), warp.stretched, 0.3),
    "pascal-5i": (lambda asked, fold: episodes.pascal_5i(asked.data, fold, asked.seed), warp.padded, 0.3),
    "pascal-5i-text": (lambda asked, fold: episodes.pascal_5i(asked.data, fold, asked.seed, True), warp.padded, 0.3),
    "coco-20i": (lambda asked, fold: episodes.coco_20i(asked.data, fold, asked.seed), antialiased, 0.1),
}
PAPERS: dict[str, Paper] = {
    "phrasecut": Paper(
        3,
        {
            "CLIPSeg (PC+)": {"miou": 0.434, "iou_fg": 0.547, "ap": 0.767},
            "CLIPSeg (PC)": {"miou": 0.461, "iou_fg": 0.562, "ap": 0.782},
        },
    ),
    "pascal-5i": Paper(
        5,
        {
            "CLIPSeg (PC+)": {"miou": 0.595, "iou_bin": 0.750, "ap": 0.823},
            "CLIPSeg (PC)": {"miou": 0.523, "iou_bin": 0.695, "ap": 0.724},
        },
    ),
    "pascal-5i-text": Paper(
        7,
        {
            "CLIPSeg (PC+)": {"miou": 0.724, "iou_bin": 0.831, "ap": 0.935},
            "CLIPSeg (PC)": {"miou": 0.703, "iou_bin": 0.816, "ap": 0.848},
        },
    ),
    "coco-20i": Paper(
        6,
        {
            "CLIPSeg (COCO)": {"miou": 0.332, "iou_bin": 0.584, "ap": 0.405},
            "CLIPSeg (COCO+N)": {"miou": 0.333, "iou_bin": 0.591, "ap": 0.417},
        },
    ),
    "pascal-zero-shot": Paper(
        4, {"CLIPSeg (PC+)": {"seen_10": 0.357, "unseen_10": 0.431, "seen_4": 0.208, "unseen_4": 0.473}}
    ),
}
