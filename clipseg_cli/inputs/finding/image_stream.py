"""Images one after another in one stream, as `ffmpeg -f image2pipe` writes them.

An image is handed on when its last byte has come, whatever follows. One image is in memory at a time, and at most
`lists.CHUNK` bytes of what follows it. Line ends, blanks and zeros between images are skipped.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.finding.image_ends import ENDS, Window, rest
from clipseg_cli.inputs.kinds import SNIFF, sniff

LARGEST = 1 << 26  # bytes of an image, however few pixels are allowed
LARGEST_PIXEL = 8  # bytes: four channels of 16 bits that could not be compressed
PADDING = re.compile(rb"[\s\0]*")
LEADING = 4  # bytes that some kinds begin with and that may look like padding: the length of a box


def images(stream: BinaryIO, head: bytes, max_pixels: int) -> Iterator[bytes | ImageError]:
    """Yields the bytes of each image of a stream. `head` is what was already read of it.

    The rest of the stream is one image if it breaks off, or if the end of its kind cannot be found (TIFF, AVIF, HEIC,
    videos). It is an ImageError if it is no image (`corrupt`), or larger than an image of `max_pixels` (`too_large`).
    """
    window = Window(stream, head, max(LARGEST, LARGEST_PIXEL * max_pixels))
    number = 0
    try:
        while kind := _next_kind(window, number):
            try:
                end = ENDS.get(kind, rest)(window)
                window.reach(end)
            except EOFError:
                end = len(window.data)
            yield window.take(end)
            number += 1
    except ImageError as error:
        yield error


def _next_kind(window: Window, number: int) -> str:
    """Skips what lies before the next image. Returns its kind, or "" at the end of the stream.

    Raises ImageError `corrupt` if something else follows.
    """
    while True:
        padding = PADDING.match(window.data)
        start = padding.end() if padding else 0
        for begin in range(max(0, start - LEADING), start + 1):
            if kind := sniff(bytes(window.data[begin : begin + SNIFF])):
                window.take(begin)
                return kind
        try:
            if len(window.data) < start + SNIFF:
                window.take(max(0, start - LEADING))
                window.more()
                continue
        except EOFError:
            if not PADDING.sub(b"", window.data):
                return ""
        why = f"what follows image {number} on standard input begins like no image; the rest is not read"
        raise ImageError("corrupt", "load", why)
