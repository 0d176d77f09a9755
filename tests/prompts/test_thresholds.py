"""Thresholds: parsing and precedence."""

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.prompts.thresholds import parse_threshold, resolve_thresholds


def test_the_most_specific_threshold_wins() -> None:
    """`-t label=` beats the prompts file, which beats a bare `-t`, which beats the model's default."""
    known = [Prompt("a", "a"), Prompt("b", "b", 0.7), Prompt("c", "c")]
    assert resolve_thresholds(["c=0.2", "0.4"], known, 0.3) == (0.4, 0.7, 0.2)
    assert resolve_thresholds([], known, 0.3) == (0.3, 0.7, 0.3)


@pytest.mark.parametrize("argument", ["1.1", "-0.1", "nan", "x", "a=", "nobody=0.5"])
def test_a_wrong_threshold_is_refused(argument: str) -> None:
    """A value is a number from 0 to 1, and a label is one of the prompts'."""
    with pytest.raises(UsageError):
        resolve_thresholds([argument], [Prompt("a", "a")], 0.3)


@pytest.mark.parametrize("text", ["p101", "p", "Otsu", "1.2", "p-3", "nan", ""])
def test_a_wrong_rule_is_refused(text: str) -> None:
    """The message lists the values that are accepted."""
    with pytest.raises(UsageError, match="otsu"):
        parse_threshold(text, "--threshold")
