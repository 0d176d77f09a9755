"""Items that come slowly, with pauses: at each one, the pipeline finishes what it has, in place of waiting for more."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

STARVED = 0.01  # seconds without an item that make a pause: less than the time between two frames of a live video
POLL = 1.0  # seconds: without it a signal would not be noticed on Windows

T = TypeVar("T")


def with_pauses(items: Iterable[T], ahead: int) -> Iterator[T | None]:
    """Yields the items, and None whenever no item comes for `STARVED` seconds.

    A thread reads at most `ahead` items more than were asked for, so that their origin is held back. Raises what the
    items raise. If it is left early, a thread that still waits for an item does not keep the program alive.
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(ahead)  # None: no more items
    left = threading.Event()

    def read() -> None:
        try:
            for item in items:
                waiting.put((item,))
                if left.is_set():
                    return
            waiting.put(None)
        except BaseException as error:
            waiting.put(error)

    threading.Thread(target=read, daemon=True).start()
    patience = STARVED
    try:
        while True:
            try:
                arrived = waiting.get(timeout=patience)
            except queue.Empty:
                if patience == STARVED:
                    yield None
                patience = POLL
                continue
            patience = STARVED
            if isinstance(arrived, BaseException):
                raise arrived
            if arrived is None:
                return
            yield arrived[0]
    finally:
        left.set()
        with contextlib.suppress(queue.Empty):  # the thread may wait for room
            waiting.get_nowait()
