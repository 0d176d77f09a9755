"""How runs that work in one output folder at the same time share its images."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from clipseg_cli.outputs.record import Record

PAUSE = 0.2  # seconds between two looks at the images of other runs

T = TypeVar("T")


def shared(
    items: Iterable[T],
    take: Callable[[T], T | Record | None],
    work: Callable[[Iterator[T | Record]], Iterator[Record]],
    note: Callable[[str], None],
) -> Iterator[Record]:
    """Yields one record per item, in the order of the items; last those that another run was processing.

    `take` returns the item if this run may process it, its record if it is finished, or None while another run
    processes it. `work` yields the record of each item, and passes records on. A run waits only once all its own images
    are finished, so that no two runs wait for each other. If the other run ends without the rest, this run does it.
    """
    left: Iterable[T] = items
    waiting = False
    while True:
        busy: deque[T] = deque()
        free = _free(left, take, busy)
        yield from work(free)
        if not busy:
            return
        if not waiting:
            note(f"waiting for another run, which is processing {len(busy)} of these images")
            waiting = True
        time.sleep(PAUSE)
        left = busy


def _free(items: Iterable[T], take: Callable[[T], T | Record | None], busy: "deque[T]") -> Iterator[T | Record]:
    """Yields the items that this run may process, and the records of finished ones. Adds the others to `busy`."""
    for item in items:
        while busy and (first := take(busy[0])) is not None:
            busy.popleft()
            yield first
        taken = take(item)
        if taken is None:
            busy.append(item)
        else:
            yield taken
