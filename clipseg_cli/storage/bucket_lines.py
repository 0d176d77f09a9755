"""Files of lines in a bucket, where no object can be extended or locked: written as many small objects, then joined."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Self

from clipseg_cli.errors import OutputError
from clipseg_cli.storage import buckets, store
from clipseg_cli.storage.buckets import Url

FOLDER = ".clipseg-lines"
LOST = 0.01  # share of a run's time whose lines a kill may lose; also bounds the number of objects
SHORTEST, LONGEST = 1.0, 60.0  # seconds between two objects of a process


class BucketLines:
    """Like `lines.Lines`, for lines in a bucket that any number of processes extend. Use it with `with`.

    Each process writes its lines now and then as a separate object, under a name that no other process uses, and
    `rewrite` joins all of them at `path`. The separate objects are kept and still count: if two processes end at the
    same time, one may join too few lines, and the next one joins all.
    """

    def __init__(self, path: Url) -> None:
        self.path, self.folder = path, path.parent / FOLDER / path.name
        self.own = f"{time.time_ns():020}-{secrets.token_hex(4)}"  # sorts after the objects of earlier processes
        self.waiting: list[bytes] = []
        self.written: list[Url] = []
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        # an error that is already being raised matters more than one of this write
        with contextlib.suppress(*([] if kind is None else [OutputError])):
            self._flush()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._read()[2])

    def append(self, line: str) -> list[tuple[int, bytes]]:
        """Adds one line. Raises OutputError. Returns nothing: it does not look for lines of other processes."""
        self.waiting.append((line + "\n").encode("utf-8"))
        now = time.monotonic()
        if now - self.last >= min(LONGEST, max(SHORTEST, (now - self.began) * LOST)):
            self._flush()
        return []

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Writes `change(lines)` of all lines, those at `path` first, as one object at `path`. Raises OutputError.

        Starts again if another process ended meanwhile, so that the last process to end joins all lines.
        """
        self._flush()
        self._compact()
        while True:
            objects, joined, lines = self._read()
            data = b"".join(change(lines))
            if data != joined:
                store.write(self.path, data)
            if _ended(objects) == _ended(self._objects()):
                return

    def clear(self) -> None:
        """Deletes all lines, of all processes."""
        with store.failing(self.path):
            for url in (*self._objects(), self.path):
                url.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self.waiting:
            url = self.folder / f"{self.own}-{len(self.written):06}.jsonl"
            store.write(url, b"".join(self.waiting))
            self.written.append(url)
            self.waiting.clear()
        self.last = time.monotonic()

    def _compact(self) -> None:
        """Joins this process's objects into one, whose name shows that the process has ended."""
        if self.written:
            joined = self.folder / f"{self.own}.jsonl"
            with store.failing(joined):
                store.write(joined, b"".join(data for data in _contents(self.written) if data is not None))
                for url in self.written:
                    url.unlink(missing_ok=True)
            self.written.clear()

    def _objects(self) -> list[Url]:
        with store.failing(self.folder):
            return self.folder.glob("*.jsonl")

    def _read(self) -> tuple[list[Url], bytes, list[bytes]]:
        """Returns all objects, the content at `path`, and the lines there and then in the objects."""
        while True:
            objects = self._objects()
            with store.failing(self.folder):
                joined, *others = _contents([self.path, *objects])
            if None not in others:  # otherwise an object was compacted meanwhile, and its lines are elsewhere
                whole = [joined or b"", *(data for data in others if data is not None)]
                return objects, whole[0], [line for data in whole for line in data.splitlines(keepends=True)]


def _contents(urls: list[Url]) -> list[bytes | None]:
    return [*buckets.read_all([url.text for url in urls])]


def _ended(objects: list[Url]) -> list[Url]:
    """Returns the objects of processes that have ended: those whose names do not end in a number."""
    return [url for url in objects if url.name.count("-") == 1]
