"""The live page in a browser: from the last key of a phrase to the new masks of its 24 pictures.

`page.py MODEL FOLDER` alone prints the seconds that the decoder takes for those pictures, one phrase each.
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
VISIBLE = 24  # pictures on a page of the page
PHRASES = ("a red circle", "a blue star", "a green square", "a yellow heart", "an orange arrow", "a purple ring")
PACE = 90  # milliseconds between two keys: a quick typist
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
READ = f"document.querySelectorAll('.card:not(.waiting)').length === {VISIBLE}"
# The time of the last key is that of its event; all is new once no question waits and every picture shows the latest.
KEYS = "addEventListener('input', () => { window.key = performance.now(); }, true)"
SHOWN = """new Promise(done => { const look = () => {
    const fresh = canvas => canvas.dataset.generation == generation;
    const ready = !due && [...document.querySelectorAll('.card canvas')].every(fresh);
    if (ready) done((performance.now() - window.key) / 1000); else requestAnimationFrame(look); }; look(); })"""


@dataclass(frozen=True, slots=True)
class Waits:
    """What a person waits for, in seconds."""

    phrases: tuple[float, ...]  # from the last key of each phrase to its masks
    passes: float  # what the decoder takes of it: VISIBLE passes


def browser() -> str | None:
    """The Chromium on the path."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def measure(model: str, place: Path, phrases: Sequence[str], environment: dict[str, str]) -> Waits:
    """Types the phrases on the page of VISIBLE copies of the samples, once these are encoded. Needs `browser()`."""
    from playwright.sync_api import sync_playwright

    folder = pictures(place)
    passes = float(run([str(Path(__file__)), model, str(folder)], environment).lines[-1])
    with served(model, folder, environment) as url, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser(), args=FLAGS)
        page = chromium.new_page(viewport={"width": 1600, "height": 1200})
        page.goto(url)
        page.evaluate(KEYS)
        field = page.get_by_label("Prompt", exact=True)
        until(page, READ)
        found = [typed(page, field, phrase) for phrase in phrases]
        chromium.close()
    return Waits(tuple(found), passes)


def until(page: Any, script: str) -> None:
    """Waits for a script to be true. Not by the browser's own polling, which the page's policy refuses as `eval`."""
    while not page.evaluate(script):
        page.wait_for_timeout(50)


def typed(page: Any, field: Any, phrase: str) -> float:
    """Seconds from the last key of a phrase to its masks on all pictures."""
    field.fill("")
    page.evaluate(SHOWN)
    field.press_sequentially(phrase, delay=PACE)
    return float(page.evaluate(SHOWN))


@contextmanager
def served(model: str, folder: Path, environment: dict[str, str]) -> "Iterator[str]":
    """The URL of `clipseg ui`."""
    command = [sys.executable, "-m", "clipseg_cli", "ui", str(folder), "--model", model, "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **OFFLINE, **environment})
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def pictures(place: Path) -> Path:
    """A folder with VISIBLE copies of the samples."""
    folder = place / f"samples-{VISIBLE}"
    if not folder.exists():
        begun = place / f"{folder.name}.begun"
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        samples = itertools.cycle(sorted((ROOT / "samples" / "images").iterdir()))
        for index, sample in zip(range(VISIBLE), samples, strict=False):
            shutil.copyfile(sample, begun / f"{index:02}-{sample.name}")
        begun.rename(folder)
    return folder


def main(model: str, folder: Path) -> None:
    """Prints the seconds of VISIBLE passes of the decoder, the median of five."""
    import cv2

    from clipseg_cli import Segmenter

    segmenter = Segmenter.load(model)
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted(folder.iterdir())]
    features, embeddings = [segmenter.encode([image]) for image in images], segmenter.embed(PHRASES[:1])
    spent = []
    for _ in range(6):  # the first warms up
        begun = time.perf_counter()
        for each in features:
            segmenter.logits(each, embeddings)
        spent.append(time.perf_counter() - begun)
    print(statistics.median(spent[1:]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
