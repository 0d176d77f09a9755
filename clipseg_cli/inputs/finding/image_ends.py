"""Where an image ends in a stream: the blocks of its format are walked from one to the next, and nothing is decoded.

`ENDS` has the kinds whose end can be found. What follows an image is read only if the image says that it is its own:
the second view of an MPO, a gain map, the video of a motion photo.
"""

import contextlib
import re
import struct
from collections.abc import Callable
from typing import BinaryIO

from clipseg_cli.inputs.decoders.result import damaged, too_large
from clipseg_cli.inputs.finding.lists import CHUNK, read

LONGEST_HEADER = 1 << 16  # bytes of a PNM header with its comments, and of a comment between its numbers
LONGEST_PADDING = 1 << 16  # bytes between two images of an MPO
# In a scan of a JPEG ff00 is a data byte, ffd0-ffd7 restart it and ffff pads; all else is a marker.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
SOI, EOI, SOS, TEM, APP1, APP2 = 0xD8, 0xD9, 0xDA, 0x01, 0xE1, 0xE2
XMP, MPF = b"http://ns.adobe.com/xap/1.0/\0", b"MPF\0"
# The bytes that a motion photo's XMP announces after the JPEG: its items in their order, or (older) only a video.
ITEMS = re.compile(rb'Item:(?:Length|Padding)(?:="|>)(\d{1,10})')
VIDEO = re.compile(rb'MicroVideoOffset(?:="|>)(\d{1,10})')
NUMBER = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([^\s#]+)(?=[\s#])")  # in the header of a PNM
ROWS: dict[bytes, Callable[[int, int], int]] = {  # bytes of a row of a binary PNM, from its width and its last number
    b"P4": lambda width, most: (width + 7) // 8,
    b"P5": lambda width, most: width * (1 + (most > 255)),
    b"P6": lambda width, most: 3 * width * (1 + (most > 255)),
    b"Pf": lambda width, most: 4 * width,
    b"PF": lambda width, most: 12 * width,
}


class Window:
    """The bytes of a stream from the start of an image on. They are read when a walk needs them."""

    def __init__(self, stream: BinaryIO, head: bytes, limit: int) -> None:
        self.stream, self.limit = stream, limit
        self.data = bytearray(head)

    def more(self) -> None:
        """Reads what is available, at most `CHUNK` bytes. Raises EOFError, or ImageError `too_large` at the limit."""
        if len(self.data) > self.limit:
            raise too_large(f"an image of over {self.limit} bytes on standard input")
        new = read(self.stream, CHUNK)
        if not new:
            raise EOFError
        self.data += new

    def reach(self, end: int) -> None:
        """Reads until there are `end` bytes. Raises EOFError if the stream ends before, ImageError `too_large`."""
        while len(self.data) < end:
            self.more()

    def take(self, end: int) -> bytes:
        """Returns the first `end` bytes, and removes them."""
        taken = bytes(self.data[:end])
        del self.data[:end]
        return taken


def rest(window: Window) -> int:
    """Returns the end of the stream. Raises ImageError `too_large`."""
    try:
        while True:
            window.more()
    except EOFError:
        return len(window.data)


def _jpeg(window: Window) -> int:
    """Finds the end of a JPEG with the images and the video that belong to it."""
    end, index, xmp = _one_jpeg(window, 0)
    views = _views(index)
    near = bool(views) and end <= min(views) <= end + LONGEST_PADDING
    stop = _one_jpeg(window, max(views))[0] if near and _holds(window, min(views), b"\xff\xd8\xff") else end
    return max(stop, _trailer_end(window, xmp, end))


def _holds(window: Window, at: int, expected: bytes) -> bool:
    """Returns whether these bytes stand at a position. A program that edits photos may have copied what says so."""
    with contextlib.suppress(EOFError):
        window.reach(at + len(expected))
    return window.data.startswith(expected, at)


def _one_jpeg(window: Window, at: int) -> tuple[int, tuple[int, bytes] | None, bytes]:
    """Returns where the JPEG that begins at `at` ends, its multi-picture index with the index's position, and its XMP.

    It ends with the end marker outside its segments, which may hold a thumbnail, or where an image begins in its scan.
    """
    at, scanned, index, xmp = at + 2, False, None, b""
    while True:
        while not (found := MARKER.search(window.data, at)):
            at = max(at, len(window.data) - 1)
            window.more()
        at = found.end()
        marker = window.data[at - 1]
        if marker == EOI or (marker == SOI and scanned):
            return (at if marker == EOI else at - 2), index, xmp
        if marker in (TEM, SOI):
            continue
        window.reach(at + 2)
        start, at = at + 2, at + int.from_bytes(window.data[at : at + 2], "big")
        if marker in (APP1, APP2):
            window.reach(at)
            segment = bytes(window.data[start:at])
            index = (start + len(MPF), segment[len(MPF) :]) if segment.startswith(MPF) else index
            xmp = segment if segment.startswith(XMP) else xmp
        scanned = scanned or marker == SOS


def _views(index: tuple[int, bytes] | None) -> list[int]:
    """Returns where the images of a multi-picture file begin behind the first one; none if there is no such index.

    The sizes in the index are not used: Pillow writes wrong ones.
    """
    try:
        base, data = index or (0, b"")
        order = {b"II": "<", b"MM": ">"}[data[:2]]
        (directory,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, directory)
        tags = [struct.unpack_from(f"{order}HHII", data, directory + 2 + 12 * number) for number in range(count)]
        ((size, place),) = [(size, place) for tag, _, size, place in tags if tag == 0xB002]  # its list of images
        offsets = [struct.unpack_from(f"{order}I", data, place + at + 8)[0] for at in range(16, size, 16)]
    except (KeyError, ValueError, struct.error):
        return []
    return [base + offset for offset in offsets if offset]


def _trailer_end(window: Window, xmp: bytes, end: int) -> int:
    """Returns where the video of a motion photo ends; 0 if there is none where the photo's XMP says so."""
    lengths = [int(length) for length in (ITEMS.findall(xmp) or VIDEO.findall(xmp))]
    video = next((length for length in reversed(lengths) if length), 0)
    start = end + sum(lengths) - video
    return start + video if video and start < window.limit and _holds(window, start + 4, b"ftyp") else 0


def _png(window: Window) -> int:
    at, name = 8, b""
    while name != b"IEND":
        window.reach(at + 8)
        length, name = struct.unpack_from(">I4s", window.data, at)
        if not name.isalpha():
            raise damaged("a PNG chunk has no name")
        at += 12 + length
    return at


def _gif(window: Window) -> int:
    window.reach(13)
    at = 13 + palette_size(window.data[10])
    while True:
        window.reach(at + 1)
        block, at = window.data[at], at + 1
        if block == 0x3B:  # the trailer
            return at
        if block in (0x21, 0x2C):  # an extension with its label; an image with its box, palette and code size
            window.reach(at + 9)
            at = _sub_blocks(window, at + 1 if block == 0x21 else at + 10 + palette_size(window.data[at + 8]))


def palette_size(flags: int) -> int:
    """Returns the size in bytes of the colour table that the flags of a GIF, or of an image in it, announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _sub_blocks(window: Window, at: int) -> int:
    while True:
        window.reach(at + 1)
        length, at = window.data[at], at + 1
        if not length:
            return at
        at += length


def _webp(window: Window) -> int:
    window.reach(8)
    return 8 + int.from_bytes(window.data[4:8], "little")


def _bmp(window: Window) -> int:
    """Returns the larger of the file's size and the end of its pixels: some files have a size of 0."""
    window.reach(18)
    size, start, header = struct.unpack_from("<I4xII", window.data, 2)
    window.reach(14 + header)
    if header == 12:  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", window.data, 18)
    else:
        width, height, _, bits = struct.unpack_from("<iiHH", window.data, 18)
    compression, pixels = struct.unpack_from("<II", window.data, 30) if header >= 40 else (0, 0)
    if compression in (0, 3, 6):  # uncompressed: rows of whole groups of four bytes
        pixels = (abs(width) * bits + 31) // 32 * 4 * abs(height)
    return max(size, start + pixels) if pixels or size else rest(window)


def _pnm(window: Window) -> int:
    form = bytes(window.data[:2])
    at, numbers = 2, list[bytes]()
    while len(numbers) < (2 if form in (b"P1", b"P4") else 3):
        while not (found := NUMBER.match(window.data, at)):
            if len(window.data) > at + LONGEST_HEADER:
                raise damaged("its header does not end")
            window.more()
        at, numbers = found.end(), [*numbers, found[1]]
    if not (numbers[0].isdigit() and numbers[1].isdigit()) or len(max(numbers, key=len)) > 32:
        raise damaged("its header has no size")
    width, height = int(numbers[0]), int(numbers[1])
    if form in ROWS:
        most = int(numbers[2]) if numbers[-1].isdigit() and len(numbers) > 2 else 0
        return at + 1 + ROWS[form](width, most) * height
    values = width * height * (3 if form == b"P3" else 1)
    return _values(window, at, values, re.compile(rb"#[^\r\n]*|[01]" if form == b"P1" else rb"#[^\r\n]*|\d+"))


def _values(window: Window, at: int, count: int, value: re.Pattern[bytes]) -> int:
    """Returns where the last of `count` numbers ends. `value` matches a number or a comment."""
    while True:
        before = at
        for found in value.finditer(window.data, at):
            if found.end() == len(window.data):  # it may go on
                break
            at = found.end()
            count -= window.data[found.start()] != ord("#")
            if not count:
                return at
        if at == before and len(window.data) > at + LONGEST_HEADER:
            raise damaged("something else is among its numbers")
        window.more()


# Kinds whose end is found, by their names in `kinds.KINDS`. A walk raises EOFError if the stream ends before the image.
ENDS: dict[str, Callable[[Window], int]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "BMP": _bmp,
    "PPM": _pnm,
    "PFM": _pnm,
}
