"""Scores of masks: the paper's, and a few common ones. numpy in, numbers out.

count(levels, true_mask, THRESHOLDS)   counts of one image and label, at all thresholds at once
a + b                                  counts of both together, in the memory of one
iou_fg(total), ap(total), ...          scores of the total, one per threshold

The paper's scores follow its code (timojl/clipseg, metrics.py), including the 1 in their denominators. An undefined
score (precision without a prediction) is NaN.
"""

import math
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Levels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]

THRESHOLDS: Floats = np.linspace(0, 1, 51)[1:-1]  # the paper's: 0.02 to 0.98
TOLERANCE = 0.008  # share of the diagonal: boundaries this close count as equal, as in DAVIS
PEAK_BINS = 256  # of `peak_histogram`
LARGEST = {"uint8": 255, "uint16": 65535, "float32": 1}  # the value of probability 1, by the soft map's dtype


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Pixel counts at T thresholds, of one image and label or of many."""

    tp: NDArray[np.int64]  # (T,): predicted and true
    fp: NDArray[np.int64]  # (T,): predicted but not true
    positives: int  # true
    pixels: int  # all
    ious: Floats  # (T,): sum of the classes' IoU
    classes: int

    def __add__(self, other: Self) -> Self:
        """Returns the sum. Both must have the same thresholds."""
        return type(self)(
            self.tp + other.tp,
            self.fp + other.fp,
            self.positives + other.positives,
            self.pixels + other.pixels,
            self.ious + other.ious,
            self.classes + other.classes,
        )

    @property
    def fn(self) -> NDArray[np.int64]:
        """(T,): true but not predicted."""
        return self.positives - self.tp

    @property
    def tn(self) -> NDArray[np.int64]:
        """(T,): neither true nor predicted."""
        return self.pixels - self.positives - self.fp

    def as_class(self) -> Self:
        """Returns the same counts as one class: `miou` is the mean IoU over classes."""
        return type(self)(self.tp, self.fp, self.positives, self.pixels, iou_fg(self), 1)


def nothing(thresholds: int) -> Counts:
    """Returns counts of no pixels, to start a sum with."""
    zeros = np.zeros(thresholds, np.int64)
    return Counts(zeros, zeros, 0, 0, zeros.astype(np.float64), 0)


def count(
    levels: Levels,
    true_mask: NDArray[np.bool_],
    thresholds: Floats = THRESHOLDS,
    valid: NDArray[np.bool_] | None = None,
) -> Counts:
    """Counts the pixels of one soft map against its true mask, bool (H, W).

    `levels`: (H, W), probability times 255 (uint8), times 65535 (uint16), or unscaled (float32). A pixel is predicted
    if its probability is above the threshold, not equal to it. `thresholds`: (T,), ascending. `valid`: bool (H, W), the
    pixels to count; None: all.
    """
    if valid is not None:
        levels, true_mask = levels[valid], true_mask[valid]
    if levels.dtype == np.float32:
        edges = thresholds.astype(np.float32)
        inside, outside = (
            np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1)
            for part in (levels[true_mask], levels[~true_mask])
        )
    else:
        largest = LARGEST[levels.dtype.name]
        # level q is above t if q >= floor(largest * t) + 1; the 1e-9 is for 0.2 * 255 = 51.000000000000004
        above = np.searchsorted(np.floor(largest * thresholds + 1e-9), np.arange(largest + 1))
        inside, outside = (
            np.bincount(above, np.bincount(part, minlength=largest + 1), len(thresholds) + 1).astype(np.int64)
            for part in (levels[true_mask], levels[~true_mask])
        )
    # a pixel above k thresholds is predicted at the k lowest
    tp, fp = (part[::-1].cumsum()[::-1][1:] for part in (inside, outside))
    return Counts(tp, fp, int(inside.sum()), true_mask.size, np.zeros(len(thresholds)), 0)


def iou_fg(counts: Counts) -> Floats:
    """Returns the paper's IoU_FG, (T,): intersection over union of all pixels together."""
    scores: Floats = counts.tp / (1 + counts.positives + counts.fp)
    return scores


def iou_bin(counts: Counts) -> Floats:
    """Returns the paper's IoU_BIN, (T,): the mean of the foreground's IoU and the background's."""
    scores: Floats = (iou_fg(counts) + counts.tn / (1 + counts.tn + counts.fn + counts.fp)) / 2
    return scores


def miou(counts: Counts) -> Floats:
    """Returns the paper's mIoU, (T,): the mean of IoU_FG over classes. A class is counts made by `as_class`.

    On PhraseCut each image and phrase is a class; on Pascal and COCO each category is.
    """
    scores: Floats = counts.ious / counts.classes if counts.classes else np.full(len(counts.tp), math.nan)
    return scores


def precision(counts: Counts) -> Floats:
    """Returns the precision, (T,): the share of predicted pixels that are true."""
    return _share(counts.tp, counts.tp + counts.fp)


def recall(counts: Counts) -> Floats:
    """Returns the recall, (T,): the share of true pixels that are predicted."""
    return _share(counts.tp, np.full_like(counts.tp, counts.positives))


