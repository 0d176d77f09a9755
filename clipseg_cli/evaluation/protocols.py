"""Runs the paper's evaluations on the data sets' own files, and shows a model's scores beside the paper's.

    phrasecut         Table 3: every phrase of the test split, unchanged
    pascal-5i         Table 5: one exemplar
    pascal-5i-text    Table 7: the class's name in place of the exemplar
    coco-20i          Table 6: one exemplar, 1000 samples per fold
    pascal-zero-shot  Table 4: each pixel gets one of 21 class names

Images are made square (`paper_preprocess.py`), soft maps enlarged and pixels counted (`metrics.py`) as in the paper's
code.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets import paper_datasets, paper_preprocess, training_data
from clipseg_cli.datasets.ground_truth import read_values
from clipseg_cli.datasets.paper_datasets import Sample
from clipseg_cli.errors import NoInputError
from clipseg_cli.evaluation import metrics
from clipseg_cli.evaluation.metrics import Counts
from clipseg_cli.settings.evaluation import Protocol, ProtocolOptions

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

Floats = NDArray[np.float32]
Tick = Callable[[], object]  # called after each sample
BACKGROUND_WEIGHT = 3  # factor on the probability of "background" in the paper's code


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Scores that the paper reports, in [0, 1]."""

    table: int
    rows: dict[str, dict[str, float]]  # by the paper's name of the model


