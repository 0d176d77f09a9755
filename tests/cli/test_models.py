"""`clipseg models`."""

import json
from pathlib import Path

from pictures import Program


def test_models_are_listed(clipseg: Program) -> None:
    """`models list` names every alias, as a table and as JSON."""
    table = clipseg("clipseg models list").stdout
    assert all(name in table for name in ("rd64-refined", "rd64", "rd16", "shapes"))
    rows = json.loads(clipseg("clipseg models list --json").stdout)
    assert {row["name"] for row in rows} >= {"rd64-refined", "shapes"}


def test_the_folder_of_a_model_is_printed(clipseg: Program) -> None:
    """`models path` says how to fetch a model that is not on this machine, exit 1."""
    assert Path(clipseg("clipseg models path shapes").stdout.strip(), "config.json").is_file()
    assert "models pull" in clipseg("clipseg models path rd64", expect=1).stderr


def test_a_model_is_described(clipseg: Program) -> None:
    """`models info` shows the towers, the decoder, the default threshold and the licence, also as JSON."""
    shown = clipseg("clipseg models info shapes").stdout
    for text in (
        "CLIPSeg",
        "vision      8 layers",
        "text        3 layers",
        "reads vision layers 1, 4, 7",
        "apache-2.0",
    ):
        assert text in shown
    found = json.loads(clipseg("clipseg models info shapes --json").stdout)
    assert found["decoder"]["threshold"] == 0.5 and found["parameters"] == 4_760_162
    assert "models pull" in clipseg("clipseg models info rd64", expect=1).stderr
