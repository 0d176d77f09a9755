"""The engine `ray`: `engines.direct` over actors of a Ray cluster, or of a local Ray where no cluster is named.

An actor holds the model, decodes images and writes their files; records alone come back. Each has a bounded number of
sources in hand, and one that dies is replaced. Ray's own recovery is not used: it would try a whole task again, where
here one image is found to blame, and it knows nothing of what earlier runs did.
"""

import contextlib
import logging
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from clipseg_cli import __version__
from clipseg_cli.errors import ClipsegError, ModelError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import Record
from clipseg_cli.run import engines
from clipseg_cli.run.engines import GRACE, Inbox, Message, News, Place, Todo, Work, Worker

STORE = 80_000_000  # bytes of shared memory of a local Ray, of which records need next to nothing: about its least
PATIENCE = 20.0  # seconds without room for an actor after which the user is told
REACH = 10.0  # seconds for a cluster to take a connection
BIRTH = 3.0  # seconds that an actor is given to have begun, before it is killed
AT_ONCE = 256  # messages of an actor in one answer
ALTERNATIVE = "leave out --ray-address to run Ray on this machine, or use --engine local"


def run(
    items: Iterable[Source | Record], works: Sequence[Work], tell: engines.Tell, ahead: int, place: Place
) -> Iterator[Record]:
    """See `engines.ray`. Ray is not even started where every item is a record already."""
    iterator = iter(items)
    for item in iterator:
        if isinstance(item, Source):
            break
        yield item
    else:
        return
    with _connected(place.address) as ray:
        size = room([node["Resources"] for node in ray.nodes() if node["Alive"]], len(works), place.device)
        inbox: Inbox = queue.SimpleQueue()
        crew = [_Actor(ray, work, size, inbox) for work in works]
        yield from engines.direct(chain((item,), iterator), crew, inbox, tell, ahead)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected; what was not connected before is disconnected afterwards, and a local Ray ended."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it would warn of what it is going to change
    import ray
    import ray._private.worker as chatter

    # Ray prints about dead workers on stdout, whatever it is asked; they are told by `direct`
    chatter._worker_logs_enabled = False
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            _reach(address)
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        except Exception as error:
            where = f"no Ray cluster answers at {address}" if address else "Ray cannot start here"
            raise ClipsegError(f"{where}: {_first_line(error)}; {ALTERNATIVE}") from error
        if threading.current_thread() is threading.main_thread():
            for name, handler in handlers.items():
                signal.signal(name, handler)
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Raises OSError where nothing listens: Ray itself would try for many minutes."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()


def room(nodes: Sequence[Mapping[str, float]], actors: int, device: str) -> dict[str, float]:
    """The CPUs and GPUs of each of so many actors: all that the nodes have, evenly.

    GPUs are given for the device `cuda`, and for `auto` where there are any; at most one to an actor, and a fraction
    where actors are more than GPUs. An actor that needs one goes to a node that has one.
    """
    wanted = device.startswith("cuda") or (device == "auto" and any(node.get("GPU") for node in nodes))
    fit = [node for node in nodes if node.get("GPU")] if wanted else nodes
    gpus = min(1.0, share([node["GPU"] for node in fit], actors) or 1.0) if wanted else 0.0
    return {"num_cpus": share([node.get("CPU", 0) for node in fit], actors), "num_gpus": gpus}


