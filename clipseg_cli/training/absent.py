"""Chooses prompts for what an image does not show."""

from collections import defaultdict
from collections.abc import Sequence, Set

import numpy as np

TRIES = 50  # prompts that are drawn for one
NEAR = 0.7  # of the draws look for a near prompt first


class Absent:
    """Draws from prompts, as their indices, those that an image does not have.

    drawn: the prompt of each example; a prompt is drawn as often as it occurs there. near: looks for a prompt that
    shares a word with the one that it replaces, so that a decoder learns to heed each word: "a red car" for "a blue
    car". A prompt that says more or less than one of the image's, such as "a car" or "a large blue car", may be true of
    the image, and is not drawn as a near one.
    """

    def __init__(self, prompts: Sequence[str], drawn: Sequence[int], near: bool = False) -> None:
        self.drawn, self.near = drawn, near
        self.words = [frozenset(prompt.lower().split()) for prompt in prompts]
        self.having: dict[str, list[int]] = defaultdict(list)  # word: the prompts of examples
        for prompt in drawn if near else ():
            for word in self.words[prompt]:
                self.having[word].append(prompt)

    def draw(self, prompt: int, present: Set[int], rng: np.random.Generator) -> int | None:
        """Returns a random prompt in place of `prompt`, none of those `present`. None if none was found."""
        if self.near and rng.random() < NEAR and (found := self._near(prompt, present, rng)) is not None:
            return found
        for _ in range(TRIES):
            other = int(self.drawn[int(rng.integers(len(self.drawn)))])
            if other not in present:
                return other
        return None

    def _near(self, prompt: int, present: Set[int], rng: np.random.Generator) -> int | None:
        words = sorted(self.words[prompt])
        having = self.having[words[int(rng.integers(len(words)))]]
        for _ in range(TRIES):
            other = having[int(rng.integers(len(having)))]
            if not any(self._one_says_more(other, each) for each in (prompt, *present)):
                return other
        return None

    def _one_says_more(self, one: int, other: int) -> bool:
        return self.words[one] <= self.words[other] or self.words[other] <= self.words[one]
