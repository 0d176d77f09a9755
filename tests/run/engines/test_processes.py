"""Worker processes of this machine: their images are done in order, and none stays behind."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

import pytest

import fake_work
from clipseg_cli.errors import ClipsegError, OutputError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines import processes, workers
from clipseg_cli.run.engines.workers import Notice
from process_table import alive, gone

slow = pytest.mark.slow


def run(names: Sequence[str], count: int = 1, folder: Path = Path()) -> tuple[list[Record], list[str]]:
    """Returns the records of images of these names, done by `fake_work`, and the lines told meanwhile."""
    sources = [Source(str(folder / name), name, name) for name in names]
    told: list[str] = []
    found = list(processes.run(sources, [fake_work.work] * count, lambda notice: told.append(notice.line), 8))
    return found, told


@pytest.mark.parametrize(
    ("count", "ahead"),
    [(3, 8), pytest.param(1, 1, marks=slow), pytest.param(3, 1, marks=slow), pytest.param(1, 8, marks=slow)],
)
def test_records_come_in_the_order_of_the_images(count: int, ahead: int) -> None:
    """One record per image in their order, even if a pipeline holds back more than it is sent ahead. An item that is a
    record keeps its place. A worker that prints disturbs nothing. What all workers tell is told once."""
    names = [f"{index}" for index in range(50)]
    items = [Record(name) if int(name) % 7 == 0 else Source(name, name, name) for name in names]
    told: list[Notice] = []
    found = list(processes.run(items, [fake_work.work] * count, told.append, ahead))
    assert [record.image for record in found] == names
    assert len({record.width for record in found} - {0}) == count
    assert [(notice.line, notice.facts) for notice in told] == [("at work", {"worker": "told"})]
    assert gone([record.width for record in found if record.width])


def test_what_is_done_already_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records pass through without a process."""
    monkeypatch.setattr(processes, "START", "raise SystemExit('started')")
    assert len(list(processes.run([Record("a")] * 5, [fake_work.work], lambda notice: None, 4))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_the_image_that_kills_is_found_and_the_others_are_done(count: int) -> None:
    """Workers die of SIGKILL, of an abort and of a bug: the images to blame are `worker_died`, all others are done."""
    names = [f"{index}" for index in range(12)]
    names[2], names[3], names[9], names[11] = "kill-a", "kill-b", "crash", "bug"
    found, told = run(names, count)
    assert [record.image for record in found] == names
    failed = {record.image: str(record.error) for record in found if not record.ok}
    assert failed.keys() == {"kill-a", "kill-b", "crash", "bug"}
    assert all((record.error.kind, record.error.stage) == ("worker_died", "mask") for record in found if record.error)
    assert "SIGKILL" in failed["kill-a"] and "SIGABRT" in failed["crash"]
    assert any("a bug" in line for line in told) and any("one by one" in line for line in told)


def test_an_image_is_tried_again_before_it_is_blamed(tmp_path: Path) -> None:
    """A worker that dies by chance costs nothing: every image of it is done."""
    found, told = run(["a", "b", "once", "c"], folder=tmp_path)
    assert [record.image for record in found if record.ok] == ["a", "b", "once", "c"]
    assert any("SIGSEGV" in line for line in told)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_an_image_that_never_loads_is_given_up(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A decoder that hangs: its worker is killed after `LOAD_TIMEOUT`, and again. The others are done, and no process
    is left behind."""
    monkeypatch.setattr(workers, "LOAD_TIMEOUT", 1)
    names = ["a", "b", "c", "stuck", "d", "e"]
    found, told = run(names, count)
    assert [record.image for record in found] == names
    (bad,) = (record.error for record in found if record.error)
    assert (bad.kind, bad.stage) == ("worker_died", "load") and "still loading after 1 s" in str(bad)
    assert any("still loading after 1 s" in line for line in told)
    assert gone([record.width for record in found if record.width])


def test_an_error_of_a_worker_is_raised_in_the_main_process() -> None:
    """An OutputError of a worker ends the run."""
    with pytest.raises(OutputError, match="no space left"):
        run(["a", "full", "b"])


@pytest.mark.slow
def test_workers_that_never_do_an_image_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`MAX_DEATHS` in a row are an error of the run."""
    monkeypatch.setattr(workers, "MAX_DEATHS", 5)
    with pytest.raises(ClipsegError, match="died in a row"):
        run(["kill"] * 40)


@pytest.mark.slow
def test_leaving_early_leaves_no_process() -> None:
    """A reader that stops in the middle, while a worker is busy for a minute, ends the workers within seconds."""
    sources = [Source("x", name, "x") for name in ("a", "b", "c", "d", "e", "slow")]
    stream = processes.run(sources, [fake_work.work], lambda notice: None, 8)
    pid = next(stream).width
    started = time.monotonic()
    stream.close()  # type: ignore[attr-defined]
    assert not alive(pid) and time.monotonic() - started < workers.GRACE + 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [SIGKILL, SIGTERM])
def test_workers_end_with_their_parent(number: Signals) -> None:
    """Whatever ends the parent, its workers end by themselves."""
    command = [sys.executable, fake_work.__file__, *"abcdefghij", "slow", "slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = {int(parent.stdout.readline().split()[1]) for _ in range(4)}
        assert len(pids) == 2
        parent.send_signal(number)
    assert gone(pids, workers.GRACE + 2)
