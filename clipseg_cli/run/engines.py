"""Where the pipeline runs: in processes that may die, under one that does not.

The process that the user started loads no network and decodes no picture. It hands sources to workers, a few ahead,
and gives their records in the order of the sources. A worker that dies (killed, out of memory, a crash in a decoder)
is replaced, and the images it had in hand are tried again one at a time: one that kills its worker again becomes a
record `worker_died`; so does one that hangs on loading it. `direct` is that rule, whatever workers are: processes of
this machine here, in `cluster` actors of Ray.

A process whose parent died stops by itself, because its pipe ends. Messages are pickles on its stdin and stdout. To
it: the work, then sources. From it: records, `News`, `Step`s, and the error that ends the run. `subprocess` and not
`multiprocessing`, which would import the user's main module again.
"""

import _thread
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from clipseg_cli.errors import ClipsegError, ImageError, Stage
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import Record
from clipseg_cli.settings.model import Device

STARVED = 0.05  # seconds without a new source after which a worker finishes those that it has
GRACE = 3.0  # seconds that a worker gets to end in order
PATIENCE = 600  # seconds that one image may take to load: the slowest of thousands of hostile files took 0.6
HOPELESS = 20  # deaths without a record in between: it is not the images
START = "import sys; sys.path[:] = sys.argv[1:]; from clipseg_cli.run.engines import serve; serve()"


@dataclass(frozen=True, slots=True)
class News:
    """What a run has to say beside its records: a line for the person, facts for run.json."""

    line: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """An image has come to a stage. What kills its worker there is blamed on that stage."""

    image: str
    stage: Stage


Tell = Callable[[News], None]
Send = Callable[[News | Step], None]
Work = Callable[[Iterable[Source], Send], Iterator[Record]]  # the pipeline of one process; it can be pickled
Message = Record | News | Step | ClipsegError | Literal["ready"] | None  # None: the worker is dead


@dataclass(frozen=True, slots=True)
class Place:
    """Where workers are to run."""

    address: str | None = None  # of a Ray cluster; None: this machine
    device: Device = "auto"  # as the user wrote it


Engine = Callable[[Iterable[Source | Record], Sequence[Work], Tell, int, Place], Iterator[Record]]


def inline(
    items: Iterable[Source | Record], works: Sequence[Work], tell: Tell, ahead: int, place: Place = Place()
) -> Iterator[Record]:
    """In this process, one by one, watched by nobody: for a single image, which should not pay for a worker."""
    for item in items:
        if isinstance(item, Record):
            yield item
        else:
            yield from works[0]([item], lambda message: tell(message) if isinstance(message, News) else None)


def local(
    items: Iterable[Source | Record], works: Sequence[Work], tell: Tell, ahead: int, place: Place = Place()
) -> Iterator[Record]:
    """One record an item, in the order of the items, by one process of this machine for each of `works`."""
    inbox: Inbox = queue.SimpleQueue()
    return direct(items, [_Process(work, len(works), inbox) for work in works], inbox, tell, ahead)


def ray(
    items: Iterable[Source | Record], works: Sequence[Work], tell: Tell, ahead: int, place: Place = Place()
) -> Iterator[Record]:
    """As `local`, by one actor of a Ray cluster for each of `works`. Raises ClipsegError where there is no cluster."""
    from clipseg_cli.run import ray_actors

    return ray_actors.run(items, works, tell, ahead, place)


ENGINES: dict[str, Engine] = {"local": local, "ray": ray}


