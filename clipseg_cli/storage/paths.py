"""Paths and URLs as text, the identity of a file, and what an operating system error on an input path means."""

import errno
import os
import re
import unicodedata

from clipseg_cli.errors import ImageError, Stage

URL = re.compile(r"[a-z][a-z0-9+.-]+://")  # at least two letters: a single one is a Windows drive
# Unicode categories: control, format (direction overrides, zero width), surrogate, line and paragraph separators.
INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def is_url(path: str) -> bool:
    """Returns whether a path is a URL, such as s3://bucket/a.jpg, and not a file of this machine."""
    return URL.match(path) is not None


def local(path: str) -> str:
    """Returns the path that a file:// URL names; any other path unchanged."""
    return path.removeprefix("file://")


def escape(name: str) -> str:
    r"""Returns a path in a form that is safe to print on one line of a terminal. Readable Unicode stays unchanged.

    Control characters, line separators, bidirectional overrides and other invisible characters become backslash
    escapes. Bytes that are not UTF-8 become ``\xff``, and a backslash is doubled. Two names never look the same.
    """
    return "".join(_escaped(letter) for letter in name)


def _escaped(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if unicodedata.category(letter) not in INVISIBLE or letter in "\u200c\u200d":  # joiners of Persian and of emoji
        return letter
    if "\x80" <= letter <= "\xff":  # not \\x80: that stands for a byte that is not UTF-8
        return f"\\u{ord(letter):04x}"
    return letter.encode("unicode_escape", "surrogatepass").decode()


def identity(path: str, checksum: bool = False) -> list[int | str]:
    """Returns what changes when a file changes: its size and mtime in nanoseconds, or its size and SHA-256.

    Raises OSError or ValueError if the file cannot be read.
    """
    info = os.stat(path)
    if not checksum:
        return [info.st_size, info.st_mtime_ns]
    import hashlib  # here, since --help would pay for it

    with open(path, "rb") as file:
        return [info.st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def fingerprint(path: str) -> list[int | str]:
    """Returns what changes when a file changes, also if a program keeps its size and its mtime.

    That is its absolute path, its size, and its mtime and ctime in nanoseconds; Windows has no ctime that changes.
    Raises OSError or ValueError if there is no such file.
    """
    info = os.stat(path)
    return [os.path.abspath(path), info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def fault(error: OSError | ValueError, stage: Stage) -> ImageError:
    """Converts an error of the operating system on an input path into the ImageError for its record."""
    code = getattr(error, "errno", None)
    if not isinstance(error, OSError):  # open() and stat() raise ValueError for a NUL byte
        return ImageError(
            "vanished",
            stage,
            f"not a valid path ({error}); for a NUL-separated list use --null, and save a UTF-16 list as UTF-8",
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ImageError(
            "vanished", stage, "no such file: deleted since it was listed, misspelled, or a dangling link"
        )
    if code == errno.ELOOP:
        return ImageError("vanished", stage, "a symbolic link that points to itself; fix or delete it")
    if isinstance(error, IsADirectoryError) or code in (errno.ENXIO, errno.ENODEV):
        return not_a_file(stage)
    if code == errno.ENAMETOOLONG:
        return ImageError("permission", stage, "the path is too long for this system; run from a folder closer to it")
    if code == errno.EIO:
        return ImageError("permission", stage, f"could not be read ({error.strerror}); the next run tries again")
    return ImageError("permission", stage, f"no permission to read it ({error.strerror}); check its mode or policy")


def not_a_file(stage: Stage) -> ImageError:
    """Returns the error for a folder, FIFO, socket or device where a file is expected."""
    return ImageError("not_a_file", stage, "not a regular file (a folder, FIFO, socket or device); it was not opened")
