"""Records are JSON lines that come back exactly, and the ledger knows which images are done."""

import json
import os
from functools import partial
from pathlib import Path

import pytest

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.ledger import Ledger
from clipseg_cli.outputs.manifest import MANIFEST
from clipseg_cli.outputs.record import Mask, Record, image_name, readable_name


def finished(source: Source, out: Path, content: bytes = b"mask") -> Record:
    """The record of an image whose mask is written."""
    path = f"masks/a/{source.output}.png"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    (out / path).write_bytes(content)
    mask = Mask("a", "a", 0.5, 0.9, 0.1, 4, 0.25, (0, 0, 2, 2), 0.9, files=(("mask", path),))
    return Record(
        source.name, 4, 4, "PNG", masks=(mask,), identity=identify(source, False), output=source.output,
        outputs=((path, len(content)),),
    )  # fmt: skip


def take(ledger: Ledger, source: Source) -> Record | bool:
    """What the ledger says of an image."""
    return ledger.take(source.name, partial(identify, source, False))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """An image, whose content does not matter here."""
    (tmp_path / "a.png").write_bytes(b"image")
    return Source(str(tmp_path / "a.png"), "a.png", "a")


@pytest.mark.parametrize("name", ["a.jpg", "b\udcff.jpg", "line\u2028end\x85.jpg", 'quote".jpg', "new\nline.jpg"])
def test_any_name_is_one_line_and_comes_back(name: str) -> None:
    """A record is one line for every reader, and its name returns byte for byte."""
    line = Record(name, error=ImageError("corrupt", "load", f"cannot read {name}")).line()
    assert len(line.splitlines()) == 1
    document = json.loads(line)
    assert image_name(document) == name and (document["image_b64"] != "") == (name == "b\udcff.jpg")
    assert document["error"]["class"] == "corrupt"
    assert readable_name(name).encode().decode() == document["image"]


def test_a_finished_image_is_skipped_until_something_changes(source: Source, tmp_path: Path) -> None:
    """A changed input, a lost or shortened output, or a failure: the image is segmented again."""
    out = tmp_path / "out"
    out.mkdir()
    with Ledger(out) as ledger:
        assert take(ledger, source) is True
        ledger.add(finished(source, out))
    with Ledger(out) as ledger:
        kept = take(ledger, source)
        assert isinstance(kept, Record) and kept.ok and kept.document()["masks"][0]["label"] == "a"
    (out / "masks/a/a.png").write_bytes(b"short"[:3])
    with Ledger(out) as ledger:
        assert take(ledger, source) is True
        ledger.add(finished(source, out))
    os.utime(source.path, ns=(1, 1))
    with Ledger(out) as ledger:
        assert take(ledger, source) is True


def test_what_another_run_has_just_done_is_done(source: Source, tmp_path: Path) -> None:
    """Two ledgers of one folder stand for two runs. The second one takes over the record of the first, also of a
    failed image, and a rewritten manifest is read again."""
    out = tmp_path / "out"
    out.mkdir()
    with Ledger(out) as first, Ledger(out) as second:
        first.add(finished(source, out))
        first.add(Record("bad.png", error=ImageError("corrupt", "load", "cut short")))
        assert second.take("new.png", None) is True
        record, bad = take(second, source), second.take("bad.png", None)
        assert isinstance(record, Record) and record.ok and record.document()["masks"][0]["label"] == "a"
        assert isinstance(bad, Record) and bad.error is not None and bad.error.kind == "corrupt"
        second.add(record)
        first.manifest.rewrite(lambda lines: lines[::-1])
        again = take(second, source)
        assert isinstance(again, Record) and again.image == source.name
        second.add(Record("bad.png", error=ImageError("empty", "load", "no bytes")))
        second.close()
    rows = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    assert {row["image"]: row["status"] for row in rows} == {"bad.png": "failed", "a.png": "ok"} and len(rows) == 2


def test_the_latest_record_of_an_image_wins(source: Source, tmp_path: Path) -> None:
    """A failed image loses its old files, and closing leaves one line per image."""
    out = tmp_path / "out"
    out.mkdir()
    with Ledger(out) as ledger:
        ledger.add(finished(source, out))
    with Ledger(out) as ledger:
        ledger.add(Record(source.name, error=ImageError("vanished", "load", "gone")))
        assert len((out / MANIFEST).read_text().splitlines()) == 2
        assert manifest.latest(out / MANIFEST)["a.png"]["status"] == "failed"
        ledger.close()
    assert len((out / MANIFEST).read_text().splitlines()) == 1 and not (out / "masks/a/a.png").exists()


def test_an_output_path_stays_with_its_image(source: Source, tmp_path: Path) -> None:
    """An image of another folder with the same output path gets a path of its own."""
    out = tmp_path / "out"
    out.mkdir()
    with Ledger(out) as ledger:
        ledger.add(finished(source, out))
    with Ledger(out) as ledger:
        assert ledger.with_own_output(source) == source
        assert ledger.with_own_output(Source("other/a.png", "other/a.png", "a")).output != "a"


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    """The message names the file and what to do."""
    (tmp_path / MANIFEST).write_text('{"v":99,"image":"a.png"}\n')
    with pytest.raises(OutputError, match="overwrite"), Ledger(tmp_path):
        pass


def test_a_forgotten_run_is_gone(source: Source, tmp_path: Path) -> None:
    """`forget` removes what makes a folder a run; masks stay."""
    out = tmp_path / "out"
    out.mkdir()
    with Ledger(out) as ledger:
        ledger.add(finished(source, out))
    manifest.forget(out)
    assert manifest.latest(out / MANIFEST) == {} and (out / "masks/a/a.png").is_file()
