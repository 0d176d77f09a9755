"""Clips for measuring flicker: their ground truth follows the objects, and the measure is 0 for perfect maps."""

import numpy as np
import pytest

from shapes.clips import LENGTH, draw_clip
from shapes.video_benchmark import score, steadied

slow = pytest.mark.slow


@slow
def test_a_perfect_map_has_no_flicker_and_a_noisy_one_has() -> None:
    """The ground truth moves within a scene; as logits it scores IoU 1 and flicker 0, with noise it flickers."""
    rng = np.random.default_rng(2)
    clip = draw_clip(rng)
    assert clip.frames.shape == (*clip.ground_truth.shape, 3) and len(clip.frames) == 2 * LENGTH == len(clip.times)
    assert all(truth.any() for truth in clip.ground_truth)
    assert not np.array_equal(clip.ground_truth[0], clip.ground_truth[LENGTH - 1])
    perfect = [np.where(truth, np.float32(5), np.float32(-5))[None] for truth in clip.ground_truth]
    assert score(clip, perfect, 0.5) == (1.0, 0.0)
    assert steadied(perfect, perfect, clip.times, 0.0) == perfect
    noisy = [logits + rng.normal(0, 4, logits.shape).astype(np.float32) for logits in perfect]
    assert score(clip, noisy, 0.5)[1] > 0.1
