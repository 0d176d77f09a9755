"""The live page in a real browser, and its server against requests that are not its own."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pictures import SAMPLES, Shell, iou, picture, records, save

pytest.importorskip("uvicorn", reason="pip install 'clipseg-cli[ui]'")


SAYS = "([id, text]) => document.querySelector(`[data-id='${id}'] .numbers`).textContent.includes(text)"


def until(page: Any, script: str, argument: Any = None) -> None:
    """Waits for a script to be true. Not by the browser's own polling, which the page's policy refuses as `eval`."""
    end = time.monotonic() + 120
    while not page.evaluate(script, argument):
        assert time.monotonic() < end, f"{script} {argument}: {page.locator('body').inner_text()}"
        page.wait_for_timeout(50)


class Served:
    """`clipseg ui` beside the test."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["clipseg", "ui", str(folder), "--no-open"], cwd=folder.parent, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.port = int(re.findall(r":(\d+)/", self.url)[0])
        self.token = self.url.split("token=")[1]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Status and content of one request, exactly as given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
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
        self.process.communicate(timeout=20)
        return self.process.returncode


@pytest.fixture
def served(tmp_path: Path, environment: dict[str, str]) -> Iterator[Served]:
    """The page of a copy of the samples, two more pictures and a broken one."""
    shutil.copytree(SAMPLES / "images", tmp_path / "photos")
    save(tmp_path / "photos/zz <b>.png", picture())
    (tmp_path / "photos/zz broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    server = Served(tmp_path / "photos", environment)
    yield server
    server.stop()


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
    assert served.stop() in (0, 130)


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
    before = canvas(page, index)
    page.locator("summary").click()
    page.select_option("#refine", "guided")
    page.locator("#min_area").fill("50")
    page.get_by_label("Phrase", exact=True).fill("green")
    until(page, SAYS, [index, "green"])
    assert (canvas(page, index) != before).any()
    assert "-p green --min-area 50 --refine guided" in page.locator("#command").inner_text()


def canvas(page: Any, index: int) -> np.ndarray:
    """What a card shows: uint8 (H, W, 3)."""
    url = page.evaluate(f"document.querySelector('[data-id=\"{index}\"] canvas').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def test_a_box_becomes_an_exemplar_and_a_run(served: Served, page: Any, shell: Shell, tmp_path: Path) -> None:
    """A dragged box finds such things; a run from the page ends, and the copied command has nothing to add."""
    page.goto(served.url)
    names = json.loads(served.ask("/images", X_Token=served.token)[1])["images"]
    index = next(i for i, name in enumerate(names) if name.endswith("balcony.jpg"))
    until(page, f"document.querySelectorAll('.card:not(.waiting)').length >= {len(names) - 1}")
    page.locator(f"[data-id='{index}'] button").click()
    until(page, "document.querySelector('#large canvas').dataset.turn > 0")
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


def test_hostile_names_and_phrases_stay_text(page: Any, tmp_path: Path, environment: dict[str, str]) -> None:
    """Markup in file names and phrases adds no element to the page and none of it runs."""
    for name in ("<img src=x onerror=alert(1)>.png", "{{nonce}}.png", "$(touch pwned).png", "b\udcff.png"):
        save(tmp_path / "photos/x.png", picture(64, 64)).rename(tmp_path / "photos" / name)
    served = Served(tmp_path / "photos", environment)
    try:
        page.goto(served.url)
        page.get_by_label("Phrase", exact=True).fill("<script>alert(2)</script>'$(touch pwned)")
        until(page, "document.querySelectorAll('.card:not(.waiting)').length === 4")
        assert page.locator("script").count() == 1 and page.locator("main img, [onerror]").count() == 0
        page.locator("#run").click()
        until(page, "document.getElementById('progress').textContent.includes('done: ')")
        assert not (tmp_path / "pwned").exists() and not os.path.exists("pwned")
    finally:
        assert served.stop() in (0, 130)


def test_an_empty_folder_and_a_missing_model_are_told(page: Any, tmp_path: Path, environment: dict[str, str]) -> None:
    """A folder without pictures says what to do; weights that are not here are told on the page."""
    (tmp_path / "photos").mkdir()
    served = Served(tmp_path / "photos", environment | {"CLIPSEG_MODEL": "rd64", "CLIPSEG_OFFLINE": "1"})
    try:
        page.goto(served.url)
        until(page, "!document.getElementById('empty').hidden")
        until(page, "document.getElementById('trouble').textContent.includes('clipseg models pull')")
    finally:
        served.stop()


def test_a_folder_that_is_none_is_a_usage_error(shell: Shell) -> None:
    """`clipseg ui nowhere` says what to give."""
    assert "clipseg ui photos/" in shell("clipseg ui nowhere", expect=2).stderr
