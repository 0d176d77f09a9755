"""Smoothing in time: symmetric, cut at scene changes, blind to other scenes, and steadier on noisy maps."""

import numpy as np

from clipseg_cli.masks.smoothing import guide, is_cut, smoothed

SIDE, COUNT = 32, 21
TIMES = [number / 25 for number in range(COUNT)]
rng = np.random.default_rng(0)


def scene(level: int) -> np.ndarray:
    """Returns the guide of a noisy picture, left half darker than the right one."""
    image = np.full((SIDE, SIDE, 3), level, np.uint8)
    image[:, SIDE // 2 :] = 255 - level
    return guide(np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8))


def test_a_still_scene_is_averaged_and_noise_falls() -> None:
    """Over 21 frames of a still scene the noise of the logits falls to less than half; their mean stays."""
    truth = rng.normal(0, 3, (2, SIDE, SIDE)).astype(np.float32)
    noisy = [truth + rng.normal(0, 1, truth.shape).astype(np.float32) for _ in range(COUNT)]
    result = smoothed(noisy, [scene(60)] * COUNT, TIMES, 10, 0.4)
    assert result.dtype == np.float32
    assert np.abs(result - truth).mean() < 0.5 * np.abs(noisy[10] - truth).mean()


def test_there_is_no_lag() -> None:
    """A map that rises linearly in time is unchanged; frames in reverse give the same result."""
    rising = [np.full((1, SIDE, SIDE), time, np.float32) for time in TIMES]
    guides = [scene(60) for _ in TIMES]
    same = [guides[0]] * COUNT
    assert np.allclose(smoothed(rising, same, TIMES, 10, 0.3), TIMES[10], atol=1e-6)
    forward = smoothed(rising, guides, TIMES, 10, 0.3)
    backward = smoothed(rising[::-1], guides[::-1], [-time for time in reversed(TIMES)], 10, 0.3)
    assert np.allclose(forward, backward, atol=1e-6)


def test_nothing_crosses_a_scene_change() -> None:
    """The frames before a cut have no influence on those after it, although they are near in time."""
    guides = [scene(20 if number < 10 else 250) for number in range(COUNT)]
    assert is_cut(guides[9], guides[10]) and not is_cut(guides[8], guides[9])
    maps = [np.full((1, SIDE, SIDE), -5.0 if number < 10 else 5.0, np.float32) for number in range(COUNT)]
    for number in (8, 9, 10, 11):
        assert np.allclose(smoothed(maps, guides, TIMES, number, 0.5), maps[number], atol=1e-5)


def test_only_frames_within_the_time_count() -> None:
    """A frame `seconds` away or further has no influence, bit for bit."""
    maps = [rng.normal(0, 1, (1, SIDE, SIDE)).astype(np.float32) for _ in TIMES]
    guides = [scene(60) for _ in TIMES]
    part = smoothed(maps[6:15], guides[6:15], TIMES[6:15], 4, 0.19)
    assert np.array_equal(smoothed(maps, guides, TIMES, 10, 0.19), part)


def test_what_moves_leaves_no_trail() -> None:
    """Where the image changed, other frames hardly count; a change of brightness alone is no change."""
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    moved = image.copy()
    moved[8:24, 8:24] = (250, 0, 0)
    maps = [np.full((1, SIDE, SIDE), value, np.float32) for value in (-4.0, 4.0)]
    inside = smoothed(maps, [guide(image), guide(moved)], [0.0, 0.04], 1, 0.2)[0, 12:20, 12:20]
    assert inside.min() > 3.5
    brighter = smoothed(maps, [guide(image), guide(image + np.uint8(30))], [0.0, 0.04], 1, 0.2)
    assert np.allclose(brighter, (4 - 4 * 0.8) / 1.8, atol=1e-3)


def test_maps_of_another_size_than_the_guides() -> None:
    """With tiles, maps are larger than what the network sees of the whole image."""
    maps = [np.full((1, 3 * SIDE, 2 * SIDE), value, np.float32) for value in (1.0, 2.0)]
    result = smoothed(maps, [scene(60)] * 2, [0.0, 0.04], 0, 0.08)
    assert result.shape == maps[0].shape and np.allclose(result, (1 + 2 * 0.5) / 1.5)
