"""Workers, and the rule for what happens if one dies.

The main process loads no network and decodes no image. It sends sources to workers, a few ahead, and yields their
records in the order of the sources. A worker that dies (killed, out of memory, a crash in a decoder) is replaced, and
its pending images are tried again one at a time. An image whose worker dies again gets the record `worker_died`, and
so does an image that never finishes loading. `dispatch` is this rule. It works with any kind of worker: processes of
this machine (`processes`) or actors of Ray (`ray_actors`).

Messages to a worker: the work, then sources. Messages from it: records, `Notice`, `Progress`, and the error that ends
the run.
"""

import contextlib
import queue
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clipseg_cli.errors import ClipsegError, ImageError, Stage
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.record import Record
from clipseg_cli.settings.model import Device

STARVED = 0.05  # seconds without a new source after which a worker finishes the images that it has
GRACE = 3.0  # seconds that a worker gets to end cleanly
LOAD_TIMEOUT = 600  # seconds that one image may take to load: the slowest of thousands of hostile files took 0.6
MAX_DEATHS = 20  # deaths without a record in between: the images are not the cause


@dataclass(frozen=True, slots=True)
class Notice:
    """What a worker reports beside its records: a line for the user, facts for run.json."""

    line: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    passing: bool = False  # how far something is: shown as progress


@dataclass(frozen=True, slots=True)
class Progress:
    """An image has reached a stage. If its worker dies there, the error names this stage."""

    image: str  # its key
    stage: Stage


@dataclass(frozen=True, slots=True)
class Death:
    """Why a worker died, and whether one of its pending images may be the cause."""

    cause: str
    by_image: bool = True


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the workers run: the first two fields are for Ray, the others for the local engine."""

    address: str | None = None  # None: start Ray on this machine
    device: Device = "auto"  # as the user wrote it
    threads: int | None = None  # of a local process; None: its share of the cores
    patient: bool = False  # starts a local process only if those before it have as many images as they may


Notify = Callable[[Notice], None]
Send = Callable[[Notice | Progress], None]
# the pipeline of one process; it can be pickled. None among the sources is a pause
Work = Callable[[Iterable[Source | None], Send], Iterator[Record]]
Message = Record | Notice | Progress | ClipsegError | Literal["ready"] | None  # None: the worker is dead
Todo = queue.SimpleQueue[Source | None]  # None: no more sources


class Worker:
    """The main process's side of one worker. A subclass starts the process or actor, again after each death."""

    ready = True  # it can take sources
    retrying = False  # its one pending image was pending when a worker died
    reserve = False  # it gets a source only if no other worker has room

    def __init__(self, inbox: "Inbox") -> None:
        self.inbox = inbox
        self.pending: deque[tuple[int, Source]] = deque()  # sent, without a record yet: item number and source
        self.stages: dict[str, Stage] = {}  # of the pending images that it has begun
        self.silence = 0  # seconds without a message, counted and not timed: a run may be suspended

    def take(self, number: int, source: Source, retrying: bool = False) -> None:
        """Sends a source to the worker."""
        self.pending.append((number, source))
        self.retrying = retrying
        self.send(source)

    def finished(self, image: str) -> int:
        """Removes a pending image, named by its key, whose record has come. Returns its item number."""
        item = next(item for item in self.pending if item[1].key == image)
        self.pending.remove(item)
        self.stages.pop(image, None)
        self.retrying = False
        return item[0]

    def clear(self) -> None:
        """Forgets the pending images."""
        self.pending, self.stages, self.retrying, self.silence = deque(), {}, False, 0

    def count_silence(self) -> None:
        """Counts a second without a message. Kills the worker if an image has been loading for `LOAD_TIMEOUT`."""
        self.silence = self.silence + 1 if "load" in self.stages.values() else 0
        if self.silence > LOAD_TIMEOUT:
            self.kill()

    def send(self, source: Source) -> None:
        """Sends a source. If the worker is dead, does nothing: the message None will follow."""
        raise NotImplementedError

    def kill(self) -> None:
        """Ends the worker at once."""
        raise NotImplementedError

    def death(self) -> Death:
        """Returns why the worker died."""
        raise NotImplementedError

    def replace(self) -> None:
        """Prepares another process or actor in place of the dead one."""
        raise NotImplementedError

    def request_end(self) -> None:
        """Asks the worker to end: at once if nothing is pending, otherwise after the files in progress are written."""
        raise NotImplementedError

    def wait_for_end(self) -> None:
        """Waits up to `GRACE` seconds for the end of a worker that was asked to end or is dead, then kills it."""
        raise NotImplementedError


Inbox = queue.SimpleQueue[tuple[Worker, Message]]


def dispatch(
    items: Iterable[Source | Record], workers: Sequence[Worker], inbox: Inbox, notify: Notify, ahead: int
) -> Iterator[Record]:
    """Yields one record per item, in the order of the items; an item that is already a record is passed on.

    A worker has at most `ahead` pending sources. A line that several workers report is passed to `notify` once.
    Raises the ClipsegError that a worker reports, or one after `MAX_DEATHS`. However the caller leaves this generator,
    all workers end.
    """
    try:
        yield from _Dispatcher(items, workers, inbox, notify, ahead).records()
    finally:
        for worker in workers:
            worker.request_end()
        for worker in workers:
            worker.wait_for_end()


