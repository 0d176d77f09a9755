"""The engine `ray`: actors of a Ray cluster, or of a Ray on this machine if no cluster is named.

An actor holds the model, decodes images and writes their files; only records come back. Ray's own recovery is not
used: it repeats a whole task, while `workers.dispatch` finds the one image to blame, and it does not know what earlier
runs did.
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
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines import workers
from clipseg_cli.run.engines.workers import GRACE, Cluster, Death, Inbox, Message, Notice, Notify, Todo, Work, Worker

STORE = 80_000_000  # bytes of shared memory of a local Ray: about its minimum, since records need almost none
ROOM_NOTICE = 20.0  # seconds without room for an actor after which the user gets a notice
CONNECT_TIMEOUT = 10.0  # seconds for a cluster to accept a connection
START_GRACE = 3.0  # seconds that a starting actor gets before it is killed
MESSAGES_PER_CALL = 256
ALTERNATIVE = "leave out --ray-address to run Ray on this machine, or use --engine local"


def run(
    items: Iterable[Source | Record], works: Sequence[Work], notify: Notify, ahead: int, cluster: Cluster | None = None
) -> Iterator[Record]:
    """Yields one record per item, in the order of the items, from one actor for each of `works`.

    Ray is not started if every item is already a record. Raises ClipsegError if there is no cluster.
    """
    cluster = cluster or Cluster()
    iterator = iter(items)
    for item in iterator:
        if isinstance(item, Source):
            break
        yield item
    else:
        return
    with _connected(cluster.address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = actor_resources(nodes, len(works), cluster.device)
        inbox: Inbox = queue.SimpleQueue()
        actors = [_Actor(ray, work, resources, inbox) for work in works]
        yield from workers.dispatch(chain((item,), iterator), actors, inbox, notify, ahead)


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Connects to Ray and yields it. Afterwards disconnects, which ends a local Ray, unless it was connected before."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns about a future change
    import ray
    import ray._private.worker as ray_worker

    # no option keeps Ray from reporting dead workers on stdout; `dispatch` reports them
    ray_worker._worker_logs_enabled = False
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": STORE}
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            _check_reachable(address)
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except Exception as error:
            problem = f"no Ray cluster answers at {address}" if address else "Ray cannot start on this machine"
            raise ClipsegError(f"{problem}: {_first_line(error)}; {ALTERNATIVE}") from error
        if threading.current_thread() is threading.main_thread():
            for name, handler in handlers.items():
                signal.signal(name, handler)
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raises OSError if nothing listens at the address: Ray itself would retry for many minutes."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()


def actor_resources(nodes: Sequence[Mapping[str, float]], actors: int, device: str) -> dict[str, float]:
    """Returns the CPUs and GPUs of each of `actors` actors, which share the nodes evenly.

    GPUs are requested for the device `cuda`, and for `auto` if any node has one: at most one GPU per actor, and a
    fraction if there are more actors than GPUs. Such an actor runs on a node with a GPU.
    """
    use_gpu = device.startswith("cuda") or (device == "auto" and any(node.get("GPU") for node in nodes))
    suitable = [node for node in nodes if node.get("GPU")] if use_gpu else nodes
    gpus = min(1.0, share([node["GPU"] for node in suitable], actors) or 1.0) if use_gpu else 0.0
    return {"num_cpus": share([node.get("CPU", 0) for node in suitable], actors), "num_gpus": gpus}


def share(amounts: Sequence[float], actors: int) -> float:
    """Returns how much of a resource each of `actors` actors can have, given each node's amount of it.

    It is a whole number, or a fraction of one if there are more actors than units, or 0 if there are no units.
    """
    for whole in range(int(max(amounts, default=0)), 0, -1):
        if sum(int(amount) // whole for amount in amounts) >= actors:
            return float(whole)
    units = sum(int(amount) for amount in amounts)
    return int(10_000 / -(-actors // units)) / 10_000 if units else 0.0  # Ray counts in ten thousandths


class WorkerActor:
    """The code of an actor: a thread runs the work, while Ray's calls bring sources and fetch messages."""

    def __init__(self, work: bytes, directory: str, path: Sequence[str], version: str) -> None:
        self.todo: Todo = queue.SimpleQueue()
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.early: dict[int, Source] = {}  # sources whose calls overtook earlier ones
        self.next = 0
        if version != __version__:
            node = socket.gethostname()
            error = f"{node} has clipseg {__version__}, this machine {version}: install the same on all nodes"
            self.messages.put(ClipsegError(error))
            return
        try:
            os.chdir(directory)
        except OSError:
            line = f"{socket.gethostname()} has no directory {directory}: use absolute paths that all nodes share"
            self.messages.put(Notice(line))
        sys.path.extend(entry for entry in path if entry not in sys.path)
        threading.Thread(target=self._run, args=[pickle.loads(work)], daemon=True).start()

    def hello(self) -> None:
        """Answers once the actor has started."""

    def push(self, number: int, source: Source) -> None:
        """Adds a source. Sources are processed in the order of their numbers, from 0."""
        with self.lock:
            self.early[number] = source
            while self.next in self.early:
                self.todo.put(self.early.pop(self.next))
                self.next += 1

    def pull(self) -> list[Message]:
        """Waits for messages and returns them in order. None is the last one of all."""
        messages = [self.messages.get()]
        while len(messages) < MESSAGES_PER_CALL and not self.messages.empty():
            messages.append(self.messages.get())
        return messages

    def stop(self) -> None:
        """Ends the work once the files in progress are written."""
        self.stopping.set()
        self.todo.put(None)

    def _run(self, work: Work) -> None:
        def send(message: Message) -> None:
            self.messages.put(message)
            if self.stopping.is_set():
                raise SystemExit  # through the pipeline, which waits for what its threads are writing

        try:
            workers.run_worker(work, self.todo, send)
        except SystemExit:
            pass
        except ClipsegError as error:
            self.messages.put(error)
        except BaseException as error:
            self.messages.put(workers.failure_notice(error))
        self.messages.put(None)


