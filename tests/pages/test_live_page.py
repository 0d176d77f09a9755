"""The live page in a real browser."""

import base64
import contextlib
import io
import itertools
import os
import re
import shlex
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import hostile
from clipseg_cli.outputs.record import readable_name
from clipseg_cli.pages.session import Session
from clipseg_cli.prompts import text
from clipseg_cli.run.refiner import Encoded
from live import Process, Server, Start
from pictures import SAMPLES, Shell, iou, picture, records, save, until

pytest.importorskip("uvicorn", reason="pip install 'clipseg-cli[ui]'")

# the newest request is answered and the image shows its masks
PAINTED = "id => document.querySelector(`[data-id='${id}'] canvas`)?.dataset.generation == generation && !due"
ENLARGED = "document.querySelector('#large canvas').dataset.generation > 0"
SAYS = "([id, text]) => document.querySelector(`[data-id='${id}'] .scores`)?.textContent.includes(text)"
REFINED = {"none": "circle'", "sam": "--refine sam"}  # what the command says
CENSUS = "document.querySelectorAll('*').length"
HARMED = """[...document.querySelectorAll('main, aside, dialog')].flatMap(part => [part, ...part.querySelectorAll('*')])
    .filter(e => /^(IMG|SVG|A|SCRIPT|STYLE|IFRAME|OBJECT|EMBED|FORM|BASE|META|LINK|VIDEO|AUDIO|MATH|TEMPLATE)$/i
    .test(e.tagName) || [...e.attributes].some(a => /^on/i.test(a.name) || a.name === 'href')).length"""
