"""Scores that are counted from rows are those of the whole soft map."""

import numpy as np
import pytest

from clipseg_cli.masks import soft_maps
from clipseg_cli.masks.tally import Tally


@pytest.mark.parametrize("spread", [0.1, 2.0, 30.0])
def test_scores_are_those_of_the_whole_map(spread: float) -> None:
    """Maximum, mean and presence score, also if the count goes on from a saved state."""
    random = np.random.default_rng(0)
    logits = (random.normal(size=(2, 300, 200)) * spread - 1).astype(np.float32)
    half = Tally(2)
    half.add(logits[:, :70])
    tally = Tally(2, half.state())
    for top in range(70, 300, 90):
        tally.add(logits[:, top : top + 90])
    for label, rows in enumerate(logits):
        probabilities = soft_maps.sigmoid(rows)
        assert tally.highest[label] == probabilities.max()
        assert tally.mean(label) == pytest.approx(float(probabilities.mean(dtype=np.float64)), abs=1e-9)
        assert tally.presence(label) == pytest.approx(soft_maps.presence(rows), abs=2e-6)


def test_nothing_counted_has_no_score() -> None:
    """No division by zero."""
    assert (Tally(1).mean(0), Tally(1).presence(0)) == (0.0, 0.0)
