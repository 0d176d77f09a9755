"""The scores equal those of scikit-learn, of scipy, and of the paper's formulas computed pixel by pixel."""

import math
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.ndimage
import sklearn.metrics

from clipseg_cli.evaluation import metrics
from clipseg_cli.evaluation.metrics import THRESHOLDS, count, nothing

Pair = tuple[np.ndarray, np.ndarray]


def pairs() -> dict[str, Pair]:
    """Returns soft maps with their true masks: random ones and corner cases."""
    rng = np.random.default_rng(7)
    shape = (13, 17)
    some = rng.random(shape) < 0.3
    good = np.clip(rng.normal(60, 40, shape) + 120 * some, 0, 255).astype(np.uint8)
    one = np.zeros(shape, bool)
    one[5, 5] = True
    ties = rng.choice(np.array([0, 51, 102, 153, 204, 255], np.uint8), shape)  # probabilities 0.2, 0.4, ... exactly
    return {
        "random": (rng.integers(0, 256, shape, np.uint8), some),
        "good": (good, some),
        "ties at thresholds": (ties, some),
        "no truth": (good, np.zeros(shape, bool)),
        "all truth": (good, np.ones(shape, bool)),
        "nothing found": (np.zeros(shape, np.uint8), some),
        "all found": (np.full(shape, 255, np.uint8), some),
        "both empty": (np.zeros(shape, np.uint8), np.zeros(shape, bool)),
        "both full": (np.full(shape, 255, np.uint8), np.ones(shape, bool)),
        "one pixel": (good, one),
        "one pixel in all": (np.full((1, 1), 130, np.uint8), np.ones((1, 1), bool)),
    }


PAIRS = pairs()


def paper(pairs: list[Pair]) -> dict[str, list[float]]:
    """Computes the paper's scores in plain Python loops over pixels; every pair is a class."""
    scores: dict[str, list[float]] = {"iou_fg": [], "iou_bin": [], "miou": [], "points": []}
    for threshold in THRESHOLDS:
        whole, own = [0, 0, 0, 0], []
        for levels, truth in pairs:
            tp = fp = fn = tn = 0
            for level, true in zip(levels.ravel().tolist(), truth.ravel().tolist(), strict=True):
                found = np.float32(level / 255) > np.float32(threshold)
                tp, fp, fn, tn = tp + (found and true), fp + (found and not true), fn + (true and not found), tn
                tn += not found and not true
            own.append(tp / (1 + tp + fp + fn))
            whole = [a + b for a, b in zip(whole, (tp, fp, fn, tn), strict=True)]
        tp, fp, fn, tn = whole
        scores["iou_fg"].append(tp / (1 + tp + fp + fn))
        scores["iou_bin"].append(0.5 * tp / (1 + tp + fp + fn) + 0.5 * tn / (1 + tn + fn + fp))
        scores["miou"].append(sum(own) / len(own))
        if tp + fp > 0:
            scores["points"].append((tp / (1 + tp + fn), tp / (1 + tp + fp)))
    return scores


def total(pairs: list[Pair]) -> metrics.Counts:
    """Returns the sum of the counts; every pair is a class."""
    return sum((count(*pair).as_class() for pair in pairs), nothing(len(THRESHOLDS)))


@pytest.mark.parametrize("name", [*PAIRS, "all together"])
def test_the_papers_scores_equal_its_formulas(name: str) -> None:
    """IoU_FG, IoU_BIN and mIoU at all 49 thresholds equal those of plain loops, for each pair and for all together."""
    chosen = list(PAIRS.values()) if name == "all together" else [PAIRS[name]]
    counts, wanted = total(chosen), paper(chosen)
    for key, function in (("iou_fg", metrics.iou_fg), ("iou_bin", metrics.iou_bin), ("miou", metrics.miou)):
        np.testing.assert_allclose(function(counts), wanted[key], rtol=1e-12, err_msg=key)
        value, threshold = metrics.best(function(counts))
        assert value == pytest.approx(max(wanted[key]))
        assert threshold == THRESHOLDS[int(np.argmax(wanted[key]))]


