"""TIFF files of one or many pages: grey, RGB or RGBA, 8 or 16 bits, compressed by Deflate, with any further tags.

The layout is that of TIFF 6.0 (Adobe, 1992). A page is written after the one before it, so a file of many pages is
never in memory as a whole. Files that may pass 4 GB are BigTIFFs, which count in 64 bits.

Tiles of 256 x 256 pixels with differences between neighbours suit maps: `gdal_translate -co TILED=YES -co
COMPRESS=DEFLATE -co PREDICTOR=2` writes the same. Strips without differences are what ImageJ reads.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs.frames.tiff_pages import Field

TILE = 256  # pixels: the side of a tile
STRIP = 1 << 18  # bytes of a strip before compression, at least one row
LARGEST = 4_200_000_000  # bytes of pixels: with headers, and what Deflate adds at worst, less than the 4 GB of TIFF
TEXT, SHORT, LONG, LONG8 = 2, 3, 4, 16  # types of tags
GREY, RGB, DEFLATE, DIFFERENCES, STRAIGHT = 1, 2, 8, 2, 2  # values of tags
DESCRIPTION, PAGE_NAME, PAGE_NUMBER = 270, 285, 297


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a file."""

    array: NDArray[Any]  # uint8 or uint16 (H, W), or (H, W, 3 or 4)
    fields: tuple[Field, ...] = ()  # further tags


def pieces(pages: Iterable[Page], count: int, size: int, tiled: bool = False) -> Iterator[bytes]:
    """Yields the pieces of a file of `count` pages, whose pixels take about `size` bytes together."""
    big = size > LARGEST
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    yield head
    at = len(head)
    for number, page in enumerate(pages, 1):
        for piece in _page(page, at, tiled, big, last=number == count):
            yield piece
            at += len(piece)


def numbers(tag: int, kind: int, values: Iterable[int]) -> Field:
    """Returns a tag of integers of the type SHORT, LONG or LONG8."""
    listed = list(values)
    return Field(
        tag, kind, len(listed), struct.pack(f"<{len(listed)}{ {SHORT: 'H', LONG: 'I', LONG8: 'Q'}[kind] }", *listed)
    )


def text(tag: int, value: str) -> Field:
    """Returns a tag of text, in UTF-8."""
    content = value.encode("utf-8", "backslashreplace").replace(b"\0", b"") + b"\0"
    return Field(tag, TEXT, len(content), content)


def _page(page: Page, at: int, tiled: bool, big: bool, last: bool) -> Iterator[bytes]:
    """Yields the directory of a page, for this position in the file, and its pixels."""
    pixels = page.array if page.array.ndim == 3 else page.array[:, :, None]
    height, width, bands = pixels.shape
    rows = max(1, STRIP // pixels[0].nbytes)
    blocks = [*map(_packed_tile, _tiles(pixels))] if tiled else [*map(_packed, _strips(pixels, rows))]
    sizes = [len(block) for block in blocks]
    fixed = [
        numbers(256, LONG, [width]),
        numbers(257, LONG, [height]),
        numbers(258, SHORT, [8 * pixels.itemsize] * bands),
        numbers(259, SHORT, [DEFLATE]),
        numbers(262, SHORT, [GREY if bands == 1 else RGB]),
        numbers(277, SHORT, [bands]),
        numbers(284, SHORT, [1]),  # the bands of a pixel together
        *([numbers(338, SHORT, [STRAIGHT])] if bands == 4 else []),
        *page.fields,
    ]
    if tiled:
        fixed += [numbers(317, SHORT, [DIFFERENCES]), *(numbers(tag, SHORT, [TILE]) for tag in (322, 323))]
    else:
        fixed += [numbers(278, LONG, [rows])]
    offsets, lengths = (324, 325) if tiled else (273, 279)
    fixed.append(numbers(lengths, LONG, sizes))

    def directory(start: int, following: int) -> bytes:
        places = np.cumsum([start, *sizes[:-1]]).tolist()
        return _directory([*fixed, numbers(offsets, LONG8 if big else LONG, places)], at, following, big)

    start = at + len(directory(0, 0))
    end = start + sum(sizes)
    gap = -end % 2  # directories begin on even bytes
    yield directory(start, 0 if last else end + gap)
    yield from blocks
    yield bytes(gap)


def _strips(pixels: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    for top in range(0, len(pixels), rows):
        yield pixels[top : top + rows]


def _tiles(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yields the tiles of an image (H, W, bands), row by row. Those at the edges are filled up with zeros."""
    height, width, bands = pixels.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            part = pixels[top : top + TILE, left : left + TILE]
            tile = np.zeros((TILE, TILE, bands), pixels.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _packed_tile(tile: NDArray[Any]) -> bytes:
    tile[:, 1:] -= tile[:, :-1].copy()
    return _packed(tile)


def _packed(block: NDArray[Any]) -> bytes:
    return zlib.compress(block.astype(block.dtype.newbyteorder("<")).tobytes(), 6)


def _directory(fields: Iterable[Field], at: int, following: int, big: bool) -> bytes:
    """Returns the directory that stands at this position, with the values that do not fit into it."""
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