@dataclass(frozen=True, slots=True, eq=False)
class ProtocolResult:
    """The scores of a model in one protocol."""

    protocol: Protocol
    samples: int
    threshold: float | None  # None: each pixel gets its most probable name
    scores: dict[str, float | None]  # the mean over folds
    folds: list[dict[str, float | None]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Returns the JSON object of `clipseg protocol`, without the model."""
        paper = PAPERS[self.protocol]
        head = {"protocol": self.protocol, "questions": self.samples, "threshold": self.threshold}
        return head | self.scores | {"folds": self.folds, "paper": {"table": paper.table, "rows": paper.rows}}


def run(segmenter: "Segmenter", options: ProtocolOptions, tick: Tick = lambda: None) -> ProtocolResult:
    """Runs one protocol.

    Raises UsageError for files that are missing or have another layout, NoInputError if there is no sample.
    """
    if options.protocol == "pascal-zero-shot":
        return _zero_shot(segmenter, options, tick)
    read, square, threshold = READERS[options.protocol]
    samples, folds = 0, []
    for fold in range(1) if options.protocol == "phrasecut" else options.folds:
        total, count = _count_fold(segmenter, read(options, fold), options, square, tick)
        samples += count
        folds.append(_scores(total, threshold))
    mean = {name: _mean([each[name] for each in folds]) for name in folds[0]}
    return ProtocolResult(options.protocol, samples, threshold, mean, folds if len(folds) > 1 else [])


def _count_fold(
    segmenter: "Segmenter", samples: Iterator[Sample], options: ProtocolOptions, square: "Square", tick: Tick
) -> tuple[Counts, int]:
    """Returns the sum of the pixel counts, with each group of samples as a class, and the number of samples."""
    groups: dict[int, Counts] = {}
    total, count = metrics.nothing(len(metrics.THRESHOLDS)), 0
    limited = itertools.islice(samples, options.limit)
    for image, same_image in itertools.groupby(limited, key=lambda sample: sample.image):
        features = segmenter.encode(_as_batch(square(training_data.pixels(image), segmenter.side)))
        for sample in same_image:
            soft = segmenter.decode(features, _embed(segmenter, sample, square))[0, 0]
            counts = _count_sample(soft, sample.true_mask(), segmenter.side, options.protocol)
            count += 1
            if options.protocol == "phrasecut":  # every sample is a group
                total += counts.as_class()
            else:
                groups[sample.group] = groups[sample.group] + counts if sample.group in groups else counts
            tick()
    if not count:
        raise NoInputError(f"{options.data} holds no sample of {options.protocol}")
    return sum((each.as_class() for each in groups.values()), total), count


def _count_sample(soft: Floats, true_mask: NDArray[np.uint8], side: int, protocol: Protocol) -> Counts:
    """Counts the pixels of one sample.

    For Pascal-5i, counts at the mask's size, padded to a square with unknown pixels; otherwise at the network's size.
    """
    if protocol.startswith("pascal"):
        true_mask = paper_preprocess.pad_mask_unscaled(true_mask)
        soft = paper_preprocess.resize_align_corners(soft, len(true_mask), len(true_mask))
    else:
        true_mask = paper_preprocess.resize_nearest(true_mask, side)
    return metrics.count(soft, true_mask == 1, valid=true_mask != paper_datasets.UNKNOWN)


def _embed(segmenter: "Segmenter", sample: Sample, square: "Square") -> Any:
    """Returns the embedding of the sample's support or, without one, of its phrase."""
    if sample.support is None or sample.support_mask is None:
        return segmenter.embed([sample.phrase])
    pixels = square(training_data.pixels(sample.support), segmenter.side)
    padded = square is paper_preprocess.pad_image
    square_mask = paper_preprocess.pad_mask if padded else paper_preprocess.resize_nearest
    mask = square_mask(sample.support_mask(), segmenter.side) == 1
    return segmenter.embed_images(_as_batch(paper_preprocess.visual_prompt(pixels, mask)))


def _zero_shot(segmenter: "Segmenter", options: ProtocolOptions, tick: Tick) -> ProtocolResult:
    """Gives each pixel one of VOC's names, and returns the mean IoU of the seen and the unseen classes."""
    names = list(paper_datasets.VOC)
    embeddings, size = segmenter.embed(names), len(names)
    confusion, samples = np.zeros((size, size), np.int64), 0  # (true, predicted)
    for image, mask in itertools.islice(paper_datasets.voc(options.data), options.limit):
        square = paper_preprocess.stretch_bilinear(training_data.pixels(image), segmenter.side)
        soft = segmenter.decode(segmenter.encode(_as_batch(square)), embeddings)[0]
        soft[0] *= BACKGROUND_WEIGHT
        predicted = soft.argmax(0)
        true = paper_preprocess.resize_nearest(read_values(mask).astype(np.uint8), segmenter.side)
        valid = true < size
        pairs = true[valid] * np.int64(size) + predicted[valid]
        confusion += np.bincount(pairs, minlength=size * size).reshape(size, size)
        samples += 1
        tick()
    if not samples:
        raise NoInputError(f"{options.data} lists no validation image")
    intersection = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    ious = np.divide(intersection, union, out=np.zeros(size), where=union > 0)
    scores: dict[str, float | None] = {"miou": _rounded(ious.mean())}
    for count in (10, 4):
        unseen = np.isin(np.arange(size), paper_datasets.UNSEEN[:count])
        scores |= {f"seen_{count}": _rounded(ious[~unseen].mean()), f"unseen_{count}": _rounded(ious[unseen].mean())}
    return ProtocolResult(options.protocol, samples, None, scores)


def table(result: ProtocolResult, model: str) -> Iterator[str]:
    """Yields the lines of a text table: the model's scores, and the paper's models below."""
    paper = PAPERS[result.protocol]
    columns = [name for name in result.scores if any(name in row for row in paper.rows.values())]
    columns += [name for name in result.scores if name not in columns]
    rows = {model: result.scores} | {f"paper, Table {paper.table}: {name}": row for name, row in paper.rows.items()}
    width = max(map(len, rows))
    at = "" if result.threshold is None else f" at threshold {result.threshold:g}"
    yield f"{result.protocol}: {result.samples} sample{'s' * (result.samples != 1)}{at}"
    yield " " * width + "".join(f"{name:>14}" for name in columns)
    for name, row in rows.items():
        values = ("" if row.get(score) is None else f"{row[score]:.3f}" for score in columns)
        yield (f"{name:<{width}}" + "".join(f"{value:>14}" for value in values)).rstrip()


def _scores(total: Counts, threshold: float) -> dict[str, float | None]:
    index = int(np.argmin(np.abs(metrics.THRESHOLDS - threshold)))
    curves = {"miou": metrics.miou(total), "iou_fg": metrics.iou_fg(total), "iou_bin": metrics.iou_bin(total)}
    scores = {name: _rounded(curve[index]) for name, curve in curves.items()} | {"ap": _rounded(metrics.ap(total))}
    return scores | {f"{name}_best": _rounded(metrics.best(curve)[0]) for name, curve in curves.items()}


def _mean(values: list[float | None]) -> float | None:
    """Returns the mean; None if any value is undefined."""
    defined = [value for value in values if value is not None]
    return _rounded(np.mean(defined)) if len(defined) == len(values) else None


def _rounded(value: Any) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _as_batch(pixels: Floats) -> Floats:
    """Returns float32 (1, 3, S, S) for (S, S, 3)."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]


Square = Callable[[NDArray[np.uint8], int], Floats]  # uint8 (H, W, 3) to float32 (S, S, 3), normalised colour
Reader = Callable[[ProtocolOptions, int], Iterator[Sample]]  # the samples of one fold
READERS: dict[str, tuple[Reader, Square, float]] = {  # with the paper's threshold
    "phrasecut": (
        lambda options, _: paper_datasets.phrasecut(options.data, options.split),
        paper_preprocess.stretch_align_corners,
        0.3,
    ),
    "pascal-5i": (
        lambda options, fold: paper_datasets.pascal_5i(options.data, fold, options.seed),
        paper_preprocess.pad_image,
        0.3,
    ),
    "pascal-5i-text": (
        lambda options, fold: paper_datasets.pascal_5i(options.data, fold, options.seed, by_name=True),
        paper_preprocess.pad_image,
        0.3,
    ),
    "coco-20i": (
        lambda options, fold: paper_datasets.coco_20i(options.data, fold, options.seed),
        paper_preprocess.stretch_antialiased,
        0.1,
    ),
}
PAPERS: dict[str, PaperTable] = {
    "phrasecut": PaperTable(
        3,
        {
            "CLIPSeg (PC+)": {"miou": 0.434, "iou_fg": 0.547, "ap": 0.767},
            "CLIPSeg (PC)": {"miou": 0.461, "iou_fg": 0.562, "ap": 0.782},
        },
    ),
    "pascal-5i": PaperTable(
        5,
        {
            "CLIPSeg (PC+)": {"miou": 0.595, "iou_bin": 0.750, "ap": 0.823},
            "CLIPSeg (PC)": {"miou": 0.523, "iou_bin": 0.695, "ap": 0.724},
        },
    ),
    "pascal-5i-text": PaperTable(
        7,
        {
            "CLIPSeg (PC+)": {"miou": 0.724, "iou_bin": 0.831, "ap": 0.935},
            "CLIPSeg (PC)": {"miou": 0.703, "iou_bin": 0.816, "ap": 0.848},
        },
    ),
    "coco-20i": PaperTable(
        6,
        {
            "CLIPSeg (COCO)": {"miou": 0.332, "iou_bin": 0.584, "ap": 0.405},
            "CLIPSeg (COCO+N)": {"miou": 0.333, "iou_bin": 0.591, "ap": 0.417},
        },
    ),
    "pascal-zero-shot": PaperTable(
        4, {"CLIPSeg (PC+)": {"seen_10": 0.357, "unseen_10": 0.431, "seen_4": 0.208, "unseen_4": 0.473}}
    ),
}
