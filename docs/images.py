"""`python docs/images.py` makes the README's images again: runs the program on the samples with the bundled model.

Needs Chromium on the path. Run it after a change of the bundled weights or of the pages.
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
QUALITY = 85  # of JPEG: about 100 kB per image
OVERLAY_PROMPTS = ("a red circle", "everything green", "a blue star")
REPORT_PROMPTS = ("yellow=everything yellow", "blue=everything blue", "green=everything green")
PAGE_PROMPTS = ("everything yellow", "everything blue")
DRAWN = "[...document.querySelectorAll('.card canvas')].every(each => each.token && each.dataset.drawn == each.token)"


def clipseg(folder: Path, *words: str) -> None:
    """Runs one command of the program in `folder`, with the bundled model."""
    environment = os.environ | {"CLIPSEG_MODEL": "shapes", "PYTHONPATH": str(DOCS.parent)}
    subprocess.run([sys.executable, "-m", "clipseg_cli", *words], cwd=folder, env=environment, check=True)


def prompt_options(texts: tuple[str, ...]) -> list[str]:
    """Returns `-p TEXT` for each text."""
    return [word for text in texts for word in ("-p", text)]


def overlay(folder: Path) -> None:
    """Writes overlay.jpg: one sample with three prompts."""
    options = ["-f", "overlay", "-o", str(DOCS / "overlay.jpg"), "-q", "--print", "none"]
    clipseg(folder, "segment", "photos/balcony.jpg", *prompt_options(OVERLAY_PROMPTS), *options)


def report(chromium: Any, folder: Path) -> None:
    """Writes report.jpg: a run with soft maps, three images reviewed, one threshold moved."""
    options = ["-f", "mask", "-f", "soft", "-o", "out", "--report", "-q", "--print", "none"]
    clipseg(folder, "segment", "photos", *prompt_options(REPORT_PROMPTS), *options)
    page = chromium.new_page(viewport={"width": 1200, "height": 640})
    page.goto((folder / "out" / "report.html").as_uri())
    until(page, DRAWN)
    for key in ("a", "a", "r"):
        page.keyboard.press(key)
    page.locator("#t0").fill("0.4")
    until(page, DRAWN)
    page.screenshot(path=DOCS / "report.jpg", type="jpeg", quality=QUALITY)
    page.close()


def live_page(chromium: Any, folder: Path) -> None:
    """Writes page.jpg: the live page with two prompts."""
    os.chdir(folder)
    with served("shapes", Path("photos"), {"PYTHONPATH": str(DOCS.parent)}) as url:
        page = chromium.new_page(viewport={"width": 1200, "height": 640})
        page.goto(url)
        until(page, "document.querySelectorAll('.card:not(.waiting)').length === 8")
        page.get_by_label("Prompt", exact=True).fill(PAGE_PROMPTS[0])
        page.locator("#more").click()
        page.get_by_label("Prompt 2").fill(PAGE_PROMPTS[1])
        page.evaluate(SHOWN)
        page.screenshot(path=DOCS / "page.jpg", type="jpeg", quality=QUALITY)
        page.close()


def main() -> None:
    """Makes all three images."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as play:
        folder = Path(temporary)
        shutil.copytree(SAMPLES, folder / "photos")
        overlay(folder)
        chromium = play.chromium.launch(executable_path=browser(), args=FLAGS)
        report(chromium, folder)
        live_page(chromium, folder)
        chromium.close()


if __name__ == "__main__":
    main()
