"""When each frame of a file is shown, read from the file's structure: no pixel is decoded, no C library is called.

So it is safe in the main process, on any file. Decoding a frame that is listed may still fail.
"""

import contextlib
import io
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.finding.image_ends import palette_size
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.settings.inputs import MAX_PIXELS

MOST = 1_000_000  # frames of a file that are listed
THUMBNAILS = ("Large Thumbnail (VGA Equivalent)", "Large Thumbnail (Full HD Equivalent)")  # in an MPO: not frames
BOXES = b"moov trak mdia minf stbl".split()  # of ISO media files: boxes that hold boxes
LEAST_FRAME = 8  # bytes of a frame of an AVIF: less than its header and tile group
LARGEST_BOX = 1 << 26  # bytes of a box that is read


def gif(file: BinaryIO) -> Iterator[float]:
    """Yields how long each frame is shown, in seconds."""
    delay, flags = 0.0, file.read(13)[10]
    file.seek(palette_size(flags), io.SEEK_CUR)
    while (block := file.read(1)) in (b"!", b","):
        if block == b"!":  # an extension
            label, content = file.read(1), next(blocks := _blocks(file), b"")
            if label == b"\xf9" and len(content) == 4:  # graphic control
                delay = int.from_bytes(content[1:3], "little") / 100
        else:
            yield delay
            file.seek(palette_size(file.read(9)[8]) + 1, io.SEEK_CUR)  # and the size of an LZW code
            delay, blocks = 0.0, _blocks(file)
        for _ in blocks:
            pass


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while size := file.read(1)[0]:
        yield file.read(size)


def png(file: BinaryIO) -> Iterator[float]:
    """Yields how long each frame is shown, in seconds. A still image for viewers without animation comes first."""
    animated, controlled, position = False, False, 8
    while True:
        file.seek(position)
        size, name = struct.unpack(">I4s", file.read(8))
        if name == b"IEND" or (name == b"IDAT" and not animated):
            return
        if name == b"acTL":
            animated = True
        elif name == b"fcTL":
            over, under = struct.unpack(">HH", file.read(24)[20:24])
            yield over / (under or 100)
            controlled = True
        elif name == b"IDAT" and not controlled:
            yield 0.0
            controlled = True
        position += size + 12


def webp(file: BinaryIO) -> Iterator[float]:
    """Yields how long each frame is shown, in seconds."""
    position, end = 12, file.seek(0, io.SEEK_END)
    while position < end:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"ANMF":
            yield int.from_bytes(file.read(16)[12:15], "little") / 1000
        position += 8 + size + size % 2


def avif(file: BinaryIO) -> Iterator[float]:
    """Yields how long each frame of the first image track is shown, in seconds."""
    scale, wanted, size = 0, False, file.seek(0, io.SEEK_END)
    most = size // LEAST_FRAME  # a few bytes may claim billions
    for name, content in _boxes(file, 0, size):
        if name == b"mdhd":
            scale = int.from_bytes(content[20:24] if content[0] else content[12:16], "big")
        elif name == b"hdlr":
            wanted = content[8:12] == b"pict"
        elif name == b"stts" and wanted:
            for at in range(8, len(content), 8):
                count, ticks = struct.unpack_from(">II", content, at)
                yield from itertools.repeat(ticks / scale, min(count, most))
                most -= min(count, most)
            return


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the boxes that say when frames are shown, each with its content."""
    while start < end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = int.from_bytes(file.read(8), "big"), 16
        stop = min(end, start + size) if size else end
        if stop < start + head:
            return
        if name in BOXES:
            yield from _boxes(file, start + head, stop)
        elif name in (b"mdhd", b"hdlr", b"stts") and stop - start <= LARGEST_BOX:
            yield name, file.read(stop - start - head)
        start = stop


def mpo(file: BinaryIO) -> Iterator[float]:
    """Yields 0 for each image of an MPO up to its first thumbnail; nothing for an ordinary JPEG."""
    image = pillow.opened("JPEG", file, MAX_PIXELS)
    for entry in (getattr(image, "mpinfo", None) or {}).get(0xB002, ()):
        if entry["Attribute"]["MPType"] in THUMBNAILS:
            return
        yield 0.0


def tiff(file: BinaryIO) -> Iterator[float]:
    """Yields 0 for each page of a TIFF."""
    yield from itertools.repeat(0.0, tiff_pages.pages(file, MOST))


TIMES: dict[str, Callable[[BinaryIO], Iterator[float]]] = {
    "GIF": gif, "PNG": png, "WEBP": webp, "AVIF": avif, "JPEG": mpo, "TIFF": tiff,
}  # fmt: skip


def frame_times(kind: str, file: BinaryIO) -> list[float]:
    """Returns when each frame is shown, in seconds from the first; `[0.0]` for a file of one image.

    What is broken ends the list. Lists at most `MOST` frames.
    """
    starts, now = list[float](), 0.0
    broken = (ImageError, OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError, struct.error)
    with contextlib.suppress(*broken):
        file.seek(0)
        for delay in itertools.islice(TIMES[kind](file), MOST):
            starts.append(round(now, 6))
            now += delay
    return starts or [0.0]