def share(amounts: Sequence[float], actors: int) -> float:
    """The most of a resource that each of so many actors can have, when nodes have these amounts of it: a whole number,
    or a fraction of one where there are more actors than pieces; 0 where there is nothing."""
    most = int(max(amounts, default=0))
    for whole in range(most, 0, -1):
        if sum(int(amount) // whole for amount in amounts) >= actors:
            return float(whole)
    pieces = sum(int(amount) for amount in amounts)
    return int(10_000 / -(-actors // pieces)) / 10_000 if pieces else 0.0  # Ray counts in ten thousandths


class Labourer:
    """What an actor is: one work, done by a thread of its own while other calls bring sources and fetch messages."""

    def __init__(self, work: bytes, directory: str, path: Sequence[str], version: str) -> None:
        self.todo: Todo = queue.SimpleQueue()
        self.said: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.early: dict[int, Source] = {}  # sources whose calls overtook those before them
        self.next = 0
        if version != __version__:
            node = socket.gethostname()
            error = f"{node} has clipseg {__version__}, this machine {version}: install the same on all nodes"
            self.said.put(ClipsegError(error))
            return
        try:
            os.chdir(directory)
        except OSError:
            line = f"{socket.gethostname()} has no directory {directory}: give absolute paths that all nodes share"
            self.said.put(News(line))
        sys.path.extend(place for place in path if place not in sys.path)
        threading.Thread(target=self._labour, args=[pickle.loads(work)], daemon=True).start()

    def hello(self) -> None:
        """Answers once the actor lives."""

    def push(self, number: int, source: Source) -> None:
        """Adds to what is to be done, in the order of the numbers from 0."""
        with self.lock:
            self.early[number] = source
            while self.next in self.early:
                self.todo.put(self.early.pop(self.next))
                self.next += 1

    def pull(self) -> list[Message]:
        """What there is to say, in order; waits for it. None is the last that it says."""
        messages = [self.said.get()]
        while len(messages) < AT_ONCE and not self.said.empty():
            messages.append(self.said.get())
        return messages

    def leave(self) -> None:
        """Ends the work after what is being written."""
        self.over.set()
        self.todo.put(None)

    def _labour(self, work: Work) -> None:
        def send(message: Message) -> None:
            self.said.put(message)
            if self.over.is_set():
                raise SystemExit  # through the pipeline, which waits for what its threads are writing

        try:
            engines.labour(work, self.todo, send)
        except SystemExit:
            pass
        except ClipsegError as error:
            self.said.put(error)
        except BaseException as error:
            self.said.put(engines.defect(error))
        self.said.put(None)


class _Actor(Worker):
    """A place in the crew that is an actor, wherever Ray has room for it, and another when it has died."""

    def __init__(self, ray: Any, work: Work, size: Mapping[str, float], inbox: Inbox) -> None:
        super().__init__(inbox)
        self.ray, self.work, self.size = ray, pickle.dumps(work), size
        self.until = 0.0  # on the monotonic clock: when it is ended by force
        self._start()

    def send(self, source: Source) -> None:
        """A call without an answer: if the actor is dead, its end will be heard of."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.actor.push.remote(self.sent, source)
        self.sent += 1

    def fate(self) -> tuple[str, bool]:
        """As Ray tells it; the loss of a whole node is no image's fault."""
        return self.reason

    def kill(self) -> None:
        """By Ray."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.actor)

    def bury(self) -> None:
        """Asks for another, which takes sources once Ray has found room for it."""
        self.end()
        self._start()

    def dismiss(self) -> None:
        """By a call, or by Ray where nothing is lost.

        Not while it begins: Ray (2.60) loses a kill that comes between an actor's place and its first call, and the
        place stays taken for as long as this process lives.
        """
        self.asked = self.ready and bool(self.hand)
        self.until = time.monotonic() + (GRACE if self.asked else BIRTH)
        with contextlib.suppress(self.ray.exceptions.RayError):
            if self.asked:
                self.actor.leave.remote()
            elif self.born.is_set():
                self.ray.kill(self.actor)

    def end(self) -> None:
        """And of the thread that listens to it."""
        wait = self.listener.join if self.asked else self.born.wait
        wait(max(0.0, self.until - time.monotonic()))
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.actor)
        self.listener.join()

    def _start(self) -> None:
        self.ready = self.asked = False
        self.sent, self.born = 0, threading.Event()
        options = {"max_concurrency": 4, "max_restarts": 0, **self.size}  # a call of each kind at once
        remote = self.ray.remote(Labourer).options(scheduling_strategy="SPREAD", **options)
        self.actor = remote.remote(self.work, os.getcwd(), sys.path, __version__)
        self.listener = threading.Thread(target=self._listen, args=[self.actor], daemon=True)
        self.listener.start()

    def _listen(self, actor: Any) -> None:
        """Puts the actor's messages into the inbox, and None after the last one."""
        self.reason = ("a defect", True)
        try:
            here = actor.hello.remote()
            if not self.ray.wait([here], timeout=PATIENCE)[0]:
                cpus, gpus = self.size["num_cpus"], self.size["num_gpus"]
                need = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
                self.inbox.put((self, News(f"waiting for Ray to have room for an actor of {need}; -j N shares more")))
            self.ray.get(here)
            self.born.set()
            self.inbox.put((self, "ready"))
            while True:
                for message in self.ray.get(actor.pull.remote()):
                    if message is None:
                        self.inbox.put((self, None))
                        return
                    self.inbox.put((self, message))
        except self.ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                why = f"clipseg does not start on a node of the cluster: {_last_line(error)}; install it there"
                self.inbox.put((self, ModelError(why)))
            self.reason = _fate(error)
        except Exception as error:
            self.reason = (_first_line(error), True)
        self.born.set()  # or never will be
        self.inbox.put((self, None))


def _fate(error: Any) -> tuple[str, bool]:
    text = str(error)
    if error.preempted or "node has died" in text or "node is dead" in text or "NODE_DIED" in text:
        return "its node is gone", False
    if "OUT_OF_MEMORY" in text or "low on memory" in text:
        return "its node ran out of memory", True
    return "killed, or crashed", True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
