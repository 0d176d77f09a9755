"""The report in a real browser: the slider moves masks, the review downloads, hostile names stay text."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pictures import SAMPLES, Shell, picture, save


def opened(page: Any, report: Path) -> Any:
    """The page with its first pictures drawn."""
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('.card canvas[data-drawn]').length > 0")
    return page


def pixels(page: Any, index: int) -> np.ndarray:
    """What a card's canvas shows: uint8 (H, W, 3)."""
    url = page.evaluate(f"document.querySelectorAll('.card canvas')[{index}].toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def settle(page: Any, before: np.ndarray, index: int) -> np.ndarray:
    """The canvas once it differs from `before`."""
    for _ in range(50):
        now = pixels(page, index)
        if now.shape != before.shape or (now != before).any():
            return now
        page.wait_for_timeout(50)
    raise AssertionError("the canvas did not change")


def test_the_slider_moves_the_mask(shell: Shell, page: Any, tmp_path: Path) -> None:
    """The tinted pixels are those above the slider's threshold in the soft map; the command line to copy says so."""
    shell(f"clipseg segment {SAMPLES}/images -p disc='a red circle' -f mask -f soft -o out; clipseg report out")
    opened(page, tmp_path / "out/report.html")
    assert page.locator(".card").count() == len(list((SAMPLES / "images").iterdir()))
    names = page.locator(".card .file").all_inner_texts()
    index = next(i for i, name in enumerate(names) if "balcony" in name)
    page.wait_for_function(f"document.querySelectorAll('.card canvas')[{index}].dataset.drawn")
    with_mask = pixels(page, index)
    page.keyboard.press("b")
    photo = settle(page, with_mask, index)
    page.keyboard.press("b")
    settle(page, photo, index)
    soft = Image.open(tmp_path / "out/soft/disc/balcony.png").resize(photo.shape[1::-1], Image.Resampling.BILINEAR)
    for threshold in (0.6, 0.1):
        before = pixels(page, index)
        page.locator("#t0").evaluate(f"e => {{ e.value = {threshold}; e.dispatchEvent(new Event('input')); }}")
        tinted = (settle(page, before, index) != photo).any(-1)
        expected = np.asarray(soft) > 255 * threshold
        assert (tinted & expected).sum() / (tinted | expected).sum() > 0.9
    assert "clipseg post 'out' -t 'disc=0.1'" in page.locator("#command").inner_text()


def test_a_review_by_keyboard_downloads_a_list(shell: Shell, page: Any, tmp_path: Path) -> None:
    """a, r and arrows judge; the accepted list is what --files-from takes; names with line ends go NUL-separated."""
    for name in ("a.png", "b.png", "new\nline.png"):
        save(tmp_path / "imgs" / name, picture())
    shell("clipseg segment imgs -p red -o out; clipseg report out -o page.html")
    opened(page, tmp_path / "page.html")
    page.keyboard.press("a")
    page.keyboard.press("r")
    with page.expect_download() as one:
        page.locator("#take-accepted").click()
    one.value.save_as(tmp_path / "accepted.txt")
    assert (tmp_path / "accepted.txt").read_text() == "imgs/a.png\n"
    shell("clipseg segment --files-from accepted.txt -p red -o again")
    page.locator(".card").nth(2).locator("button.yes").click()
    with page.expect_download() as two:
        page.locator("#take-accepted").click()
    assert two.value.suggested_filename == "accepted.nul"
    two.value.save_as(tmp_path / "accepted.nul")
    assert (tmp_path / "accepted.nul").read_bytes() == b"imgs/a.png\0imgs/new\nline.png\0"
    page.select_option("#show", "rejected")
    assert page.locator(".card .file").all_inner_texts() == ["imgs/b.png"]
    page.select_option("#show", "open")
    assert page.locator("#nothing").is_visible()


def test_hostile_names_and_prompts_stay_text(shell: Shell, page: Any, tmp_path: Path) -> None:
    """Markup in file names, labels, prompts and error messages adds no element and runs nothing."""
    hostile = ["<img src=x onerror=alert(1)>.png", "<!--.png", "\u2028'\"&amp;.png", "{{data}}.png", "b\udcff.png"]
    for name in hostile:
        save(tmp_path / "imgs" / "x.png", picture(64, 64)).rename(tmp_path / "imgs" / name)
    (tmp_path / "imgs/<svg onload=alert(2)>.png").write_bytes(b"rubbish")
    line = "clipseg segment imgs -p '<b>red</b>' -p 'x<script>alert(3)'='star' -f mask -f soft -o out"
    shell(line, expect=3)
    shell("clipseg report out")
    opened(page, tmp_path / "out/report.html")
    assert page.locator("main img, main svg, main b:text('red'), .card script, [onerror], [onload]").count() == 0
    assert page.locator("script").count() == 2 and page.locator(".card").count() == len(hostile)
    assert "<svg onload" in page.locator("#reasons").inner_text()
    assert page.locator(".label .name").first.inner_text() == "<b>red</b>"
    data = json.loads(
        page.locator("#data").inner_text() or page.evaluate("document.getElementById('data').textContent")
    )
    assert {image["name"] for image in data["images"]} > {"imgs/<!--.png", "imgs/{{data}}.png"}


def test_a_report_needs_a_run(shell: Shell, tmp_path: Path) -> None:
    """A folder without a run is a usage error; pictures that are gone are told, and the page still opens."""
    (tmp_path / "empty").mkdir()
    assert "holds no run" in shell("clipseg report empty", expect=2).stderr
    save(tmp_path / "imgs/a.png", picture())
    shell("clipseg segment imgs -p red -o out; rm -r imgs")
    assert "1 of 1 pictures are not where they were" in shell("clipseg report out").stderr
    save(tmp_path / "imgs/a.png", picture())
    shell("clipseg segment imgs -p red -f mask -o other --report")
    assert b"imgs/a.png" in (tmp_path / "other/report.html").read_bytes()


def test_many_images_are_paged(shell: Shell, page: Any, tmp_path: Path) -> None:
    """A page holds 48 cards at most; sorting by presence puts the surest first."""
    for index in range(60):
        save(tmp_path / f"imgs/{index:02}.png", picture(48, 48, index))
    shell("clipseg segment imgs -p 'a red circle' -f mask -o out -q; clipseg report out")
    opened(page, tmp_path / "out/report.html")
    assert page.locator(".card").count() == 48 and page.locator("#page").inner_text() == "1 of 2"
    page.locator("#after").click()
    assert page.locator(".card").count() == 12
    page.select_option("#sort", "presence")
    shown = [float(text.split()[-1]) for text in page.locator(".card .numbers").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
