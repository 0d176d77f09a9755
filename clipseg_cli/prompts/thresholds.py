"""Thresholds as values: a probability, or a rule that chooses one for each soft map. Standard library only."""

import re
from collections.abc import Iterable
from typing import Protocol

from clipseg_cli.errors import UsageError

# A probability in [0, 1]; or chosen for each map: "otsu", or "p90" for its 90th percentile.
Threshold = float | str


class Labelled(Protocol):
    """The fields of a prompt that `resolve_thresholds` reads."""

    @property
    def label(self) -> str:
        """Name in the outputs."""

    @property
    def threshold(self) -> Threshold | None:
        """The prompt's own threshold, if it has one."""


def probability(text: str, where: str) -> float:
    """Reads a number in [0, 1]; UsageError names `where` it stood."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:  # also refuses nan
        raise UsageError(f"{where}: {text!r} is not a number from 0 to 1")
    return value


def parse_threshold(text: str, where: str) -> Threshold:
    """Reads a number in [0, 1], `otsu`, or a percentile like `p90`; UsageError names `where` it stood."""
    text = text.strip()
    if text == "otsu" or (re.fullmatch(r"p\d+(\.\d+)?", text) and float(text[1:]) <= 100):
        return text
    try:
        return probability(text, where)
    except UsageError:
        raise UsageError(
            f"{where}: {text!r} is neither a number from 0 to 1, nor otsu, nor a percentile like p90"
        ) from None


def resolve_thresholds(
    arguments: Iterable[str], prompts: Iterable[Labelled], default: Threshold
) -> tuple[Threshold, ...]:
    """The threshold of each prompt from `-t` arguments (`0.4` for all, `label=0.4` for one).

    A label's own argument beats its entry in a prompts file, which beats the bare argument, which beats the
    model's default. Raises UsageError for a label that no prompt has.
    """
    general: Threshold | None = None
    own: dict[str, Threshold] = {}
    for argument in arguments:
        label, equals, value = argument.rpartition("=")
        if equals:
            own[label.strip()] = parse_threshold(value, f"--threshold {argument}")
        else:
            general = parse_threshold(argument, "--threshold")
    prompts = tuple(prompts)
    if unknown := sorted(own.keys() - {prompt.label for prompt in prompts}):
        known = ", ".join(prompt.label for prompt in prompts)
        raise UsageError(f"--threshold names the label {unknown[0]!r}, which no prompt has (labels: {known})")
    rest = default if general is None else general
    return tuple(own.get(prompt.label, rest if prompt.threshold is None else prompt.threshold) for prompt in prompts)
