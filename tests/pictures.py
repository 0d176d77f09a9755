"""Pictures to segment, and ways to read what came out."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"

SCHEMA: dict[str, Any] = {  # the keys of a record in a manifest
    "v": 2, "image": "", "image_b64": "", "status": "ok", "width": 0, "height": 0, "orientation": 1, "format": "",
    "frames": 1, "frame": 0, "time": 0.0, "masks": [], "files": {}, "notes": "",
    "error": {"class": "", "stage": "", "message": ""},
}  # fmt: skip

Shell = Callable[..., subprocess.CompletedProcess[str]]
Program = Callable[..., subprocess.CompletedProcess[str]]


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


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a manifest."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    either = np.count_nonzero((a > 0) | (b > 0))
    return np.count_nonzero((a > 0) & (b > 0)) / either if either else 1.0


def until(page: Any, script: str, argument: Any = None) -> None:
    """Waits for a script to be true. Not by the browser's own polling, which the page's policy refuses as `eval`."""
    end = time.monotonic() + 120
    while not page.evaluate(script, argument):
        assert time.monotonic() < end, f"{script} {argument}: {page.locator('body').inner_text()}"
        page.wait_for_timeout(50)


def save_tiny(folder: Path, count: int, corrupt: int = 0) -> None:
    """Writes `count` tiny images. Every `corrupt`-th file is cut short."""
    sixteen = [cv2.imencode(".png", cv2.cvtColor(picture(48, 40, seed), cv2.COLOR_RGB2BGR))[1] for seed in range(16)]
    for number in range(min(count, 7)):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        data = sixteen[index % 16].tobytes()
        cut = corrupt and index % corrupt == corrupt - 1
        (folder / f"{index % 7}/{index:05}.png").write_bytes(data[:100] if cut else data)
