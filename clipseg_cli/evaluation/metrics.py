"""How good masks are: the paper's scores, and those that stand beside them. numpy in, numbers out.

count(levels, truth, THRESHOLDS)   one picture and label, at every threshold at once
a + b                              pictures and labels together: any number of them in the memory of one
iou_fg(total), ap(total), ...      scores of the total, one a threshold

The paper's scores are those of its code (timojl/clipseg, metrics.py), the 1 in their denominators included. What is
undefined (a precision without a prediction) is NaN.
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
TOLERANCE = 0.008  # of the diagonal: how far apart boundaries may lie and still meet; the number of DAVIS
PEAKS = 256  # bins of `peaks`
LARGEST = {"uint8": 255, "uint16": 65535, "float32": 1}  # what stands for certainty, by the map's dtype


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """Pixels at T thresholds, of one picture and label or of many."""

    tp: NDArray[np.int64]  # (T,): found and true
    fp: NDArray[np.int64]  # (T,): found and not true
    positives: int  # true
    pixels: int
    ious: Floats  # (T,): the sum of the classes' own IoU
    classes: int

    def __add__(self, other: Self) -> Self:
        """Both together; they must have the same thresholds."""
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
        """(T,): true and not found."""
        return self.positives - self.tp

    @property
    def tn(self) -> NDArray[np.int64]:
        """(T,): neither true nor found."""
        return self.pixels - self.positives - self.fp

    def as_class(self) -> Self:
        """The same pixels, as one of the classes whose IoU `miou` is the mean of."""
        return type(self)(self.tp, self.fp, self.positives, self.pixels, iou_fg(self), 1)


def nothing(thresholds: int) -> Counts:
    """Counts of no pixel, to add to."""
    none = np.zeros(thresholds, np.int64)
    return Counts(none, none, 0, 0, none.astype(np.float64), 0)


def count(
    levels: Levels, truth: NDArray[np.bool_], thresholds: Floats = THRESHOLDS, valid: NDArray[np.bool_] | None = None
) -> Counts:
    """Counts of one soft map against its truth, bool (H, W).

    `levels`: (H, W), probability times 255 (uint8), times 65535 (uint16) or itself (float32). A pixel is found where
    its probability is above the threshold, not where it is equal. `thresholds`: (T,), ascending. `valid`: bool
    (H, W), the pixels that count; None: all.
    """
    if valid is not None:
        levels, truth = levels[valid], truth[valid]
    if levels.dtype == np.float32:
        edges = thresholds.astype(np.float32)
        yes, no = (
            np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1)
            for part in (levels[truth], levels[~truth])
        )
    else:
        peak = LARGEST[levels.dtype.name]
        # level q is above t where q >= floor(peak t) + 1; 0.2 * 255 is 51.000000000000004
        above = np.searchsorted(np.floor(peak * thresholds + 1e-9), np.arange(peak + 1))
        yes, no = (
            np.bincount(above, np.bincount(part, minlength=peak + 1), len(thresholds) + 1).astype(np.int64)
            for part in (levels[truth], levels[~truth])
        )
    # a pixel above k thresholds is found at the k lowest
    tp, fp = (part[::-1].cumsum()[::-1][1:] for part in (yes, no))
    return Counts(tp, fp, int(yes.sum()), truth.size, np.zeros(len(thresholds)), 0)


def iou_fg(counts: Counts) -> Floats:
    """The paper's IoU_FG, (T,): intersection over union of all pixels together."""
    scores: Floats = counts.tp / (1 + counts.positives + counts.fp)
    return scores


def iou_bin(counts: Counts) -> Floats:
    """The paper's IoU_BIN, (T,): the mean of the foreground's and the background's."""
    scores: Floats = (iou_fg(counts) + counts.tn / (1 + counts.tn + counts.fn + counts.fp)) / 2
    return scores


def miou(counts: Counts) -> Floats:
    """The paper's mIoU, (T,): the mean over classes of each one's IoU_FG. On PhraseCut its classes are the single
    pictures, on Pascal and COCO the categories: whatever was added `as_class`."""
    scores: Floats = counts.ious / counts.classes if counts.classes else np.full(len(counts.tp), math.nan)
    return scores


def precision(counts: Counts) -> Floats:
    """(T,): the share of the found that is true."""
    return _share(counts.tp, counts.tp + counts.fp)


def recall(counts: Counts) -> Floats:
    """(T,): the share of the true that is found."""
    return _share(counts.tp, np.full_like(counts.tp, counts.positives))


