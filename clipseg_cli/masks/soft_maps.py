"""Soft maps: from logits to probabilities, 8-bit and 16-bit levels, masks and scores.

A soft map has 256 levels: a probability p has the level q = round(255 p). A mask at the threshold t is `q > 255 t`. So
a mask from logits and a mask from the stored soft map are identical. EDGES makes this exact: q >= k if and only
if logit >= EDGES[k], with no rounding in between.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.prompts.expressions import Expression, evaluate

L = TypeVar("L", np.uint8, np.uint16)

LEVELS = 255  # levels above zero: 8-bit soft maps
STRIP = 1 << 16  # float32 values per strip: 256 KB, which fits into one core's own cache
PRESENCE_SHARE = 0.002  # share of a soft map's pixels that counts: a single pixel may be wrong, but an object has many

# EDGES[k]: the smallest logit of level k, where p = (k - 1/2) / 255. EDGES[0] is -inf. EDGES[256] is NaN, which no
# logit reaches.
EDGES: NDArray[np.float32] = np.array(
    [-math.inf, *(math.log((k - 0.5) / (LEVELS - k + 0.5)) for k in range(1, LEVELS + 1)), math.nan], np.float32
)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the probability of each logit: float32 of the same shape, in [0, 1]."""
    # exp of a float32 overflows above 88; below -80 the probability is 0 anyway
    probabilities: NDArray[np.float32] = np.reciprocal(1 + np.exp(-np.maximum(logits, np.float32(-80))))
    return probabilities


