"""A folder of entries that may be lost at any time: each is checked when it is read, and the oldest make room for new.

Nothing here raises an error of the file system, and nothing waits for another process. An entry that is damaged,
truncated or misnamed does not count. Several processes may share a folder.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.storage import store

DIGEST = 32  # bytes of the SHA-256 checksum that precedes the content
BLOCK = 4096  # bytes: what a file takes of a disk is a multiple of it
LEAST_FREE = 0.05  # share of the disk: with less than this free, nothing is written
LARGEST_SHARE = 0.5  # of the limit: what one run may take from entries that it has not used itself
LOOKS = 64  # times that the folder is listed while as many bytes are written as the limit allows
_ENTRY = re.compile(r"[0-9a-f]{64}\.[a-z]+")
_FOLDER = re.compile(r"[0-9a-f]{2}")


def user_folder() -> Path | None:
    """Returns the folder for what this program may keep: CLIPSEG_CACHE, else the system's; None if there is no home."""
    if chosen := os.environ.get("CLIPSEG_CACHE"):
        return Path(chosen).absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.path.expanduser(base)) / "clipseg"
    return folder if folder.is_absolute() else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where entries are kept, and how many bytes of the disk they may take; None: no limit."""

    folder: Path
    limit: int | None = None

    def usage(self) -> "Usage":
        """Returns what the folder holds."""
        found = [*_listed(self.folder)]
        counts = Counter(entry.kind for entry in found if entry.kind)
        return Usage(counts, sum(entry.size for entry in found), min((entry.used for entry in found), default=0.0))

    def clear(self) -> "Usage":
        """Deletes all entries, and returns what they were. Other files stay. Runs in progress are not harmed."""
        before = self.usage()
        for entry in _listed(self.folder):
            _delete(entry.path)
        with contextlib.suppress(OSError):
            for folder in _subfolders(self.folder):
                with contextlib.suppress(OSError):  # it holds another file
                    os.rmdir(folder)
        return before


@dataclass(frozen=True, slots=True)
class Usage:
    """What a cache holds."""

    counts: Counter[str]  # of entries, by the extensions of their names, without the dot
    size: int  # bytes of the disk
    oldest: float  # when the entry was used that has not been used for longest, in seconds since 1970; 0 if none


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    used: float  # seconds since 1970
    size: int  # bytes of the disk
    kind: str  # the extension of its name, without the dot; "": it is unfinished


class Cache:
    """The entries of a folder as one process uses them, from any thread."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.started = time.time()
        self.closed = False  # for writing: once an entry could not be kept, no other is tried
        self.lock = threading.Lock()
        self.known = 0  # bytes of the disk that the folder takes, when it was last listed
        self.written: int | None = None  # bytes since then; None: it was never listed

    def read(self, name: str) -> bytes | None:
        """Returns the content of an entry, which then counts as used; None if it is missing, damaged or misnamed."""
        path = self.place.folder / name
        try:
            data = path.read_bytes()
        except (OSError, ValueError):
            return None
        content = data[DIGEST:]
        if data[:DIGEST] != _digest(name, content):
            return None
        _use(path)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Keeps an entry under a name of two and 64 hexadecimal digits, like `ab/ab12...features`, if there is room.

        To make room, entries are deleted, those first that have not been used for longest. Those that have been used
        since this process began stay.
        """
        with self.lock:
            if self.closed:
                return
            size = _on_disk(DIGEST + len(content))
            try:
                self.closed = not (self._fits(size) and self._disk_has(size))
                if not self.closed:
                    store.write(self.place.folder / name, [_digest(name, content), content])
                    _use(self.place.folder / name)
                    self.written = (self.written or 0) + size
            except (OSError, OutputError):
                self.closed = True
            except ImageError:  # a folder has the name of the entry
                pass

    def _disk_has(self, size: int) -> bool:
        self.place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = shutil.disk_usage(self.place.folder)
        return disk.free - size >= LEAST_FREE * disk.total

    def _fits(self, size: int) -> bool:
        """Returns whether the limit allows as many bytes more, after deleting old entries if necessary."""
        limit, written = self.place.limit, self.written
        if limit is None:
            return True
        if written is not None and written < limit / LOOKS and self.known + written + size <= limit:
            return True
        found = [*_listed(self.place.folder)]
        self.known, self.written = sum(entry.size for entry in found), 0
        old = sorted((entry for entry in found if entry.used < self.started), key=lambda entry: entry.used)
        mine = self.known - sum(entry.size for entry in old)
        aim = limit - size
        if self.known > aim:
            aim -= limit // LOOKS // BLOCK * BLOCK  # so that the next ones fit too
        for entry in old:
            if self.known <= aim or mine + size > LARGEST_SHARE * limit:
                break
            if _delete(entry.path):
                self.known -= entry.size
        return self.known + size <= limit


def entry_name(digest: "hashlib._Hash", kind: str) -> str:
    """Returns the name of the entry of this digest, a SHA-256. `kind` is its extension, of lower-case letters."""
    digits = digest.hexdigest()
    return f"{digits[:2]}/{digits}.{kind}"


def code_digest(folder: Path) -> bytes:
    """Returns a digest of the Python files below a folder of this program: other code may compute other contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def _digest(name: str, content: bytes) -> bytes:
    """Returns the checksum of an entry, which covers its name."""
    digest = hashlib.sha256(name.encode())
    digest.update(content)
    return digest.digest()


def _use(path: Path) -> None:
    """Notes that an entry is used now, by the clock of this machine: a file server may have another time."""
    now = time.time()
    with contextlib.suppress(OSError):  # the folder may be read-only
        os.utime(path, (now, now))


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _subfolders(folder: Path) -> Iterator[str]:
    """Yields the paths of the folders of entries. Raises OSError."""
    with os.scandir(folder) as found:
        for each in found:
            if _FOLDER.fullmatch(each.name) and each.is_dir(follow_symlinks=False):
                yield each.path


def _listed(folder: Path) -> Iterator[_Entry]:
    """Yields the entries of a folder, and what processes are writing or have left when they were killed.

    Other files are not listed, so they are never deleted.
    """
    with contextlib.suppress(OSError):
        for subfolder in _subfolders(folder):
            with contextlib.suppress(OSError), os.scandir(subfolder) as found:
                for each in found:
                    unfinished = each.name.startswith(store.TEMPORARY)
                    kind = "" if unfinished else each.name.partition(".")[2]
                    if unfinished or _ENTRY.fullmatch(each.name):
                        with contextlib.suppress(OSError):  # deleted meanwhile
                            info = os.stat(each.path, follow_symlinks=False)
                            if stat.S_ISREG(info.st_mode):
                                yield _Entry(each.path, info.st_mtime, _on_disk(info.st_size), kind)


def _delete(path: str) -> bool:
    """Deletes a file, and returns whether it is gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