@pytest.mark.parametrize("name", [*PAIRS, "all together"])
def test_the_papers_average_precision_equals_simpsons_rule(name: str) -> None:
    """For an even number of steps AP equals scipy's Simpson rule over the distinct points.

    For an odd number it is the mean of the two ways to leave one step to a trapezium, with parabolas fitted by numpy.
    """
    chosen = list(PAIRS.values()) if name == "all together" else [PAIRS[name]]
    points = sorted(set(paper(chosen)["points"]), key=lambda point: (point[0], -point[1]))
    found = metrics.ap(total(chosen))
    if not points:
        assert math.isnan(found)
        return
    x, y = (np.array(column) for column in zip(*points, strict=True))
    if len(x) % 2:
        assert found == pytest.approx(scipy.integrate.simpson(y, x=x), abs=1e-12)
    else:
        first = fitted(x[:-1], y[:-1]) + (x[-1] - x[-2]) * (y[-1] + y[-2]) / 2
        last = fitted(x[1:], y[1:]) + (x[1] - x[0]) * (y[1] + y[0]) / 2
        assert found == pytest.approx((first + last) / 2, abs=1e-12)


def fitted(x: np.ndarray, y: np.ndarray) -> float:
    """Integrates a parabola through every three points; steps of zero width as in Simpson's formula."""
    area = 0.0
    for at in range(0, len(x) - 2, 2):
        if x[at] < x[at + 1] < x[at + 2]:
            whole = np.polyint(np.polyfit(x[at : at + 3] - x[at], y[at : at + 3], 2))
            area += np.polyval(whole, x[at + 2] - x[at])
        else:
            area += (x[at + 2] - x[at]) / 3 * (y[at] + y[at + 2])
    return area


def test_simpson_on_random_curves() -> None:
    """Over an even number of unequal steps the integral equals scipy's Simpson rule."""
    rng = np.random.default_rng(3)
    for size in (3, 5, 21, 49):
        x, y = np.sort(rng.random(size)), rng.random(size)
        assert metrics.simpson(y, x) == pytest.approx(scipy.integrate.simpson(y, x=x), rel=1e-9)
    assert metrics.simpson(np.array([0.5]), np.array([0.2])) == 0


@pytest.mark.parametrize("name", list(PAIRS))
def test_precision_recall_and_dice_equal_scikit_learns(name: str) -> None:
    """They match at every fifth threshold; where scikit-learn calls a score ill-defined, ours is NaN."""
    levels, truth = PAIRS[name]
    counts = count(levels, truth)
    scored = {
        sklearn.metrics.precision_score: metrics.precision(counts),
        sklearn.metrics.recall_score: metrics.recall(counts),
        sklearn.metrics.f1_score: metrics.dice(counts),
    }
    for index in range(0, len(THRESHOLDS), 5):
        found = (levels / np.float32(255) > np.float32(THRESHOLDS[index])).ravel()
        for function, ours in scored.items():
            wanted = function(truth.ravel(), found, zero_division=np.nan)
            np.testing.assert_allclose(ours[index], wanted, err_msg=f"{function.__name__} {index}")


def test_every_dtype_of_soft_map_gives_the_same_counts() -> None:
    """8-bit, 16-bit and float maps of the same probabilities agree; 16-bit maps also between the 8-bit levels."""
    levels, truth = PAIRS["random"]
    eight = count(levels, truth)
    sixteen = count(levels.astype(np.uint16) * 257, truth)
    real = count((levels / 255).astype(np.float32), truth)
    for other in (sixteen, real):
        assert np.array_equal(other.tp, eight.tp) and np.array_equal(other.fp, eight.fp)
    fine = np.random.default_rng(1).integers(0, 65536, truth.shape, np.uint16)
    for index, threshold in enumerate(THRESHOLDS):
        assert count(fine, truth).tp[index] == ((fine > 65535 * threshold) & truth).sum()


