"""The live page in a real browser, and its server against requests that are not its own."""

import base64
import contextlib
import http.client
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import hostile
from clipseg_cli.outputs.manifest import readable_name
from clipseg_cli.prompts import text
from pictures import SAMPLES, Shell, iou, picture, records, save, until

pytest.importorskip("uvicorn", reason="pip install 'clipseg-cli[ui]'")


TURNED = "id => document.querySelector(`[data-id='${id}'] canvas`)?.dataset.turn == turn && !due"  # all is painted
CENSUS = "document.querySelectorAll('*').length"
HARMED = """[...document.querySelectorAll('main, aside, dialog')].flatMap(part => [part, ...part.querySelectorAll('*')])
    .filter(e => /^(IMG|SVG|A|SCRIPT|STYLE|IFRAME|OBJECT|EMBED|FORM|BASE|META|LINK|VIDEO|AUDIO|MATH|TEMPLATE)$/i
    .test(e.tagName) || [...e.attributes].some(a => /^on/i.test(a.name) || a.name === 'href')).length"""
DOT = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
SAYS = "([id, text]) => document.querySelector(`[data-id='${id}'] .numbers`)?.textContent.includes(text)"


class Served:
    """`clipseg ui` beside the test; `said` is its stderr, once it has ended."""

    said = ""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["clipseg", "ui", str(folder), "--no-open"], cwd=folder.parent, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.communicate()
        self.port = int(re.findall(r":(\d+)/", self.url)[0])
        self.token = self.url.split("token=")[1]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Status and content of one request, exactly as given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        data = None if body is None else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest("GET" if data is None else "POST", path, skip_host="Host" in names)
        for name, value in (names | ({"Content-Length": str(len(data))} if data is not None else {})).items():
            connection.putheader(name, value)
        with contextlib.closing(connection):
            connection.endheaders(data)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def stop(self) -> int:
        """Ends it as Ctrl-C does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.said = self.process.communicate(timeout=120)[1]
        return self.process.returncode


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path, environment: dict[str, str]) -> Iterator[Serve]:
    """Serves tmp_path/photos, with variables more. To stand before `page`: a page must not outlive its server."""
    servers: list[Served] = []

    def begin(**variables: str) -> Served:
        servers.append(Served(tmp_path / "photos", environment | variables))
        return servers[-1]

    yield begin
    for server in servers:
        assert server.stop() == 130 and server.said == "", server.said


@pytest.fixture
def served(serve: Serve, tmp_path: Path) -> Served:
    """The page of a copy of the samples, a picture more and a broken one."""
    shutil.copytree(SAMPLES / "images", tmp_path / "photos")
    save(tmp_path / "photos/zz <b>.png", picture())
    (tmp_path / "photos/zz broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    return serve()


def test_a_request_that_is_not_the_pages_own_is_refused(served: Served, tmp_path: Path) -> None:
    """Without the token, with a foreign Host or Origin: 403. A path outside, by any spelling, is no picture."""
    own = {"X_Token": served.token}
    assert served.ask("/images", **own)[0] == 200
    assert served.ask("/")[0] == 403 and served.ask("/images")[0] == 403 and served.ask("/?token=x")[0] == 403
    assert served.ask("/masks", {"wishes": [], "ids": []})[0] == 403
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"127.0.0.1:{served.port + 1}"},
        {"Origin": "http://evil.example"},
    ):
        assert served.ask("/images", **own, **headers)[0] == 403, headers
    assert served.ask("/images", **own, Origin=f"http://127.0.0.1:{served.port}")[0] == 200
    for path in (
        "/picture/../run.json",
        "/picture/%2e%2e%2fetc%2fpasswd",
        "/picture/-1",
        "/picture/999",
        "/etc/passwd",
    ):
        assert served.ask(path, **own)[0] in (400, 404), path
    for body in ([], {"ids": [0]}, {"ids": ["x"], "wishes": []}, {"ids": [0], "wishes": [{"text": ""}]}):
        assert served.ask("/masks", body, **own)[0] == 400, body
    assert served.ask("/run", {"wishes": []}, **own)[0] == 400
    assert served.stop() == 130 and served.said == "", "Ctrl-C is how it ends: nothing to say"


def test_typing_a_phrase_gives_masks(served: Served, page: Any, tmp_path: Path) -> None:
    """The masks of the right picture change as one types; enlarged and downloaded, they fit the ground truth."""
    page.goto(served.url)
    page.get_by_label("Phrase", exact=True).fill("a red circle")
    names = json.loads(served.ask("/images", X_Token=served.token)[1])["images"]
    index = next(i for i, name in enumerate(names) if name.endswith("balcony.jpg"))
    until(page, SAYS, [index, "red circle"])
    until(page, SAYS, [len(names) - 1, "broken"])
    page.locator(f"[data-id='{index}'] button").click()
    until(page, "document.querySelector('#large canvas').dataset.turn > 0")
    with page.expect_download() as waiting:
        page.locator("#save").click()
    waiting.value.save_as(tmp_path / "mask.png")
    mask = cv2.imread(str(tmp_path / "mask.png"), 0)
    truth = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    assert mask.shape == truth.shape and iou(mask, truth) > 0.8
    page.locator("#close-large").click()
    until(page, TURNED, index)
    before = canvas(page, index)
    page.locator("summary").click()
    page.select_option("#refine", "guided")
    page.locator("#min_area").fill("50")
    page.get_by_label("Phrase", exact=True).fill("green")
    until(page, SAYS, [index, "green"])
    until(page, TURNED, index)
    assert (canvas(page, index) != before).any()
    until(page, "document.getElementById('command').textContent.includes('-p green --min-area 50 --refine guided')")


def canvas(page: Any, index: int) -> np.ndarray:
    """What a card shows: uint8 (H, W, 3)."""
    url = page.evaluate(f"document.querySelector('[data-id=\"{index}\"] canvas').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def enlarged(served: Served, page: Any) -> tuple[list[str], int]:
    """Opens the page, all of it read, and enlarges the balcony; the pictures' names, and which of them it is."""
    page.goto(served.url)
    names = json.loads(served.ask("/images", X_Token=served.token)[1])["images"]
    index = next(i for i, name in enumerate(names) if name.endswith("balcony.jpg"))
    until(page, f"document.querySelectorAll('.card:not(.waiting)').length >= {len(names) - 1}")
    page.locator(f"[data-id='{index}'] button").click()
    until(page, "document.querySelector('#large canvas').dataset.turn > 0")
    return names, index