class _Actor(Worker):
    """An actor on any node with room for it. Another one is requested when it dies."""

    def __init__(self, ray: Any, work: Work, resources: Mapping[str, float], inbox: Inbox) -> None:
        super().__init__(inbox)
        self.ray, self.work, self.resources = ray, pickle.dumps(work), resources
        self.deadline = 0.0  # on the monotonic clock: when it is killed
        self._start()

    def send(self, source: Source) -> None:
        """Calls `push` without waiting for an answer."""
        with contextlib.suppress(self.ray.exceptions.RayError):  # it is dead: its listener will send None
            self.actor.push.remote(self.sent, source)
        self.sent += 1

    def death(self) -> Death:
        """Returns the cause that Ray reports. The loss of a node is no image's fault."""
        return self.cause

    def kill(self) -> None:
        """Has Ray kill the actor."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.actor)

    def replace(self) -> None:
        """Requests another actor, which takes sources once Ray has found room for it."""
        self.wait_for_end()
        self._start()

    def request_end(self) -> None:
        """Calls `stop`, or has Ray kill the actor if nothing is pending.

        An actor that is still starting is left alone: Ray (2.60) loses a kill between the actor's placement and its
        first call, and its resources then stay taken until this process ends.
        """
        self.asked = self.ready and bool(self.pending)
        self.deadline = time.monotonic() + (GRACE if self.asked else START_GRACE)
        with contextlib.suppress(self.ray.exceptions.RayError):
            if self.asked:
                self.actor.stop.remote()
            elif self.started.is_set():
                self.ray.kill(self.actor)

    def wait_for_end(self) -> None:
        """Waits for the actor and for the thread that fetches its messages."""
        wait = self.listener.join if self.asked else self.started.wait
        wait(max(0.0, self.deadline - time.monotonic()))
        self.kill()
        self.listener.join()

    def _start(self) -> None:
        self.ready = self.asked = False
        self.sent, self.started = 0, threading.Event()
        options = {"max_concurrency": 4, "max_restarts": 0, **self.resources}  # one call of each kind at the same time
        remote = self.ray.remote(WorkerActor).options(scheduling_strategy="SPREAD", **options)
        self.actor = remote.remote(self.work, os.getcwd(), sys.path, __version__)
        self.listener = threading.Thread(target=self._listen, args=[self.actor], daemon=True)
        self.listener.start()

    def _listen(self, actor: Any) -> None:
        """Puts the messages of the actor into the inbox, and None after the last one."""
        self.cause = Death("an unexpected exception")
        try:
            self._wait_for_start(actor)
            self.inbox.put((self, "ready"))
            while True:
                for message in self.ray.get(actor.pull.remote()):
                    self.inbox.put((self, message))
                    if message is None:
                        return
        except self.ray.exceptions.RayActorError as error:
            if error.actor_init_failed:
                problem = f"clipseg does not start on a node of the cluster: {_last_line(error)}; install it there"
                self.inbox.put((self, ModelError(problem)))
            self.cause = _cause(error)
        except Exception as error:
            self.cause = Death(_first_line(error))
        self.started.set()  # or it never will
        self.inbox.put((self, None))

    def _wait_for_start(self, actor: Any) -> None:
        answer = actor.hello.remote()
        if not self.ray.wait([answer], timeout=ROOM_NOTICE)[0]:
            cpus, gpus = self.resources["num_cpus"], self.resources["num_gpus"]
            need = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
            line = f"waiting for room in Ray for an actor of {need}; with a larger -j each actor needs less"
            self.inbox.put((self, Notice(line)))
        self.ray.get(answer)
        self.started.set()


def _cause(error: Any) -> Death:
    text = str(error)
    if error.preempted or "node has died" in text or "node is dead" in text or "NODE_DIED" in text:
        return Death("its node is gone", by_image=False)
    if "OUT_OF_MEMORY" in text or "low on memory" in text:
        return Death("its node ran out of memory")
    return Death("killed, or crashed")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
