"""A name becomes a checkpoint, or an error before any request."""

import json
from pathlib import Path

import pytest

from checkpoints import write_checkpoint
from clipseg_cli.errors import UsageError
from clipseg_cli.model.registry import locate
from hub import Files, Hub
from machine import Machine

REPO = "CIDAS/clipseg-rd64-refined"


@pytest.mark.parametrize(
    "name",
    [
        "../x/y",
        "/no/such",
        "a/..",
        "org/na\nme",
        "org/name@../../x",
        "x" * 5000,
        "org/name@",
        "org/name@a b",
        "org/name@/etc",
        "org/name@-x\n",
        "org/name@x/../y",
        "rd65",
        "",
        "shapes@main",
        "org/a/b",
        "org--x/name",
        "org/\x1b[2J",
        "a/b\0",
    ],
    ids=repr,
)
def test_an_invalid_name_is_a_usage_error(hub: Hub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is raised before any request, and its message has only printable characters."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError) as error:
        locate(name)
    assert str(error.value).isprintable()
    assert hub.requests == []


def test_a_directory_is_used_in_place(tmp_path: Path, released: Path) -> None:
    """It has no revision. Its config.json may state a default threshold."""
    found = locate(str(released))
    assert (found.repo, found.revision, found.threshold) == (None, None, 0.3)
    assert found.path == released and found.weights == released / "model.safetensors"
    copy = write_checkpoint(tmp_path / "copy", layout="saved")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "clipseg_threshold": 0.45}))
    assert locate(str(copy)).threshold == 0.45


def test_the_list_names_every_alias_and_every_cached_model(machine: Machine, hub: Hub, files: Files) -> None:
    """Aliases come first, in order. An installed model has a path, a size in bytes and a commit."""
    (empty,) = machine.ask("?")
    assert [row["name"] for row in empty[:3]] == ["rd64-refined", "rd64", "rd16"] and empty[3]["name"] == "shapes"
    assert all(row["path"] is None and row["size"] == 0 and row["revision"] is None for row in empty[:3])
    assert hub.requests == [] and not machine.torch
    hub.push("org/mine", "main", files)
    machine.ask("rd64-refined", "org/mine")
    (rows,) = machine.ask("?")
    assert rows[0]["revision"] == hub.refs[REPO, "main"] and rows[0]["size"] == sum(map(len, files.values()))
    assert rows[-1]["name"] == "org/mine" and rows[-1]["path"]