def dice(counts: Counts) -> Floats:
    """(T,): twice the intersection over the sum of both areas; the F1 score of pixels."""
    return _share(2 * counts.tp, counts.tp + counts.fp + counts.positives)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(len(part), math.nan), where=whole > 0)
    return shares


def precision_recall(counts: Counts) -> tuple[Floats, Floats]:
    """The paper's curve: precision and recall, each (K,), by rising recall, of the thresholds that find anything;
    thresholds that agree in both are one point."""
    some = counts.tp + counts.fp > 0
    precisions = (counts.tp / (1 + counts.tp + counts.fp))[some]
    recalls = (counts.tp / (1 + counts.positives))[some]
    points = sorted(set(zip(recalls.tolist(), (-precisions).tolist(), strict=True)))
    return -np.array([point[1] for point in points]), np.array([point[0] for point in points])


def ap(counts: Counts) -> float:
    """The paper's average precision: Simpson's integral of its precision over its recall. NaN without a prediction.

    Recalls below the highest threshold's do not count, so that a perfect model is near 1 only if it is not sure.
    """
    y, x = precision_recall(counts)
    return simpson(y, x) if len(x) else math.nan


def simpson(y: Floats, x: Floats) -> float:
    """Simpson's rule over unequal steps as scipy had it until 1.10, and the paper's code with it: of an odd number of
    steps the mean of two results, with a trapezium at the one end or the other. Steps of no width weigh nothing."""
    n = len(x)
    if n % 2:
        return _parabolas(y, x)
    first = _parabolas(y[:-1], x[:-1]) + (y[-1] + y[-2]) * (x[-1] - x[-2]) / 2
    last = _parabolas(y[1:], x[1:]) + (y[0] + y[1]) * (x[1] - x[0]) / 2
    return float(first + last) / 2


def _parabolas(y: Floats, x: Floats) -> float:
    """The integral over an even number of steps, two a parabola."""
    h = np.diff(x)
    left, right = h[0::2], h[1::2]
    both, plain = left + right, (left > 0) & (right > 0)

    def ratio(a: Floats, b: Floats) -> Floats:
        return np.divide(a, b, out=np.zeros_like(a), where=plain)

    middle = both * ratio(both, left * right)
    terms = y[0:-2:2] * (2 - ratio(right, left)) + y[1:-1:2] * middle + y[2::2] * (2 - ratio(left, right))
    return float((both / 6 * terms).sum())


def best(scores: Floats, thresholds: Floats = THRESHOLDS) -> tuple[float, float]:
    """The highest score and its threshold, the lowest of equals."""
    index = int(np.argmax(scores))
    return float(scores[index]), float(thresholds[index])


def boundary_f(mask: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float = TOLERANCE) -> float:
    """How well outlines meet, in [0, 1]: the harmonic mean of the share of the mask's outline within `tolerance` of the
    truth's and of the share of the truth's within `tolerance` of the mask's. Both bool (H, W); the picture's own edge
    is no outline. NaN where both masks are empty."""
    if not mask.any() and not truth.any():
        return math.nan
    reach = math.ceil(tolerance * math.hypot(*mask.shape))
    lines = [outline(each) for each in (mask, truth)]
    if not lines[0].any() or not lines[1].any():  # a full mask has none either
        return float(np.array_equal(mask, truth))
    shares = [
        np.mean(cv2.distanceTransform((~other).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[own] <= reach)
        for own, other in (lines, lines[::-1])
    ]
    return float(2 * shares[0] * shares[1] / (shares[0] + shares[1])) if any(shares) else 0.0


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (H, W): the mask's pixels that have one above, below, left or right that is not the mask's."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(np.ascontiguousarray(mask).view(np.uint8), cross, borderType=cv2.BORDER_REPLICATE)
    line: NDArray[np.bool_] = mask & (inner == 0)
    return line


def peaks(levels: Levels, present: bool) -> NDArray[np.int64]:
    """(2, PEAKS): where the soft map's maximum lies, in the second row where the thing is there. Sums of these are
    what `presence_ap` takes."""
    top = float(levels.max()) if levels.size else 0.0
    bins = np.zeros((2, PEAKS), np.int64)
    bins[int(present), round(top / LARGEST[levels.dtype.name] * (PEAKS - 1))] = 1
    return bins


def presence_ap(bins: NDArray[np.int64]) -> float:
    """The average precision of ranking pictures by the soft map's maximum, equal ones together; NaN where the thing is
    in none of them."""
    found, hits = bins.sum(0)[::-1].cumsum(), bins[1][::-1].cumsum()
    if not hits[-1]:
        return math.nan
    return float((bins[1][::-1] / hits[-1] * hits / np.maximum(found, 1)).sum())
