"""Where two runs of one folder differ: the masks of one image, and counts over all images. Arrays and numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Masks = Sequence[NDArray[np.uint8] | None]  # one per label: uint8 (H, W), 0 is background; None: not there


def compared(first: Masks, second: Masks) -> dict[str, Any]:
    """Returns how the masks of one image in two runs agree.

    `iou`: per label the intersection over union, 1 if both masks are empty, None if they cannot be compared.
    `changed`: the share of the image's pixels that differ in any label, None if no label can be compared.
    """
    scores: list[float | None] = []
    differs: NDArray[np.bool_] | None = None
    for one, two in zip(first, second, strict=True):
        if one is None or two is None or one.shape != two.shape:
            scores.append(None)
            continue
        a, b = one > 127, two > 127
        either = np.count_nonzero(a | b)
        scores.append(round(np.count_nonzero(a & b) / either, 4) if either else 1.0)
        if differs is None:
            differs = a ^ b
        elif differs.shape == a.shape:
            differs |= a ^ b
    return {"iou": scores, "changed": None if differs is None else round(float(differs.mean()), 6)}


@dataclass
class Comparison:
    """Counts over the images of two runs."""

    labels: int
    both: int = 0  # images that both runs segmented
    different: int = 0  # of these: images whose masks differ
    only: list[int] = field(default_factory=lambda: [0, 0])  # images that one run alone segmented
    _sums: list[float] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sums, self._counts = [0.0] * self.labels, [0] * self.labels

    def add(self, row: dict[str, Any]) -> None:
        """Counts one image of the report."""
        there = [side is not None for side in row["sides"]]
        if not all(there):
            self.only[there.index(True)] += 1
            return
        self.both += 1
        self.different += bool(row["changed"])
        for label, score in enumerate(row["iou"]):
            if score is not None:
                self._sums[label] += score
                self._counts[label] += 1

    def document(self) -> dict[str, Any]:
        """Returns the counts as JSON types, with each label's mean IoU over the images; None if it has none."""
        means = [
            round(total / count, 4) if count else None for total, count in zip(self._sums, self._counts, strict=True)
        ]
        return {"both": self.both, "different": self.different, "only": self.only, "iou": means}