class Worker:
    """One place in the crew, and what it has in hand. Its kinds say what a place is made of."""

    ready = True  # takes sources
    alone = False  # what is in hand killed a worker before

    def __init__(self, inbox: "Inbox") -> None:
        self.inbox = inbox
        self.hand: deque[tuple[int, Source]] = deque()  # numbers and sources that were sent and have no record yet
        self.stages: dict[str, Stage] = {}  # of the images in hand that it has begun
        self.silent = 0  # seconds in which nobody said anything, counted and not timed: a run may be suspended

    def take(self, number: int, source: Source, alone: bool = False) -> None:
        """Sends a source to the place."""
        self.hand.append((number, source))
        self.alone = alone
        self.send(source)

    def done(self, name: str) -> int:
        """The number of the source in hand whose record has come."""
        found = next(item for item in self.hand if item[1].name == name)
        self.hand.remove(found)
        self.stages.pop(name, None)
        self.alone = False
        return found[0]

    def wait(self) -> None:
        """Another second without a word. Kills the worker where an image has been loading for too long."""
        self.silent = self.silent + 1 if "load" in self.stages.values() else 0
        if self.silent > PATIENCE:
            self.kill()

    def kill(self) -> None:
        """Ends the worker at once."""
        raise NotImplementedError

    def send(self, source: Source) -> None:
        """Sends it, or leaves that it cannot be sent to be heard of."""
        raise NotImplementedError

    def fate(self) -> tuple[str, bool]:
        """What the worker died of, and whether what it had in hand may be to blame."""
        raise NotImplementedError

    def bury(self) -> None:
        """Makes room for another after the death of the worker."""
        raise NotImplementedError

    def dismiss(self) -> None:
        """Asks the worker to end: at once where it has nothing in hand, else after what it is writing."""
        raise NotImplementedError

    def end(self) -> None:
        """Waits for the end of the worker, which was asked to end or is dead, for `GRACE` seconds at most."""
        raise NotImplementedError


Inbox = queue.SimpleQueue[tuple[Worker, Message]]


def direct(
    items: Iterable[Source | Record], crew: Sequence[Worker], inbox: Inbox, tell: Tell, ahead: int
) -> Iterator[Record]:
    """One record an item, in the order of the items, by a crew whose messages come through `inbox`.

    An item that is a record already keeps its place. A worker has at most `ahead` sources in hand; what a worker
    tells is told once. Raises the ClipsegError that a worker raised. However this is left, no worker stays behind.
    """
    iterator, more = iter(items), True
    found: dict[int, Record] = {}  # by the item's number, as `taken` and `given` count
    suspects: deque[tuple[int, Source]] = deque()  # in hand when a worker died, to be tried one by one
    taken = given = deaths = barren = 0
    told: set[str] = set()
    try:
        while True:
            while given in found:
                yield found.pop(given)
                given += 1
            if not more and given == taken:
                return
            free = [worker for worker in crew if worker.ready and not worker.alone and len(worker.hand) < ahead]
            idle = next((worker for worker in free if not worker.hand), None)
            if suspects and idle is not None:
                idle.take(*suspects.popleft(), alone=True)
            elif not inbox.empty() or not more or not free or taken - given >= 2 * ahead * len(crew):
                worker, message = _get(inbox, crew)
                worker.silent = 0 if message is not None else worker.silent
                if isinstance(message, Record):
                    found[worker.done(message.image)] = message
                    barren = 0
                elif isinstance(message, Step):
                    worker.stages[message.image] = message.stage
                elif isinstance(message, News):
                    if message.line not in told:
                        told.add(message.line)
                        tell(message)
                elif isinstance(message, ClipsegError):
                    raise message
                elif message == "ready":
                    worker.ready = True
                else:
                    fate, guilty = worker.fate()
                    fate = fate if worker.silent <= PATIENCE else f"killed after {PATIENCE} s on loading one image"
                    worker.bury()
                    deaths, barren = deaths + 1, barren + 1
                    if barren == HOPELESS:
                        raise ClipsegError(
                            f"{barren} workers died one after the other ({fate}): too little memory, or a "
                            "broken installation (see clipseg doctor); then the same command again does what is missing"
                        )
                    again = f"its {len(worker.hand)} images are tried one by one"
                    if worker.alone and guilty:
                        number, source = worker.hand.popleft()
                        why = f"the process that worked on it died twice ({fate}); convert it, or give it more memory"
                        stage = worker.stages.get(source.name, "load")
                        found[number] = Record(source.name, error=ImageError("worker_died", stage, why))
                        again = "again on this image alone"
                    tell(News(f"a worker died ({fate}); {again}", {"workers_died": deaths}))
                    suspects.extend(worker.hand)
                    worker.hand, worker.stages, worker.alone, worker.silent = deque(), {}, False, 0
            elif (item := next(iterator, None)) is None:
                more = False
            else:
                if isinstance(item, Record):
                    found[taken] = item
                else:
                    min(free, key=lambda worker: len(worker.hand)).take(taken, item)
                taken += 1
    finally:
        for worker in crew:
            worker.dismiss()
        for worker in crew:
            worker.end()


def _get(inbox: Inbox, crew: Sequence[Worker]) -> tuple[Worker, Message]:
    while True:
        with contextlib.suppress(queue.Empty):
            return inbox.get(timeout=1)  # seconds: without it a signal would not be noticed on Windows
        for worker in crew:
            worker.wait()


