"""`python docs/pictures.py`: the README's pictures anew, by the program itself on the samples with the bundled model.

Needs a Chromium on the path. Run it once the bundled weights or the look of the pages have changed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.page import FLAGS, SHOWN, browser, served, until

DOCS = Path(__file__).parent
SAMPLES = DOCS.parent / "samples" / "images"
QUALITY = 85  # of JPEG: some 100 kB each
ASKED = ("a red circle", "everything green", "a blue star")
DRAWN = "[...document.querySelectorAll('.card canvas')].every(each => each.token && each.dataset.drawn == each.token)"
REPORTED = ("yellow=everything yellow", "blue=everything blue", "green=everything green")


def clipseg(place: Path, *words: str) -> None:
    """One command of the program, with the bundled model."""
    environment = os.environ | {"CLIPSEG_MODEL": "shapes", "PYTHONPATH": str(DOCS.parent)}
    subprocess.run([sys.executable, "-m", "clipseg_cli", *words], cwd=place, env=environment, check=True)


def prompts(texts: tuple[str, ...]) -> list[str]:
    """-p for each."""
    return [word for text in texts for word in ("-p", text)]


def report(chromium: Any, place: Path) -> None:
    """The report of a run with soft maps, two pictures reviewed, a threshold moved."""
    clipseg(
        place,
        "segment",
        "photos",
        *prompts(REPORTED),
        "-f",
        "mask",
        "-f",
        "soft",
        "-o",
        "out",
        "--report",
        "-q",
        "--print",
        "none",
    )
    page = chromium.new_page(viewport={"width": 1200, "height": 640})
    page.goto((place / "out" / "report.html").as_uri())
    until(page, DRAWN)
    for key in ("a", "a", "r"):
        page.keyboard.press(key)
    page.locator("#t0").fill("0.4")
    until(page, DRAWN)
    page.screenshot(path=DOCS / "report.jpg", type="jpeg", quality=QUALITY)


def page(chromium: Any, place: Path) -> None:
    """The live page with two phrases."""
    os.chdir(place)
    with served("shapes", Path("photos"), {"PYTHONPATH": str(DOCS.parent)}) as url:
        page = chromium.new_page(viewport={"width": 1200, "height": 640})
        page.goto(url)
        until(page, "document.querySelectorAll('.card:not(.waiting)').length === 8")
        page.get_by_label("Phrase", exact=True).fill("everything yellow")
        page.locator("#more").click()
        page.get_by_label("Phrase 2").fill("everything blue")
        page.evaluate(SHOWN)
        page.screenshot(path=DOCS / "page.jpg", type="jpeg", quality=QUALITY)
        page.close()


def main() -> None:
    """Makes all three."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        place = Path(folder)
        shutil.copytree(SAMPLES, place / "photos")
        overlay = ["-f", "overlay", "-o", str(DOCS / "overlay.jpg")]
        clipseg(place, "segment", "photos/balcony.jpg", *prompts(ASKED), *overlay, "-q", "--print", "none")
        chromium = play.chromium.launch(executable_path=browser(), args=FLAGS)
        report(chromium, place)
        page(chromium, place)
        chromium.close()


if __name__ == "__main__":
    main()
