"""Output files: each is written whole or not at all, to a folder through a temporary file and a rename, to a bucket as
one object. Also the checks of an output folder, and reading files back."""

import contextlib
import errno
import functools
import hashlib
import os
import socket
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.storage import buckets, paths
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.originals import Original

NAME_BYTES = 200  # of the 255 that file systems allow: leaves room for extensions and the prefix of a temporary file
# that writers append to an output path
SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".json", ".txt", ".xml", ".svg", ".npz", ".jpeg", ".bmp")
SUFFIXES += (".tif", ".tiff", ".webp", ".npy", ".pgm", ".ppm", ".pfm")
TEMPORARY = ".clipseg-tmp-"  # prefix of the name of every unfinished file

# Errors of one path: that image fails and the run continues. Every other error of the output is fatal, since the next
# image would fail too (disk full, read-only, no permission, quota).
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP}

AnyPath = Path | Url
Content = bytes | Original  # of an output file
Written = Content | Iterable[bytes]  # or its pieces in turn


def as_path(path: str) -> AnyPath:
    """Returns the Path or Url that a path or URL names."""
    path = paths.local(path)
    return Url(path.rstrip("/")) if paths.is_url(path) else Path(path)


def portable(output: str) -> str:
    """Returns an output path that every file system accepts and every terminal shows; distinct for distinct arguments.

    Control characters, text-direction overrides and bytes that are not UTF-8 become %XX. A name of more than
    `NAME_BYTES` is cut. A folder whose name ends like an output is changed too, since `sub.jpg` beside a folder
    `sub.png` would be written to the folder's path. A changed name ends in `~` and eight digits of a hash of the
    original.
    """
    *folders, last = output.split("/")
    return "/".join(
        [*(_portable_name(name, name.lower().endswith(SUFFIXES)) for name in folders), _portable_name(last)]
    )


def _portable_name(name: str, conflicts: bool = False) -> str:
    raw = os.fsencode(name)
    safe = "".join(c if _visible(c) else "".join(f"%{b:02X}" for b in os.fsencode(c)) for c in name)
    encoded = safe.encode("utf-8")
    if safe == name and len(encoded) <= NAME_BYTES and not conflicts:
        return name
    return encoded[: NAME_BYTES - 9].decode("utf-8", "ignore") + "~" + _digest(raw, 8)


def _visible(character: str) -> bool:
    return unicodedata.category(character) not in paths.INVISIBLE


def write(path: AnyPath, data: Written, fsync: bool = False) -> None:
    """Writes `data`, or its pieces in turn, to `path`, and makes its folders. An `Original` is linked or copied.

    After a crash at any point the file is the old one or the new one. With `fsync` that also holds for a power failure.
    Raises ImageError `output_conflict` if a folder or file is in the way, and if an original cannot be read or has
    changed; OutputError for every other failure.
    """
    if isinstance(path, Url):
        with failing(path):
            path.write(data.read() if isinstance(data, Original) else data)
        return
    if isinstance(data, Original):
        _place(path, data, fsync)
        return
    temporary = unfinished(path)
    try:
        try:
            file = open(temporary, "wb", buffering=0)  # noqa: SIM115 (closed below, also if it is opened again)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(temporary, "wb", buffering=0)  # noqa: SIM115
        with file:
            for piece in (data,) if isinstance(data, bytes) else data:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
            if fsync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise failure(error, path) from error


def whole(data: Written) -> bytes:
    """Returns what `write` would write."""
    return data if isinstance(data, bytes) else data.read() if isinstance(data, Original) else b"".join(data)


def unfinished(path: Path) -> Path:
    """Returns where to write a file before it is renamed to `path`. `sweep` deletes it if this process is killed."""
    return path.with_name(f"{_prefix()}{_digest(os.fsencode(path.name), 16)}")


def _place(path: Path, original: Original, fsync: bool) -> None:
    # not the name that `write` opens: what a killed process left may be a link to an original
    temporary = path.with_name(f"{unfinished(path).name}-original")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        original.place(temporary, fsync)
        os.replace(temporary, path)
    except OSError as error:
        raise failure(error, path) from error
    finally:  # also if `path` was this link already: then the rename does nothing
        with contextlib.suppress(OSError):
            temporary.unlink()


