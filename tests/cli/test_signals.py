"""Signals end a run in order."""

import subprocess
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals

import pytest

from pictures import save_tiny


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, pytest.param(SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_ends_the_run_with_its_code(
    tmp_path: Path, quick_environment: dict[str, str], number: Signals
) -> None:
    """SIGINT, SIGTERM and SIGHUP end it with 128 + their number, at once and without a traceback."""
    save_tiny(tmp_path / "imgs", 4000)
    process = subprocess.Popen(
        ["clipseg", "segment", "imgs", "-p", "red", "-o", "out", "-b", "1"],
        cwd=tmp_path, env=quick_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # the first mask is there
    started = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors and "run the same command again" in errors and time.monotonic() - started < 5
