"""The standard streams. No other module names `sys.stdin`, `sys.stdout` or `sys.stderr`.

    stdin    images, or a list of paths; None if it is missing or a terminal
    stdout   data. In a pipe or a file it is UTF-8, and names keep their own bytes, whatever the locale
    stderr   messages. In a pipe or a file they are UTF-8 too

A terminal keeps its own encoding, and gets escapes for characters that the encoding lacks. A reader that closes stdout
ends the program with 0. If stdout cannot be written for another reason, the program ends with OutputError. Messages
that cannot be written are dropped. A missing stream (`>&-`, or None under pythonw) drops everything.
"""

import codecs
import contextlib
import errno
import io
import locale
import os
import sys
from typing import Any, BinaryIO, TextIO

from clipseg_cli.errors import OutputError, UsageError

ESCAPES = "clipseg-escapes"  # the name of `_escaped` for Python's codecs


def use_utf8() -> None:
    """Starts the program again in Python's UTF-8 mode if the locale has another encoding.

    Python chooses at its start how it reads the names of files. In UTF-8 mode it reads names, arguments and text files
    in the same way under every locale, and so do the worker processes. Windows and macOS need no such mode.
    """
    if os.name != "posix" or sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    environment = {"PYTHONIOENCODING": locale.getencoding()} | dict(os.environ) | {"PYTHONUTF8": "1"}
    with contextlib.suppress(OSError):  # the command line is too long for one more option: go on as it is
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environment)


def open_all() -> None:
    """Prepares the streams of this process. Call it before a file is opened."""
    codecs.register_error(ESCAPES, _escaped)
    _fill_missing()
    sys.stdin = _reader(sys.stdin)  # None stays None
    sys.stdout = _writer(sys.stdout, required=True)
    sys.stderr = _writer(sys.stderr, required=False)


def stdin() -> BinaryIO | None:
    """Returns stdin, or None if it is missing or a terminal. Reading it may raise UsageError."""
    return None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer


def unbuffered_stdin() -> BinaryIO | None:
    """Returns stdin without its buffer, which must not be filled before; None if it is missing or a terminal.

    A thread that reads it may still wait for bytes when the program ends, and Python then fails if it holds a buffer.
    """
    return None if stdin() is None else _raw(sys.stdin)


def stdout() -> BinaryIO:
    """Returns stdout for bytes."""
    return sys.stdout.buffer


def stderr() -> TextIO:
    """Returns stderr for text."""
    return sys.stderr


def stdout_is_terminal() -> bool:
    """Returns whether stdout is a terminal."""
    return sys.stdout.isatty()


def stdout_is_missing() -> bool:
    """Returns whether the program was started without stdout."""
    raw = getattr(sys.stdout.buffer, "raw", None)
    return isinstance(raw, _Output) and raw.target is None


def stdout_takes_data() -> bool:
    """Returns whether stdout is a pipe or a file."""
    return not stdout_is_missing() and not stdout_is_terminal()


def require_stdout() -> None:
    """Raises UsageError if the program was started without stdout."""
    if stdout_is_missing():
        raise UsageError("there is no stdout to write to: name a file or a folder with --out")


def stdout_shows(text: str) -> bool:
    """Returns whether the encoding of stdout has all characters of a text."""
    with contextlib.suppress(UnicodeEncodeError):
        text.encode(sys.stdout.encoding)
        return True
    return False


def write(text: str) -> None:
    """Writes a text to stdout at once. Raises OutputError, or SystemExit with 0 if the reader has closed it."""
    sys.stdout.write(text)
    sys.stdout.flush()


def tell(text: str) -> None:
    """Writes a text to stderr at once, or drops it."""
    sys.stderr.write(text)
    sys.stderr.flush()


class _Output(io.RawIOBase):
    """The bytes of stdout or stderr. After the first failure, and without a target, it drops everything."""

    def __init__(self, stream: TextIO | None, required: bool) -> None:
        self.stream = stream  # kept, since it would close its file; None: it is missing
        self.target = _raw(stream)
        self.required = required  # a failure ends the program
        self.broken = self.target is None

    def writable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """Returns whether it is a terminal."""
        return self.target is not None and bool(self.target.isatty())

    def fileno(self) -> int:
        """Returns the number of the file. Raises OSError if there is none."""
        if self.target is None:
            raise io.UnsupportedOperation("fileno")
        return int(self.target.fileno())

    def write(self, data: Any) -> int | None:
        """Writes some of the bytes, and returns their number. Raises SystemExit or OutputError if it is required."""
        if not self.broken:
            try:
                return self.target.write(data)  # type: ignore[no-any-return]
            except OSError as error:
                self.broken = True
                if self.required:
                    raise _failure(error) from None
        return memoryview(data).nbytes


def _failure(error: OSError) -> SystemExit | OutputError:
    """Returns how the program ends if stdout cannot be written."""
    closed = isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)
    if closed:  # as `| head -1` does, which needs no more
        return SystemExit(0)
    return OutputError(
        f"stdout cannot be written: {error.strerror}. Files that are already written are whole; "
        "free some space, or send stdout elsewhere"
    )


class _Input(io.RawIOBase):
    """The bytes of stdin."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream  # kept, since it would close its file
        self.source = _raw(stream)

    def readable(self) -> bool:
        """Yes."""
        return True

    def isatty(self) -> bool:
        """Returns whether it is a terminal."""
        return bool(self.source.isatty())

    def fileno(self) -> int:
        """Returns the number of the file."""
        return int(self.source.fileno())

    def readinto(self, buffer: Any) -> int | None:
        """Reads what is available. Raises UsageError if stdin cannot be read: a folder, or opened only for writing."""
        try:
            return self.source.readinto(buffer)  # type: ignore[no-any-return]
        except OSError as error:
            raise UsageError(
                f"standard input cannot be read ({error.strerror}): name images or folders, or pipe in a list"
            ) from None


def _fill_missing() -> None:
    """Opens the null device in place of missing streams.

    Otherwise a file of this program would get the number of such a stream, and whatever a library prints would be
    written into it. Worker processes inherit the null device.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)


def _reader(stream: TextIO | None) -> TextIO | None:
    source = _raw(stream)
    if stream is None or source is None or isinstance(source, _Input):
        return stream
    return io.TextIOWrapper(io.BufferedReader(_Input(stream)), encoding="utf-8", errors="surrogateescape")


def _writer(stream: TextIO | None, required: bool) -> TextIO:
    target = _raw(stream)
    if stream is not None and (target is None or isinstance(target, _Output)):
        return stream
    terminal = stream is not None and stream.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream, required)),
        encoding=stream.encoding if stream is not None and terminal else "utf-8",
        errors=sys.getfilesystemencodeerrors() if required and not terminal else ESCAPES,
        newline="\n",
        line_buffering=terminal or not required,
    )


def _raw(stream: TextIO | None) -> Any:
    """Returns the unbuffered file of a stream; None if there is none."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""Replaces characters as `storage.paths.escape` does: ``\xff`` for a byte that is not UTF-8, else ``\u00e9``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = map(ord, error.object[error.start : error.end])
    return "".join(
        f"\\x{letter - 0xDC00:02x}"
        if 0xDC80 <= letter <= 0xDCFF
        else f"\\u{letter:04x}"
        if letter < 0x10000
        else f"\\U{letter:08x}"
        for letter in letters
    ), error.end
