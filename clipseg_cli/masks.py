"""From logits to masks. numpy in, numpy out.

A soft map has 256 levels: level q = round(255 p) of the probability p. A mask is defined on the levels, as
`q > 255 t`, so that a mask cut from the logits of a run and one cut later from the soft map it kept are the same
to the bit. EDGES makes that exact: level q >= k means logit >= EDGES[k], with no rounding in between.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.expressions import Expression, evaluate

LEVELS = 255  # levels above zero: 8-bit soft maps

# EDGES[k]: the smallest logit of level k, where p = (k - 1/2) / 255; EDGES[0] = -inf; EDGES[256] is
# NaN, which no logit reaches. float32.
EDGES: NDArray[np.float32] = np.array(
    [-math.inf, *(math.log((k - 0.5) / (LEVELS - k + 0.5)) for k in range(1, LEVELS + 1)), math.nan], np.float32
)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probability of each logit; float32 of the same shape, in [0, 1]."""
    # exp of a float32 overflows past 88; a logit below -80 is 0 in any case
    probabilities: NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.maximum(logits, np.float32(-80))))
    return probabilities


def logit(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `sigmoid`, finite: probabilities closer than 1e-7 to 0 or 1 count as that close."""
    p = np.clip(probabilities, np.float32(1e-7), np.float32(1 - 1e-7))
    logits: NDArray[np.float32] = np.log(p) - np.log1p(-p)
    return logits


def combine(
    logits: NDArray[np.float32], rules: Sequence[int | Expression], texts: Sequence[str | None]
) -> NDArray[np.float32]:
    """Maps of labels from maps of terms: logits (T, S, S) to logits (P, S, S).

    A rule is the index of a term, or an expression over the `texts` of terms: AND is the minimum of probabilities, OR
    the maximum, NOT p is 1 - p.
    """

    def probability(text: str) -> NDArray[np.float32]:
        return sigmoid(logits[texts.index(text)])

    return np.stack(
        [
            logits[rule] if isinstance(rule, int) else logit(evaluate(rule, probability, np.minimum, np.maximum))
            for rule in rules
        ]
    )


def upsample(logits: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Logits (S, S) at the picture's size (height, width) in pixels; float32.

    Bilinear with half-pixel centres, as torch's `interpolate(align_corners=False)`; a side that shrinks is averaged
    over its area instead, since plain bilinear would skip pixels.
    """
    for size, axis in ((width, 1), (height, 0)):
        if logits.shape[axis] != size:
            target = (size, logits.shape[0]) if axis else (logits.shape[1], size)
            shrinks = size < logits.shape[axis]
            logits = cv2.resize(logits, target, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return logits


def level(threshold: float) -> int:
    """The lowest level of a mask at this threshold, 1 to 256: the smallest k with k > 255 t."""
    return math.floor(LEVELS * threshold + 1e-9) + 1  # 0.2 * 255 is 51.000000000000004


def cut(logits: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Mask of logits: uint8 of the same shape, 255 where the level is above 255 * threshold, else 0."""
    edge = float(EDGES[level(threshold)])
    return cv2.compare(logits, edge, cv2.CMP_GE) if not math.isnan(edge) else np.zeros(logits.shape, np.uint8)


def soft(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Soft map of logits: uint8 of the same shape, the level of each."""
    levels = np.rint(LEVELS * sigmoid(logits)).astype(np.int16)
    # float rounding may put a logit on the wrong side of its edge; the edges decide
    levels -= logits < EDGES[levels]
    levels += logits >= EDGES[levels + 1]
    return levels.astype(np.uint8)


def cut_soft(levels: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
    """Mask of a soft map: uint8 of the same shape, 0 and 255; equals `cut` of the logits it was made from."""
    lowest = level(threshold)
    return cv2.compare(levels, float(lowest), cv2.CMP_GE) if lowest <= LEVELS else np.zeros_like(levels)


def bbox(mask: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """x, y, width, height in pixels of the smallest box that holds every non-zero pixel; None for an empty mask."""
    rows = np.flatnonzero(cv2.reduce(mask, 1, cv2.REDUCE_MAX))
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(cv2.reduce(mask[top:bottom], 0, cv2.REDUCE_MAX))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return left, top, right - left, bottom - top
