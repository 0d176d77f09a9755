"""Files that are whole or absent: a temporary file beside the target, then a rename; in a bucket, whole objects."""

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

NAME_BYTES = 200  # of the 255 that file systems allow: leaves room for extensions and the temporary file's own marks
SUFFIXES = (".png", ".jpg", ".json", ".txt", ".xml", ".svg", ".npz")  # that writers put behind an output path
TEMPORARY = ".clipseg-tmp-"  # begins the name of every file that is not finished

# The path itself is in the way: that image fails and the run goes on. Every other error of the output is fatal,
# since it would meet the next image too (disk full, read-only, no permission, quota).
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP}


Place = Path | Url


def place(path: str) -> Place:
    """Where a path or a URL leads."""
    path = paths.local(path)
    return Url(path.rstrip("/")) if paths.is_url(path) else Path(path)


def portable(output: str) -> str:
    """An output path that any file system takes and any terminal shows: distinct for distinct arguments.

    Control characters, text-direction overrides and bytes that are not UTF-8 are written %XX, and a part over
    NAME_BYTES is cut; so is a folder marked that ends like an output, since `sub.jpg` beside a folder `sub.png` would
    be written to its place. A part that was changed ends in `~` and eight digits of the hash of what it was.
    """
    *folders, last = output.split("/")
    return "/".join([*(_part(name, name.lower().endswith(SUFFIXES)) for name in folders), _part(last)])


def _part(name: str, taken: bool = False) -> str:
    raw = os.fsencode(name)
    safe = "".join(c if _plain(c) else "".join(f"%{b:02X}" for b in os.fsencode(c)) for c in name)
    kept = safe.encode("utf-8")
    if safe == name and len(kept) <= NAME_BYTES and not taken:
        return name
    return kept[: NAME_BYTES - 9].decode("utf-8", "ignore") + "~" + _digest(raw, 8)


def _plain(character: str) -> bool:
    return unicodedata.category(character) not in paths.INVISIBLE


def write(path: Place, data: bytes | Iterable[bytes], fsync: bool = False) -> None:
    """Puts `data`, or its pieces in turn, at `path`, making its folders: after a crash at any point the file is the
    old one or the new one.
    With `fsync` that holds for a loss of power too.

    Raises ImageError `output_conflict` where a folder or file is in the way, OutputError for every other failure.
    """
    if isinstance(path, Url):
        with failing(path):
            path.write(data)
        return
    temporary = path.with_name(f"{_own()}{_digest(os.fsencode(path.name), 16)}")
    try:
        try:
            file = open(temporary, "wb", buffering=0)  # noqa: SIM115 (closed below, also when opening it again)
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


@contextlib.contextmanager
def failing(path: Place) -> Iterator[None]:
    """Turns the OSErrors of what is done there into `failure`."""
    try:
        yield
    except OSError as error:
        raise failure(error, path) from error


def failure(error: OSError, path: Place) -> ImageError | OutputError:
    """What an operating system error on an output path means for the run."""
    reason = error.strerror or str(error)
    if error.errno in _IN_THE_WAY:
        return ImageError("output_conflict", "write", f"cannot write {path}: {reason}; move what is in the way")
    return OutputError(
        f"cannot write {path}: {reason}. What is finished is kept: make room or choose another --out, "
        "then run the same command again"
    )


def _digest(data: bytes, digits: int) -> str:
    return hashlib.sha256(data).hexdigest()[:digits]


def _own(pid: int | None = None) -> str:
    """How the names of a process's temporary files begin; tells hosts apart, since folders may be shared."""
    return f"{TEMPORARY}{_digest(socket.gethostname().encode(), 8)}-{os.getpid() if pid is None else pid}-"


def sweep(folder: Place) -> None:
    """Removes the temporary files that processes of this host left below `folder` when they were killed."""
    if isinstance(folder, Url):
        return
    for place, _, names in os.walk(folder):
        for name in names:
            pid = name.removeprefix(TEMPORARY).partition("-")[2].partition("-")[0] if name[:1] == "." else ""
            if pid.isdigit() and name.startswith(_own(int(pid))) and not _alive(int(pid)):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(place, name))


def _alive(pid: int) -> bool:
    if sys.platform == "win32":  # there, the call below would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with contextlib.suppress(OSError):  # dead, but nobody has looked: so it stays where a container's init does not
        if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
            return False
    return pid != os.getpid()  # an earlier process had this one's number


def check(folder: Place) -> None:
    """Makes the folder and proves that a file can be written there; raises OutputError where it cannot.

    Of a bucket only that it answers: a proof would leave its object where nothing may be deleted."""
    if isinstance(folder, Url):
        folder.takes_whole()
        try:
            folder.exists()
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
        return
    probe = folder / f"{_own()}probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"clipseg")
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error


def folds(folder: Place) -> bool:
    """Whether the folder takes two names for one that differ in case, or in the composition of a letter, only."""
    if isinstance(folder, Url):
        return False
    probe = folder / f"{_own()}\u00e9"
    try:
        probe.touch()
        return any((folder / name).exists() for name in (probe.name.upper(), unicodedata.normalize("NFD", probe.name)))
    finally:
        probe.unlink(missing_ok=True)


def folded(output: str) -> str:
    """What two output paths have in common that a folding file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", portable(output)).casefold())


def sizes(out: Place) -> Callable[[str], int]:
    """What tells the size in bytes of a file under `out`; it raises OSError where there is none. A bucket is asked for
    the sizes of a whole folder at once, and its answer is kept."""
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


def contents(out: Place, paths: Sequence[str]) -> Iterator[bytes]:
    """The contents of files under `out`, in their order. Raises OSError."""
    if isinstance(out, Path):
        yield from ((out / path).read_bytes() for path in paths)
        return
    for path, data in zip(paths, buckets.read_all([(out / path).text for path in paths]), strict=True):
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        yield data
