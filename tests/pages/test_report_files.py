"""The files of a report of many images: one page, its scripts beside it, and the memory that it takes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clipseg_cli.pages import report, report_files
from pictures import until
from reports import DRAWN, chunks_of, data_of, forge, opened

MOST = 300e6  # bytes of memory that a report may take, whatever its length
# the program, which at its end prints its largest memory; getrusage would give that of the parent, if it was larger
MEASURED = """import atexit, re, sys
from pathlib import Path
from clipseg_cli.cli.main import main
atexit.register(lambda: print(re.findall("VmHWM:.*", Path("/proc/self/status").read_text())[0], file=sys.stderr))
main()
"""


def test_above_a_limit_the_pixels_are_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page has every image's numbers and no pixels; scripts of 16 images have the pixels. The user is told. Up to
    the limit the page is one file, and the scripts of an older report are deleted."""
    monkeypatch.setattr(report_files, "ONE_FILE", 40)
    run, said = tmp_path / "run", []
    forge(run, 41)
    target = report.write(run, said.append)
    data, chunks = data_of(target), chunks_of(run / "report-files")
    assert said == [f"41 images are too many for one file: keep the folder {run}/report-files beside {target}"]
    assert [len(chunk) for chunk in chunks] == [16, 16, 9] and data["files"]["folder"] == "report-files"
    assert [image["id"] for image in data["images"]] == [*range(41)] and "data:image" not in target.read_text()
    pixels = [image for chunk in chunks for image in chunk]
    assert all(each["thumb"].startswith("data:image/jpeg") and each["sides"][0]["maps"][0] for each in pixels)
    forge(run, 42)
    report.write(run, said.append)
    assert len(chunks_of(run / "report-files")) == 3, "only the scripts of the new report are left"
    forge(run, 40)
    report.write(run, said.append)
    data = data_of(target)
    assert len(said) == 2 and not (run / "report-files").exists() and "files" not in data
    assert [image["pixels"] for image in data["images"]] == pixels[:40]


def test_a_page_that_needs_no_scripts_may_load_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of a page in one file allows its own script only; with scripts beside it, those too. Neither allows
    the network."""
    forge(tmp_path / "run", 3)
    for limit, allowed in ((3, "script-src 'unsafe-inline' "), (2, "script-src 'unsafe-inline' 'self' file:")):
        monkeypatch.setattr(report_files, "ONE_FILE", limit)
        text = Path(str(report.write(tmp_path / "run", lambda line: None))).read_text()
        assert f'{allowed}">' in text and "default-src 'none'" in text and "connect-src" not in text


def test_a_manifest_may_name_an_image_twice(tmp_path: Path) -> None:
    """After an interrupted run the later record counts, in the place of the first."""
    forge(tmp_path / "run", 5)
    manifest = tmp_path / "run/manifest.jsonl"
    first = manifest.read_text().splitlines(keepends=True)[0]
    manifest.write_text(manifest.read_text() + first.replace('"presence": 0.0', '"presence": 0.75') + '{"torn')
    images = data_of(report.write(tmp_path / "run", lambda line: None))["images"]
    assert [image["sides"][0]["presences"][0] for image in images] == [0.75, 0.4, 0.8, 0.2, 0.6]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
def test_5000_images_take_little_memory_and_open(page: Any, tmp_path: Path, environment: dict[str, str]) -> None:
    """The process that writes the report stays small, the page opens, sorts over all images, and loads few scripts."""
    forge(tmp_path / "run", 5000)
    words = [sys.executable, "-c", MEASURED, "report", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stderr.split()[1]) * 1024 < MOST
    target = tmp_path / "run/report.html"
    assert target.stat().st_size < 5000 * 500
    scripts: list[str] = []
    page.on("request", lambda request: scripts.append(request.url) if request.url.endswith(".js") else None)
    opened(page, target)
    assert len(scripts) == 3 and page.locator(".card").count() == 48
    page.select_option("#sort", "presence")
    until(page, DRAWN)
    scores = [float(text.split()[-1]) for text in page.locator(".card .scores").all_inner_texts()]
    assert min(scores) > 0.98 and len(scripts) <= 3 + 48 and page.locator("script").count() == 2


@pytest.mark.slow
def test_a_page_without_its_folder_says_so(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page names the folder that is missing."""
    monkeypatch.setattr(report_files, "ONE_FILE", 2)
    forge(tmp_path / "run", 3)
    target = report.write(tmp_path / "run", lambda line: None)
    (tmp_path / "run/report-files").rename(tmp_path / "elsewhere")
    page = browser.new_page()
    page.goto(Path(str(target)).as_uri())
    until(page, "!document.getElementById('error').hidden")
    assert "the folder report-files" in page.locator("#error").inner_text()
    page.close()
