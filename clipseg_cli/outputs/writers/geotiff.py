"""GeoTIFFs: masks and soft maps with the georeference of their image, as tags that are copied as they are.

Tiles of 256 x 256 pixels, compressed by Deflate with differences between neighbours, as `gdal_translate -co TILED=YES
-co COMPRESS=DEFLATE -co PREDICTOR=2` writes them. The layout is that of TIFF 6.0 (Adobe, 1992).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.frames.tiff_pages import Field
from clipseg_cli.inputs.georeference import Georeference, for_masks

TILE = 256  # pixels: the side of a tile
SHORT, LONG, BYTES, DOUBLE, LONG8 = 3, 4, 7, 12, 16  # types of tags
CODES = {SHORT: "H", LONG: "I", LONG8: "Q"}
CLASSIC = 0xF000_0000  # bytes of tiles: with the directory, more do not fit into the 4 GiB of a TIFF that is no BigTIFF
GREY, RGB, DEFLATE, DIFFERENCES, STRAIGHT = 1, 2, 8, 2, 2  # values of tags


def encoded(array: NDArray[Any], place: Georeference, turn: int, srgb: bool = False) -> bytes:
    """Returns a GeoTIFF of a grey, RGB or RGBA image, uint8 or uint16 (H, W), or uint8 (H, W, 3 or 4).

    The georeference is of the file's own pixels. If the array is turned from them by an EXIF orientation, it is stored
    in that frame too, with this orientation: GDAL goes by the pixels, and viewers turn them. `srgb` as in `raster`.
    """
    stored = np.ascontiguousarray(orientation.stored(array, turn))
    tiles = [*tiled(stored)]
    form = Form(stored.shape[0], stored.shape[1], stored.shape[2] if stored.ndim == 3 else 1, stored.dtype)
    before, after = around([len(tile) for tile in tiles], form, place, turn, srgb)
    return b"".join((before, *tiles, after))


class Form(NamedTuple):
    """The size and the kind of the pixels of a file."""

    height: int
    width: int
    bands: int
    dtype: np.dtype[Any]  # uint8 or uint16


def tiled(rows: NDArray[Any]) -> Iterator[bytes]:
    """Yields the tiles of an image (H, W) or (H, W, bands), or of some rows of it, as they stand in a file.

    Rows that others follow are a multiple of `TILE`.
    """
    return (_packed(tile) for tile in _tiles(rows if rows.ndim == 3 else rows[:, :, None]))


def around(
    sizes: Sequence[int], form: Form, place: Georeference, turn: int = 1, srgb: bool = False
) -> tuple[bytes, bytes]:
    """Returns what stands before and behind the tiles of a GeoTIFF, given the number of bytes of each. See `encoded`.

    A file that 32 bits cannot address is a BigTIFF.
    """
    total = sum(sizes)
    big = total > CLASSIC
    header = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16 + total + total % 2)
    if not big:
        header = struct.pack("<2sHI", b"II", 42, 8 + total + total % 2)
    starts = [len(header), *(len(header) + np.cumsum(sizes[:-1])).tolist()]
    fields = [
        _numbers(256, LONG, [form.width]),
        _numbers(257, LONG, [form.height]),
        _numbers(258, SHORT, [8 * form.dtype.itemsize] * form.bands),
        _numbers(259, SHORT, [DEFLATE]),
        _numbers(262, SHORT, [GREY if form.bands == 1 else RGB]),
        _numbers(274, SHORT, [turn]),
        _numbers(277, SHORT, [form.bands]),
        _numbers(284, SHORT, [1]),  # the bands of a pixel together
        _numbers(317, SHORT, [DIFFERENCES]),
        _numbers(322, SHORT, [TILE]),
        _numbers(323, SHORT, [TILE]),
        _numbers(324, LONG8 if big else LONG, starts),
        _numbers(325, LONG, sizes),
        *([_numbers(338, SHORT, [STRAIGHT])] if form.bands == 4 else []),
        *([Field(34675, BYTES, len(profiles.srgb()), profiles.srgb())] if srgb and form.bands > 1 else []),
        *for_masks(place, np.iinfo(form.dtype).max),
    ]
    even = bytes(total % 2)  # directories begin on even bytes
    return header, even + _directory(fields, len(header) + total + len(even), big)


def _tiles(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yields the tiles of an image (H, W, bands), row by row. Those at the edges are filled up with zeros."""
    height, width, bands = pixels.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            part = pixels[top : top + TILE, left : left + TILE]
            tile = np.zeros((TILE, TILE, bands), pixels.dtype.newbyteorder("<"))
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _packed(tile: NDArray[Any]) -> bytes:
    tile[:, 1:] -= tile[:, :-1].copy()
    return zlib.compress(tile.tobytes(), 6)


def _numbers(tag: int, kind: int, values: Sequence[int]) -> Field:
    return Field(tag, kind, len(values), struct.pack(f"<{len(values)}{CODES[kind]}", *values))


def doubles(tag: int, values: list[float]) -> Field:
    """Returns a tag of float64 numbers."""
    return Field(tag, DOUBLE, len(values), struct.pack(f"<{len(values)}d", *values))


def _directory(fields: Iterable[Field], at: int, big: bool) -> bytes:
    """Returns the directory of a file that stands at this position, with the values that do not fit into it."""
    ordered, (number, row, room) = sorted(fields), ("<Q", "<HHQ", 8) if big else ("<H", "<HHI", 4)
    rows, values = [], []
    after = at + struct.calcsize(number) + (struct.calcsize(row) + room) * len(ordered) + room
    for tag, kind, length, content in ordered:
        inside = content.ljust(room, b"\0") if len(content) <= room else after.to_bytes(room, "little")
        rows.append(struct.pack(row, tag, kind, length) + inside)
        if len(content) > room:
            values.append(content + bytes(len(content) % 2))
            after += len(values[-1])
    return b"".join((struct.pack(number, len(ordered)), *rows, bytes(room), *values))
