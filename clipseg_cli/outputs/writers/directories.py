"""Directories of tags, as TIFF files and EXIF blocks have them, in little-endian bytes."""

import io
import struct
from collections.abc import Iterable, Mapping

from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.frames.tiff_pages import Field

BYTE, SHORT, LONG, BYTES, DOUBLE = 1, 3, 4, 7, 12  # types of tags


def numbers(tag: int, kind: int, values: list[int]) -> Field:
    """Returns a tag of integers of the type SHORT or LONG."""
    return Field(tag, kind, len(values), struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values))


def doubles(tag: int, values: list[float]) -> Field:
    """Returns a tag of float64 numbers."""
    return Field(tag, DOUBLE, len(values), struct.pack(f"<{len(values)}d", *values))


def directory(fields: Iterable[Field], at: int) -> bytes:
    """Returns the directory of a file that stands at this position, with the values that do not fit into it."""
    ordered = sorted(fields)
    rows, values, after = [], [], at + 2 + 12 * len(ordered) + 4
    for tag, kind, length, content in ordered:
        inside = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", after)
        rows.append(struct.pack("<HHI", tag, kind, length) + inside)
        if len(content) > 4:
            values.append(content + bytes(len(content) % 2))
            after += len(values[-1])
    return b"".join((struct.pack("<H", len(ordered)), *rows, bytes(4), *values))


def placed(file: bytes, found: Mapping[int, Iterable[Field]]) -> bytes:
    """Returns a TIFF with further directories at its end, each by the tag of its first page that is to point to it."""
    page = next(tiff_pages.directories(io.BytesIO(file)))
    data = bytearray(file)
    for tag, fields in found.items():
        data += bytes(len(data) % 2)  # directories begin on even bytes
        struct.pack_into("<I", data, page.tags[tag].at, len(data))
        data += directory(fields, len(data))
    return bytes(data)
