"""What every test may use: the program as a shell finds it, and pictures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pictures import Shell


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `clipseg` is this checkout's (or wheel's) and no configuration of the user counts."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CLIPSEG_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    return kept | home | {"PATH": path, "CLIPSEG_MODEL": "shapes"}


@pytest.fixture
def shell(tmp_path: Path, environment: dict[str, str]) -> Shell:
    """Runs a real shell line in an empty folder, with `clipseg` on the path and `shapes` as the model."""

    def run(line: str, expect: int | None = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", "set -o pipefail; " + line],
            cwd=tmp_path,
            env=environment | extra,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=300,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
