"""Runs that are repeated, killed, given other settings, or shared: nothing is lost. The model is `shapes`."""

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from machine import file_size_limit
from output_folder import temporary_files, tree
from pictures import Program, Shell, picture, records, save

COMMAND = "clipseg segment imgs -p 'a red circle' -f mask -f overlay -f soft -o out"


@pytest.fixture
def imgs(tmp_path: Path) -> Path:
    """A dozen small images, and a broken one."""
    for index in range(12):
        save(tmp_path / f"imgs/sub{index % 3}/p{index:02}.jpg", picture(96 + 8 * index, 96, index))
    (tmp_path / "imgs/sub1/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    return tmp_path / "imgs"


def test_a_finished_run_answers_without_the_model(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """The same command again prints the same lines, changes nothing, and loads no network."""
    first = clipseg(COMMAND, expect=3)
    before = tree(tmp_path / "out")
    again = clipseg(COMMAND, expect=3)
    assert "model shapes" in first.stderr and "model shapes" not in again.stderr and "12 before" in again.stderr
    assert again.stdout == first.stdout and tree(tmp_path / "out") == before


def test_what_was_lost_or_changed_is_done_again(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """A deleted output, a truncated one, a changed input, a new one and a torn manifest line are noticed and mended."""
    clipseg(COMMAND, expect=3)
    before, out = tree(tmp_path / "out"), tmp_path / "out"
    (out / "masks/a-red-circle/sub0/p00.png").unlink()
    os.truncate(out / "soft/a-red-circle/sub1/p01.png", 10)
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"v":2,"image":"imgs/sub2/p0')
    assert "10 before" in clipseg(COMMAND, expect=3).stderr
    assert tree(out) == before
    save(imgs / "sub2/p02.jpg", picture(200, 100, 77))
    save(imgs / "sub2/new.jpg", picture(200, 100, 78))
    assert "11 before" in clipseg(COMMAND, expect=3).stderr
    rows = records(out / "manifest.jsonl")
    assert len(rows) == 14 == len({row["image"] for row in rows})
    assert next(row for row in rows if row["image"] == "imgs/sub2/p02.jpg")["width"] == 200


def test_a_touched_input_is_the_same_with_checksum(clipseg: Program, imgs: Path) -> None:
    """With --checksum an input is known by its content, so a new time alone changes nothing."""
    clipseg(COMMAND + " --checksum", expect=3)
    for path in imgs.rglob("*.jpg"):
        os.utime(path)
    assert "12 before" in clipseg(COMMAND + " --checksum", expect=3).stderr


def test_other_settings_are_refused_with_the_difference(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """Another threshold into the same folder exits with 1, shows both values and touches nothing. With --overwrite it
    runs."""
    clipseg(COMMAND, expect=3)
    before = tree(tmp_path / "out")
    refused = clipseg(COMMAND + " -t 0.77", expect=1)
    assert "0.77" in refused.stderr and "there" in refused.stderr and "now" in refused.stderr
    assert "--overwrite" in refused.stderr and tree(tmp_path / "out") == before
    clipseg(COMMAND + " -t 0.77 --overwrite", expect=3)
    rows = records(tmp_path / "out/manifest.jsonl")
    assert len(rows) == 13 and {m["threshold"] for row in rows for m in row["masks"]} == {0.77}


def test_a_newer_manifest_is_left_alone(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """A manifest of another schema version is refused, not rewritten."""
    clipseg(COMMAND, expect=3)
    manifest = tmp_path / "out/manifest.jsonl"
    newer = manifest.read_text().replace('{"v":2,', '{"v":3,')
    manifest.write_text(newer)
    assert "schema 3, not 2" in clipseg(COMMAND, expect=1).stderr
    assert manifest.read_text() == newer


@pytest.mark.slow
def test_killed_at_random_and_resumed_it_is_the_same_tree(
    shell: Shell, clipseg: Program, imgs: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """kill -9 again and again: no file under a final name is partial, and the end is the uninterrupted run's tree."""
    clipseg(COMMAND.replace("-o out", "-o whole"), expect=3)
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


@pytest.mark.slow
def test_runs_side_by_side_may_share_a_folder(quick_shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """`xargs -P` over one output folder: each image is done once, and manifest lines are whole."""
    quick_shell(
        "find imgs -name 'p*.jpg' -print0 | xargs -0 -n 4 -P 2 clipseg segment -p circle -o out -q && "
        "clipseg segment $(find imgs -name 'p*.jpg' | sort) -p circle -o out"
    )
    rows = records(tmp_path / "out/manifest.jsonl")
    assert len(rows) == 12 == len({row["image"] for row in rows})
    assert len(list((tmp_path / "out/masks/circle/imgs").rglob("*.png"))) == 12


def test_a_full_disk_stops_the_run_and_leaves_nothing_partial(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """A write that fails (here: a limit on the size of files) ends the run with 1. Without the limit it completes."""
    save(imgs / "z.png", picture(1500, 1500, 3))
    with file_size_limit(30 * 1024):
        told = clipseg(COMMAND, expect=1).stderr
    assert "File too large" in told and "same command again" in told
    assert not temporary_files(tmp_path / "out")
    clipseg(COMMAND, expect=3)
    clipseg(COMMAND.replace("-o out", "-o whole"), expect=3)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_folder_in_the_way_costs_one_image(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """If an output path is a folder, only that image fails, as `output_conflict`."""
    (tmp_path / "out/masks/a-red-circle/sub0/p00.png").mkdir(parents=True)
    clipseg(COMMAND, expect=3)
    rows = {row["image"]: row for row in records(tmp_path / "out/manifest.jsonl")}
    assert rows["imgs/sub0/p00.jpg"]["error"]["class"] == "output_conflict"
    assert sum(row["status"] == "ok" for row in rows.values()) == 11


def test_run_json_counts_the_images(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """run.json says how many images were done, how many of these before, how many failed, and in how many seconds."""
    clipseg(COMMAND, expect=3)
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["images"] == {"done": 12, "of_these_before": 0, "failed": 1} and run["seconds"] > 0
    shutil.rmtree(imgs / "sub1")
    clipseg(COMMAND)
    assert json.loads((tmp_path / "out/run.json").read_text())["images"]["of_these_before"] == 8
