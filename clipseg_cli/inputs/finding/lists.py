"""Lists of paths, one a line or ended by NUL, as they arrive. Lists from Windows and from spreadsheets are read too.

A list may begin with a byte order mark and may be UTF-16. Lines may end in CRLF, may be quoted, and may begin with ~/.
A line that names an existing file is taken literally. With NUL, only a byte order mark is removed.
"""

import codecs
import os
from collections.abc import Iterator
from typing import BinaryIO

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.kinds import SNIFF, sniff

CHUNK = 65_536  # bytes of a list that are read at once
LONGEST_LINE = 1 << 20  # bytes: 256 times the longest path of Linux; a file with a longer line is no list
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
NO_LIST = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b\x08")  # spreadsheets (.xlsx, .ods, .xls) and gzip
SPECIAL = (codecs.BOM_UTF8, b'"', b"~/", b"~\\")  # how a line begins that may not be meant literally


def paths(stream: BinaryIO, null: bool, head: bytes = b"") -> Iterator[str]:
    """Yields the paths of a list as they arrive, without empty lines. `head` is what was already read of the stream.

    Raises UsageError if it is no list: an image, a spreadsheet, text that is damaged, or a line of over a megabyte.
    """
    if not null:
        while len(head) < 4 and b"\n" not in head and (more := read(stream, SNIFF)):
            head += more
        _check(head)
    separator, tail = (b"\0", b"") if null else (b"\n", b"\r")
    rest = b""
    for more in _bytes(stream, head) if null else _utf8(stream, head):
        *lines, rest = (rest + more).split(separator)
        for line in lines:
            if path := _meant(line.removesuffix(tail), null):
                yield os.fsdecode(path)
        if len(rest) > LONGEST_LINE:
            raise UsageError("the list of paths has a line of over a megabyte; for a NUL-separated list use --null")
    if path := _meant(rest.removesuffix(tail), null):
        yield os.fsdecode(path)


def read(stream: BinaryIO, size: int) -> bytes:
    """Reads what is available, without waiting for `size` bytes. Returns b"" at the end."""
    return bytes(getattr(stream, "read1", stream.read)(size) or b"")


def _bytes(stream: BinaryIO, head: bytes) -> Iterator[bytes]:
    """Yields the pieces of a stream as they arrive."""
    yield head
    while more := read(stream, CHUNK):
        yield more


def _utf8(stream: BinaryIO, head: bytes) -> Iterator[bytes]:
    """Yields the pieces of a list as they arrive. UTF-16, which its byte order mark shows, becomes UTF-8."""
    while head.startswith(UTF16) and b"\0" not in head and len(head) < CHUNK and (more := read(stream, CHUNK)):
        head += more
    if not head.startswith(UTF16) or b"\0" not in head:  # a name of other bytes: UTF-16 has NULs in its line ends
        yield from _bytes(stream, head)
        return
    decoder = codecs.getincrementaldecoder("utf-16")()
    try:
        for piece in _bytes(stream, head):
            yield decoder.decode(piece).encode()
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise UsageError(f"the list of paths is damaged UTF-16 text ({error}): save it again, as UTF-8") from None


def _check(head: bytes) -> None:
    """Raises UsageError if what begins like this is no list of paths."""
    if b"\0" in head and (kind := sniff(head)):  # without a NUL it may be text: a file may be called "DDS 1.jpg"
        raise UsageError(f"the list of paths is an image ({kind}): give it as an input")
    if head.startswith(UTF32):
        raise UsageError("the list of paths is UTF-32 text: save it as UTF-8")
    if head.startswith(NO_LIST):
        raise UsageError("the list of paths is a spreadsheet or an archive: save it as text, one path a line")


def _meant(line: bytes, null: bool) -> bytes:
    """Returns the path that a line names: the line itself if there is such a file.

    Otherwise without a byte order mark (each part of a joined list may have one), without the quotes of `dir` or of a
    spreadsheet, which doubles those inside, and with the home folder in place of ~.
    """
    if not line.startswith(SPECIAL) or os.path.lexists(line):
        return line
    path = line.removeprefix(codecs.BOM_UTF8)
    if null:
        return path
    if len(path) > 1 and path[:1] == path[-1:] == b'"':
        path = path[1:-1].replace(b'""', b'"')
    return os.path.expanduser(path) if path.startswith((b"~/", b"~\\")) else path
