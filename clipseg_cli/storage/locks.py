"""Locks between processes. The operating system drops them when their process ends, however it ends."""

import contextlib
import errno
import os
import sys
import zlib
from pathlib import Path

NUMBERS = 0x7FFFFFFF  # bytes of a file that can be locked on every system, from 0
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


def lock(descriptor: int) -> None:
    """Waits until no other process holds the lock, which ends when the file is closed or the process ends."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


class Claims:
    """Names that this process has claimed for itself among all processes that share a folder.

    A claim is a lock on one byte of an empty file; the name's checksum says which. So any number of names costs no disk
    space. A process must open the file only once at a time, since closing it drops the claims of the whole process.
    Where the file system has no such locks, every claim succeeds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = -1

    def open(self) -> None:
        """Opens the file, and makes it if it does not exist. Raises OSError."""
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)

    def close(self) -> None:
        """Drops all claims. The file stays: removing it could remove one that another process has just opened."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def take(self, name: str) -> bool:
        """Claims a name. Returns False if another process has claimed it."""
        try:
            self._lock(name, True)
        except OSError as error:
            return error.errno not in _TAKEN
        return True

    def drop(self, name: str) -> None:
        """Ends a claim."""
        with contextlib.suppress(OSError):
            self._lock(name, False)

    def _lock(self, name: str, wanted: bool) -> None:
        number = zlib.crc32(os.fsencode(name)) & NUMBERS
        if sys.platform == "win32":
            import msvcrt

            os.lseek(self.descriptor, number, os.SEEK_SET)
            msvcrt.locking(self.descriptor, msvcrt.LK_NBLCK if wanted else msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if wanted else fcntl.LOCK_UN, 1, number)