def test_a_box_becomes_an_exemplar_and_a_run(served: Served, page: Any, shell: Shell, tmp_path: Path) -> None:
    """A dragged box finds such things; a run from the page ends, and the copied command has nothing to add."""
    names, index = enlarged(served, page)
    truth = cv2.imread(str(SAMPLES / "masks/a-red-circle/balcony.png"), 0)
    x, y, w, h = cv2.boundingRect(truth)
    area = page.locator("#large canvas").bounding_box()
    sx, sy = area["width"] / truth.shape[1], area["height"] / truth.shape[0]
    page.mouse.move(area["x"] + x * sx, area["y"] + y * sy)
    page.mouse.down()
    page.mouse.move(area["x"] + (x + w) * sx, area["y"] + (y + h) * sy, steps=4)
    page.mouse.up()
    until(page, SAYS, [index, "like this"])
    page.locator("#run").click()
    until(page, "document.getElementById('progress').textContent.includes('done: ')")
    rows = records(tmp_path / "clipseg-out/manifest.jsonl")
    assert len(rows) == len(names) and [row["status"] for row in rows].count("failed") == 1
    mask = cv2.imread(str(tmp_path / "clipseg-out" / rows[index]["masks"][0]["path"]), 0)
    assert iou(mask, truth) > 0.6
    command = page.locator("#command").inner_text()
    assert f"{len(names) - 1} before" in shell(command, expect=3).stderr
    page.get_by_label("Threshold").fill("0.5")
    until(page, "document.getElementById('command').textContent.endsWith('=0.5\\' -o clipseg-out-2')")


