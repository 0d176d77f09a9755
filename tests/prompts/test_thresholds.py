"""Thresholds: what they are read from, and which of several counts."""

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.prompts.thresholds import parse_threshold, resolve_thresholds


def test_thresholds_come_from_the_nearest_source() -> None:
    """A label's own -t beats its file entry, which beats the bare -t, which beats the model's default."""
    known = [Prompt("a", "a"), Prompt("b", "b", 0.7), Prompt("c", "c")]
    assert resolve_thresholds(["c=0.2", "0.4"], known, 0.3) == (0.4, 0.7, 0.2)
    assert resolve_thresholds([], known, 0.3) == (0.3, 0.7, 0.3)


@pytest.mark.parametrize("argument", ["1.1", "-0.1", "nan", "x", "a=", "nobody=0.5"])
def test_a_wrong_threshold_is_refused(argument: str) -> None:
    """Not a number from 0 to 1, or a label that no prompt has."""
    with pytest.raises(UsageError):
        resolve_thresholds([argument], [Prompt("a", "a")], 0.3)


@pytest.mark.parametrize("text", ["p101", "p", "Otsu", "1.2", "p-3", "nan", ""])
def test_other_thresholds_are_refused(text: str) -> None:
    """A message that names what can be given."""
    with pytest.raises(UsageError, match="otsu"):
        parse_threshold(text, "--threshold")