def test_invalid_pixels_are_not_counted() -> None:
    """With `valid` the counts are those of the remaining pixels."""
    levels, truth = PAIRS["random"]
    valid = np.random.default_rng(2).random(truth.shape) < 0.5
    some, cut = count(levels, truth, valid=valid), count(levels[valid], truth[valid])
    assert np.array_equal(some.tp, cut.tp) and np.array_equal(some.fp, cut.fp) and some.pixels == valid.sum()


def test_totals_do_not_depend_on_order_or_grouping() -> None:
    """Counts may be added in any order and any groups; the counts of a class are summed before the mean."""
    each = [count(*pair) for pair in PAIRS.values()]
    forth, back = sum(each, nothing(49)), sum(each[::-1], nothing(49))
    assert np.array_equal(forth.tp, back.tp) and forth.pixels == sum(truth.size for _, truth in PAIRS.values())
    halves = [sum(part, nothing(49)).as_class() for part in (each[:5], each[5:])]
    mean = (metrics.iou_fg(halves[0]) + metrics.iou_fg(halves[1])) / 2
    np.testing.assert_allclose(metrics.miou(halves[0] + halves[1]), mean)
    assert np.isnan(metrics.miou(nothing(49))).all()


def test_boundary_f_equals_that_of_scipys_distances() -> None:
    """On random blobs it matches scipy's erosion and exact distances; in the trivial cases it is 1, 0 or NaN."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        soft = [scipy.ndimage.gaussian_filter(rng.random((90, 140)), 6) for _ in range(2)]
        mask, truth = (each > np.quantile(each, rng.uniform(0.4, 0.95)) for each in soft)
        reach = math.ceil(0.008 * math.hypot(90, 140))
        lines = [each & ~scipy.ndimage.binary_erosion(each, border_value=1) for each in (mask, truth)]
        far = [scipy.ndimage.distance_transform_edt(~line) for line in lines]
        p, r = (far[1][lines[0]] <= reach).mean(), (far[0][lines[1]] <= reach).mean()
        wanted = 2 * p * r / (p + r) if p + r else 0
        assert metrics.boundary_f(mask, truth) == pytest.approx(wanted)
    empty, full = np.zeros((20, 20), bool), np.ones((20, 20), bool)
    assert metrics.boundary_f(mask, mask) == 1 and metrics.boundary_f(full, full) == 1
    assert metrics.boundary_f(empty, full) == 0 and metrics.boundary_f(mask, np.zeros_like(mask)) == 0
    assert math.isnan(metrics.boundary_f(empty, empty))


def test_presence_ap_equals_scikit_learns() -> None:
    """Ranking by the maximum, with ties, equals average_precision_score; NaN if the object is never present."""
    rng = np.random.default_rng(6)
    for top in (3, 40, 256):
        there = rng.random(200) < 0.4
        maxima = rng.integers(0, top, 200)
        bins = sum(
            metrics.peak_histogram(np.array([[m]], np.uint8), bool(t)) for m, t in zip(maxima, there, strict=True)
        )
        assert metrics.presence_ap(bins) == pytest.approx(sklearn.metrics.average_precision_score(there, maxima))
    assert math.isnan(metrics.presence_ap(metrics.peak_histogram(np.zeros((2, 2), np.uint8), False)))


def test_a_million_pairs_take_the_memory_of_one() -> None:
    """The counts do not grow with the number of pairs, and stay exact past 2^32 pixels."""
    one = count(*PAIRS["good"]).as_class()
    many, size = one, 1
    for _ in range(30):
        many, size = many + many, size * 2
    assert many.tp.nbytes == one.tp.nbytes and many.tp.dtype == np.int64
    assert many.pixels == one.pixels * size and np.array_equal(many.tp, one.tp * size)
    np.testing.assert_allclose(metrics.miou(many), metrics.miou(one))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.iou_bin(many), metrics.ap(many), metrics.dice(many)
