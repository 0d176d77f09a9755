"""`clipseg ui` as a process: where it listens, how it ends, and what it refuses."""

import socket
from pathlib import Path

import pytest

from live import Process
from pictures import Program, picture, save

pytest.importorskip("uvicorn", reason="pip install 'clipseg-cli[ui]'")


def test_a_folder_that_does_not_exist_is_a_usage_error(clipseg: Program) -> None:
    """`clipseg ui nowhere` says what to name instead."""
    assert "clipseg ui photos/" in clipseg("clipseg ui nowhere", expect=2).stderr


def test_a_port_in_use_is_a_usage_error(clipseg: Program, tmp_path: Path) -> None:
    """The message names the port and what to try."""
    save(tmp_path / "photos/a.png", picture(48, 48))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}" in clipseg(f"clipseg ui photos --no-open --port {port}", expect=2).stderr


@pytest.mark.slow
def test_ctrl_c_ends_it_quietly(process: Process) -> None:
    """The printed URL answers; Ctrl-C ends the program with code 130 and nothing on stderr."""
    assert process.ask(f"/?token={process.token}")[0] == 200 and process.ask("/")[0] == 403
    assert process.stop() == 130 and process.stderr == ""
