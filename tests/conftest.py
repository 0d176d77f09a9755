"""What every test may use: the program as a shell finds it, and pictures."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"

Shell = Callable[..., subprocess.CompletedProcess[str]]


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


def picture(width: int = 160, height: int = 120, seed: int = 0) -> np.ndarray:
    """A uint8 (H, W, 3) picture with a red disc on a mottled ground; the disc's centre is the picture's."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(150, 220, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = cv2.resize(ground, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.circle(image, (width // 2, height // 2), min(width, height) // 4, (214, 40, 40), -1, cv2.LINE_AA)


def save(path: Path, image: np.ndarray) -> Path:
    """Writes an RGB picture, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path
