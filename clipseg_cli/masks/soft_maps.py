"""From logits to masks. numpy in, numpy out.

A soft map has 256 levels: level q = round(255 p) of the probability p. A mask is defined on the levels, as
`q > 255 t`, so that a mask cut from the logits of a run and one cut later from the soft map it kept are the same
to the bit. EDGES makes that exact: level q >= k means logit >= EDGES[k], with no rounding in between.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.prompts.expressions import Expression, evaluate

L = TypeVar("L", np.uint8, np.uint16)

LEVELS = 255  # levels above zero: 8-bit soft maps
STRIP = 1 << 16  # numbers of a map that are worked on at once: 256 KB, a part of a core's own cache
PRESENCE_SHARE = 0.002  # of a map's pixels, the most probable ones: one pixel may err, an object is many

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
    parts = [part for _, part in strips(logits, height, width)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def strips(logits: NDArray[np.float32], height: int, width: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The rows of `upsample`, a few at a time, and where they lie: what is made of them at once never leaves the
    processor's cache. Each number is that of any other division into strips, to the bit."""
    rows = len(logits)
    if logits.shape[1] != width:
        how = cv2.INTER_AREA if width < logits.shape[1] else cv2.INTER_LINEAR
        logits = cv2.resize(logits, (width, rows), interpolation=how)
    if height <= rows:
        small = logits if height == rows else cv2.resize(logits, (width, height), interpolation=cv2.INTER_AREA)
        yield slice(0, height), small
        return
    place = ((np.arange(height) + 0.5) * (rows / height) - 0.5).clip(0, rows - 1)
    above = place.astype(np.intp)
    share = (place - above).astype(np.float32)[:, None]
    slope = np.diff(logits, axis=0, append=logits[-1:])
    step = max(1, STRIP // width)
    for top in range(0, height, step):
        some = slice(top, min(top + step, height))
        part = slope[above[some]]
        part *= share[some]
        part += logits[above[some]]
        yield some, part


def level(threshold: float) -> int:
    """The lowest level of a mask at this threshold, 1 to 256: the smallest k with k > 255 t."""
    return math.floor(LEVELS * threshold + 1e-9) + 1  # 0.2 * 255 is 51.000000000000004


def cut(logits: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Mask of logits: uint8 of the same shape, 255 where the level is above 255 * threshold, else 0."""
    above: NDArray[np.bool_] = logits >= EDGES[level(threshold)]
    return above.view(np.uint8) * np.uint8(255)


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
    return cv2.inRange(levels, lowest, LEVELS) if lowest <= LEVELS else np.zeros_like(levels)


def fine(logits: NDArray[np.float32]) -> NDArray[np.uint16]:
    """uint16 of the same shape: probability x 65535, rounded. `coarse` of it is the soft map, to the bit."""
    levels = soft(logits).astype(np.int32) * 257
    rounded = np.rint(65535 * sigmoid(logits)).astype(np.int32)
    return np.clip(rounded, levels - 128, levels + 128).clip(0, 65535).astype(np.uint16)


def coarse(fine: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """The soft map of 16-bit levels: the edges of its levels are edges of theirs, since 65535 = 255 x 257."""
    return ((fine.astype(np.uint32) + 128) // 257).astype(np.uint8)


class Map(Protocol):
    """One label's map at the picture's own size. However it was kept, the masks and soft maps it gives are the same."""

    def cut(self, threshold: float) -> NDArray[np.uint8]:
        """uint8 (H, W), 0 and 255."""

    def soft(self) -> NDArray[np.uint8]:
        """Levels, uint8 (H, W)."""

    def fine(self) -> NDArray[np.uint16]:
        """Levels of 1/65535, uint16 (H, W); of a map kept in 8 bits, its levels x 257."""


@dataclass(frozen=True, slots=True, eq=False)
class LogitMap:
    """A map as the network gave it."""

    logits: NDArray[np.float32]  # (S, S)
    size: tuple[int, int] | None = None  # H, W of the picture; None: that of the logits

    def cut(self, threshold: float) -> NDArray[np.uint8]:
        """See `Map`."""
        return self._each(lambda rows: cut(rows, threshold), np.empty(self.shape, np.uint8))

    def soft(self) -> NDArray[np.uint8]:
        """See `Map`."""
        return self._each(soft, np.empty(self.shape, np.uint8))

    def fine(self) -> NDArray[np.uint16]:
        """See `Map`."""
        return self._each(fine, np.empty(self.shape, np.uint16))

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.size or self.logits.shape
        return height, width

    def _each(self, function: Callable[[NDArray[np.float32]], NDArray[L]], into: NDArray[L]) -> NDArray[L]:
        for some, rows in strips(self.logits, *self.shape):
            into[some] = function(rows)
        return into


@dataclass(frozen=True, slots=True, eq=False)
class KeptMap:
    """A map that a run kept as a picture of 8 or 16 bits."""

    levels: NDArray[np.integer[Any]]  # uint8 or uint16 (H, W)

    def cut(self, threshold: float) -> NDArray[np.uint8]:
        """See `Map`."""
        return cut_soft(self.soft(), threshold)

    def soft(self) -> NDArray[np.uint8]:
        """See `Map`."""
        return coarse(self.levels) if self.levels.dtype == np.uint16 else self.levels.astype(np.uint8, copy=False)

    def fine(self) -> NDArray[np.uint16]:
        """See `Map`."""
        return self.levels.astype(np.uint16) * np.uint16(1 if self.levels.dtype == np.uint16 else 257)


def kept(probabilities: NDArray[np.float32]) -> KeptMap:
    """A map of probabilities in [0, 1]: float32 (H, W) to 8 bits."""
    return KeptMap(np.rint(LEVELS * probabilities).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A label's map, and what its record says of the network's own map: maximum, mean, and `presence`."""

    map: Map
    score: float
    mean: float
    presence: float  # to 4 digits, as records keep it, so that a later run decides alike
    similarity: float | None = None  # cosine of the image's embedding and the prompt's


def presence(logits: NDArray[np.float32], share: float = PRESENCE_SHARE) -> float:
    """How surely a map of logits (S, S) shows its object: a score in [0, 1] that ranks pictures.

    The mean probability of the most probable `share` of the map; `docs/prompts.md` measures it against others.
    """
    flat = logits.ravel()
    count = max(1, round(share * flat.size))
    return float(sigmoid(np.partition(flat, flat.size - count)[-count:]).mean())


def compete(
    softs: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], background: float | None = None
) -> NDArray[np.uint8]:
    """Which label has each pixel: uint8 (H, W), i + 1 for label i, 0 for none.

    Of the labels whose mask holds the pixel, the one with the highest level in its soft map, above 255 * background
    where one is given; of equal ones the first. At most 255 labels.
    """
    index = np.zeros(softs[0].shape, np.uint8)
    best = np.full(index.shape, -1 if background is None else level(background) - 1, np.int16)
    for number, (levels, mask) in enumerate(zip(softs, masks, strict=True), 1):
        wins = (mask > 0) & (levels > best)
        index[wins] = number
        best[wins] = levels[wins]
    return index


def bbox(mask: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """x, y, width, height in pixels of the smallest box that holds every non-zero pixel; None for an empty mask."""
    rows = np.flatnonzero(mask.max(1))  # many times as fast as cv2.reduce
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].max(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return left, top, right - left, bottom - top
