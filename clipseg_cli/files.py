"""What one file is: by its name, by its first bytes, and by the system's refusal of it. Standard library only."""

import errno
import hashlib
import itertools
import os
import re
from collections.abc import Iterable

from clipseg_cli.errors import ImageError, Stage

URL = re.compile(r"[a-z][a-z0-9+.-]+://")  # two letters at least: one is a drive
SNIFF = 64  # bytes that decide what a file is: enough for a PNM header with a comment

# Extensions a walk takes. HEIC is not read, but it is what telephones write: a failed record beats silence.
# fmt: off
EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".tif", ".tiff",
    ".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc",
    ".pbm", ".pgm", ".ppm", ".pnm", ".pfm",
))
# fmt: on

# First bytes of the containers that `images.load` reads, then of those it only knows by name.
MAGIC = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # with its header size: a folder may be called "BMW"
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "AVIF": rb".{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4})*?avi[fs])",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    "PPM": rb"P[1-6]\s(?:#|\s*\d+\s+\d+\s)|P[Ff]\s+\d+\s+\d+\s",
}
FOREIGN_MAGIC = {
    "HEIC": rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|m[is]f1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PSD": rb"8BPS",
    "PDF": rb"%PDF-",
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "ICO": rb"\0\0\x01\0",
    "DDS": rb"DDS ",
    "QOI": rb"qoif",
    "BLP": rb"BLP[12]",
    "FITS": rb"SIMPLE  =",
}
_PATTERNS = [(name, re.compile(magic, re.DOTALL)) for name, magic in {**MAGIC, **FOREIGN_MAGIC}.items()]


def is_url(path: str) -> bool:
    """Whether a path names something that is no file of this machine, like s3://bucket/a.jpg."""
    return URL.match(path) is not None


def local(path: str) -> str:
    """The path that a file:// URL names; any other path as it is."""
    return path.removeprefix("file://")


def sniff(head: bytes) -> str | None:
    """Names the container of a file's first `SNIFF` bytes ("JPEG", "HEIC"); None where they begin no known image."""
    return next((name for name, pattern in _PATTERNS if pattern.match(head)), None)


def stem(name: str) -> str:
    """The file name without a recognised extension; a name without one is its own stem."""
    root, extension = os.path.splitext(name)
    return root if extension.lower() in EXTENSIONS else name


def output_names(names: Iterable[str]) -> dict[str, str]:
    """Gives every file name of one directory an output name, and no two the same.

    It is the stem, or the full name where another file has the same stem or has that stem as its full output name.
    """
    names = list(names)
    whole = keeps_extension(names)
    return {name: name if name in whole else stem(name) for name in names}


def keeps_extension(names: Iterable[str]) -> frozenset[str]:
    """The names that keep their extension in `output_names`."""
    names = sorted(set(names), key=len)
    stems = sorted(stem(name) for name in names)  # equal ones meet; a list is half the size of a set
    shared = {one for one, other in itertools.pairwise(stems) if one == other}
    whole: set[str] = set()
    for name in names:  # shortest first: a stem that is another's full output name is shorter than its own name
        if stem(name) in shared or stem(name) in whole:
            whole.add(name)
    return frozenset(whole)


def apart(output: str, name: str) -> str:
    """Another output path for the image of this name, where an earlier image of the run has the path."""
    return f"{output}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def fault(error: OSError | ValueError, stage: Stage) -> ImageError:
    """Says what the operating system's refusal of a path means for its record."""
    code = getattr(error, "errno", None)
    if not isinstance(error, OSError):  # open() and stat() refuse a NUL byte so
        return ImageError("vanished", stage, f"not a path ({error}); for a NUL-separated list use --null")
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ImageError("vanished", stage, "no such file: deleted since it was listed, mistyped, or a dangling link")
    if code == errno.ELOOP:
        return ImageError("vanished", stage, "a symbolic link that leads to itself")
    if isinstance(error, IsADirectoryError) or code in (errno.ENXIO, errno.ENODEV):
        return not_a_file(stage)
    if code == errno.ENAMETOOLONG:
        return ImageError("permission", stage, "path too long for this system; run from a folder nearer to it")
    if code == errno.EIO:
        return ImageError("permission", stage, f"could not be read ({error.strerror}); the next run tries it again")
    return ImageError("permission", stage, f"may not be read ({error.strerror}); see its mode or policy")


def not_a_file(stage: Stage) -> ImageError:
    """The record of a folder, FIFO, socket or device where a file was named."""
    return ImageError("not_a_file", stage, "not a regular file (a folder, FIFO, socket or device); it was not opened")


def identity(path: str, checksum: bool = False) -> list[int | str]:
    """What tells one state of a file from another: size and mtime in nanoseconds, or size and sha256 of the content.

    Raises OSError or ValueError where the file cannot be read.
    """
    info = os.stat(path)
    if not checksum:
        return [info.st_size, info.st_mtime_ns]
    with open(path, "rb") as file:
        return [info.st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def part(output: str) -> int:
    """A number that depends on an output path alone: the same on every machine, in every run, in every order."""
    return int.from_bytes(hashlib.sha256(os.fsencode(output)).digest()[:8], "big")
