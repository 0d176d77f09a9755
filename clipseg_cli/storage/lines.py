"""Files of lines that several processes may extend at once, such as a manifest. For buckets see `bucket_lines`."""

import contextlib
import errno
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from clipseg_cli.storage import store
from clipseg_cli.storage.bucket_lines import BucketLines
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.locks import lock
from clipseg_cli.storage.store import AnyPath

LOCK = ".clipseg-lock"

Line = tuple[int, bytes]  # the place of its first byte in the file, and the line with its end


def open_lines(path: AnyPath, fsync: bool = False) -> "Lines | BucketLines":
    """Returns the lines at `path`, to read and to extend. Use it with `with`."""
    return BucketLines(path) if isinstance(path, Url) else Lines(path, fsync)


class Lines:
    """A file of lines that several processes may extend at once, by whole lines only. Use it with `with`.

    Every change is made under a lock beside the file. A line that a killed process left unfinished is dropped.
    """

    def __init__(self, path: Path, fsync: bool = False) -> None:
        self.path, self.fsync = path, fsync
        self.lock = path.with_name(LOCK)
        self.number = 0  # of the file that was last seen at the path: `rewrite` puts another one there
        self.seen = 0  # bytes of it that this object has read or written

    def __enter__(self) -> Self:
        with self._locked() as file:
            self._look(file, _whole_lines(file))
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        pass  # the lock file stays: removing it could remove one that another process has just locked

    def __iter__(self) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            yield from file

    def clear(self) -> None:
        """Deletes all lines."""
        self.path.unlink(missing_ok=True)

    def append(self, line: str) -> list[Line]:
        """Adds one line. Returns the new lines of other processes, as `news` does.

        Raises OutputError if that fails; the file then ends with its last whole line.
        """
        data = (line + "\n").encode("utf-8")
        with self._locked() as file:
            found = self._look(file, self.seen)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self.fsync:
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(self.seen)
                raise
            self.seen += len(data)
        return found

    def news(self) -> list[Line]:
        """Returns the lines that other processes have added since this object was entered or last told them.

        They may include known lines, if another process has rewritten the file. Raises OutputError.
        """
        with self._locked() as file:
            return self._look(file, self.seen)

    def at(self, place: int) -> bytes:
        """Returns the line that begins at this byte of the file; an empty one if the file has been rewritten."""
        with self._locked() as file:
            if os.fstat(file.fileno()).st_ino != self.number:
                return b""
            file.seek(place)
            with io.BufferedReader(file) as reader:
                return reader.readline()

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Replaces all lines by `change(lines)`, atomically for every reader. Raises OutputError."""
        with self._locked() as file:
            lines = file.read().splitlines(keepends=True)
            changed = change(lines)
            if changed != lines:
                store.write(self.path, b"".join(changed), self.fsync)

    def _look(self, file: io.FileIO, known: int) -> list[Line]:
        """Returns the lines behind the first `known` bytes, and drops an unfinished last one.

        If it is another file than before, and not the first one, returns all its lines.
        """
        state = os.fstat(file.fileno())
        if self.number and (state.st_ino != self.number or state.st_size < known):
            known = 0
        self.number = state.st_ino
        file.seek(known)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(known + whole)
        self.seen = known + whole
        lines = data[:whole].splitlines(keepends=True)
        return [*zip(itertools.accumulate(map(len, lines[:-1]), initial=known), lines, strict=True)] if lines else []

    @contextlib.contextmanager
    def _locked(self) -> Iterator[io.FileIO]:
        """Opens the file while no other process changes it. Converts OSError to OutputError.

        The lock is a separate file, because `rewrite` puts a new file at the path.
        """
        try:
            with open(self.lock, "ab", buffering=0) as held:
                lock(held.fileno())
                with open(self.path, "a+b", buffering=0) as file:
                    file.seek(0)
                    yield file
        except OSError as error:
            raise store.failure(error, self.path) from error


def _whole_lines(file: io.FileIO) -> int:
    """Returns the length in bytes of the file up to its last line end."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65_536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
