"""Directories of tags, as TIFF files and EXIF blocks have them, in little-endian bytes."""

import io
import struct
from collections.abc import Iterable, Mapping, Sequence

from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.frames.tiff_pages import TEXT, Field

BYTE, SHORT, LONG, BYTES, DOUBLE, LONG8 = 1, 3, 4, 7, 12, 16  # types of tags
CODES = {SHORT: "H", LONG: "I", LONG8: "Q"}


def numbers(tag: int, kind: int, values: Sequence[int]) -> Field:
    """Returns a tag of integers of the type SHORT, LONG or LONG8."""
    return Field(tag, kind, len(values), struct.pack(f"<{len(values)}{CODES[kind]}", *values))


def text(tag: int, value: str) -> Field:
    """Returns a tag of text, in UTF-8."""
    content = value.encode("utf-8", "backslashreplace").replace(b"\0", b"") + b"\0"
    return Field(tag, TEXT, len(content), content)


def doubles(tag: int, values: list[float]) -> Field:
    """Returns a tag of float64 numbers."""
    return Field(tag, DOUBLE, len(values), struct.pack(f"<{len(values)}d", *values))


def header(at: int, big: bool = False) -> bytes:
    """Returns the start of a TIFF, `big` or not, or of an EXIF block, whose first directory is at this position."""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if big else struct.pack("<2sHI", b"II", 42, at)


def directory(fields: Iterable[Field], at: int, following: int = 0, big: bool = False) -> bytes:
    """Returns the directory that stands at this position in a file, with the values that do not fit into it.

    `following` is the position of the next one, or 0. `big`: the file is a BigTIFF.
    """
    ordered = sorted(fields)
    number, row, room = ("<Q", "<HHQ", 8) if big else ("<H", "<HHI", 4)
    place = "<Q" if big else "<I"
    rows, values = [], []
    after = at + struct.calcsize(number) + len(ordered) * (struct.calcsize(row) + room) + room
    for tag, kind, length, content in ordered:
        inside = content.ljust(room, b"\0") if len(content) <= room else struct.pack(place, after)
        rows.append(struct.pack(row, tag, kind, length) + inside)
        if len(content) > room:
            values.append(content + bytes(len(content) % 2))
            after += len(values[-1])
    return b"".join((struct.pack(number, len(ordered)), *rows, struct.pack(place, following), *values))


def placed(file: bytes, found: Mapping[int, Iterable[Field]]) -> bytes:
    """Returns a TIFF with further directories at its end, each by the tag of its first page that is to point to it."""
    page = next(tiff_pages.directories(io.BytesIO(file)))
    data = bytearray(file)
    for tag, fields in found.items():
        data += bytes(len(data) % 2)  # directories begin on even bytes
        struct.pack_into("<I", data, page.tags[tag].at, len(data))
        data += directory(fields, len(data))
    return bytes(data)
