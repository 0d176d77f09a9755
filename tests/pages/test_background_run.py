"""Runs that the page starts: which output folder is free, and what a run reports."""

import json
from pathlib import Path

from clipseg_cli.outputs.manifest import MANIFEST, RUN
from clipseg_cli.pages.background_run import STREAM_OPTIONS, is_free


def test_a_folder_is_free_without_a_run_or_with_the_same_command(tmp_path: Path) -> None:
    """Another command, a damaged run.json, or a manifest without one: not free."""
    command = ["clipseg", "segment", "photos", "-p", "red"]
    out = str(tmp_path)
    assert is_free(str(tmp_path / "nowhere"), command) and is_free(out, command)
    (tmp_path / MANIFEST).touch()
    assert not is_free(out, command)
    (tmp_path / RUN).write_text(json.dumps({"command": [*command, *STREAM_OPTIONS]}))
    assert is_free(out, command) and not is_free(out, [*command, "--invert"])
    for damaged in ("{", "[]", "{}", '{"command": 3}'):
        (tmp_path / RUN).write_text(damaged)
        assert not is_free(out, command)
