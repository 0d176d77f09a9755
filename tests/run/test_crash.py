"""Runs that are killed, at every point where it hurts: nothing is partial, nothing is lost, nothing is done twice.

The network is fake. What is killed runs in its own processes (`quick_shell`); uninterrupted runs, to compare with, and
resumed ones run in the test's process (`quick_clipseg`).
"""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals

import pytest

import kill_points
from output_folder import assert_whole, temporary_files, tree
from pictures import Program, Shell, records, save_tiny
from process_table import children, gone

slow = pytest.mark.slow
COMMAND = "clipseg segment imgs -p red -f mask -f overlay -o out -b 2"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder imgs/ of twelve images, two of them corrupt, and the output folder of an uninterrupted run."""
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.mark.parametrize(
    ("point", "number"),
    [
        pytest.param(point, number, marks=() if (point, number) == ("mid-write", 9) else slow)
        for point in kill_points.POINTS
        for number in (1, 9)
    ],
)
def test_killed_at_a_point_and_resumed_it_is_the_same_tree(
    quick_shell: Shell,
    quick_clipseg: Program,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    uninterrupted: Path,
    point: str,
    number: int,
) -> None:
    """kill -9 at this point of the 1st or the 9th file or line: no file is partial. After a resume, at most the
    unfinished images were done again, and the tree is that of an uninterrupted run, byte for byte."""
    if not (uninterrupted / "out").exists():
        save_tiny(uninterrupted / "imgs", 12, corrupt=6)
        monkeypatch.chdir(uninterrupted)
        quick_clipseg(COMMAND, expect=3)
        monkeypatch.chdir(tmp_path)
    shutil.copytree(uninterrupted / "imgs", tmp_path / "imgs")
    out = tmp_path / "out"
    assert quick_shell(COMMAND, expect=None, TEST_KILL_AT=f"{point}:{number}").returncode in (-9, 137)
    assert_whole(out)
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True) if out.exists() else []
    finished = sum(line.endswith("\n") and '"ok"' in line for line in lines)
    before = re.search(r"\((\d+) before\)", quick_clipseg(COMMAND, expect=3).stderr)
    assert int(before[1] if before else 0) == finished
    assert tree(out) == tree(uninterrupted / "out") and not temporary_files(out)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["mid-write", "after-rename"])
def test_a_worker_killed_while_it_writes_leaves_nothing(
    quick_shell: Shell, quick_clipseg: Program, tmp_path: Path, point: str
) -> None:
    """Only the worker dies: the same run does everything and leaves no temporary file."""
    save_tiny(tmp_path / "imgs", 12)
    quick_clipseg(COMMAND.replace("-o out", "-o whole"))
    done = quick_shell(COMMAND, TEST_KILL_AT=f"{point}:7", TEST_KILL_ONCE=str(tmp_path / "once"))
    assert "SIGKILL" in done.stderr and (tmp_path / "once").exists()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and not temporary_files(tmp_path / "out")


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=slow)])
def test_a_crashing_decoder_costs_one_image(
    quick_shell: Shell, quick_clipseg: Program, tmp_path: Path, jobs: int
) -> None:
    """A segmentation fault in the middle of a folder: that image is `worker_died`, all others are as without it, and no
    temporary file is left."""
    save_tiny(tmp_path / "imgs", 9)
    quick_clipseg(COMMAND.replace("-o out", "-o whole"))
    poison = (tmp_path / "imgs/3/00003.png").rename(tmp_path / "imgs/3/poison.png")
    done = quick_shell(f"{COMMAND} -j {jobs}", expect=3, TEST_CRASH_ON="poison")
    assert "SIGSEGV" in done.stderr and "model fake" in done.stderr
    rows, whole = records(tmp_path / "out/manifest.jsonl"), records(tmp_path / "whole/manifest.jsonl")
    (bad,) = (row for row in rows if row["status"] == "failed")
    assert bad["image"] == f"imgs/3/{poison.name}" and bad["error"]["class"] == "worker_died"
    assert [row for row in rows if row != bad] == [row for row in whole if row["image"] != "imgs/3/00003.png"]
    expected = {name: data for name, data in tree(tmp_path / "whole").items() if "00003" not in name}
    assert tree(tmp_path / "out") == expected | {"manifest.jsonl": (tmp_path / "out/manifest.jsonl").read_bytes()}


@pytest.mark.slow
def test_a_worker_killed_from_outside_costs_nothing(
    quick_clipseg: Program, tmp_path: Path, quick_environment: dict[str, str]
) -> None:
    """The out-of-memory killer ends a worker in the middle of a run: the run ends with 0 and the same tree."""
    save_tiny(tmp_path / "imgs", 1000)
    quick_clipseg(COMMAND.replace("-o out", "-o whole"))
    messages = tmp_path / "messages.txt"
    with (
        messages.open("w") as stderr,
        subprocess.Popen(
            COMMAND.split(), cwd=tmp_path, env=quick_environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as run,
    ):
        assert run.stdout is not None
        run.stdout.readline()
        os.kill(children(run.pid)[0], SIGKILL)
        printed = run.stdout.read()  # communicate() would lose the lines that readline() had read ahead
    assert run.returncode == 0 and len(printed.splitlines()) == 999 and "SIGKILL" in messages.read_text()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("number", [SIGINT, pytest.param(SIGTERM, marks=slow), pytest.param(SIGHUP, marks=slow)])
def test_a_signal_ends_the_run_and_its_workers(
    tmp_path: Path, quick_environment: dict[str, str], number: Signals
) -> None:
    """The first signal: exit 130, 143 or 129 in under 5 s. What is finished is in the manifest, and no process is left
    behind."""
    save_tiny(tmp_path / "imgs", 1500)
    command = [*COMMAND.split(), "-j", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=quick_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        first = run.stdout.readline()
        workers = children(run.pid)
        began = time.monotonic()
        run.send_signal(number)
        printed, told = run.communicate()
    assert run.returncode == 128 + number and time.monotonic() - began < 5
    assert "to resume" in told and "Traceback" not in told
    assert len(workers) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert_whole(tmp_path / "out")
    lines = {first.strip(), *printed.splitlines()}  # a line that the signal interrupts may be written twice
    assert len(lines) <= len(records(tmp_path / "out/manifest.jsonl")) < 1500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "signals"),
    [
        (1, [SIGTERM]),
        (9, [SIGINT]),
        (9, [SIGINT, SIGINT]),
        (9, [SIGTERM, SIGTERM]),
        (9, [SIGINT, SIGTERM]),
    ],
)
def test_a_run_that_hangs_ends_by_signals(
    tmp_path: Path, quick_environment: dict[str, str], count: int, signals: list[Signals]
) -> None:
    """An image never loads, in a worker or (a single image) in the main process. The first signal ends the run with
    its message. A second one ends it at once, with its own exit code and no message. No process is left behind."""
    save_tiny(tmp_path / "imgs", count)
    environment = quick_environment | {"TEST_HANG_ON": f"{count - 1:05}"}
    with subprocess.Popen(COMMAND.split(), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while "hangs" not in run.stderr.readline():  # two processes write there: their lines may mingle
            assert run.poll() is None
        workers = children(run.pid)
        threads = len(os.listdir(f"/proc/{run.pid}/task"))
        run.send_signal(signals[0])
        if len(signals) > 1:
            while len(os.listdir(f"/proc/{run.pid}/task")) <= threads:  # one more thread sees to the end
                assert run.poll() is None
            run.send_signal(signals[1])
        _, told = run.communicate()
    assert run.returncode == 128 + signals[-1]
    assert told.count("to resume") == (len(signals) == 1) and "Traceback" not in told
    assert len(workers) == (count > 1) and gone(workers)


@pytest.mark.slow
def test_a_decoder_that_hangs_costs_one_image(quick_shell: Shell, tmp_path: Path) -> None:
    """The run ends by itself: that image is `worker_died` at its load, and all others are done."""
    save_tiny(tmp_path / "imgs", 9)
    told = quick_shell(COMMAND + " -j 2", expect=3, TEST_HANG_ON="00003", TEST_LOAD_TIMEOUT="1").stderr
    assert "still loading after 1 s" in told
    rows = records(tmp_path / "out/manifest.jsonl")
    (bad,) = (row for row in rows if row["status"] == "failed")
    assert len(rows) == 9 and bad["image"] == "imgs/3/00003.png"
    assert (bad["error"]["class"], bad["error"]["stage"]) == ("worker_died", "load")