def test_a_box_is_drawn_by_keyboard_too(served: Served, page: Any) -> None:
    """Arrows move a box on the enlarged picture and, with Shift, size it, never out of the picture; Enter takes it."""
    _, index = enlarged(served, page)
    arrows = ["ArrowUp"] * 15 + ["ArrowLeft"] * 15 + ["Shift+ArrowRight"] * 3 + ["ArrowLeft"] * 6
    for key in ["Shift+Tab"] * 2 + arrows:
        page.keyboard.press(key)
    assert page.locator("#large canvas").evaluate("canvas => canvas === document.activeElement")
    page.keyboard.press("Enter")
    until(page, SAYS, [index, "like this"])
    height, width = cv2.imread(str(SAMPLES / "images/balcony.jpg")).shape[:2]
    box = [0, round(height * 0.12), round(width * 0.26), round(height * 0.2)]
    assert f"--support-box {','.join(map(str, box))}" in page.locator("#command").inner_text()


def test_a_run_from_the_page_is_safe_and_the_next_has_its_own_place(serve: Serve, page: Any, tmp_path: Path) -> None:
    """No name or phrase reaches a shell; a run with another phrase goes into another folder."""
    for name in ("<img src=x onerror=alert(1)>.png", "{{nonce}}.png", "$(touch pwned).png", "b\udcff.png"):
        save(tmp_path / "photos/x.png", picture(64, 64)).rename(tmp_path / "photos" / name)
    page.goto(serve().url)
    for phrase, out in (("<script>alert(2)</script>'$(touch pwned)", "clipseg-out"), ("red", "clipseg-out-2")):
        page.get_by_label("Phrase", exact=True).fill(phrase)
        until(page, f"document.getElementById('command').textContent.endsWith(' {out}')")
        until(page, "document.querySelectorAll('.card:not(.waiting)').length === 4")
        page.locator("#run").click()
        until(page, f"document.getElementById('progress').textContent.includes('{out}/masks')")
        assert len(records(tmp_path / out / "manifest.jsonl")) == 4
    assert page.locator("script").count() == 1 and page.locator("main img, [onerror]").count() == 0
    assert not (tmp_path / "pwned").exists() and not os.path.exists("pwned")


