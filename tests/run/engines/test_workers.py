"""The rule for workers that die, with workers that are no processes and answer at once."""

import queue
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from clipseg_cli.errors import ClipsegError, ImageError, OutputError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines import workers
from clipseg_cli.run.engines.workers import Death, Inbox, Notice, Progress, Worker

TRIED: Counter[str] = Counter()


class InstantWorker(Worker):
    """Does an image at once. A name that contains `kill` kills it, `once` only the first time; `lost` is a lost node,
    twice; `full` ends the run; `stuck` never loads."""

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(inbox)
        self.dead = self.asked = self.ended = False

    def send(self, source: Source) -> None:
        """Puts all that comes of the image into the inbox."""
        if self.dead:
            return
        TRIED[source.name] += 1
        self.inbox.put((self, Notice("at work", {"worker": "told"})))
        self.inbox.put((self, Progress(source.name, "load")))
        if "stuck" in source.name:
            return
        self.inbox.put((self, Progress(source.name, "mask")))
        self.lost = "lost" in source.name and TRIED[source.name] < 3
        if "kill" in source.name or ("once" in source.name and TRIED[source.name] == 1) or self.lost:
            self.kill()
        elif "full" in source.name:
            self.inbox.put((self, OutputError("no space left")))
        else:
            self.inbox.put((self, Record(source.name)))

    def kill(self) -> None:
        """Dies."""
        self.dead = True
        self.inbox.put((self, None))

    def death(self) -> Death:
        """Returns a cause that the test can find."""
        return Death("SIGKILL", by_image=not self.lost)

    def replace(self) -> None:
        """Lives again."""
        self.dead = False

    def request_end(self) -> None:
        """Remembers it."""
        self.asked = True

    def wait_for_end(self) -> None:
        """Remembers it."""
        self.ended = self.asked


class SlowWorker(InstantWorker):
    """Does no image before all workers have theirs."""

    sent = 0

    def send(self, source: Source) -> None:
        """Answers after a moment."""
        self.sent += 1
        threading.Timer(0.2, super().send, [source]).start()


def run(items: Sequence[str | Record], count: int, ahead: int = 3) -> tuple[list[Record], list[Notice], list[Worker]]:
    """Returns the records, the notices and the workers. A name stands for a source."""
    TRIED.clear()
    inbox: Inbox = queue.SimpleQueue()
    crew: list[Worker] = [InstantWorker(inbox) for _ in range(count)]
    notices: list[Notice] = []
    sources = [item if isinstance(item, Record) else Source(item, item, item) for item in items]
    return list(workers.dispatch(sources, crew, inbox, notices.append, ahead)), notices, crew


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("ahead", [1, 8])
def test_records_come_in_the_order_of_the_items(count: int, ahead: int) -> None:
    """One record per item in their order. An item that is a record keeps its place. A notice is told once."""
    names = [f"{index}" for index in range(50)]
    items = [Record(name) if int(name) % 7 == 0 else name for name in names]
    found, notices, crew = run(items, count, ahead)
    assert [record.image for record in found] == names and set(TRIED.values()) == {1}
    assert [(notice.line, notice.facts) for notice in notices] == [("at work", {"worker": "told"})]
    assert all(worker.ended for worker in crew)  # type: ignore[attr-defined]


def test_a_worker_in_reserve_waits_until_the_others_are_full() -> None:
    """Few images are done by the first worker alone. Of more, each gets some."""
    for count, expected in ((3, [3, 0]), (5, [3, 2])):
        inbox: Inbox = queue.SimpleQueue()
        first, second = SlowWorker(inbox), SlowWorker(inbox)
        second.reserve = True
        sources = [Source(name, name, name) for name in map(str, range(count))]
        found = list(workers.dispatch(sources, [first, second], inbox, lambda notice: None, 3))
        assert [record.image for record in found] == [source.name for source in sources]
        assert [first.sent, second.sent] == expected


@pytest.mark.parametrize("count", [1, 3])
def test_the_image_to_blame_is_found(count: int) -> None:
    """An image whose worker dies twice is `worker_died` at its stage. Images that were pending with it are done."""
    names = ["a", "kill-a", "b", "c", "kill-b", "once", "d", "e"]
    found, notices, _ = run(names, count)
    assert [record.image for record in found] == names
    errors = {record.image: record.error for record in found if isinstance(record.error, ImageError)}
    assert errors.keys() == {"kill-a", "kill-b"} and TRIED["kill-a"] == 2
    assert all((error.kind, error.stage) == ("worker_died", "mask") for error in errors.values())
    assert all("died twice (SIGKILL)" in str(error) for error in errors.values())
    assert any("one by one" in notice.line for notice in notices)
    assert notices[-1].facts["workers_died"] == sum("died" in notice.line for notice in notices)


def test_the_loss_of_a_node_is_no_images_fault() -> None:
    """An image whose worker dies twice for another reason is tried a third time."""
    found, _, _ = run(["a", "lost", "b"], 1)
    assert all(record.ok for record in found) and TRIED["lost"] == 3


def test_too_many_deaths_in_a_row_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `MAX_DEATHS` without a record the images are not the cause."""
    monkeypatch.setattr(workers, "MAX_DEATHS", 5)
    with pytest.raises(ClipsegError, match="5 worker processes died in a row"):
        run(["kill"] * 40, 2)
    assert len(run(["kill", "a"] * 10, 1, ahead=1)[0]) == 20  # as many deaths, with records in between


def test_all_workers_end_however_the_caller_leaves() -> None:
    """An error that a worker reports is raised. Then, as when the caller stops reading, all workers are ended."""
    inbox: Inbox = queue.SimpleQueue()
    crew = [InstantWorker(inbox) for _ in range(2)]
    sources = [Source(name, name, name) for name in ("a", "full", "b")]
    with pytest.raises(OutputError, match="no space left"):
        list(workers.dispatch(sources, crew, inbox, lambda notice: None, 8))
    assert all(worker.ended for worker in crew)
    crew = [InstantWorker(inbox) for _ in range(2)]
    stream = workers.dispatch(sources, crew, inbox, lambda notice: None, 8)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert all(worker.ended for worker in crew)


def test_only_loading_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is killed after `LOAD_TIMEOUT` seconds of silence while an image loads, and not while it is masked."""
    monkeypatch.setattr(workers, "LOAD_TIMEOUT", 3)
    worker = InstantWorker(queue.SimpleQueue())
    worker.stages["a"] = "mask"
    for _ in range(9):
        worker.count_silence()
    worker.stages["b"] = "load"
    for _ in range(3):
        worker.count_silence()
    assert not worker.dead
    worker.count_silence()
    assert worker.dead
