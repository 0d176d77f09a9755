"""The report: its data, and in a real browser the sliders, the review list and hostile names."""

import base64
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hostile
from clipseg_cli.outputs import colours
from clipseg_cli.outputs.record import readable_name
from clipseg_cli.pages import report
from pictures import SAMPLES, Program, iou, picture, save, until
from reports import data_of, forged, opened


def pixels(page: Any, index: int) -> np.ndarray:
    """What a card's canvas shows: int (H, W, 3)."""
    url = page.evaluate(f"document.querySelectorAll('.card canvas')[{index}].toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


def after(page: Any, index: int, act: Callable[[], Any]) -> np.ndarray:
    """The canvas as it is drawn after `act`."""
    canvas = f"document.querySelectorAll('.card canvas')[{index}]"
    before = page.evaluate(f"{canvas}.token")
    act()
    until(page, f"{canvas}.dataset.drawn == {canvas}.token && {canvas}.token > {before}")
    return pixels(page, index)


@pytest.mark.slow
def test_the_slider_moves_the_mask(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """The tinted pixels are those above the slider's threshold in the soft map; the command line to copy says so."""
    clipseg(f"clipseg segment {SAMPLES}/images -p disc='a red circle' -f mask -f soft -o out --report")
    opened(page, tmp_path / "out/report.html")
    assert page.locator(".card").count() == len(list((SAMPLES / "images").iterdir()))
    names = page.locator(".card .file").all_inner_texts()
    index = next(i for i, name in enumerate(names) if "balcony" in name)
    with_mask = pixels(page, index)
    photo = after(page, index, lambda: page.keyboard.press("b"))
    assert (after(page, index, lambda: page.keyboard.press("b")) == with_mask).all() and (photo != with_mask).any()
    soft = Image.open(tmp_path / "out/soft/disc/balcony.png").resize(photo.shape[1::-1], Image.Resampling.BILINEAR)
    for threshold in (0.6, 0.1):
        tinted = (after(page, index, lambda value=str(threshold): page.locator("#t0").fill(value)) != photo).any(-1)
        expected = np.asarray(soft) > 255 * threshold
        assert (tinted & expected).sum() / (tinted | expected).sum() > 0.9
    assert "clipseg post 'out' -t 'disc=0.1'" in page.locator("#command").inner_text()


@pytest.mark.slow
def test_the_masks_are_the_runs_until_a_threshold_is_moved(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """With each image's own threshold and the clean-up; the command to copy repeats that clean-up, and it runs."""
    for index, side in enumerate((64, 96, 128)):
        save(tmp_path / f"imgs/{index}.png", picture(side, 64, index))
    clipseg("clipseg segment imgs -p red -t otsu --invert --min-area 1.5% -f mask,soft16 -o out --report")
    opened(page, tmp_path / "out/report.html")
    drawn = [pixels(page, index) for index in range(3)]
    for index, with_mask in enumerate(drawn):
        mask = np.asarray(Image.open(tmp_path / f"out/masks/red/{index}.png")) > 0
        photo = np.asarray(Image.open(tmp_path / f"imgs/{index}.png")).astype(int)
        assert (((np.abs(with_mask - photo) > 24).any(-1) != mask).mean()) < 0.1
    assert page.locator(".label output").inner_text() == "auto" and page.locator("#apply").is_hidden()
    assert (after(page, 0, lambda: page.locator("#t0").fill("0.99")) != drawn[0]).any()
    command = page.locator("#command").inner_text()
    assert command == "clipseg post 'out' -t 'red=0.99' --min-area 1.5% --invert"
    clipseg(command)


@pytest.mark.slow
def test_a_review_by_keyboard_downloads_a_list(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """a, r and arrow keys review; --files-from reads the accepted list; names with line ends are separated by NUL."""
    for name in ("a.png", "b.png", "new\nline.png"):
        save(tmp_path / "imgs" / name, picture())
    clipseg("clipseg segment imgs -p red -o out")
    clipseg("clipseg report out -o page.html")
    opened(page, tmp_path / "page.html")
    page.keyboard.press("a")
    page.keyboard.press("r")
    with page.expect_download() as one:
        page.locator("#download-accepted").click()
    one.value.save_as(tmp_path / "accepted.txt")
    assert (tmp_path / "accepted.txt").read_text() == "imgs/a.png\n"
    clipseg("clipseg segment --files-from accepted.txt -p red -o again")
    page.locator(".card").nth(2).locator("button.yes").click()
    with page.expect_download() as two:
        page.locator("#download-accepted").click()
    assert two.value.suggested_filename == "accepted.nul"
    two.value.save_as(tmp_path / "accepted.nul")
    assert (tmp_path / "accepted.nul").read_bytes() == b"imgs/a.png\0imgs/new\nline.png\0"
    page.locator(".card .image").nth(2).focus()
    page.keyboard.press("u")
    assert page.locator(".card.accepted").count() == 1, "keys act on the image that has the focus"
    page.keyboard.press("a")
    page.select_option("#show", "rejected")
    assert page.locator(".card .file").all_inner_texts() == ["imgs/b.png"]
    page.select_option("#show", "open")
    assert page.locator("#nothing").is_visible()


@pytest.mark.slow
def test_hostile_names_and_prompts_stay_text(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """Markup in file names, labels, prompts and error messages adds no element and runs nothing."""
    names = ["<img src=x onerror=alert(1)>.png", "<!--.png", "\u2028'\"&amp;.png", "{{data}}.png", "b\udcff.png"]
    for name in names:
        save(tmp_path / "imgs" / "x.png", picture(64, 64)).rename(tmp_path / "imgs" / name)
    (tmp_path / "imgs/<svg onload=alert(2)>.png").write_bytes(b"rubbish")
    line = "clipseg segment imgs -p '<b>red</b>' -p 'x<script>alert(3)'='star' -f mask -f soft -o out"
    clipseg(line, expect=3)
    clipseg("clipseg report out")
    opened(page, tmp_path / "out/report.html")
    assert page.locator("main img, main svg, main b:text('red'), .card script, [onerror], [onload]").count() == 0
    assert page.locator("script").count() == 2 and page.locator(".card").count() == len(names)
    assert "<svg onload" in page.locator("#reasons").inner_text()
    assert page.locator(".label .name").first.inner_text() == "<b>red</b>"
    data = json.loads(page.evaluate("document.getElementById('data').textContent"))
    assert {image["name"] for image in data["images"]} > {"imgs/<!--.png", "imgs/{{data}}.png"}


@pytest.mark.slow
def test_500_hostile_names_labels_and_reasons_add_no_element(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """Runs with 500 such names and with 500 such labels have as many elements as runs with plain ones, and the text is
    unchanged. A fifth of the images failed, with reasons just as hostile."""
    plain = [f"plain {number}" for number in range(500)]
    counts = []
    for place, names in (
        ("plain", plain),
        ("hostile", [readable_name(os.fsdecode(name)) for name in hostile.names(500)]),
    ):
        rows = [forged(name, ["disc"]) for name in names]
        for row in rows[::5]:
            row |= {"status": "failed", "error": {"class": "corrupt", "stage": "load", "message": row["image"]}}
        counts.append(census(clipseg, page, tmp_path / place, rows))
    assert page.locator("#reasons tr").evaluate_all("rows => rows.map(row => row.cells[2].textContent)") == names[::5]
    assert counts[0] == counts[1]
    for place, labels in (("plain labels", plain), ("hostile labels", hostile.prompts(500))):
        counts.append(census(clipseg, page, tmp_path / place, [forged("a.png", labels)]))
    assert page.locator(".label .name").evaluate_all("names => names.map(name => name.textContent)") == labels
    assert counts[2] == counts[3]


def census(clipseg: Program, page: Any, run: Path, rows: list[dict[str, Any]]) -> list[int]:
    """Counts the elements on each page of the report of these records; none is dangerous, and no script ran."""
    run.mkdir()
    (run / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clipseg(f"clipseg report '{run}'")
    opened(page, run / "report.html")
    counts = [page.evaluate("document.querySelectorAll('*').length")]
    while page.locator("#after").is_enabled():
        page.locator("#after").click()
        counts.append(page.evaluate("document.querySelectorAll('*').length"))
    tags = "img, a, style, iframe, object, embed, form, base, meta, link, video, audio, math, template"
    for part in ("header", "main", "dialog"):
        assert page.locator(part).locator(tags).count() == 0
    assert page.locator("script").count() == 2 and page.evaluate("window.pwned") is None
    return counts


def test_a_report_needs_a_run(clipseg: Program, tmp_path: Path) -> None:
    """A folder without a run is a usage error; missing images are reported, and the report is still written."""
    (tmp_path / "empty").mkdir()
    assert "holds no run" in clipseg("clipseg report empty", expect=2).stderr
    save(tmp_path / "imgs/a.png", picture())
    clipseg("clipseg segment imgs -p red -o out")
    shutil.rmtree(tmp_path / "imgs")
    assert "1 of 1 images have moved or changed" in clipseg("clipseg report out").stderr
    assert (tmp_path / "out/report.html").is_file()
    save(tmp_path / "imgs/a.png", picture())
    clipseg("clipseg segment imgs -p red -f mask -o other --report")
    assert b"imgs/a.png" in (tmp_path / "other/report.html").read_bytes()


def test_the_data_are_those_of_the_run(clipseg: Program, tmp_path: Path) -> None:
    """Soft maps, run masks, thresholds, presence scores, failures and the options of `clipseg post` are in the page."""
    for name in ("a.png", "b.png"):
        save(tmp_path / "imgs" / name, picture(64, 48))
    (tmp_path / "imgs/c.png").write_bytes(b"rubbish")
    clipseg("clipseg segment imgs -p disc='a red circle' -t 0.4 --fill-holes all -f mask,soft -o out", expect=3)
    data = data_of(report.write(tmp_path / "out", pytest.fail))
    (run,) = data["runs"]
    assert run["soft"] and run["options"] == ["--fill-holes", "all"] and run["model"] == "shapes"
    assert (run["done"], run["failed"]) == (2, 1)
    (label,) = data["labels"]
    assert (label["name"], label["threshold"], label["varies"]) == ("disc", 0.4, False)
    assert sum(label["histogram"]) == 2
    assert [image["name"] for image in data["images"]] == ["imgs/a.png", "imgs/b.png"]
    assert [image["id"] for image in data["images"]] == [0, 1]
    assert [failure["name"] for failure in data["failures"]] == ["imgs/c.png"]
    rows = [json.loads(line) for line in (tmp_path / "out/manifest.jsonl").read_text().splitlines()]
    for image, row in zip(data["images"], rows, strict=False):
        assert image["sides"][0]["presences"] == [row["masks"][0]["presence"]]
        assert image["sides"][0]["areas"] == [row["masks"][0]["area_frac"]]
        for kind, path in (("maps", row["masks"][0]["soft"]), ("masks", row["masks"][0]["path"])):
            encoded = base64.b64decode(image["pixels"]["sides"][0][kind][0].split(",")[1])
            assert (
                np.asarray(Image.open(io.BytesIO(encoded))) == np.asarray(Image.open(tmp_path / "out" / path))
            ).all()


def test_damaged_soft_maps_are_left_out(clipseg: Program, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The page shows the image without them, and no library prints why."""
    save(tmp_path / "imgs/a.png", picture(64, 48))
    clipseg("clipseg segment imgs -p red -f mask,soft -o out")
    row = json.loads((tmp_path / "out/manifest.jsonl").read_text())["masks"][0]
    for damage in (lambda data: data[: len(data) // 2], lambda data: data[:60] + b"\xff" * 20 + data[80:], bytes.lower):
        file = tmp_path / "out" / row["soft"]
        file.write_bytes(damage(file.read_bytes()))
        (image,) = data_of(report.write(tmp_path / "out", pytest.fail))["images"]
        assert image["pixels"]["sides"][0]["maps"] == [None]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("formats", ["mask", "soft", "mask,soft"])
def test_an_image_has_the_colours_of_its_overlay(clipseg: Program, tmp_path: Path, formats: str) -> None:
    """Whether the run stored masks or soft maps. The labels themselves have no colours."""
    (tmp_path / "imgs").mkdir()
    shutil.copy(SAMPLES / "images/balcony.jpg", tmp_path / "imgs")
    clipseg(f"clipseg segment imgs -p one='a red circle' -p two='a blue star' -f {formats} -o out")
    clipseg("clipseg segment imgs -p one='a red circle' -p two='a blue star' -f mask -o other")
    masks = [np.asarray(Image.open(tmp_path / f"other/masks/{label}/balcony.png")) for label in ("one", "two")]
    photo = np.asarray(Image.open(tmp_path / "imgs/balcony.jpg"))
    expected = colours.contrasting(photo, [np.where(mask, 255, 0).astype(np.uint8) for mask in masks])
    data = data_of(report.write(tmp_path / "out", pytest.fail))
    assert data["images"][0]["colours"] == [[*colour] for colour in expected]
    assert not any("colour" in label for label in data["labels"])
    assert np.linalg.norm(np.subtract(expected[0], (220, 40, 45))) > 100, "red on red is not red"


def test_hostile_text_cannot_leave_the_data(tmp_path: Path) -> None:
    """Whatever names and labels contain, the page has its two script elements, and the data are read back unchanged."""
    names = [readable_name(os.fsdecode(name)) for name in hostile.names(100)]
    rows = [forged(name, hostile.prompts(3)) for name in names]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = report.write(tmp_path, lambda line: None)
    page = Path(str(path)).read_bytes()
    assert page.count(b"<script") == 2 and page.count(b"</script>") == 2
    assert [image["name"] for image in data_of(path)["images"]] == names


@pytest.mark.slow
def test_many_images_are_paged(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """A page holds at most 48 cards; sorting by presence puts the highest score first."""
    for index in range(60):
        save(tmp_path / f"imgs/{index:02}.png", picture(48, 48, index))
    clipseg("clipseg segment imgs -p 'a red circle' -f mask -o out -q --report")
    opened(page, tmp_path / "out/report.html")
    assert page.locator(".card").count() == 48 and page.locator("#page").inner_text() == "1 of 2"
    page.locator("#after").click()
    assert page.locator(".card").count() == 12
    page.select_option("#sort", "presence")
    scores = [float(text.split()[-1]) for text in page.locator(".card .scores").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_images_are_sorted_and_filtered_by_label(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """By presence score and by area of any label or of one; by whether the label was found."""
    rows = [forged(name, ["cat", "dog"]) for name in ("a.png", "b.png", "c.png", "d.png")]
    numbers = {"a.png": (0.2, 0.0, 0.9, 0.25), "b.png": (0.9, 0.5, 0.1, 0.0), "c.png": (0.5, 0.1, 0.95, 0.2)}
    for row in rows:
        cat, cat_area, dog, dog_area = numbers.get(row["image"], (0.05, 0.0, 0.02, 0.0))
        row["masks"][0] |= {"presence": cat, "area_frac": cat_area}
        row["masks"][1] |= {"presence": dog, "area_frac": dog_area}
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clipseg("clipseg report .")
    opened(page, tmp_path / "report.html")

    def shown(which: str, sort: str, found: str) -> str:
        for name, value in (("#which", which), ("#sort", sort), ("#found", found)):
            page.select_option(name, value)
        return "".join(name[0] for name in page.locator(".card .file").all_inner_texts())

    assert shown("", "presence", "all") == "cabd" and shown("", "area", "all") == "bcad"
    assert shown("0", "presence", "all") == "bcad" and shown("1", "area", "all") == "acbd"
    assert shown("0", "absent", "all") == "dacb" and shown("1", "small", "yes") == "ca"
    assert shown("0", "order", "yes") == "bc" and shown("0", "order", "no") == "ad" and shown("", "order", "no") == "d"


@pytest.mark.slow
def test_an_enlarged_image_zooms_to_its_full_resolution(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """At 1:1 the screen shows the image file's own pixels and the run's own mask, and dragging moves them."""
    image = np.repeat(np.where(np.arange(2400) % 2, 40, 220).astype(np.uint8)[None, :, None], 1800, 0).repeat(3, 2)
    image[:, 1200:] = 128  # one half is stripes of one pixel, which no thumbnail shows
    image[600:1200, 900:1500] = picture(600, 600)
    save(tmp_path / "imgs/a b.png", image)
    clipseg("clipseg segment imgs -p 'a red circle' -f mask,soft -o out --report")
    opened(page, tmp_path / "out/report.html").locator(".card .image").click()
    until(page, "document.querySelector('#large canvas').dataset.drawn?.startsWith('2400 0.000')")
    page.get_by_label("One image pixel").click()
    left, top, width, height = at_one_to_one(page)
    mask = np.asarray(Image.open(tmp_path / "out/masks/a-red-circle/a b.png"))[top : top + height, left : left + width]
    masked = screenshot(page)
    page.keyboard.press("b")
    page.wait_for_timeout(500)
    photo = screenshot(page)
    assert np.abs(photo - image[top : top + height, left : left + width]).mean() < 3
    tinted = (np.abs(masked - photo) > 4).any(-1)
    assert 0 < np.count_nonzero(mask) < mask.size and iou(tinted, mask) > 0.97
    box = page.locator("#large canvas").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 200, steps=3)
    page.mouse.up()
    until(page, "left => Math.abs(zoom.region[0] * 2400 - left) < 1", left - 100)
    page.keyboard.press("0")
    until(page, "zoom.region[2] === 1")
    assert page.locator("#limits").inner_text() == ""


def at_one_to_one(page: Any) -> list[int]:
    """Waits until the enlarged image is drawn at 1:1; returns the visible left, top, width, height."""
    until(page, "document.querySelector('.percent').textContent === '100 %'")
    page.wait_for_timeout(500)
    c = "document.querySelector('#large canvas')"
    w, h = page.evaluate(f"[{c}.width, {c}.height]")
    x, y = page.evaluate("[zoom.region[0] * zoom.size[0], zoom.region[1] * zoom.size[1]]")
    return [round(x), round(y), w, h]


def screenshot(page: Any) -> np.ndarray:
    """What the screen shows of the enlarged image: int (H, W, 3)."""
    box = page.locator("#large canvas").bounding_box()
    left, top, width, height = (round(box[key]) for key in ("x", "y", "width", "height"))
    whole = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    return whole[top : top + height, left : left + width]


BOXES = """all => all.map(each => {
    const box = each.getBoundingClientRect();
    return [box.left, box.right, each.scrollWidth - each.clientWidth]; })"""


@pytest.mark.slow
def test_nothing_is_cut_off_on_a_narrow_screen(clipseg: Program, page: Any, tmp_path: Path) -> None:
    """At 360 pixels nothing scrolls sideways, and each label's threshold is visible, also with a long name."""
    save(tmp_path / "imgs/a.png", picture())
    (tmp_path / "imgs/b-with-a-long-name-and-no-blank-at-all-in-it.png").write_bytes(b"rubbish")
    long = "a label with a rather long name and more words"
    clipseg(f"clipseg segment imgs -p disc=red -p '{long}=green' -f mask,soft -o out --report", expect=3)
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, tmp_path / "out/report.html")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    for part in ("#labels", ".label", ".label output", ".card", "#failures"):
        boxes = page.locator(part).evaluate_all(BOXES)
        assert boxes and all(left >= 0 and right <= 360 and over <= 0 for left, right, over in boxes), part
    page.locator(".card .image").first.click()
    until(page, "document.querySelector('#large canvas').dataset.drawn")
    assert page.evaluate("(d => d.scrollWidth - d.clientWidth)(document.getElementById('large'))") <= 0
    assert page.evaluate(wide) <= 0
