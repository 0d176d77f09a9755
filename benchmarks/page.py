"""Times the live page in a browser: from the last key of a prompt to the new masks of 24 images.

`page.py MODEL FOLDER` prints the seconds that the decoder takes for one prompt on those images.
"""

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__:
    from benchmarks.process import OFFLINE, run

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
VISIBLE = 24  # images that the page shows at once
PROMPTS = ("a red circle", "a blue star", "a green square", "a yellow heart", "an orange arrow", "a purple ring")
KEY_INTERVAL = 90  # milliseconds between two keys: a fast typist
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ENCODED = f"document.querySelectorAll('.card:not(.waiting)').length === {VISIBLE}"
# The page is up to date once no request is pending and every image shows the masks of the latest one.
RECORD_KEYS = "addEventListener('input', () => { window.key = performance.now(); }, true)"
SHOWN = """new Promise(done => { const look = () => {
    const cards = [...document.querySelectorAll('.card canvas')];
    const fresh = !due && cards.every(each => each.dataset.generation == generation);
    if (fresh) done((performance.now() - window.key) / 1000); else requestAnimationFrame(look); }; look(); })"""


@dataclass(frozen=True, slots=True)
class Waits:
    """Waiting times in seconds."""

    prompts: tuple[float, ...]  # from the last key of each prompt to its masks
    decoder: float  # of VISIBLE decoder passes, which are part of each wait


def browser() -> str | None:
    """Returns the path of Chromium, or None if there is none on the path."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def measure(model: str, work: Path, prompts: Sequence[str], environment: dict[str, str]) -> Waits:
    """Types the prompts on a page of VISIBLE copies of the samples, after all are encoded. Needs `browser()`.

    work: folder for the copies.
    """
    from playwright.sync_api import sync_playwright

    folder = sample_images(work)
    decoder = float(run([str(Path(__file__)), model, str(folder)], environment).lines[-1])
    with served(model, folder, environment) as url, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser(), args=FLAGS)
        page = chromium.new_page(viewport={"width": 1600, "height": 1200})
        page.goto(url)
        page.evaluate(RECORD_KEYS)
        field = page.get_by_label("Prompt", exact=True)
        until(page, ENCODED)
        waits = [type_prompt(page, field, prompt) for prompt in prompts]
        chromium.close()
    return Waits(tuple(waits), decoder)


def until(page: Any, script: str) -> None:
    """Waits until a script returns true. The browser's own polling uses `eval`, which the page's policy forbids."""
    while not page.evaluate(script):
        page.wait_for_timeout(50)


def type_prompt(page: Any, field: Any, prompt: str) -> float:
    """Types a prompt; returns the seconds from its last key to its masks on all images."""
    field.fill("")
    page.evaluate(SHOWN)
    field.press_sequentially(prompt, delay=KEY_INTERVAL)
    return float(page.evaluate(SHOWN))


@contextmanager
def served(model: str, folder: Path, environment: dict[str, str]) -> "Iterator[str]":
    """Starts `clipseg ui` and yields its URL; stops it afterwards."""
    command = [sys.executable, "-m", "clipseg_cli", "ui", str(folder), "--model", model, "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **OFFLINE, **environment})
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def sample_images(work: Path) -> Path:
    """Returns a folder with VISIBLE copies of the samples."""
    folder = work / f"samples-{VISIBLE}"
    if not folder.exists():
        temporary = work / f"{folder.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        samples = itertools.cycle(sorted((ROOT / "samples" / "images").iterdir()))
        for index, sample in zip(range(VISIBLE), samples, strict=False):
            shutil.copyfile(sample, temporary / f"{index:02}-{sample.name}")
        temporary.rename(folder)
    return folder


def decoder_seconds(model: str, folder: Path) -> float:
    """Returns the seconds that the decoder takes for one prompt on all images of a folder, the median of five."""
    import cv2

    from clipseg_cli import Segmenter

    segmenter = Segmenter.load(model)
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted(folder.iterdir())]
    features, embeddings = [segmenter.encode([image]) for image in images], segmenter.embed(PROMPTS[:1])
    spent = []
    for _ in range(6):  # the first warms up
        begun = time.perf_counter()
        for each in features:
            segmenter.logits(each, embeddings)
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent[1:])


if __name__ == "__main__":
    print(decoder_seconds(sys.argv[1], Path(sys.argv[2])))