def create(path: Path, data: bytes) -> bool:
    """Writes a file that is not there yet, and returns whether this process did: of several, one does.

    Where a file system has no hard links, two processes that do so at the same instant may both. Raises OutputError.
    """
    temporary = path.with_name(f"{_prefix()}new")
    write(temporary, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:
        if path.exists():
            return False
        write(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def failing(path: AnyPath) -> Iterator[None]:
    """Converts an OSError inside the `with` block to the error of `failure`."""
    try:
        yield
    except OSError as error:
        raise failure(error, path) from error


def failure(error: OSError, path: AnyPath) -> ImageError | OutputError:
    """Converts an error of the operating system on an output path: fatal for the image, or for the run."""
    reason = error.strerror or str(error)
    if error.errno in _IN_THE_WAY:
        return ImageError(
            "output_conflict", "write", f"cannot write {path}: {reason}; move the file or folder that is in the way"
        )
    return OutputError(
        f"cannot write {path}: {reason}. Finished outputs are kept: free some space or choose another --out, "
        "then run the same command again"
    )


def _digest(data: bytes, digits: int) -> str:
    return hashlib.sha256(data).hexdigest()[:digits]


def _prefix(pid: int | None = None) -> str:
    """Returns the prefix of a process's temporary files. It names the host too, since hosts may share a folder."""
    return f"{TEMPORARY}{_digest(socket.gethostname().encode(), 8)}-{os.getpid() if pid is None else pid}-"


def sweep(folder: AnyPath) -> None:
    """Deletes the temporary files below `folder` that killed processes of this host left."""
    if isinstance(folder, Url):
        return
    for above, _, names in os.walk(folder):
        for name in names:
            pid = name.removeprefix(TEMPORARY).partition("-")[2].partition("-")[0] if name[:1] == "." else ""
            if pid.isdigit() and name.startswith(_prefix(int(pid))) and not _alive(int(pid)):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(above, name))


def _alive(pid: int) -> bool:
    if sys.platform == "win32":  # os.kill would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with contextlib.suppress(OSError):  # a zombie counts as dead: nobody may ever wait for it, as in a container
        if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
            return False
    return pid != os.getpid()  # this process's own number: an earlier process had it


def check(folder: AnyPath) -> None:
    """Makes the folder and writes a test file to it. Raises OutputError if that fails.

    For a bucket, checks only that it answers: a test object would stay if objects may not be deleted.
    """
    if isinstance(folder, Url):
        folder.is_atomic()  # raises UsageError
        try:
            folder.exists()
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
        return
    probe = folder / f"{_prefix()}probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"clipseg")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error


def folds(folder: AnyPath) -> bool:
    """Returns whether the folder's file system ignores the case of a name, or how its letters are composed."""
    if isinstance(folder, Url):
        return False
    probe = folder / f"{_prefix()}\u00e9"
    try:
        probe.touch()
        return any((folder / name).exists() for name in (probe.name.upper(), unicodedata.normalize("NFD", probe.name)))
    finally:
        probe.unlink(missing_ok=True)


def folded(output: str) -> str:
    """Returns a key that is equal for output paths that such a file system cannot tell apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", portable(output)).casefold())


def sizes(out: AnyPath) -> Callable[[str], int]:
    """Returns a function from a path under `out` to the file's size in bytes; it raises OSError if there is no file.

    In a bucket, the function lists the sizes of a whole folder at once and keeps them.
    """
    if isinstance(out, Path):
        return lambda path: (out / path).stat().st_size

    @functools.lru_cache(maxsize=64)
    def folder(path: str) -> dict[str, int]:
        try:
            return {name: int(tag[0]) for name, tag in buckets.entries((out / path).text) if tag is not None}
        except FileNotFoundError:
            return {}

    def size(path: str) -> int:
        above, _, name = path.rpartition("/")
        if name not in folder(above):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return folder(above)[name]

    return size


def contents(out: AnyPath, outputs: Sequence[str]) -> Iterator[bytes]:
    """Yields the contents of the files at these paths under `out`, in their order. Raises OSError."""
    if isinstance(out, Path):
        yield from ((out / path).read_bytes() for path in outputs)
        return
    for path, data in zip(outputs, buckets.read_all([(out / path).text for path in outputs]), strict=True):
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        yield data