DOT = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def canvas(page: Any, index: int) -> np.ndarray:
    """What a card shows: uint8 (H, W, 3)."""
    url = page.evaluate(f"document.querySelector('[data-id=\"{index}\"] canvas').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def contains(page: Any, element: str, words: str) -> None:
    """Waits until the element with this id contains the words."""
    until(page, "([id, words]) => document.getElementById(id).textContent.includes(words)", [element, words])


def enlarged(server: Server, page: Any) -> tuple[list[str], int]:
    """Opens the page, waits for its masks and enlarges the balcony; returns the images' names and its index."""
    page.goto(server.url)
    names = server.names()
    index = next(i for i, name in enumerate(names) if name.endswith("balcony.jpg"))
    until(page, f"document.querySelectorAll('.card:not(.waiting)').length >= {len(names) - 1}")
    page.locator(f"[data-id='{index}'] button").click()
    until(page, ENLARGED)
    return names, index


def test_a_typed_prompt_gives_masks(small: Server, page: Any) -> None:
    """A typed prompt tints the right pixels and shows the presence score, and the page offers the command."""
    page.goto(small.url)
    index = next(i for i, name in enumerate(small.names()) if name.endswith("balcony.jpg"))
    until(page, PAINTED, index)
    photo = canvas(page, index)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    until(page, SAYS, [index, "a red circle"])
    until(page, PAINTED, index)
    tinted = (canvas(page, index) != photo).any(-1)
    expected = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    assert iou(tinted, cv2.resize(expected, tinted.shape[::-1], interpolation=cv2.INTER_AREA) > 127) > 0.7
    contains(page, "command", "-p 'a red circle'")
    chip = page.locator(f"[data-id='{index}'] .chip").evaluate("chip => getComputedStyle(chip).backgroundColor")
    colour = [int(level) for level in re.findall(r"\d+", chip)]
    line = (canvas(page, index) == colour).all(-1)
    assert line.any() and tinted[line].all(), "a line along the edge has the colour of the image's legend"
    assert np.linalg.norm(np.subtract(colour, (220, 40, 45))) > 100, "it differs from the red circle"


@pytest.mark.slow
def test_masks_change_while_typing(samples: Server, page: Any, tmp_path: Path) -> None:
    """The masks change with prompt and clean-up; enlarged and downloaded, they fit the ground truth."""
    page.goto(samples.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    names = samples.names()
    index = next(i for i, name in enumerate(names) if name.endswith("balcony.jpg"))
    until(page, SAYS, [index, "red circle"])
    until(page, SAYS, [len(names) - 1, "broken"])
    page.locator(f"[data-id='{index}'] button").click()
    until(page, ENLARGED)
    with page.expect_download() as waiting:
        page.locator("#save").click()
    waiting.value.save_as(tmp_path / "mask.png")
    mask = cv2.imread(str(tmp_path / "mask.png"), 0)
    expected = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    assert mask.shape == expected.shape and iou(mask, expected) > 0.8
    page.locator("#close-large").click()
    until(page, PAINTED, index)
    before = canvas(page, index)
    page.locator("summary").click()
    page.select_option("#refine", "guided")
    page.locator("#min_area").fill("50")
    page.get_by_label("Prompt", exact=True).fill("green")
    until(page, SAYS, [index, "green"])
    until(page, PAINTED, index)
    assert (canvas(page, index) != before).any()
    contains(page, "command", "-p green --refine guided --min-area 50")


@pytest.mark.slow
def test_sam_is_a_choice_of_the_page(small: Server, page: Any) -> None:
    """Its mask of a red circle has the edge of the circle, and is not that of the soft map alone."""
    page.goto(small.url)
    index = next(i for i, name in enumerate(small.names()) if name.endswith("balcony.jpg"))
    until(page, PAINTED, index)
    photo, masks = canvas(page, index), []
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.locator("summary").click()
    for refinement in ("none", "sam"):
        page.select_option("#refine", refinement)
        until(page, "value => document.getElementById('command').textContent.includes(value)", REFINED[refinement])
        until(page, PAINTED, index)
        masks.append((canvas(page, index) != photo).any(-1))
    truth = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    truth = cv2.resize(truth, masks[0].shape[::-1], interpolation=cv2.INTER_AREA)
    plain, refined = (iou(mask, truth > 127) for mask in masks)
    assert (masks[0] != masks[1]).any() and refined > 0.9 and refined > plain


@pytest.mark.slow
def test_another_prompt_cancels_sam(small: Server, page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While SAM works on the first image, the prompt changes: the old request ends without another image, and the page
    shows the masks of the new prompt."""
    at_work, changed, newer, replies = threading.Event(), threading.Event(), threading.Event(), list[Any]()
    answer, set_visible = Encoded.answer, Session.set_visible

    def slowly(self: Encoded, questions: Any) -> Any:
        at_work.set()
        assert newer.wait(60)
        return answer(self, questions)

    def noted(self: Session, *given: Any) -> None:
        set_visible(self, *given)
        if changed.is_set():
            newer.set()

    page.goto(small.url)
    index = next(i for i, name in enumerate(small.names()) if "zz <b>" in name)
    until(page, PAINTED, index)
    monkeypatch.setattr(Encoded, "answer", slowly)
    monkeypatch.setattr(Session, "set_visible", noted)
    page.on("response", lambda reply: replies.append(reply) if reply.url.endswith("/masks") else None)
    page.locator("summary").click()
    page.select_option("#refine", "sam")
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    until(page, "!due")
    assert at_work.wait(60)
    changed.set()
    page.get_by_label("Prompt", exact=True).fill("red")
    until(page, SAYS, [index, "red"])
    until(page, PAINTED, index)
    assert "a red" not in page.locator(f"[data-id='{index}'] .scores").inner_text()
    assert {"stale": True} in [reply.json() for reply in replies]


@pytest.mark.slow
def test_a_box_becomes_an_exemplar_and_a_run(process: Process, page: Any, shell: Shell, tmp_path: Path) -> None:
    """A dragged box finds similar objects; a run from the page ends, and the copied command has nothing to add."""
    names, index = enlarged(process, page)
    expected = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    x, y, w, h = cv2.boundingRect(expected)
    area = page.locator("#large canvas").bounding_box()
    sx, sy = area["width"] / expected.shape[1], area["height"] / expected.shape[0]
    page.mouse.move(area["x"] + x * sx, area["y"] + y * sy)
    page.mouse.down()
    page.mouse.move(area["x"] + (x + w) * sx, area["y"] + (y + h) * sy, steps=4)
    page.mouse.up()
    until(page, SAYS, [index, "exemplar"])
    page.locator("#run").click()
    contains(page, "progress", "done: ")
    rows = records(tmp_path / "clipseg-out/manifest.jsonl")
    assert len(rows) == len(names) and [row["status"] for row in rows].count("failed") == 1
    mask = cv2.imread(str(tmp_path / "clipseg-out" / rows[index]["masks"][0]["path"]), 0)
    assert iou(mask, expected) > 0.6
    command = page.locator("#command").inner_text()
    assert f"{len(names) - 1} before" in shell(command, expect=3).stderr
    page.get_by_label("Threshold").fill("0.5")
    until(page, "document.getElementById('command').textContent.endsWith('=0.5 --features none -o clipseg-out-2')")


@pytest.mark.slow
def test_a_box_is_drawn_by_keyboard_too(samples: Server, page: Any) -> None:
    """Arrow keys move a box on the enlarged image and, with Shift, resize it, never beyond the image; Enter adds it."""
    _, index = enlarged(samples, page)
    arrows = ["ArrowUp"] * 15 + ["ArrowLeft"] * 15 + ["Shift+ArrowRight"] * 3 + ["ArrowLeft"] * 6
    for key in ["Shift+Tab"] * 7 + arrows:
        page.keyboard.press(key)
    assert page.locator("#large canvas").evaluate("canvas => canvas === document.activeElement")
    page.keyboard.press("Enter")
    until(page, SAYS, [index, "exemplar"])
    height, width = cv2.imread(str(SAMPLES / "images/balcony.jpg")).shape[:2]
    box = [0, round(height * 0.12), round(width * 0.26), round(height * 0.2)]
    assert f"--support-box {','.join(map(str, box))}" in page.locator("#command").inner_text()


@pytest.mark.slow
def test_runs_are_safe_and_have_folders_of_their_own(start: Start, page: Any, tmp_path: Path) -> None:
    """No name or prompt reaches a shell; a run with another prompt writes to another folder."""
    for name in ("<img src=x onerror=alert(1)>.png", "{{nonce}}.png", "$(touch pwned).png", "b\udcff.png"):
        save(tmp_path / "photos/x.png", picture(64, 64)).rename(tmp_path / "photos" / name)
    page.goto(start().url)
    for prompt, out in (("<script>alert(2)</script>'$(touch pwned)", "clipseg-out"), ("red", "clipseg-out-2")):
        page.get_by_label("Prompt", exact=True).fill(prompt)
        until(page, f"document.getElementById('command').textContent.endsWith(' {out}')")
        until(page, "document.querySelectorAll('.card:not(.waiting)').length === 4")
        page.locator("#run").click()
        contains(page, "progress", f"{out}/masks")
        assert len(records(tmp_path / out / "manifest.jsonl")) == 4
    assert page.locator("script").count() == 1 and page.locator("main img, [onerror]").count() == 0
    assert not (tmp_path / "pwned").exists() and not os.path.exists("pwned")


@pytest.mark.slow
def test_500_hostile_names_add_no_element(start: Start, page: Any, tmp_path: Path) -> None:
    """Every page of 500 such images has five elements per image, and the names unchanged."""
    names = hostile.names(500)
    for name in names:
        path = os.path.join(os.fsencode(tmp_path / "photos"), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(DOT)
    page.goto(start().url)
    until(page, "document.querySelectorAll('.card').length === 24")
    contains(page, "model", "encoded")  # the list of refinements is complete
    bare, found = page.evaluate(CENSUS), []
    for rest in range(500 - 24, -24, -24):
        count = min(24, rest + 24)
        assert page.evaluate(CENSUS) == bare - 5 * (24 - count), found[-24:]
        found += page.locator(".card").evaluate_all("cards => cards.map(card => card.title)")
        if rest > 0:
            page.locator("#after").click()
    assert sorted(found) == sorted(readable_name(f"{tmp_path}/photos/{os.fsdecode(name)}") for name in names)
    assert page.evaluate(HARMED) == 0 and page.evaluate("window.pwned") is None


@pytest.mark.slow
def test_500_hostile_prompts_add_no_element(start: Start, page: Any, tmp_path: Path) -> None:
    """Sent all at once, they appear in their fields, under the image and in the command as text."""
    prompts = hostile.prompts(500)
    save(tmp_path / "photos/a.png", picture(48, 48))
    page.goto(start().url)
    until(page, "document.querySelectorAll('.card:not(.waiting)').length === 1")
    plain = page.evaluate(CENSUS)
    page.evaluate("texts => { prompts = texts.map(text => ({ text, threshold: null })); list(); refresh(); }", prompts)
    until(page, SAYS, [0, prompts[-1].split("=")[0].strip()])
    per_row = page.locator(".prompt").first.evaluate("row => row.querySelectorAll('*').length + 1")
    assert page.evaluate(CENSUS) == plain + per_row * 499 + 2 * 500  # two elements per label in the image's legend
    fields = page.locator(".prompt input[type=text]").evaluate_all("fields => fields.map(field => field.value)")
    assert fields == prompts
    words = shlex.split(page.locator("#command").evaluate("element => element.textContent"))
    assert [word for flag, word in itertools.pairwise(words) if flag == "-p"] == [*map(normalised, prompts)]
    assert page.evaluate(HARMED) == 0 and page.evaluate("window.pwned") is None


def normalised(argument: str) -> str:
    """A prompt as the command gives it: without blanks at its ends and around its label."""
    prompt = text.parse(argument)
    return prompt.text if prompt.label == prompt.text else f"{prompt.label}={prompt.text}"


@pytest.mark.slow
def test_an_empty_folder_and_a_missing_model_are_explained(start: Start, page: Any, tmp_path: Path) -> None:
    """A folder without images says what to do; missing weights are reported on the page."""
    (tmp_path / "photos").mkdir()
    page.goto(start(CLIPSEG_MODEL="rd64", CLIPSEG_OFFLINE="1").url)
    until(page, "!document.getElementById('empty').hidden")
    contains(page, "error", "clipseg models pull")


@pytest.mark.slow
def test_a_prompt_that_finds_nothing_is_reported(samples: Server, page: Any) -> None:
    """The page says that nothing was found, and what to try; a screen reader gets it too."""
    page.goto(samples.url)
    page.get_by_label("Prompt", exact=True).fill("a red circle")
    page.locator("summary").click()
    page.locator("#min_area").fill("9999999")
    contains(page, "summary", "lower threshold")
    assert page.get_by_role("status").filter(has_text="lower threshold").count() == 1
    tree = page.locator("body").aria_snapshot()
    for name in ('textbox "Prompt"', 'slider "Threshold"', '/balcony.jpg"', 'button "Masks"', 'button "Next page"'):
        assert name in tree


@pytest.mark.slow
def test_a_page_that_is_opened_again_answers(samples: Server, page: Any) -> None:
    """Requests of an earlier page do not count as newer: after a reload, masks appear at once."""
    for prompts in (("red", "green", "blue"), ("a red circle",)):
        page.goto(samples.url)
        for prompt in prompts:
            page.get_by_label("Prompt", exact=True).fill(prompt)
            until(page, SAYS, [0, prompt])


@pytest.mark.slow
def test_an_invalid_request_has_no_command(process: Process, browser: Any) -> None:
    """Two rows with one prompt: the page says so while the model loads and after, and the old command is gone."""
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(process.url)
        page.get_by_label("Prompt", exact=True).fill("red")
        contains(page, "command", "-p red")
        page.locator("#more").click()
        page.get_by_label("Prompt 2").fill("red")
        contains(page, "error", "given twice")
        contains(page, "model", "images encoded")
        assert "given twice" in page.locator("#error").inner_text() and page.locator("#run").is_disabled()
        assert page.locator("#command").evaluate("element => element.textContent") == ""
        page.get_by_label("Prompt 2").fill("blue")
        contains(page, "command", "-p blue")
        assert page.locator("#error").is_hidden() and page.locator("#run").is_enabled()


@pytest.mark.slow
def test_an_enlarged_image_zooms_to_its_full_resolution(start: Start, page: Any, tmp_path: Path) -> None:
    """At 1:1 the canvas has the image's own pixels; while Move is pressed, dragging moves them and draws no box; a box
    that is drawn then has the image's coordinates."""
    image = np.full((1200, 1800, 3), 60, np.uint8)
    image[:, ::2] = 200  # stripes of one pixel
    save(tmp_path / "photos/a.png", image)
    page.goto(start().url)
    until(page, "document.querySelectorAll('.card:not(.waiting)').length === 1")
    page.locator("[data-id='0'] button").click()
    until(page, ENLARGED)
    page.get_by_label("One image pixel").click()
    until(page, "document.querySelector('.percent').textContent === '100 %'")
    page.wait_for_timeout(500)
    reds = (
        "(() => { const p = stage.getContext('2d').getImageData(100, 100, 4, 1).data; return [p[0], p[4], p[8]]; })()"
    )
    first, second, third = page.evaluate(reds)
    assert abs(first - second) > 60 and abs(first - third) < 20
    page.locator("#pan").click()
    box = page.locator("#large canvas").bounding_box()

    def drag(x: int, y: int) -> None:
        page.mouse.move(box["x"] + 200, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 200 + x, box["y"] + 200 + y, steps=3)
        page.mouse.up()

    left, up = page.evaluate("[zoom.region[0] * 1800, zoom.region[1] * 1200]")
    drag(-60, -40)
    until(page, "left => Math.abs(zoom.region[0] * 1800 - left) < 1", left + 60)
    assert page.locator(".prompt").count() == 1
    page.locator("#pan").click()
    drag(80, 50)
    until(page, "document.getElementById('command').textContent.includes('--support-box')")
    words = shlex.split(page.locator("#command").inner_text())
    x, y, width, height = map(int, words[words.index("--support-box") + 1].split(","))
    assert abs(x - (left + 60 + 200)) < 3 and abs(y - (up + 40 + 200)) < 3 and (width, height) == (80, 50)


@pytest.mark.slow
def test_nothing_is_cut_off_on_a_narrow_screen(samples: Server, page: Any) -> None:
    """At 360 pixels nothing scrolls sideways, also with the clean-up open and an image enlarged."""
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(samples.url)
    page.get_by_label("Prompt", exact=True).fill("red")
    until(page, SAYS, [0, "red"])
    page.locator("summary").click()
    boxes = page.locator("aside *, .card, .bar").evaluate_all(
        "all => all.filter(each => each.offsetParent).map(each => each.getBoundingClientRect().right)"
    )
    assert max(boxes) <= 360
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    page.locator("[data-id='0'] button").click()
    until(page, ENLARGED)
    assert page.evaluate("(d => d.scrollWidth - d.clientWidth)(document.getElementById('large'))") <= 0
    assert page.evaluate(wide) <= 0
