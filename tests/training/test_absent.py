"""Prompts for what an image does not show."""

from collections import Counter

import numpy as np

from clipseg_cli.training.absent import NEAR, Absent

PROMPTS = ("a red car", "a blue car", "a car", "a large red car", "a red house", "grass")
RED_CAR, GRASS = 0, 5
EACH = range(len(PROMPTS))


def drawn(absent: Absent, prompt: int, present: set[int]) -> Counter[str]:
    """Returns how often each prompt was drawn in 2,000 draws."""
    rng = np.random.default_rng(0)
    found = [absent.draw(prompt, present, rng) for _ in range(2000)]
    return Counter(PROMPTS[each] for each in found if each is not None)


def test_a_near_prompt_shares_a_word_and_says_neither_more_nor_less() -> None:
    """For "a red car": most often the blue car or the red house; a car, which may be true, as often as by chance."""
    found = drawn(Absent(PROMPTS, EACH, near=True), RED_CAR, {RED_CAR})
    near = found["a blue car"] + found["a red house"]
    assert near > 1.8 * 2000 * NEAR * 0.5 and found["a red car"] == 0
    assert 0 < found["a car"] < 2000 * (1 - NEAR) * 0.4 and 0 < found["a large red car"] < 2000 * (1 - NEAR) * 0.4


def test_a_prompt_of_the_image_is_never_drawn() -> None:
    """Nor a near one that says more or less than any of them."""
    found = drawn(Absent(PROMPTS, EACH, near=True), RED_CAR, {RED_CAR, 4})
    assert found["a red house"] == found["a red car"] == 0 < found["a blue car"]


def test_other_prompts_serve_where_none_is_near() -> None:
    """Without near ones, all absent prompts are alike."""
    for absent in (Absent(PROMPTS, EACH, near=True), Absent(PROMPTS, EACH)):
        found = drawn(absent, GRASS, {GRASS})
        assert set(found) == {*PROMPTS} - {"grass"} and max(found.values()) < 1.3 * min(found.values())


def test_nothing_is_drawn_where_everything_is_present() -> None:
    """An image that shows what every prompt means has no absent one."""
    assert not drawn(Absent(PROMPTS, EACH, near=True), RED_CAR, {*range(len(PROMPTS))})


def test_prompts_are_drawn_as_often_as_they_occur() -> None:
    """Near ones and others."""
    often = [1] * 9 + [4, 5, 0]
    for near in (True, False):
        found = drawn(Absent(PROMPTS, often, near), GRASS, {GRASS})
        assert found["a blue car"] > 5 * found["a red house"] > 0 and found["a car"] == 0
