"""The page's JSON becomes a request, and the request the options of `clipseg segment`."""

from typing import Any

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.pages.mask_request import MaskRequest, parse_request


def test_prompts_thresholds_and_clean_up_become_options() -> None:
    """Every field of the page has its option; defaults have none."""
    clean = {
        "open": 1,
        "close": 2,
        "min_area": 3,
        "keep_largest": 4,
        "grow": -5,
        "fill_holes": True,
        "refine": "guided",
    }
    box = {"label": "dog", "image": 1, "box": [1, 2, 30, 40], "threshold": None}
    document = {"prompts": [box, {"text": "cat"}, {"text": "x = a star", "threshold": 0.25}], "clean": clean}
    words = parse_request(document, 2).options(lambda image: f"imgs/{image}.png")
    assert words == [
        *("-p", "cat", "-p", "x=a star", "--support", "dog=imgs/1.png", "--support-box", "1,2,30,40", "-t", "x=0.25"),
        *("--refine", "guided", "--open", "1", "--close", "2", "--fill-holes", "all", "--min-area", "3"),
        *("--keep-largest", "4", "--grow", "-5"),
    ]
    assert parse_request({"prompts": []}, 0) == MaskRequest() and MaskRequest().options(str) == []


BOX = {"label": "a", "image": 0, "box": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    "document, reason",
    [
        ({}, "reload"),
        ({"prompts": [{}]}, "reload"),
        ({"prompts": [3]}, "reload"),
        ({"prompts": [{"text": ""}]}, "empty"),
        ({"prompts": [{"text": "a", "threshold": 2}]}, "2"),
        ({"prompts": [{"text": "a"}, {"text": "a"}]}, "twice"),
        ({"prompts": [BOX | {"image": 1}]}, "box"),
        ({"prompts": [BOX | {"box": [0, 0, 0, 1]}]}, "box"),
        ({"prompts": [], "clean": {"open": -1}}, "negative"),
        ({"prompts": [], "clean": {"open": "x"}}, "reload"),
        ({"prompts": [], "clean": {"refine": "sharper"}}, "sharper"),
    ],
    ids=str,
)
def test_anything_else_is_a_usage_error(document: dict[str, Any], reason: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(UsageError, match=reason):
        parse_request(document, 1)
