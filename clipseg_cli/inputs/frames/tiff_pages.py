"""TIFF directories: reads the tags of a file and lists its pages; decodes no pixel.

Pure Python, since it also runs in the main process on files that nobody has checked. A chain of directories ends at
the first one that is damaged or was met before, and after about `MOST_TAGS` tags.

A page is an image as a viewer shows it: reduced copies and transparency masks of a page do not count, unless the first
directory is one. ImageJ writes a stack as one directory with N planes behind it: these are N pages.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

MOST_TAGS = 1 << 20  # of all directories of a chain: 30,000 pages of any writer
DIRECTORY = 16  # tags that take as long to read as a directory without any
MOST_PER_DIRECTORY = 4096  # tags
MOST_VALUES = 1 << 22  # of one tag: strips or tiles of an image
NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # by type
TEXT = 2  # a type
FRACTIONS = (5, 10)  # types of two numbers of 4 bytes each
SIZES = {kind: struct.calcsize(code) for kind, code in NUMBERS.items()} | {TEXT: 1, 5: 8, 10: 8, 11: 4, 12: 8}

SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
DESCRIPTION, MAKE, STRIPS, SAMPLES, STRIP_BYTES, SUBDIRECTORIES, DNG_VERSION = 270, 271, 273, 277, 279, 330, 50706
TILES, TILE_BYTES = 324, 325
REDUCED, MASK = 1, 4  # bits of SUBFILE
SENSOR = (32803, 34892)  # photometric interpretations: values of a colour filter array, linear raw
# The first bytes of camera raw files whose directories do not say so: Canon and Phase One; then all that are no TIFFs.
RAW = re.compile(rb".{8}(?:CR|IIII|MMMM)|(?!II[*+]\0|MM\0[*+])", re.DOTALL)
STACK = re.compile(rb"ImageJ=.*?^images=(\d{1,9})\s*$", re.DOTALL | re.MULTILINE)


class Field(NamedTuple):
    """A tag with its values, as a little-endian file has them."""

    tag: int
    kind: int  # the type of its values
    length: int  # number of values
    content: bytes


class Tag(NamedTuple):
    """Where the values of a tag are."""

    kind: int  # the type of its values
    length: int  # number of values
    at: int  # position in the file


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory of a TIFF file. Its values are read when they are asked for."""

    file: BinaryIO
    order: str  # "<" or ">"
    big: bool  # BigTIFF
    at: int  # position in the file
    following: int  # position of the next directory, or 0
    tags: dict[int, Tag]

    def numbers(self, tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Returns the integers of a tag, or the default. Raises ValueError if they cannot be read."""
        if tag not in self.tags:
            return default
        kind, length, at = self.tags[tag]
        if kind not in NUMBERS or length > MOST_VALUES:
            raise ValueError(f"tag {tag} has {length} values of type {kind}")
        return struct.unpack(f"{self.order}{length}{NUMBERS[kind]}", _read(self.file, at, length * SIZES[kind]))

    def number(self, tag: int, default: int) -> int:
        """Returns the first integer of a tag, or the default. Raises ValueError if it cannot be read."""
        return (self.numbers(tag) or (default,))[0]

    def content(self, tag: int, most: int) -> bytes:
        """Returns up to `most` bytes of a tag of bytes or text; b"" if there is none. Raises ValueError."""
        kind, length, at = self.tags.get(tag, Tag(TEXT, 0, 0))
        if SIZES.get(kind) != 1:
            raise ValueError(f"tag {tag} has values of type {kind}")
        return _read(self.file, at, min(length, most))

    def field(self, tag: int, most: int) -> Field | None:
        """Returns a tag of numbers or text of up to `most` bytes; None if there is none that can be read."""
        kind, length, at = self.tags.get(tag, Tag(0, 0, 0))
        size = SIZES.get(kind, 0)
        if not 0 < length * size <= most:
            return None
        try:
            content = _read(self.file, at, length * size)
        except ValueError:
            return None
        if self.order == ">":
            unit = size // 2 if kind in FRACTIONS else size
            content = b"".join(content[start : start + unit][::-1] for start in range(0, len(content), unit))
        return Field(tag, kind, length, content)

    def places(self) -> Iterator[tuple[int, int]]:
        """Yields the position and the number of bytes of each strip or tile. Raises ValueError."""
        starts = self.numbers(TILES) or self.numbers(STRIPS)
        yield from zip(starts, self.numbers(TILE_BYTES) or self.numbers(STRIP_BYTES), strict=False)

    def subdirectories(self, tag: int = SUBDIRECTORIES) -> Iterator["Directory"]:
        """Yields the sound directories that a tag of this one points to, the first 32 of them."""
        try:
            places = self.numbers(tag)[:32]
        except ValueError:
            return
        for at in places:
            try:
                yield _directory(self.file, self.order, self.big, at)
            except ValueError:
                continue


class Page(NamedTuple):
    """One page of a file."""

    directory: Directory
    plane: int = 0  # its number in a stack of ImageJ
    shift: int = 0  # bytes from the first plane's data to its own
    mask: Directory | None = None  # a page of its transparency: 0 where it has no data


def directories(file: BinaryIO) -> Iterator[Directory]:
    """Yields the directories of a file, in their order, each once. Raises ValueError if the first one is damaged.

    Any two bytes after the byte order are taken for the number 42: some camera raw files have other ones.
    """
    head = _read(file, 0, 8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        raise ValueError("no byte order")
    big = head[2:4] in (b"+\0", b"\0+")
    (at,) = struct.unpack(f"{order}Q", _read(file, 8, 8)) if big else struct.unpack(f"{order}I", head[4:])
    found = _directory(file, order, big, at)
    seen, left = {at}, MOST_TAGS
    yield found
    while found.following and found.following not in seen and left > 0:
        try:
            found = _directory(file, order, big, found.following)
        except ValueError:
            return
        seen.add(found.at)
        left -= DIRECTORY + len(found.tags)
        yield found


def listed(file: BinaryIO, limit: int) -> list[Page]:
    """Returns the pages of a file, at most `limit`; of a camera raw file one. Raises ValueError if it is damaged."""
    found = directories(file)
    first = next(found)
    if is_camera_raw(first):
        return [Page(first)]
    pages, alone, skip = [Page(first)], True, not _aside(first)
    for directory in found:
        alone = False
        if len(pages) >= limit:
            break
        if not (skip and _aside(directory)):
            pages.append(Page(directory))
        elif pages[-1].mask is None and _is_mask(directory):
            pages[-1] = pages[-1]._replace(mask=directory)
    return _stack(first, limit) if alone else pages


def is_camera_raw(first: Directory) -> bool:
    """Returns whether a file with this first directory holds values of a camera's sensor."""
    try:
        return (
            DNG_VERSION in first.tags
            or RAW.match(_read(first.file, 0, 12)) is not None
            or any(each.number(PHOTOMETRIC, 0) in SENSOR for each in (first, *first.subdirectories()))
            or (is_thumbnail(first) and MAKE in first.tags)
        )
    except ValueError:
        return False


def is_thumbnail(first: Directory) -> bool:
    """Returns whether the first directory is the reduced copy of an image that only it points to. Raises ValueError."""
    return first.number(SUBFILE, 0) == REDUCED and SUBDIRECTORIES in first.tags


def pages(file: BinaryIO, limit: int) -> int:
    """Returns how many pages a file has, counted up to `limit`; 1 if it is damaged. Raises OSError."""
    try:
        return len(listed(file, limit))
    except ValueError:
        return 1


def _stack(directory: Directory, limit: int) -> list[Page]:
    """Returns the pages of a file of one directory: planes of ImageJ that begin within the file, or one page."""
    try:
        stack = STACK.match(directory.content(DESCRIPTION, 4096))
        if stack is None or directory.number(COMPRESSION, 1) != 1:
            return [Page(directory)]
        samples = directory.number(SAMPLES, 1)
        row = -(-directory.number(WIDTH, 0) * samples * directory.number(BITS, 1) // 8)
        size, start = row * directory.number(HEIGHT, 0), directory.number(STRIPS, 0)
    except ValueError:
        return [Page(directory)]
    end = directory.file.seek(0, os.SEEK_END)
    if size <= 0:
        return [Page(directory)]
    count = max(1, min(int(stack[1]), limit, -(-(end - start) // size)))
    return [Page(directory, plane, plane * size) for plane in range(count)]


def _aside(directory: Directory) -> bool:
    """Returns whether a directory is a reduced copy or a mask of another one."""
    try:
        bits, old = directory.number(SUBFILE, 0), directory.number(OLD_SUBFILE, 0)
    except ValueError:
        return False
    return bool(bits & (REDUCED | MASK)) or (bits == 0 and old == 2)


def _is_mask(directory: Directory) -> bool:
    """Returns whether a directory is the transparency mask of a page, and no reduced copy of one."""
    try:
        return directory.number(SUBFILE, 0) & (REDUCED | MASK) == MASK
    except ValueError:
        return False


def _directory(file: BinaryIO, order: str, big: bool, at: int) -> Directory:
    """Reads a directory. Raises ValueError."""
    (count,) = struct.unpack(order + ("Q" if big else "H"), _read(file, at, 8 if big else 2))
    if not 0 < count <= MOST_PER_DIRECTORY:
        raise ValueError(f"a directory of {count} tags")
    layout = struct.Struct(order + ("HHQQ" if big else "HHII"))
    room, start = (8, at + 8) if big else (4, at + 2)  # bytes for values in the directory itself
    rows = _read(file, start, count * layout.size)
    end = file.read(room)  # missing from the last directory of some files
    tags: dict[int, Tag] = {}
    for index, (tag, kind, number, value) in enumerate(layout.iter_unpack(rows)):
        inside = number * SIZES.get(kind, 1) <= room
        place = start + (index + 1) * layout.size - room if inside else value
        tags.setdefault(tag, Tag(kind, number, place))
    (following,) = struct.unpack(order + ("Q" if big else "I"), end) if len(end) == room else (0,)
    return Directory(file, order, big, at, following, tags)


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    """Reads exactly `size` bytes at a position. Raises ValueError if the file has fewer."""
    if at >= 1 << 63:
        raise ValueError("a position beyond the end of the file")
    file.seek(at)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("the file ends before its directory")
    return data
