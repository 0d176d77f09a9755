"""Files of lines that several processes may extend at once, such as a manifest. For buckets see `bucket_lines`."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from clipseg_cli.storage import store
from clipseg_cli.storage.bucket_lines import BucketLines
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.store import AnyPath

LOCK = ".clipseg-lock"


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

    def __enter__(self) -> Self:
        with self._locked() as file:  # before anything is added to a torn end
            whole = _whole_lines(file)
            if whole < file.seek(0, os.SEEK_END):
                file.truncate(whole)
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        pass  # the lock file stays: removing it could remove one that another process has just locked

    def __iter__(self) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            yield from file

    def clear(self) -> None:
        """Deletes all lines."""
        self.path.unlink(missing_ok=True)

    def append(self, line: str) -> None:
        """Adds one line. Raises OutputError if that fails; the file then ends with its last whole line."""
        data = (line + "\n").encode("utf-8")
        with self._locked() as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if self.fsync:
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Replaces all lines by `change(lines)`, atomically for every reader. Raises OutputError."""
        with self._locked() as file:
            lines = file.read().splitlines(keepends=True)
            changed = change(lines)
            if changed != lines:
                store.write(self.path, b"".join(changed), self.fsync)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[io.FileIO]:
        """Opens the file while no other process changes it. Converts OSError to OutputError.

        The lock is a separate file, because `rewrite` puts a new file at the path.
        """
        try:
            with open(self.lock, "ab", buffering=0) as lock:
                _lock(lock.fileno())
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


def _lock(descriptor: int) -> None:
    """Waits until no other process holds the lock, which ends when the file is closed or the process ends."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
