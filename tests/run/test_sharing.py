"""Runs that work in one folder at the same time share its images. They are real processes; the network is fake."""

import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL

import pytest

from clipseg_cli.outputs.record import Record
from clipseg_cli.run import sharing
from output_folder import temporary_files, tree
from pictures import Program, records, save_tiny

COMMAND = "clipseg segment imgs -p red -f mask,coco -b 2 -o"

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, quick_environment: dict[str, str]) -> Iterator[Start]:
    """Starts a run into a folder, in a process group of its own. Each image that it decodes is a line in `decoded`."""
    environment = quick_environment | {"TEST_DECODED": str(tmp_path / "decoded")}
    runs = []

    def begin(out: str) -> "subprocess.Popen[str]":
        run = subprocess.Popen(
            [*COMMAND.split(), out], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.kill()
        run.communicate()


def test_two_runs_at_the_same_time_do_each_image_once(start: Start, quick_clipseg: Program, tmp_path: Path) -> None:
    """400 images: at most 2 % are decoded twice, each has one row, both runs print every mask, and the outputs are
    those of a single run."""
    save_tiny(tmp_path / "imgs", 400, corrupt=100)
    quick_clipseg(f"{COMMAND} whole", expect=3)
    runs = [start("out") for _ in range(2)]
    ended = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [3, 3], ended
    decoded = (tmp_path / "decoded").read_text().splitlines()
    rows = records(tmp_path / "out/manifest.jsonl")
    print(f"{len(decoded)} decoded")
    assert len({*decoded}) == 400 and len(decoded) <= 408
    assert len(rows) == 400 == len({row["image"] for row in rows})
    assert [len(printed.splitlines()) for printed, _ in ended] == [396, 396]
    one, two = tree(tmp_path / "whole"), tree(tmp_path / "out")
    assert sorted(one.pop("manifest.jsonl").splitlines()) == sorted(two.pop("manifest.jsonl").splitlines())
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_run_finishes_what_a_killed_one_had_claimed(start: Start, tmp_path: Path, victim: int) -> None:
    """kill -9 of either run: the other does the rest, with one row per image and no temporary file."""
    save_tiny(tmp_path / "imgs", 200)
    runs = [start("out") for _ in range(2)]
    stream = runs[victim].stdout
    assert stream is not None
    stream.readline()  # it is at work
    os.killpg(runs[victim].pid, SIGKILL)
    printed, told = runs[1 - victim].communicate()
    assert runs[1 - victim].returncode == 0 and len(printed.splitlines()) == 200, told
    rows = records(tmp_path / "out/manifest.jsonl")
    assert len(rows) == 200 == len({row["image"] for row in rows})
    assert len([*(tmp_path / "out/masks").rglob("*.png")]) == 200 and not temporary_files(tmp_path / "out")


def test_images_of_another_run_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that another run has claimed is looked at again: it is finished, or free once that run has died. The
    user hears of the wait once."""
    monkeypatch.setattr(sharing, "PAUSE", 0.0)
    answers = {
        "a": deque([None, None, None, Record("a", kept={"by": "the other"})]),
        "b": deque(["b"]),
        "c": deque([None, None, "c"]),
    }

    def work(items: Iterator[str | Record]) -> Iterator[Record]:
        yield from (item if isinstance(item, Record) else Record(item) for item in items)

    told: list[str] = []
    found = [*sharing.shared("abc", lambda item: answers[item].popleft(), work, told.append)]
    assert [record.image for record in found] == ["b", "a", "c"] and found[1].kept is not None
    assert len(told) == 1 and "another run" in told[0]
