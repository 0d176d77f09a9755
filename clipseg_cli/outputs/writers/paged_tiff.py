"""TIFF files of one or many grey pages of 8 or 16 bits, with any further tags.

The layout is that of TIFF 6.0 (Adobe, 1992): strips, compressed by Deflate, which ImageJ reads too. A page is written
after the one before it, so a file of many pages is never in memory as a whole. Files that may pass 4 GB are BigTIFFs,
which count in 64 bits.
"""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs.frames.tiff_pages import Field
from clipseg_cli.outputs.writers import directories
from clipseg_cli.outputs.writers.directories import LONG, LONG8, SHORT, numbers

STRIP = 1 << 18  # bytes of a strip before compression, at least one row
LARGEST = 4_200_000_000  # bytes of pixels: with headers, and what Deflate adds at worst, less than the 4 GB of TIFF
GREY, DEFLATE = 1, 8  # values of tags
PAGE_NAME, PAGE_NUMBER = 285, 297  # tags


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a file."""

    array: NDArray[Any]  # uint8 or uint16 (H, W)
    fields: tuple[Field, ...] = ()  # further tags


def pieces(pages: Iterable[Page], count: int, size: int) -> Iterator[bytes]:
    """Yields the pieces of a file of `count` pages, whose pixels take about `size` bytes together."""
    big = size > LARGEST
    at = len(directories.header(0, big))
    yield directories.header(at, big)
    for number, page in enumerate(pages, 1):
        for piece in _page(page, at, big, last=number == count):
            yield piece
            at += len(piece)


def _page(page: Page, at: int, big: bool, last: bool) -> Iterator[bytes]:
    """Yields the directory of a page, for this position in the file, and its pixels."""
    array = page.array.astype(page.array.dtype.newbyteorder("<"), copy=False)
    height, width = array.shape
    rows = max(1, STRIP // array[0].nbytes)
    strips = [zlib.compress(array[top : top + rows].tobytes(), 6) for top in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]
    fixed = (
        numbers(256, LONG, [width]),
        numbers(257, LONG, [height]),
        numbers(258, SHORT, [8 * array.itemsize]),
        numbers(259, SHORT, [DEFLATE]),
        numbers(262, SHORT, [GREY]),
        numbers(277, SHORT, [1]),  # one band
        numbers(278, LONG, [rows]),
        numbers(279, LONG, sizes),
        *page.fields,
    )

    def directory(start: int, following: int) -> bytes:
        places = numbers(273, LONG8 if big else LONG, np.cumsum([start, *sizes[:-1]]).tolist())
        return directories.directory((*fixed, places), at, following, big)

    start = at + len(directory(0, 0))
    end = start + sum(sizes)
    gap = -end % 2  # directories begin on even bytes
    yield directory(start, 0 if last else end + gap)
    yield from strips
    yield bytes(gap)
