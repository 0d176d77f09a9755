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
