"""TIFF layouts that Pillow does not read: any number of bands, integers and floats of any width, planes, tiles.

Strips and tiles are decoded one by one into an array. Only the bands that are shown are kept: see `tiff_bands`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from clipseg_cli.inputs.decoders import tiff_codecs
from clipseg_cli.inputs.decoders.result import check_size, damaged, too_large, unsupported
from clipseg_cli.inputs.frames.tiff_pages import (
    BITS,
    COMPRESSION,
    HEIGHT,
    PHOTOMETRIC,
    SAMPLES,
    WIDTH,
    Directory,
    Page,
)

LARGEST_TILE = 1 << 24  # pixels of a tile, which is decoded whole: 16 times that of any writer
LARGEST_PIXEL = 16  # bytes of the samples of a pixel that are kept: four floats
LEAST_LIMIT = 1 << 26  # bytes that a strip or tile may always have
MOST_SAMPLES = 65_535  # per pixel, by the TIFF standard
PACKED_ROWS = 64  # rows whose bits are unpacked at once
HEADER = 8  # bytes; no pixels are stored before their end

FILL_ORDER, ROWS, PLANAR, PREDICTOR, COLOUR_MAP = 266, 278, 284, 317, 320
TILE_WIDTH, TILE_HEIGHT, EXTRA_SAMPLES, FORMAT = 322, 323, 338, 339
JPEG_TABLES, DEPTH, ICC_PROFILE, LERC = 347, 32997, 34675, 50674
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB, ICC_LAB = 0, 1, 2, 3, 5, 6, 8, 9  # of PHOTOMETRIC
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4  # of FORMAT
WIDTHS = {UNSIGNED: (*range(1, 17), 32, 64), SIGNED: (8, 16, 32, 64), FLOAT: (16, 32, 64)}  # bits, by FORMAT
PREMULTIPLIED, STRAIGHT = 1, 2  # of EXTRA_SAMPLES: kinds of alpha
DIFFERENCES, FLOAT_DIFFERENCES = 2, 3  # of PREDICTOR


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of a page are stored."""

    directory: Directory
    width: int
    height: int
    samples: int  # per pixel
    bits: int  # per sample
    form: int  # UNSIGNED, SIGNED or FLOAT
    photometric: int
    compression: int
    predictor: int
    planes: bool  # each band by itself
    reverse: bool  # the first pixel is in the lowest bits of a byte
    extra: tuple[int, ...]  # the kinds of the last samples
    tiled: bool
    across: int  # columns of a strip or tile
    down: int  # rows of a strip or tile

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a sample in memory, in native byte order."""
        size = 1 if self.bits <= 8 else 2 if self.bits <= 16 else self.bits // 8
        return np.dtype(f"{'.uif'[self.form]}{size}")

    @property
    def together(self) -> int:
        """The number of samples of a pixel that are stored together."""
        return 1 if self.planes else self.samples

    def size(self, rows: int) -> int:
        """Returns the bytes of so many rows of a strip or tile."""
        return rows * -(-self.across * self.together * self.bits // 8)

    @property
    def is_cut(self) -> bool:
        """Whether some rows of a strip can be read without the others."""
        return self.compression == 1 and not self.tiled

    @property
    def pieces(self) -> int:
        """The number of strips or tiles of a band, or of all bands that are stored together."""
        return -(-self.width // self.across) * -(-self.height // self.down)


def layout(directory: Directory) -> Layout:
    """Returns the layout of a page. Raises ValueError if it is damaged, ImageError if it is not supported."""
    number = directory.number
    width, height, samples = number(WIDTH, 0), number(HEIGHT, 0), number(SAMPLES, 1)
    bits, forms = set(directory.numbers(BITS, (1,))[:samples]), set(directory.numbers(FORMAT, (1,))[:samples])
    tiled = TILE_WIDTH in directory.tags
    across = number(TILE_WIDTH, 0) if tiled else width
    down = number(TILE_HEIGHT, 0) if tiled else min(number(ROWS, height) or height, height)
    if min(width, height, samples, across, down) < 1 or not bits or not forms:
        raise ValueError("a size of 0")
    if samples > MOST_SAMPLES:
        raise ValueError(f"{samples} bands")
    if len(bits) > 1 or len(forms) > 1:
        raise unsupported("TIFF with bands of different types", "save them alike")
    if number(DEPTH, 1) > 1:
        raise unsupported("a volume in one page", "save its slices as pages")
    return Layout(
        directory, width, height, samples, bits.pop(), forms.pop(), number(PHOTOMETRIC, BLACK_IS_ZERO),
        number(COMPRESSION, 1), number(PREDICTOR, 1), number(PLANAR, 1) == 2 and samples > 1,
        number(FILL_ORDER, 1) == 2, directory.numbers(EXTRA_SAMPLES), tiled, across, down,
    )  # fmt: skip


def check(form: Layout, kept: int, max_pixels: int) -> None:
    """Raises ImageError for a page that is too large or of a layout that cannot be read."""
    pixels, tile = form.width * form.height, form.across * form.down
    check_size(form.width, form.height, max_pixels)
    if form.bits not in WIDTHS.get(form.form, ()):  # its samples have no size in memory
        check_kind(form)
    if pixels * kept * form.dtype.itemsize > LARGEST_PIXEL * max_pixels:
        raise too_large(f"{form.width} x {form.height} pixels of {kept} x {form.bits} bits")
    if tile > max(pixels, LARGEST_TILE):
        raise too_large(f"a tile of {tile} pixels")
    if form.size(form.down) > max(LEAST_LIMIT, LARGEST_PIXEL * max_pixels):
        raise too_large(f"a strip or tile of {form.size(form.down)} bytes")
    check_kind(form)


def check_kind(form: Layout) -> None:
    """Raises ImageError for a layout that cannot be read."""
    if form.bits not in WIDTHS.get(form.form, ()):
        raise unsupported(f"TIFF with {form.bits} bits of sample format {form.form}", "save it as 32-bit float")
    codec = form.compression
    if codec not in tiff_codecs.BYTES and codec not in tiff_codecs.IMAGES:
        name = tiff_codecs.NAMES.get(codec, str(codec))
        raise unsupported(f"{name} compression in this kind of TIFF", "save it as 8-bit RGB, or uncompressed")
    if form.photometric == YCBCR and (codec != tiff_codecs.JPEG or form.planes):
        raise unsupported("YCbCr in this kind of TIFF", "save it as RGB")
    regular = form.bits in (8, 16, 32, 64)
    predictors = (1, DIFFERENCES, FLOAT_DIFFERENCES) if form.form == FLOAT else (1, DIFFERENCES)
    if codec in tiff_codecs.BYTES and (form.predictor not in predictors or (form.predictor > 1 and not regular)):
        raise unsupported(f"TIFF with predictor {form.predictor} for {form.bits} bits", "save it uncompressed")


def samples(form: Layout, page: Page, kept: tuple[int, ...], span: slice | None = None) -> np.ndarray:
    """Returns the kept bands of a page: (H, W, B) in native byte order; with `span` only of these rows.

    Raises ImageError, ValueError.
    """
    top, bottom, _ = (span or slice(None)).indices(form.height)
    samples = np.empty((bottom - top, form.width, len(kept)), form.dtype)
    targets = {band: index for index, band in enumerate(kept)}
    for band, y, rows, x, data in _segments(form, page, kept, range(top, bottom)):
        segment = _segment(form, data, form.down if form.tiled else rows)[:rows, : form.width - x]
        segment = segment[max(0, top - y) : bottom - y]
        here = samples[max(y, top) - top :, x : x + segment.shape[1]][: len(segment)]
        if form.planes:
            here[:, :, targets[band]] = segment[:, :, 0]
        else:
            here[...] = segment[:, :, kept]
    return samples


def _segments(
    form: Layout, page: Page, kept: tuple[int, ...], span: range
) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yields the band, the first row, the number of rows, the first column and the data of each strip or tile.

    Only of those that have any of the rows of `span`. Raises ImageError, ValueError.
    """
    file = form.directory.file
    end, columns = file.seek(0, os.SEEK_END), -(-form.width // form.across)
    expected = form.pieces * (form.samples if form.planes else 1)
    places = list(form.directory.places())
    if len(places) < expected:
        raise damaged(f"{len(places)} of {expected} strips or tiles")
    rows_of_pieces = range(span.start // form.down * columns, -(-span.stop // form.down) * columns)
    bands = kept if form.planes else (0,)
    for band, place in product(sorted(set(bands)), rows_of_pieces):
        at, count = places[band * form.pieces + place]
        y, x = place // columns * form.down, place % columns * form.across
        rows = min(form.down, form.height - y)
        if form.is_cut:
            first, last = max(y, span.start), min(y + rows, span.stop)
            before = form.size(first - y)
            at, count, y, rows = at + before, min(count - before, form.size(last - first)), first, last - first
        size = form.size(form.down)
        if form.compression == 1:
            count = min(count, size)
        if at < HEADER or count < 1 or at + page.shift + count > end:
            raise damaged("some of its pixels are missing")
        if count > max(LEAST_LIMIT, 2 * size):
            raise damaged(f"a strip or tile of {count} bytes")
        file.seek(at + page.shift)
        yield band, y, rows, x, file.read(count)


def _segment(form: Layout, data: bytes, rows: int) -> np.ndarray:
    """Decodes a strip or tile of so many rows: (rows, columns, samples) in native byte order. Raises ImageError."""
    shape = (rows, form.across, form.together)
    if form.compression in tiff_codecs.IMAGES:
        directory = form.directory
        inner = (*directory.numbers(LERC), 0, 0)[1]
        tables = directory.content(JPEG_TABLES, 1 << 16) or None
        wanted = tiff_codecs.Wanted(shape, form.dtype, form.photometric, tables, inner)
        return tiff_codecs.image(form.compression, data, wanted, form.down)
    if form.reverse:
        data = data.translate(REVERSED)
    needed = form.size(rows)
    data = tiff_codecs.unpacked(form.compression, data, form.size(form.down))[:needed]
    if len(data) < needed:
        raise damaged("a strip or tile has fewer pixels than its size says")
    if form.bits not in (8, 16, 32, 64):
        return _unpacked(form, data, shape)
    stored = form.dtype.newbyteorder("<" if form.directory.order == "<" else ">")
    if form.predictor == FLOAT_DIFFERENCES:
        # Bytes are stored as planes, the highest first, and each as the difference to the pixel before.
        planes = np.frombuffer(data, np.uint8).reshape(rows, -1, form.together).cumsum(1, np.uint8)
        data = planes.reshape(rows, form.bits // 8, -1).swapaxes(1, 2).tobytes()
        stored = form.dtype.newbyteorder(">")
    values = np.frombuffer(data, stored).reshape(shape).astype(form.dtype, copy=False)
    if form.predictor == DIFFERENCES:
        whole = np.dtype(f"u{form.bits // 8}")
        return values.view(whole).cumsum(1, whole).view(form.dtype)
    return values


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _unpacked(form: Layout, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns samples of 1 to 15 bits that follow each other, the highest bit first; each row begins with a byte."""
    rows, columns, together = shape
    packed, length = np.frombuffer(data, np.uint8).reshape(rows, -1), columns * together
    values = np.zeros((rows, length), form.dtype)
    for start in range(0, rows, PACKED_ROWS):
        part = values[start : start + PACKED_ROWS]
        bits = np.unpackbits(packed[start : start + PACKED_ROWS], axis=1, count=length * form.bits)
        for bit in range(form.bits):
            np.bitwise_or(part << 1, bits[:, bit :: form.bits], out=part)
    return values.reshape(shape)
