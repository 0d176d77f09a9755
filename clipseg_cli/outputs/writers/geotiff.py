"""GeoTIFFs: masks and soft maps with the georeference of their image, as tags that are copied as they are.

Tiles of 256 x 256 pixels, compressed by Deflate with differences between neighbours, as `gdal_translate -co TILED=YES
-co COMPRESS=DEFLATE -co PREDICTOR=2` writes them. The layout is that of TIFF 6.0 (Adobe, 1992).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.frames.tiff_pages import Field
from clipseg_cli.inputs.georeference import Georeference, for_masks

TILE = 256  # pixels: the side of a tile
SHORT, LONG, BYTES, DOUBLE = 3, 4, 7, 12  # types of tags
HEADER = 8  # bytes
GREY, RGB, DEFLATE, DIFFERENCES, STRAIGHT = 1, 2, 8, 2, 2  # values of tags


def encoded(array: NDArray[Any], place: Georeference, turn: int, srgb: bool = False) -> bytes:
    """Returns a GeoTIFF of a grey, RGB or RGBA image, uint8 or uint16 (H, W), or uint8 (H, W, 3 or 4).

    The georeference is of the file's own pixels. If the array is turned from them by an EXIF orientation, it is stored
    in that frame too, with this orientation: GDAL goes by the pixels, and viewers turn them. `srgb` as in `raster`.
    """
    stored = np.ascontiguousarray(orientation.stored(array, turn))
    pixels = stored if stored.ndim == 3 else stored[:, :, None]
    height, width, bands = pixels.shape
    tiles = [_packed(tile) for tile in _tiles(pixels)]
    sizes = [len(tile) for tile in tiles]
    starts = np.cumsum([HEADER, *sizes[:-1]]).tolist()
    fields = [
        _numbers(256, LONG, [width]),
        _numbers(257, LONG, [height]),
        _numbers(258, SHORT, [8 * pixels.itemsize] * bands),
        _numbers(259, SHORT, [DEFLATE]),
        _numbers(262, SHORT, [GREY if bands == 1 else RGB]),
        _numbers(274, SHORT, [turn]),
        _numbers(277, SHORT, [bands]),
        _numbers(284, SHORT, [1]),  # the bands of a pixel together
        _numbers(317, SHORT, [DIFFERENCES]),
        _numbers(322, SHORT, [TILE]),
        _numbers(323, SHORT, [TILE]),
        _numbers(324, LONG, starts),
        _numbers(325, LONG, sizes),
        *([_numbers(338, SHORT, [STRAIGHT])] if bands == 4 else []),
        *([Field(34675, BYTES, len(profiles.srgb()), profiles.srgb())] if srgb and bands > 1 else []),
        *for_masks(place, np.iinfo(pixels.dtype).max),
    ]
    body = b"".join(tiles)
    body += bytes(len(body) % 2)  # directories begin on even bytes
    return struct.pack("<2sHI", b"II", 42, HEADER + len(body)) + body + _directory(fields, HEADER + len(body))


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


def _numbers(tag: int, kind: int, values: list[int]) -> Field:
    return Field(tag, kind, len(values), struct.pack(f"<{len(values)}{'H' if kind == SHORT else 'I'}", *values))


def doubles(tag: int, values: list[float]) -> Field:
    """Returns a tag of float64 numbers."""
    return Field(tag, DOUBLE, len(values), struct.pack(f"<{len(values)}d", *values))


def _directory(fields: Iterable[Field], at: int) -> bytes:
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
