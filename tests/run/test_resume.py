"""Nothing lost: a run that is killed, repeated, given other settings, or shared. The model is `shapes`."""

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pictures import Shell, picture, records, save

COMMAND = "clipseg segment imgs -p 'a red circle' -f mask -f overlay -f soft -o out"


@pytest.fixture
def imgs(tmp_path: Path) -> Path:
    """A dozen small pictures, one of them broken."""
    for index in range(12):
        save(tmp_path / f"imgs/sub{index % 3}/p{index:02}.jpg", picture(96 + 8 * index, 96, index))
    (tmp_path / "imgs/sub1/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    return tmp_path / "imgs"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file's content, but for run.json and the journal, which hold times."""
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if name not in ("run.json", ".clipseg-journal.jsonl")}


def test_a_finished_run_answers_without_the_model(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """The same command again prints the same lines, changes nothing, and loads no network."""
    first = shell(COMMAND, expect=3)
    before = tree(tmp_path / "out")
    again = shell(COMMAND, expect=3)
    assert "model shapes" in first.stderr and "model shapes" not in again.stderr and "12 before" in again.stderr
    assert again.stdout == first.stdout and tree(tmp_path / "out") == before


def test_what_was_lost_or_changed_is_done_again(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """A deleted output, a truncated one, a changed input, a new one and a torn manifest line are noticed and mended."""
    shell(COMMAND, expect=3)
    before, out = tree(tmp_path / "out"), tmp_path / "out"
    (out / "masks/a-red-circle/sub0/p00.png").unlink()
    os.truncate(out / "soft/a-red-circle/sub1/p01.png", 10)
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"v":1,"image":"imgs/sub2/p0')
    assert "10 before" in shell(COMMAND, expect=3).stderr
    assert tree(out) == before
    save(imgs / "sub2/p02.jpg", picture(200, 100, 77))
    save(imgs / "sub2/new.jpg", picture(200, 100, 78))
    assert "11 before" in shell(COMMAND, expect=3).stderr
    rows = records(out / "manifest.jsonl")
    assert len(rows) == 14 == len({row["image"] for row in rows})
    assert next(row for row in rows if row["image"] == "imgs/sub2/p02.jpg")["width"] == 200


def test_a_touched_input_is_the_same_with_checksum(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """With --checksum an input is known by its content, so a new time alone changes nothing."""
    shell(COMMAND + " --checksum", expect=3)
    for path in imgs.rglob("*.jpg"):
        os.utime(path)
    assert "12 before" in shell(COMMAND + " --checksum", expect=3).stderr


def test_other_settings_are_refused_with_the_difference(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """Another threshold into the same folder: exit 1, both values shown, nothing touched; --overwrite goes on."""
    shell(COMMAND, expect=3)
    before = tree(tmp_path / "out")
    refused = shell(COMMAND + " -t 0.77", expect=1)
    assert "0.77" in refused.stderr and "there" in refused.stderr and "now" in refused.stderr
    assert "--overwrite" in refused.stderr and tree(tmp_path / "out") == before
    shell(COMMAND + " -t 0.77 --overwrite", expect=3)
    rows = records(tmp_path / "out/manifest.jsonl")
    assert len(rows) == 13 and {m["threshold"] for row in rows for m in row.get("masks", ())} == {0.77}


def test_a_newer_manifest_is_left_alone(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """A manifest of another schema version is refused, not rewritten."""
    shell(COMMAND, expect=3)
    manifest = tmp_path / "out/manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('{"v":1,', '{"v":2,'))
    assert "schema 2" in shell(COMMAND, expect=1).stderr


def test_killed_at_random_and_resumed_it_is_the_same_tree(
    shell: Shell, imgs: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """kill -9 again and again: no partial file under a final name, and in the end the uninterrupted run's bytes."""
    shell(COMMAND.replace("-o out", "-o whole"), expect=3)
    whole, rng = tree(tmp_path / "whole"), random.Random(7)
    for _ in range(4):
        process = subprocess.Popen(
            ["bash", "-c", f"exec {COMMAND} -b 1"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()  # killed among the images, not while it starts
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.communicate()
        for name, data in tree(tmp_path / "out").items():
            if not Path(name).name.startswith(".clipseg-tmp-") and not name.endswith(".jsonl"):
                assert data == whole[name], name
    shell(COMMAND, expect=3)
    assert tree(tmp_path / "out") == whole


def test_runs_side_by_side_may_share_a_folder(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`xargs -P` over one output: each image once, whole manifest lines."""
    shell(
        "find imgs -name 'p*.jpg' -print0 | xargs -0 -n 4 -P 2 clipseg segment -p circle -o out -q && "
        "clipseg segment $(find imgs -name 'p*.jpg' | sort) -p circle -o out"
    )
    rows = records(tmp_path / "out/manifest.jsonl")
    assert len(rows) == 12 == len({row["image"] for row in rows})
    assert len(list((tmp_path / "out/masks/circle/imgs").rglob("*.png"))) == 12


def test_a_full_disk_stops_the_run_and_leaves_nothing_partial(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """A write that fails (here: a limit on the size of files) is fatal, exit 1; without the limit the run completes."""
    save(imgs / "z.png", picture(1500, 1500, 3))
    told = shell(f"ulimit -f 30; {COMMAND}", expect=1).stderr
    assert "File too large" in told and "same command again" in told
    assert not list((tmp_path / "out").rglob(".clipseg-tmp-*"))
    shell(COMMAND, expect=3)
    shell(COMMAND.replace("-o out", "-o whole"), expect=3)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_folder_in_the_way_costs_one_image(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """An output path that is a folder: `output_conflict` for that image only."""
    (tmp_path / "out/masks/a-red-circle/sub0/p00.png").mkdir(parents=True)
    shell(COMMAND, expect=3)
    rows = {row["image"]: row for row in records(tmp_path / "out/manifest.jsonl")}
    assert rows["imgs/sub0/p00.jpg"]["error"]["class"] == "output_conflict"
    assert sum(row["status"] == "ok" for row in rows.values()) == 11


def test_the_same_run_json_tells_the_commit_and_the_counts(shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """run.json says how many were done, how many before, how many failed, and in how many seconds."""
    shell(COMMAND, expect=3)
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["images"] == {"done": 12, "of_these_before": 0, "failed": 1} and run["seconds"] > 0
    shutil.rmtree(imgs / "sub1")
    shell(COMMAND)
    assert json.loads((tmp_path / "out/run.json").read_text())["images"]["of_these_before"] == 8