class _Process(Worker):
    """A process of this machine, started when it is first needed and again when it has died."""

    def __init__(self, work: Work, of: int, inbox: Inbox) -> None:
        super().__init__(inbox)
        self.work = pickle.dumps(work)
        threads = max(1, (os.cpu_count() or 1) // of)
        self.environment = dict(os.environ) if of == 1 else {"OMP_NUM_THREADS": str(threads)} | dict(os.environ)
        self.process: subprocess.Popen[bytes] | None = None
        self.until = 0.0  # on the monotonic clock: when it is ended by force

    def send(self, source: Source) -> None:
        """A pickle through its stdin."""
        with contextlib.suppress(OSError):  # it is dead: its end will be heard of
            stdin = self._start().stdin
            assert stdin is not None
            stdin.write(pickle.dumps(source))
            stdin.flush()

    def fate(self) -> tuple[str, bool]:
        """The signal or the code."""
        code = 0 if self.process is None else self.process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}", True

    def kill(self) -> None:
        """By SIGKILL."""
        if self.process is not None:
            self.process.kill()

    def bury(self) -> None:
        """The next source starts another."""
        self.end()
        self.process = None

    def dismiss(self) -> None:
        """By the end of its stdin."""
        self.until = time.monotonic() + GRACE
        if self.process is not None and self.process.stdin is not None:
            if not self.hand:
                self.process.kill()
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def end(self) -> None:
        """And of the thread that listens to it."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.0, self.until - time.monotonic()))
            self.process.kill()
            self.process.wait()
            self.listener.join()
            with contextlib.suppress(OSError):  # what was not yet sent
                self.process.stdin.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            command = [sys.executable, "-c", START, *sys.path]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=self.environment)
            self.listener = threading.Thread(target=self._listen, args=[self.process], daemon=True)
            self.listener.start()
            assert self.process.stdin is not None
            self.process.stdin.write(self.work)
        return self.process

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Puts the process's messages into the inbox, and None after the last one."""
        with contextlib.suppress(Exception), process.stdout as stream:  # type: ignore[union-attr]
            while True:  # until its end, which may be half a message
                self.inbox.put((self, pickle.load(stream)))
        process.kill()
        process.wait()
        self.inbox.put((self, None))


def serve() -> NoReturn:
    """The whole life of a worker process."""
    orphaned, over = threading.Event(), threading.Event()

    def stop(number: int, frame: object) -> None:
        # not orphaned, it is the parent that decides: a terminal signals them both
        if orphaned.is_set() and not over.is_set():
            raise SystemExit

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # a library that prints must not write into the messages
    todo: Todo = queue.SimpleQueue()
    lock = threading.Lock()

    def send(message: object) -> None:
        data = pickle.dumps(message)
        with lock:
            outbox.write(data)
            outbox.flush()

    def listen() -> None:
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                todo.put(pickle.load(inbox))
        orphaned.set()
        todo.put(None)
        _thread.interrupt_main()
        time.sleep(GRACE)
        os._exit(1)

    code = 1
    try:
        work: Work = pickle.load(inbox)
        threading.Thread(target=listen, daemon=True).start()
        labour(work, todo, send)
    except ClipsegError as error:
        over.set()  # the parent hangs up when it has the message; what is left here must not be interrupted
        send(error)
    except (SystemExit, BrokenPipeError):
        code = 0
    except BaseException as error:
        over.set()
        send(defect(error))
    finally:
        os._exit(code)


Todo = queue.SimpleQueue[Source | None]


def labour(work: Work, todo: Todo, send: Callable[[Record | News | Step], None]) -> None:
    """Does what `todo` gives until it gives None."""
    while (source := todo.get()) is not None:
        for record in work(_burst(source, todo), send):
            send(record)


def defect(error: BaseException) -> News:
    """What a worker says before it ends by an exception that is none of the tree's."""
    trace = traceback.format_exception(error)
    return News(f"a worker failed: {type(error).__name__}: {error}", {"traceback": "".join(trace).splitlines()})


def _burst(first: Source, todo: Todo) -> Iterator[Source]:
    """The sources that come without a pause. Its end lets the pipeline give the records it holds, whatever its depth,
    so that a parent that waits for them before it sends more is not waited for."""
    source: Source | None = first
    with contextlib.suppress(queue.Empty):
        while source is not None:
            yield source
            source = todo.get(timeout=STARVED)
        todo.put(None)
