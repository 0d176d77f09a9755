"""Items that come slowly: pauses, backpressure, errors, and a source that never ends."""

import itertools
import queue
import threading
from collections.abc import Iterator

import pytest

from clipseg_cli.run.pauses import with_pauses


def test_items_that_are_there_have_no_pauses_between_them() -> None:
    """In order, and what they raise comes last."""

    def failing() -> Iterator[int]:
        yield from range(100)
        raise OSError("gone")

    found = []
    with pytest.raises(OSError, match="gone"):
        for item in with_pauses(failing(), 200):
            found.append(item)
    assert [item for item in found if item is not None] == [*range(100)]


def test_one_pause_comes_while_nothing_comes() -> None:
    """However long it takes; the next item ends it."""
    source: queue.Queue[int | None] = queue.Queue()
    items = with_pauses(iter(source.get, None), 4)
    for number in range(3):
        source.put(number)
        assert next(item for item in items if item is not None) == number
        assert next(items) is None
    source.put(None)
    assert [*items] == []


def test_an_endless_source_is_read_only_a_few_items_ahead() -> None:
    """What is not asked for stays where it is. Leaving early ends the thread."""
    taken = itertools.count()
    before = threading.active_count()
    items = with_pauses((number for number in taken), 4)
    assert [next(items) for _ in range(10)] == [*range(10)]
    assert next(items) == 10 and next(taken) <= 11 + 4 + 1
    items.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate()[before:]:
        thread.join(10)
    assert threading.active_count() == before
