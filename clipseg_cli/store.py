"""Files that are whole or absent: a temporary file beside the target, then a rename."""

import contextlib
import errno
import hashlib
import os
import unicodedata
from pathlib import Path
from typing import Self

from clipseg_cli.errors import ImageError, OutputError

NAME_BYTES = 200  # of the 255 that file systems allow: leaves room for extensions and the temporary file's own marks
TEMPORARY = ".clipseg-tmp-"  # begins the name of every file that is not finished

# The path itself is in the way: that image fails and the run goes on. Every other error of the output is fatal,
# since it would meet the next image too (disk full, read-only, no permission, quota).
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP}


def portable(output: str) -> str:
    """An output path that any file system takes and any terminal shows: distinct for distinct arguments.

    Control characters, text-direction overrides and bytes that are not UTF-8 are written %XX, and a part over
    NAME_BYTES is cut; a part that was changed ends in `~` and eight digits of the hash of what it was.
    """
    return "/".join(_part(part) for part in output.split("/"))


def _part(name: str) -> str:
    raw = os.fsencode(name)
    safe = "".join(c if _plain(c) else "".join(f"%{b:02X}" for b in os.fsencode(c)) for c in name)
    kept = safe.encode("utf-8")
    if safe == name and len(kept) <= NAME_BYTES:
        return name
    return kept[: NAME_BYTES - 9].decode("utf-8", "ignore") + "~" + hashlib.sha256(raw).hexdigest()[:8]


def _plain(character: str) -> bool:
    # Cc control, Cf format (direction overrides, zero width), Cs surrogate, Zl and Zp line separators
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def write(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, making its folders: after a crash at any point the file is the old one or the new one.

    Raises ImageError `output_conflict` where a folder or file is in the way, OutputError for every other failure.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}")
    try:
        try:
            file = open(temporary, "wb", buffering=0)  # noqa: SIM115 (closed below, also when opening it again)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(temporary, "wb", buffering=0)  # noqa: SIM115
        with file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise failure(error, path) from error


def failure(error: OSError, path: Path) -> ImageError | OutputError:
    """What an operating system error on an output path means for the run."""
    reason = error.strerror or str(error)
    if error.errno in _IN_THE_WAY:
        return ImageError("output_conflict", "write", f"cannot write {path}: {reason}; move what is in the way")
    return OutputError(
        f"cannot write {path}: {reason}. What is finished is kept: make room or choose another --out, "
        "then run the same command again"
    )


def check(folder: Path) -> None:
    """Makes the folder and proves that a file can be written there; raises OutputError where it cannot."""
    probe = folder / f"{TEMPORARY}{os.getpid()}-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"clipseg")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error


class Lines:
    """A file of lines that grows by whole lines only. Use it with `with`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = open(path, "wb", buffering=0)  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise failure(error, path) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def append(self, line: str) -> None:
        """Adds one line; on a full disk the file is cut back to whole lines and OutputError is raised."""
        data = (line + "\n").encode("utf-8")
        before = self.file.tell()
        try:
            if self.file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.truncate(before)
            raise failure(error, self.path) from error