def logit(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverts `sigmoid`. Probabilities are clipped to 1e-7 from 0 and 1, so the result is finite."""
    p = np.clip(probabilities, np.float32(1e-7), np.float32(1 - 1e-7))
    logits: NDArray[np.float32] = np.log(p) - np.log1p(-p)
    return logits


def combine(
    logits: NDArray[np.float32], rules: Sequence[int | Expression], texts: Sequence[str | None]
) -> NDArray[np.float32]:
    """Combines the logits of T terms, (T, S, S), into the logits of P labels, (P, S, S).

    There is one rule per label: the index of a term, or an expression over the terms' `texts`. AND is the minimum of
    probabilities, OR the maximum, NOT p is 1 - p.
    """

    def probability(text: str) -> NDArray[np.float32]:
        return sigmoid(logits[texts.index(text)])

    return np.stack(
        [
            logits[rule] if isinstance(rule, int) else logit(evaluate(rule, probability, np.minimum, np.maximum))
            for rule in rules
        ]
    )


class Part(NamedTuple):
    """Some rows of an image, made from some rows of its soft map."""

    rows: int  # of the whole soft map
    first: int  # the row of the whole soft map with which these begin
    top: int  # the first row of the image
    bottom: int  # the row of the image behind the last one

    @classmethod
    def of(cls, rows: int, height: int, top: int, bottom: int) -> "tuple[Part, slice]":
        """Returns what rows `top` to `bottom` of an image of this height need of a soft map, and these rows of it."""
        above = _positions(rows, height, top, bottom).astype(np.intp)
        first, last = int(above[0]), min(rows, int(above[-1]) + 2)
        return cls(rows, first, top, bottom), slice(first, last)


def upsample(logits: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Resizes logits (S, S) to an image's height and width in pixels: float32 (height, width).

    Bilinear with half-pixel centres, like torch's `interpolate(align_corners=False)`. An axis that shrinks is averaged
    over its area instead, because bilinear interpolation would skip pixels.
    """
    rows = [strip for _, strip in strips(logits, height, width)]
    return rows[0] if len(rows) == 1 else np.concatenate(rows)


def strips(
    logits: NDArray[np.float32], height: int, width: int, part: Part | None = None
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yields the rows of `upsample` in strips, each with its slice of rows; with `part` only those, counted from 0.

    A strip fits into the processor's cache, so processing strips is faster than processing the whole map. The values
    are identical, bit for bit, however the map is divided. The map of a part is not higher than the image.
    """
    rows, first, top, bottom = part or Part(len(logits), 0, 0, height)
    if logits.shape[1] != width:
        interpolation = cv2.INTER_AREA if width < logits.shape[1] else cv2.INTER_LINEAR
        # OpenCV rounds a single row differently
        several = logits if len(logits) > 1 else np.repeat(logits, 2, 0)
        logits = cv2.resize(several, (width, len(several)), interpolation=interpolation)[: len(logits)]
    if height <= rows:
        small = logits if height == rows else cv2.resize(logits, (width, height), interpolation=cv2.INTER_AREA)
        yield slice(0, bottom - top), small[top - first : bottom - first]
        return
    position = _positions(rows, height, top, bottom)
    above = position.astype(np.intp)
    fraction = (position - above).astype(np.float32)[:, None]
    above -= first
    slope = np.zeros_like(logits)
    np.subtract(logits[1:], logits[:-1], out=slope[:-1])
    step = max(1, STRIP // width)
    for start in range(0, bottom - top, step):
        span = slice(start, min(start + step, bottom - top))
        strip = slope[above[span]]
        strip *= fraction[span]
        strip += logits[above[span]]
        yield span, strip


def _positions(rows: int, height: int, top: int, bottom: int) -> NDArray[np.float64]:
    """Returns where rows of an image lie between those of its soft map: float64, 0 to `rows` - 1."""
    return ((np.arange(top, bottom) + 0.5) * (rows / height) - 0.5).clip(0, rows - 1)


def lowest_level(threshold: float) -> int:
    """Returns the lowest level of a mask at the threshold t, 1 to 256: the smallest k with k > 255 t."""
    return math.floor(LEVELS * threshold + 1e-9) + 1  # 0.2 * 255 is 51.000000000000004


def cut(logits: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Returns the mask of logits: uint8 of the same shape, 255 where the level is above 255 * threshold, else 0."""
    above: NDArray[np.bool_] = logits >= EDGES[lowest_level(threshold)]
    return above.view(np.uint8) * np.uint8(255)


def soft(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns the soft map of logits: uint8 of the same shape, the level of each logit."""
    levels = np.rint(LEVELS * sigmoid(logits)).astype(np.int16)
    # rounding may put a logit on the wrong side of an edge; EDGES decides
    levels -= logits < EDGES[levels]
    levels += logits >= EDGES[levels + 1]
    return levels.astype(np.uint8)


def cut_soft(levels: NDArray[np.uint8], threshold: float) -> NDArray[np.uint8]:
    """Returns the mask of a soft map: uint8 of the same shape, 0 and 255. Equals `cut` of the map's logits."""
    lowest = lowest_level(threshold)
    return cv2.inRange(levels, lowest, LEVELS) if lowest <= LEVELS else np.zeros_like(levels)


def soft16(logits: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Returns the 16-bit soft map of logits: uint16 of the same shape, probability x 65535, rounded.

    `soft_of_soft16` of the result equals `soft` of the logits.
    """
    levels = soft(logits).astype(np.int32) * 257
    rounded = np.rint(65535 * sigmoid(logits)).astype(np.int32)
    return np.clip(rounded, levels - 128, levels + 128).clip(0, 65535).astype(np.uint16)


def soft_of_soft16(levels: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Returns the 8-bit soft map of a 16-bit one. Exact, since 65535 = 255 x 257."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


class Map(Protocol):
    """One label's soft map at the image's size. All implementations give the same masks and levels."""

    def cut(self, threshold: float) -> NDArray[np.uint8]:
        """Returns the mask at a threshold: uint8 (H, W), 0 and 255."""

    def soft(self) -> NDArray[np.uint8]:
        """Returns the soft map: uint8 (H, W)."""

    def soft16(self) -> NDArray[np.uint16]:
        """Returns the 16-bit soft map: uint16 (H, W). For a soft map stored in 8 bits: its levels x 257."""


@dataclass(frozen=True, slots=True, eq=False)
class LogitMap:
    """A soft map held as the network's logits and resized when it is read."""

    logits: NDArray[np.float32]  # (S, S)
    size: tuple[int, int] | None = None  # height and width of the image; None: the logits' own
    part: Part | None = None  # which rows of the image these are, and of which rows of the logits; None: all

    def cut(self, threshold: float) -> NDArray[np.uint8]:
        """See `Map`."""
        return self._in_strips(lambda rows: cut(rows, threshold), np.empty(self.shape, np.uint8))

    def soft(self) -> NDArray[np.uint8]:
        """See `Map`."""
        return self._in_strips(soft, np.empty(self.shape, np.uint8))

    def soft16(self) -> NDArray[np.uint16]:
        """See `Map`."""
        return self._in_strips(soft16, np.empty(self.shape, np.uint16))

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.size or self.logits.shape
        return (height if self.part is None else self.part.bottom - self.part.top), width

    def _in_strips(self, function: Callable[[NDArray[np.float32]], NDArray[L]], into: NDArray[L]) -> NDArray[L]:
        height, width = self.size or self.logits.shape
        for span, strip in strips(self.logits, height, width, self.part):
            into[span] = function(strip)
        return into


@dataclass(frozen=True, slots=True, eq=False)
class StoredMap:
    """A soft map of 8 or 16 bits, as a run stores it."""

    levels: NDArray[np.integer[Any]]  # uint8 or uint16 (H, W)

    def cut(self, threshold: float) -> NDArray[np.uint8]:
        """See `Map`."""
        return cut_soft(self.soft(), threshold)

    def soft(self) -> NDArray[np.uint8]:
        """See `Map`."""
        return (
            soft_of_soft16(self.levels) if self.levels.dtype == np.uint16 else self.levels.astype(np.uint8, copy=False)
        )

    def soft16(self) -> NDArray[np.uint16]:
        """See `Map`."""
        return self.levels.astype(np.uint16) * np.uint16(1 if self.levels.dtype == np.uint16 else 257)


@dataclass(frozen=True, slots=True, eq=False)
class WithoutData:
    """Another soft map that is 0 where the image has no data."""

    map: Map
    clear: NDArray[np.bool_]  # (H, W)

    def cut(self, threshold: float) -> NDArray[np.uint8]:
        """See `Map`."""
        return cleared(self.map.cut(threshold), self.clear)

    def soft(self) -> NDArray[np.uint8]:
        """See `Map`."""
        return cleared(self.map.soft(), self.clear)

    def soft16(self) -> NDArray[np.uint16]:
        """See `Map`."""
        return cleared(self.map.soft16(), self.clear)


def cleared(values: NDArray[L], clear: NDArray[np.bool_] | None) -> NDArray[L]:
    """Returns the values (H, W), with 0 in the pixels of `clear`; themselves if it is None."""
    return values if clear is None else np.where(clear, values.dtype.type(0), values)


def from_probabilities(probabilities: NDArray[np.float32]) -> StoredMap:
    """Returns an 8-bit soft map of probabilities, float32 (H, W) in [0, 1]."""
    return StoredMap(np.rint(LEVELS * probabilities).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A label's soft map with the scores of its record, which are computed at the network's own resolution."""

    map: Map
    score: float  # maximum probability
    mean: float  # mean probability
    presence: float  # rounded to 4 digits, as in the record, so that a later run makes the same decision
    similarity: float = 0.0  # cosine similarity of the image's and the prompt's embedding; 0 unless requested
    clear: NDArray[np.bool_] | None = None  # (H, W): pixels without data, which no mask has; None if there are none

    @property
    def known(self) -> Map:
        """The soft map, 0 where there are no data."""
        return self.map if self.clear is None else WithoutData(self.map, self.clear)


def presence(logits: NDArray[np.float32], share: float = PRESENCE_SHARE) -> float:
    """Returns the presence score of logits (S, S): in [0, 1], higher if the image is more likely to show the object.

    This is the mean probability of the most probable `share` of the pixels. `docs/prompts.md` compares it with other
    scores.
    """
    flat = logits.ravel()
    count = max(1, round(share * flat.size))
    return float(sigmoid(np.partition(flat, flat.size - count)[-count:]).mean())


def compete(
    softs: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.uint8]], background: float | None = None
) -> NDArray[np.uint8]:
    """Assigns each pixel to one label: uint8 (H, W), i + 1 for label i, 0 for none. At most 255 labels.

    Among the labels whose mask contains the pixel, the one with the highest level wins; ties go to the first. With
    `background`, a probability, the level must also be above 255 * background.
    """
    index = np.zeros(softs[0].shape, np.uint8)
    best = np.full(index.shape, -1 if background is None else lowest_level(background) - 1, np.int16)
    for number, (levels, mask) in enumerate(zip(softs, masks, strict=True), 1):
        wins = (mask > 0) & (levels > best)
        index[wins] = number
        best[wins] = levels[wins]
    return index


def bbox(mask: NDArray[np.uint8]) -> tuple[int, int, int, int] | None:
    """Returns x, y, width and height in pixels of the box around all non-zero pixels; None for an empty mask."""
    rows = np.flatnonzero(mask.max(1))  # much faster than cv2.reduce
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].max(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return left, top, right - left, bottom - top