def dice(counts: Counts) -> Floats:
    """Returns the Dice score, (T,): twice the intersection over the sum of both areas; the F1 score of pixels."""
    return _share(2 * counts.tp, counts.tp + counts.fp + counts.positives)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(len(part), math.nan), where=whole > 0)
    return shares


def precision_recall(counts: Counts) -> tuple[Floats, Floats]:
    """Returns the paper's curve: precision and recall, each (K,), in order of recall.

    Thresholds without a predicted pixel are left out; equal points are merged.
    """
    predicted = counts.tp + counts.fp > 0
    precisions = (counts.tp / (1 + counts.tp + counts.fp))[predicted]
    recalls = (counts.tp / (1 + counts.positives))[predicted]
    points = sorted(set(zip(recalls.tolist(), (-precisions).tolist(), strict=True)))
    return -np.array([point[1] for point in points]), np.array([point[0] for point in points])


def ap(counts: Counts) -> float:
    """Returns the paper's average precision: Simpson's integral of precision over recall. NaN without a prediction.

    Recalls below that of the highest threshold are not part of the integral. A perfect model that is always certain
    therefore scores 0.
    """
    y, x = precision_recall(counts)
    return simpson(y, x) if len(x) else math.nan


def simpson(y: Floats, x: Floats) -> float:
    """Integrates by Simpson's rule over unequal steps, as scipy did until 1.10 and the paper's code therefore does.

    For an odd number of steps, the result is the mean of two integrals, with a trapezium at either end. Steps of zero
    width add nothing.
    """
    n = len(x)
    if n % 2:
        return _parabolas(y, x)
    first = _parabolas(y[:-1], x[:-1]) + (y[-1] + y[-2]) * (x[-1] - x[-2]) / 2
    last = _parabolas(y[1:], x[1:]) + (y[0] + y[1]) * (x[1] - x[0]) / 2
    return float(first + last) / 2


def _parabolas(y: Floats, x: Floats) -> float:
    """Integrates over an even number of steps, one parabola per two steps."""
    h = np.diff(x)
    left, right = h[0::2], h[1::2]
    both, plain = left + right, (left > 0) & (right > 0)

    def ratio(a: Floats, b: Floats) -> Floats:
        return np.divide(a, b, out=np.zeros_like(a), where=plain)

    middle = both * ratio(both, left * right)
    terms = y[0:-2:2] * (2 - ratio(right, left)) + y[1:-1:2] * middle + y[2::2] * (2 - ratio(left, right))
    return float((both / 6 * terms).sum())


def best(scores: Floats, thresholds: Floats = THRESHOLDS) -> tuple[float, float]:
    """Returns the highest score and its threshold. Ties go to the lowest threshold."""
    index = int(np.argmax(scores))
    return float(scores[index]), float(thresholds[index])


def boundary_f(mask: NDArray[np.bool_], true_mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> float:
    """Returns how well the boundaries of two masks, bool (H, W), agree, in [0, 1]. NaN if both masks are empty.

    The result is the harmonic mean of two shares: how much of the mask's boundary lies within `tolerance` of the true
    one, and the reverse. The border of the image is not a boundary.
    """
    if not mask.any() and not true_mask.any():
        return math.nan
    reach = math.ceil(tolerance * math.hypot(*mask.shape))
    lines = [boundary(each) for each in (mask, true_mask)]
    if not lines[0].any() or not lines[1].any():  # a full mask has no boundary either
        return float(np.array_equal(mask, true_mask))
    shares = [
        np.mean(cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[own] <= reach)
        for own, other in (lines, lines[::-1])
    ]
    return float(2 * shares[0] * shares[1] / (shares[0] + shares[1])) if any(shares) else 0.0


def boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns bool (H, W): the pixels of the mask with a neighbour above, below, left or right outside it."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(np.ascontiguousarray(mask).view(np.uint8), cross, borderType=cv2.BORDER_REPLICATE)
    line: NDArray[np.bool_] = mask & (inner == 0)
    return line


def peak_histogram(levels: Levels, present: bool) -> NDArray[np.int64]:
    """Returns int64 (2, PEAK_BINS) with a single 1, for `presence_ap`, which takes sums of such arrays.

    Its column is the soft map's maximum, its row says whether the object is present.
    """
    top = float(levels.max()) if levels.size else 0.0
    bins = np.zeros((2, PEAK_BINS), np.int64)
    bins[int(present), round(top / LARGEST[levels.dtype.name] * (PEAK_BINS - 1))] = 1
    return bins


def presence_ap(bins: NDArray[np.int64]) -> float:
    """Returns the average precision of ranking images by their soft map's maximum. Equal maxima share a rank.

    NaN if no image shows the object.
    """
    ranked, hits = bins.sum(0)[::-1].cumsum(), bins[1][::-1].cumsum()
    if not hits[-1]:
        return math.nan
    return float((bins[1][::-1] / hits[-1] * hits / np.maximum(ranked, 1)).sum())
