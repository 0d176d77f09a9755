"""The engine `local`: worker processes of this machine.

Messages are pickles on a worker's stdin and stdout. A worker whose parent dies ends by itself, because its stdin ends.
This uses `subprocess` and not `multiprocessing`, which would import the user's main module again.
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
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NoReturn

from clipseg_cli.errors import ClipsegError
from clipseg_cli.inputs.source import Source
from clipseg_cli.model import torch_library
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines import workers
from clipseg_cli.run.engines.crew import cores
from clipseg_cli.run.engines.workers import GRACE, Cluster, Death, Inbox, Notify, Todo, Work, Worker

START = "import sys; sys.path[:] = sys.argv[1:]; from clipseg_cli.run.engines.processes import serve; serve()"


def run(
    items: Iterable[Source | Record], works: Sequence[Work], notify: Notify, ahead: int, cluster: Cluster | None = None
) -> Iterator[Record]:
    """Yields one record per item, in the order of the items, from one process for each of `works`."""
    cluster = cluster or Cluster()
    inbox: Inbox = queue.SimpleQueue()
    threads = cluster.threads or max(1, cores() // len(works))
    crew = [_Process(work, threads, inbox) for work in works]
    for process in crew[1:]:
        process.reserve = cluster.patient
    return workers.dispatch(items, crew, inbox, notify, ahead)


class _Process(Worker):
    """A process of this machine. It starts with the first source, and again with the first one after its death."""

    def __init__(self, work: Work, threads: int, inbox: Inbox) -> None:
        super().__init__(inbox)
        self.work = pickle.dumps(work)
        self.environment = {"OMP_NUM_THREADS": str(threads)} | dict(os.environ)
        self.process: subprocess.Popen[bytes] | None = None
        self.deadline = 0.0  # on the monotonic clock: when it is killed

    def send(self, source: Source) -> None:
        """Writes a source to its stdin."""
        self.reserve = False
        with contextlib.suppress(OSError):  # it is dead: its listener will send None
            stdin = self._started().stdin
            assert stdin is not None
            stdin.write(pickle.dumps(source))
            stdin.flush()

    def death(self) -> Death:
        """Returns the signal or the exit code."""
        code = 0 if self.process is None else self.process.returncode
        return Death(signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def kill(self) -> None:
        """Sends SIGKILL."""
        if self.process is not None:
            self.process.kill()

    def replace(self) -> None:
        """Lets the next source start another process."""
        self.wait_for_end()
        self.process = None

    def request_end(self) -> None:
        """Closes its stdin, or kills it if nothing is pending."""
        self.deadline = time.monotonic() + GRACE
        if self.process is not None and self.process.stdin is not None:
            if not self.pending:
                self.process.kill()
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def wait_for_end(self) -> None:
        """Waits for the process and for the thread that reads its messages."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.0, self.deadline - time.monotonic()))
            self.process.kill()
            self.process.wait()
            self.listener.join()
            with contextlib.suppress(OSError):  # it flushes what was not yet sent
                self.process.stdin.close()

    def _started(self) -> "subprocess.Popen[bytes]":
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
        """Puts the messages of the process into the inbox, and None after the last one."""
        with contextlib.suppress(Exception), process.stdout as stream:  # type: ignore[union-attr]
            while True:  # until the stream ends, perhaps in the middle of a message
                self.inbox.put((self, pickle.load(stream)))
        process.kill()
        process.wait()
        self.inbox.put((self, None))


def serve() -> NoReturn:
    """Runs a worker process from its start to its end."""
    torch_library.load_ahead()
    orphaned, finishing = threading.Event(), threading.Event()
    _leave_signals_to_the_parent(orphaned, finishing)
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

    code = 1
    try:
        work: Work = pickle.load(inbox)
        threading.Thread(target=_receive, args=[inbox, todo, orphaned], daemon=True).start()
        workers.run_worker(work, todo, send)
    except ClipsegError as error:
        finishing.set()  # the parent closes the pipe once it has the message, which must not interrupt this process
        send(error)
    except (SystemExit, BrokenPipeError):
        code = 0
    except BaseException as error:
        finishing.set()
        send(workers.failure_notice(error))
    finally:
        os._exit(code)


def _leave_signals_to_the_parent(orphaned: threading.Event, finishing: threading.Event) -> None:
    """Ignores signals while the parent lives: a terminal sends them to both, and the parent decides."""

    def stop(number: int, frame: object) -> None:
        if orphaned.is_set() and not finishing.is_set():
            raise SystemExit

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)


def _receive(inbox: BinaryIO, todo: Todo, orphaned: threading.Event) -> None:
    """Puts the sources from the parent into `todo`. After the last one, ends this process within `GRACE` seconds."""
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            todo.put(pickle.load(inbox))
    orphaned.set()
    todo.put(None)
    _thread.interrupt_main()
    time.sleep(GRACE)
    os._exit(1)
