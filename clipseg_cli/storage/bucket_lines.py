"""Lines in a bucket, where nothing can be extended and nothing locked: put as whole objects, joined in the end."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Self

from clipseg_cli.errors import OutputError
from clipseg_cli.storage import buckets, store
from clipseg_cli.storage.buckets import Url

FOLDER = ".clipseg-lines"
LOST = 0.01  # of a run's time: the lines that a kill may take, which also bounds the number of parts
SHORTEST, LONGEST = 1.0, 60.0  # seconds between two parts


class BucketLines:
    """As `lines.Lines`, for any number of processes. Use it with `with`.

    Each puts its lines now and then as an object of its own, under a name that no other uses, and `rewrite` joins all
    of them at `path`. The parts stay, and they count: of two processes that end together one may join too little,
    and the next one joins all.
    """

    def __init__(self, path: Url) -> None:
        self.path, self.folder = path, path.parent / FOLDER / path.name
        self.own = f"{time.time_ns():020}-{secrets.token_hex(4)}"  # a later process's lines come later
        self.waiting: list[bytes] = []
        self.put: list[Url] = []
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        # where an error is on its way, it is the one to tell
        with contextlib.suppress(*([] if kind is None else [OutputError])):
            self._put()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._read()[2])

    def append(self, line: str) -> None:
        """Adds one line. Raises OutputError."""
        self.waiting.append((line + "\n").encode("utf-8"))
        now = time.monotonic()
        if now - self.last >= min(LONGEST, max(SHORTEST, (now - self.began) * LOST)):
            self._put()

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Puts `change` of all lines, those at `path` first, as one object at `path`. Raises OutputError.

        Where another process ended meanwhile it begins again, so that of all who end the last one joins all.
        """
        self._put()
        self._compact()
        while True:
            parts, joined, found = self._read()
            data = b"".join(change(found))
            if data != joined:
                store.write(self.path, data)
            if _ended(parts) == _ended(self._parts()):
                return

    def clear(self) -> None:
        """Forgets all lines, of all processes."""
        with store.failing(self.path):
            for url in (*self._parts(), self.path):
                url.unlink(missing_ok=True)

    def _put(self) -> None:
        if self.waiting:
            part = self.folder / f"{self.own}-{len(self.put):06}.jsonl"
            store.write(part, b"".join(self.waiting))
            self.put.append(part)
            self.waiting.clear()
        self.last = time.monotonic()

    def _compact(self) -> None:
        """Makes this process's parts one, with the name of a process that has ended."""
        if self.put:
            one = self.folder / f"{self.own}.jsonl"
            with store.failing(one):
                store.write(one, b"".join(data for data in _contents(self.put) if data is not None))
                for part in self.put:
                    part.unlink(missing_ok=True)
            self.put.clear()

    def _parts(self) -> list[Url]:
        with store.failing(self.folder):
            return self.folder.glob("*.jsonl")

    def _read(self) -> tuple[list[Url], bytes, list[bytes]]:
        """All parts, what is at `path`, and the lines there and in the parts in turn."""
        while True:
            parts = self._parts()
            with store.failing(self.folder):
                joined, *others = _contents([self.path, *parts])
            if None not in others:  # else one was compacted meanwhile, and its lines are elsewhere
                whole = [joined or b"", *(data for data in others if data is not None)]
                return parts, whole[0], [line for data in whole for line in data.splitlines(keepends=True)]


def _contents(urls: list[Url]) -> list[bytes | None]:
    return [*buckets.read_all([url.text for url in urls])]


def _ended(parts: list[Url]) -> list[Url]:
    """The parts of processes that have ended: those without a number."""
    return [part for part in parts if part.name.count("-") == 1]