class _Dispatcher:
    """The state of one `dispatch`."""

    def __init__(
        self, items: Iterable[Source | Record], workers: Sequence[Worker], inbox: Inbox, notify: Notify, ahead: int
    ) -> None:
        self.items, self.workers, self.inbox, self.notify, self.ahead = iter(items), workers, inbox, notify, ahead
        self.exhausted = False  # no more items
        self.taken = self.given = 0  # items read, records yielded
        self.results: dict[int, Record] = {}  # not yet yielded, by item number
        self.suspects: deque[tuple[int, Source]] = deque()  # pending when a worker died, to be tried one by one
        self.notified: set[str] = set()
        self.deaths = self.deaths_in_a_row = 0

    def records(self) -> Iterator[Record]:
        """Yields the records in order."""
        while True:
            while self.given in self.results:
                yield self.results.pop(self.given)
                self.given += 1
            if self.exhausted and self.given == self.taken:
                return
            self._advance()

    def _advance(self) -> None:
        """Sends one suspect, handles one message or takes one item, in this order of preference."""
        free = [each for each in self.workers if each.ready and not each.retrying and len(each.pending) < self.ahead]
        idle = next((worker for worker in free if not worker.pending), None)
        full = self.taken - self.given >= 2 * self.ahead * len(self.workers)
        if self.suspects and idle is not None:
            number, source = self.suspects.popleft()
            idle.take(number, source, retrying=True)
        elif not self.inbox.empty() or self.exhausted or not free or full:
            self._handle(*self._receive())
        else:
            self._take_item(min(free, key=lambda worker: (worker.reserve, len(worker.pending))))

    def _take_item(self, worker: Worker) -> None:
        item = next(self.items, None)
        if item is None:
            self.exhausted = True
            return
        if isinstance(item, Record):
            self.results[self.taken] = item
        else:
            worker.take(self.taken, item)
        self.taken += 1

    def _receive(self) -> tuple[Worker, Message]:
        while True:
            with contextlib.suppress(queue.Empty):
                return self.inbox.get(timeout=1)  # seconds: without it a signal would not be noticed on Windows
            for worker in self.workers:
                worker.count_silence()

    def _handle(self, worker: Worker, message: Message) -> None:
        if message is None:
            self._handle_death(worker)
            return
        worker.silence = 0
        if isinstance(message, Record):
            self.results[worker.finished(message.key)] = message
            self.deaths_in_a_row = 0
        elif isinstance(message, Progress):
            worker.stages[message.image] = message.stage
        elif isinstance(message, Notice):
            if message.line not in self.notified:
                self.notified.add(message.line)
                self.notify(message)
        elif isinstance(message, ClipsegError):
            raise message
        else:
            worker.ready = True

    def _handle_death(self, worker: Worker) -> None:
        """Replaces the worker. Its pending images become suspects. An image that it was retrying fails."""
        death = worker.death()
        timed_out = worker.silence > LOAD_TIMEOUT
        cause = f"killed: one image was still loading after {LOAD_TIMEOUT} s" if timed_out else death.cause
        worker.replace()
        self.deaths, self.deaths_in_a_row = self.deaths + 1, self.deaths_in_a_row + 1
        if self.deaths_in_a_row == MAX_DEATHS:
            raise ClipsegError(
                f"{MAX_DEATHS} worker processes died in a row ({cause}): there is too little memory, or the "
                "installation is broken; run clipseg doctor, then run the same command again to resume"
            )
        retry = f"its {len(worker.pending)} images are tried again one by one"
        if worker.retrying and death.by_image:
            number, source = worker.pending.popleft()
            message = f"its worker process died twice ({cause}); convert the image, or provide more memory"
            error = ImageError("worker_died", worker.stages.get(source.key, "load"), message)
            self.results[number] = Record.of(source).failed(error)
            retry = "it had been retrying one image, which is now marked as failed"
        self.notify(Notice(f"a worker process died ({cause}); {retry}", {"workers_died": self.deaths}))
        self.suspects.extend(worker.pending)
        worker.clear()


def run_worker(work: Work, todo: Todo, send: Callable[[Record | Notice | Progress], None]) -> None:
    """Runs `work` on the sources of `todo` until it yields None, and sends every record."""
    first = todo.get()
    if first is not None:
        for record in work(_with_pauses(first, todo), send):
            send(record)


def _with_pauses(source: Source | None, todo: Todo) -> Iterator[Source | None]:
    """Yields a source and those of `todo`, and None whenever none comes for `STARVED` seconds.

    At such a pause the pipeline yields the records that it still holds. Otherwise worker and main process could wait
    for each other: the worker for more sources, the main process for records.
    """
    while source is not None:
        yield source
        try:
            source = todo.get(timeout=STARVED)
        except queue.Empty:
            yield None
            source = todo.get()


def failure_notice(error: BaseException) -> Notice:
    """Returns the report of a worker that ends with an unexpected exception."""
    trace = traceback.format_exception(error)
    line = f"a worker process failed: {type(error).__name__}: {error}"
    return Notice(line, {"traceback": "".join(trace).splitlines()})
