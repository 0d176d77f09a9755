"""Defaults from variables and configuration files."""

import json
from pathlib import Path
from typing import Any

import pytest

from pictures import Program, records


def settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of a run."""
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["settings"]
    return found


def test_flag_then_variable_then_file_then_user(quick_clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """Precedence: flag > CLIPSEG_* > clipseg.toml > [tool.clipseg] > user configuration > default."""
    user = tmp_path / "config/clipseg/config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('threshold = "0.11"\nempty = "skip"\nlimit = 1\n')
    (tmp_path / "pyproject.toml").write_text('[tool.clipseg]\nthreshold = ["0.22"]\nprompt = ["circle"]\n')
    quick_clipseg("clipseg segment imgs -o one")
    (tmp_path / "clipseg.toml").write_text('format = "mask"\n[segment]\nthreshold = ["0.33"]\n')
    quick_clipseg("clipseg segment imgs -o two")
    quick_clipseg("clipseg segment imgs -o three", CLIPSEG_THRESHOLD="0.44", CLIPSEG_PROMPT="a cat\nred")
    quick_clipseg("clipseg segment imgs -o four -t 0.55 --empty write", CLIPSEG_THRESHOLD="0.44")
    found = {name: settings(tmp_path / name) for name in ("one", "two", "three", "four")}
    assert [[prompt["threshold"] for prompt in each["prompts"]] for each in found.values()] == [
        [0.22],
        [0.33],
        [0.44, 0.44],
        [0.55],
    ]
    assert [prompt["text"] for prompt in found["three"]["prompts"]] == ["a cat", "red"]
    assert found["one"]["empty"] == "skip" and "empty" not in found["four"], "defaults are left out"
    assert found["one"]["formats"] == ["mask", "overlay"] and found["two"]["formats"] == ["mask"]
    assert len(records(tmp_path / "one/manifest.jsonl")) == 1, "limit = 1 came from the user's file"


def test_config_names_the_only_file(quick_clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """With --config other files do not count. Keys have hyphens or underscores; a table is for one command; a list, a
    text, a number and a switch are read."""
    (tmp_path / "clipseg.toml").write_text("threshold = 0.9\n")
    (tmp_path / "mine.toml").write_text(
        'prompt = "red"\nkeep_largest = 2\nfill-holes = "all"\ninvert = true\n[find]\nlimit = 1\n'
    )
    quick_clipseg("clipseg segment imgs --config mine.toml -o out")
    found = settings(tmp_path / "out")
    assert (found["keep_largest"], found["fill_holes"], found["invert"]) == (2, "all", True)
    assert found["prompts"][0]["threshold"] != 0.9 and len(records(tmp_path / "out/manifest.jsonl")) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense = 1", "clipseg.toml: no option is called 'nonsense'"),
        ("limit = 0", "--limit 0: give a number of at least 1"),
        ("limit = 'x'", "limit"),
        ("mode = 'none'", "mode"),
        ("threshold = [", "cannot read clipseg.toml"),
    ],
)
def test_a_wrong_file_is_a_usage_error(quick_clipseg: Program, imgs: Path, text: str, message: str) -> None:
    """The message names the file or the option, exit 2."""
    Path("clipseg.toml").write_text(text)
    assert message in quick_clipseg("clipseg segment imgs -p a", expect=2).stderr


def test_a_file_that_is_named_must_exist(quick_clipseg: Program, imgs: Path) -> None:
    """--config with another name is a usage error."""
    message = quick_clipseg("clipseg segment imgs -p a --config none.toml", expect=2).stderr
    assert "no configuration file none.toml" in message


def test_options_of_other_commands_are_known(quick_clipseg: Program, imgs: Path) -> None:
    """A configuration file serves all commands: `embed` ignores the options of `segment`."""
    Path("clipseg.toml").write_text("max-depth = 3\nsteps = 5\n")
    quick_clipseg("clipseg segment imgs -p red -o out")
