"""`Original`: an output that is to be an input file itself, untouched, in place of new bytes."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clipseg_cli.errors import ImageError
from clipseg_cli.storage import paths

FICLONE = 0x40049409  # ioctl of Linux: a file gets the blocks of another one, until either is written to
PIECE = 1 << 20  # bytes that are copied at once


@dataclass(frozen=True, slots=True)
class Original:
    """A file of this machine, as it was when it was decoded. Its length is its size in bytes."""

    path: str
    seen: Sequence[int | str]  # `paths.identity` then
    checksum: bool = False  # `seen` has a checksum
    apart: bool = False  # no output shares the file: copies only

    def __len__(self) -> int:
        return int(self.seen[0])

    def read(self) -> bytes:
        """Returns the content. Raises ImageError `changed` if it is not what was decoded, or if it cannot be read."""
        with self._opened() as file:
            data = file.read()
        self._check()
        return data

    def place(self, target: Path, fsync: bool = False) -> None:
        """Makes `target`, which must not exist, a reflink of the file, a hard link to it, or a copy.

        A hard link is for file systems without reflinks, a copy for those that allow neither. Raises ImageError
        `changed` if the file is not what was decoded, and then leaves `target` to the caller; OSError if `target`
        cannot be written.
        """
        with self._opened() as file:
            with open(target, "xb") as new:  # never an existing file: it might be a link to an original
                done = _cloned(file, new)
            if not (done or self.apart):
                done = _linked(os.path.realpath(self.path), target)
            if not done:
                with open(target, "wb") as new:
                    shutil.copyfileobj(file, new, PIECE)
                    if fsync:
                        new.flush()
                        os.fsync(new.fileno())
        self._check()

    def _opened(self) -> BinaryIO:
        self._check()
        try:
            return open(self.path, "rb")
        except (OSError, ValueError) as error:
            raise paths.fault(error, "write") from error

    def _check(self) -> None:
        try:
            now = paths.identity(self.path, self.checksum)
        except (OSError, ValueError) as error:
            raise paths.fault(error, "write") from error
        if now != list(self.seen):
            raise changed()


def changed() -> ImageError:
    """Returns the error for a file that is not the one that was decoded."""
    return ImageError("changed", "write", "the file changed after it was decoded; the next run reads it again")


def _cloned(file: BinaryIO, new: BinaryIO) -> bool:
    """Makes a new file a reflink, and returns whether that is possible."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        fcntl.ioctl(new.fileno(), FICLONE, file.fileno())
    except OSError:
        return False
    return True


def _linked(path: str, target: Path) -> bool:
    """Replaces an empty file by a hard link, and returns whether that is possible."""
    os.unlink(target)
    try:
        os.link(path, target)
    except OSError:
        return False
    return True
