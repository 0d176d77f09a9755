"""Thresholds: parsing, and which one applies to each prompt. Standard library only.

A threshold is a probability in [0, 1], or a rule that picks one for each soft map: `otsu`, or a percentile like `p90`.
"""

import re
from collections.abc import Iterable
from typing import Protocol

from clipseg_cli.errors import UsageError

Threshold = float | str  # a str is "otsu" or a percentile like "p90"


class Labelled(Protocol):
    """The fields of a prompt that `resolve_thresholds` reads."""

    @property
    def label(self) -> str:
        """The prompt's name in the outputs."""

    @property
    def threshold(self) -> Threshold | None:
        """The threshold from the prompts file; None if it gives none."""


def probability(text: str, where: str) -> float:
    """Parses a number in [0, 1]. Raises UsageError, which starts with `where`, the place of the text."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:  # also refuses nan
        raise UsageError(f"{where}: {text!r} is not a number from 0 to 1")
    return value


def parse_threshold(text: str, where: str) -> Threshold:
    """Parses a number in [0, 1], `otsu`, or a percentile like `p90`. Raises UsageError, which starts with `where`."""
    text = text.strip()
    if text == "otsu" or (re.fullmatch(r"p\d+(\.\d+)?", text) and float(text[1:]) <= 100):
        return text
    try:
        return probability(text, where)
    except UsageError:
        raise UsageError(f"{where}: {text!r} is not a number from 0 to 1, otsu, or a percentile like p90") from None


def resolve_thresholds(
    arguments: Iterable[str], prompts: Iterable[Labelled], default: Threshold
) -> tuple[Threshold, ...]:
    """Returns the threshold of each prompt. The `-t` arguments are `0.4` for all prompts or `label=0.4` for one.

    In order of precedence: `label=0.4`, the prompts file, `0.4`, the default. Raises UsageError for a wrong value and
    for a label that no prompt has.
    """
    general: Threshold | None = None
    by_label: dict[str, Threshold] = {}
    for argument in arguments:
        label, equals, value = argument.rpartition("=")
        if equals:
            by_label[label.strip()] = parse_threshold(value, f"--threshold {argument}")
        else:
            general = parse_threshold(argument, "--threshold")
    prompts = tuple(prompts)
    if unknown := sorted(by_label.keys() - {prompt.label for prompt in prompts}):
        known = ", ".join(prompt.label for prompt in prompts)
        raise UsageError(f"--threshold {unknown[0]}=...: no prompt has the label {unknown[0]!r} (labels: {known})")
    fallback = default if general is None else general
    return tuple(
        by_label.get(prompt.label, fallback if prompt.threshold is None else prompt.threshold) for prompt in prompts
    )
