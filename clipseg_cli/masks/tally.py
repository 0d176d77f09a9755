"""The scores of a soft map that is never whole in memory, counted from its rows."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import soft_maps

BINS = 1 << 16  # of probabilities: the presence score is exact to a fraction of a bin
PIECE = 1 << 20  # logits that are counted at once


class Tally:
    """How many logits of each label have which probability. Arrays have a row per label."""

    def __init__(self, labels: int, before: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        """Begins with what `state` returned `before`."""
        before = before or {}
        self.counts = np.array(before.get("counts", np.zeros((labels, BINS))), np.int64)
        self.sums = np.array(before.get("sums", np.zeros((labels, BINS))), np.float64)  # of the probabilities of a bin
        self.highest = np.array(before.get("highest", np.zeros(labels)), np.float64)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Returns what is counted, as arrays."""
        return {"counts": self.counts, "sums": self.sums, "highest": self.highest}

    def add(self, logits: NDArray[np.float32]) -> None:
        """Counts rows of the labels' logits, (P, R, w)."""
        for label, rows in enumerate(logits.reshape(len(logits), -1)):
            for start in range(0, rows.size, PIECE):
                probabilities = soft_maps.sigmoid(rows[start : start + PIECE])
                bins = (probabilities * np.float32(BINS)).astype(np.int64).clip(0, BINS - 1)
                self.counts[label] += np.bincount(bins, minlength=BINS)
                self.sums[label] += np.bincount(bins, probabilities, BINS)
                self.highest[label] = max(self.highest[label], float(probabilities.max()))

    def mean(self, label: int) -> float:
        """Returns the mean probability."""
        return float(self.sums[label].sum() / max(1, self.counts[label].sum()))

    def presence(self, label: int) -> float:
        """Returns the presence score: see `soft_maps.presence`."""
        counts, sums = self.counts[label][::-1], self.sums[label][::-1]  # the most probable bins first
        wanted = max(1, round(soft_maps.PRESENCE_SHARE * int(counts.sum())))
        before = np.cumsum(counts) - counts
        taken = (wanted - before).clip(0, counts)
        return float((sums * (taken / np.maximum(counts, 1))).sum() / wanted)
