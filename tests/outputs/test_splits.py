"""Splits: an image's part depends on its own path alone."""

from collections import Counter

import pytest

from clipseg_cli.outputs.splits import SPLITS, split

SHARES = (0.8, 0.15, 0.05)


def test_the_parts_have_their_shares() -> None:
    """Of 20,000 images, within four standard deviations; a share of 0 has no image."""
    found = Counter(split(f"sub/{number}", False, SHARES) for number in range(20_000))
    for name, share in zip(SPLITS, SHARES, strict=True):
        assert abs(found[name] - 20_000 * share) < 4 * (20_000 * share * (1 - share)) ** 0.5
    assert {split(str(number), False, (0.5, 0.5, 0.0)) for number in range(1000)} == {"train", "val"}
    assert split("a", False, None) == ""


def test_an_image_stays_in_its_part() -> None:
    """On every machine, in every run, and if a file of the same stem makes its output carry the full name."""
    assert [split(name, False, SHARES) for name in ("a", "b", "sub/x")] == ["val", "train", "val"]
    for number in range(100):
        assert split(f"{number}.jpg", False, SHARES) == split(str(number), False, SHARES)


@pytest.mark.parametrize("clip", ["clip", "sub/clip.mp4"])
def test_the_frames_of_a_file_stay_together(clip: str) -> None:
    """Otherwise nearly equal frames would be in train and in val."""
    assert len({split(f"{clip}/{number:06}", True, SHARES) for number in range(200)}) == 1