def test_500_hostile_names_add_no_element(serve: Serve, page: Any, tmp_path: Path) -> None:
    """Every page of 500 such pictures has five elements a picture, and the names as they are."""
    names = hostile.names(500)
    for name in names:
        path = os.path.join(os.fsencode(tmp_path / "photos"), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(DOT)
    page.goto(serve().url)
    until(page, "document.querySelectorAll('.card').length === 24")
    bare, found = page.evaluate(CENSUS), []
    for rest in range(500 - 24, -24, -24):
        count = min(24, rest + 24)
        assert page.evaluate(CENSUS) == bare - 5 * (24 - count), found[-24:]
        found += page.locator(".card").evaluate_all("cards => cards.map(card => card.title)")
        if rest > 0:
            page.locator("#after").click()
    assert sorted(found) == sorted(shown(f"{tmp_path}/photos/{os.fsdecode(name)}") for name in names)
    assert page.evaluate(HARMED) == 0 and page.evaluate("window.pwned") is None


def test_500_hostile_phrases_add_no_element(serve: Serve, page: Any, tmp_path: Path) -> None:
    """Asked all at once, they stand in their fields, beside the picture and in the command: as text."""
    phrases = hostile.phrases(500)
    save(tmp_path / "photos/a.png", picture(48, 48))
    page.goto(serve().url)
    until(page, "document.querySelectorAll('.card:not(.waiting)').length === 1")
    plain = page.evaluate(CENSUS)
    page.evaluate("texts => { wishes = texts.map(text => ({ text, threshold: null })); list(); refresh(); }", phrases)
    until(page, SAYS, [0, phrases[-1].split("=")[0].strip()])
    a_row = page.locator(".wish").first.evaluate("row => row.querySelectorAll('*').length + 1")
    assert page.evaluate(CENSUS) == plain + a_row * 499
    fields = page.locator(".wish input[type=text]").evaluate_all("fields => fields.map(field => field.value)")
    assert fields == phrases
    words = shlex.split(page.locator("#command").evaluate("element => element.textContent"))
    assert [word for flag, word in itertools.pairwise(words) if flag == "-p"] == [asked(each) for each in phrases]
    assert page.evaluate(HARMED) == 0 and page.evaluate("window.pwned") is None


def asked(phrase: str) -> str:
    """A phrase as the command says it: blanks at its ends and around its label are gone."""
    prompt = text.parse(phrase)
    return prompt.text if prompt.label == prompt.text else f"{prompt.label}={prompt.text}"


def test_an_empty_folder_and_a_missing_model_are_told(serve: Serve, page: Any, tmp_path: Path) -> None:
    """A folder without pictures says what to do; weights that are not here are told on the page."""
    (tmp_path / "photos").mkdir()
    page.goto(serve(CLIPSEG_MODEL="rd64", CLIPSEG_OFFLINE="1").url)
    until(page, "!document.getElementById('empty').hidden")
    until(page, "document.getElementById('trouble').textContent.includes('clipseg models pull')")


def test_a_phrase_that_nothing_shows_is_told(served: Served, page: Any) -> None:
    """The page says that nothing was found, and what to try; a screen reader is told too."""
    page.goto(served.url)
    page.get_by_label("Phrase", exact=True).fill("a red circle")
    page.locator("summary").click()
    page.locator("#min_area").fill("9999999")
    until(page, "document.getElementById('told').textContent.includes('lower threshold')")
    assert page.get_by_role("status").filter(has_text="lower threshold").count() == 1
    tree = page.locator("body").aria_snapshot()
    for name in ('textbox "Phrase"', 'slider "Threshold"', '/balcony.jpg"', 'button "Masks"', 'button "Next page"'):
        assert name in tree


def test_a_page_that_is_opened_again_answers(served: Served, page: Any) -> None:
    """What an earlier page asked does not count as newer: loaded again, or in a second window, masks come at once."""
    for phrases in (("red", "green", "blue"), ("a red circle",)):
        page.goto(served.url)
        for phrase in phrases:
            page.get_by_label("Phrase", exact=True).fill(phrase)
            until(page, SAYS, [0, phrase])


def test_a_question_that_cannot_be_asked_has_no_command(served: Served, browser: Any) -> None:
    """Two rows with one phrase: the page says so while the model loads and after, and what stood there is gone."""
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(served.url)
        page.get_by_label("Phrase", exact=True).fill("red")
        until(page, "document.getElementById('command').textContent.includes('-p red')")
        page.locator("#more").click()
        page.get_by_label("Phrase 2").fill("red")
        until(page, "document.getElementById('trouble').textContent.includes('given twice')")
        until(page, "document.getElementById('model').textContent.includes('pictures read')")
        assert "given twice" in page.locator("#trouble").inner_text() and page.locator("#run").is_disabled()
        assert page.locator("#command").evaluate("element => element.textContent") == ""
        page.get_by_label("Phrase 2").fill("blue")
        until(page, "document.getElementById('command').textContent.includes('-p blue')")
        assert page.locator("#trouble").is_hidden() and page.locator("#run").is_enabled()


def test_a_link_out_of_the_folder_is_no_picture(serve: Serve, tmp_path: Path) -> None:
    """Links are not listed; a picture that became one meanwhile is not opened, and the page says why."""
    for name in ("photos/a.png", "photos/b.png", "secret.png"):
        save(tmp_path / name, picture(48, 48))
    os.symlink(tmp_path / "secret.png", tmp_path / "photos/c.png")
    served = serve()
    own = {"X_Token": served.token}
    (tmp_path / "photos/b.png").unlink()
    os.symlink(tmp_path / "secret.png", tmp_path / "photos/b.png")
    assert len(json.loads(served.ask("/images", **own)[1])["images"]) == 2
    assert Image.open(io.BytesIO(served.ask("/picture/0?large=1", **own)[1])).size == (48, 48)
    assert Image.open(io.BytesIO(served.ask("/picture/1?large=1", **own)[1])).size == (4, 3)


def test_a_folder_that_is_none_is_a_usage_error(shell: Shell) -> None:
    """`clipseg ui nowhere` says what to give."""
    assert "clipseg ui photos/" in shell("clipseg ui nowhere", expect=2).stderr
