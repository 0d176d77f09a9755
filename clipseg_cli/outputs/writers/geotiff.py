"""GeoTIFFs: masks and soft maps with the georeference of their image, as tags that are copied as they are.

Tiles of 256 x 256 pixels, compressed by Deflate with differences between neighbours, as `gdal_translate -co TILED=YES
-co COMPRESS=DEFLATE -co PREDICTOR=2` writes them. The layout is that of TIFF 6.0 (Adobe, 1992).
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.georeference import Georeference, for_masks
from clipseg_cli.outputs.writers.carried import NOTHING, Carried
from clipseg_cli.outputs.writers.directories import LONG, SHORT, directory, numbers, placed

TILE = 256  # pixels: the side of a tile
HEADER = 8  # bytes
GREY, RGB, DEFLATE, DIFFERENCES, STRAIGHT = 1, 2, 8, 2, 2  # values of tags


def encoded(array: NDArray[Any], place: Georeference, turn: int, carried: Carried = NOTHING) -> bytes:
    """Returns a GeoTIFF of an image, uint8 or uint16: grey (H, W), with transparency (H, W, 2), RGB or RGBA.

    The georeference is of the file's own pixels. If the array is turned from them by an EXIF orientation, it is stored
    in that frame too, with this orientation: GDAL goes by the pixels, and viewers turn them.
    """
    stored = np.ascontiguousarray(orientation.stored(array, turn))
    pixels = stored if stored.ndim == 3 else stored[:, :, None]
    height, width, bands = pixels.shape
    tiles = [_packed(tile) for tile in _tiles(pixels)]
    sizes = [len(tile) for tile in tiles]
    starts = np.cumsum([HEADER, *sizes[:-1]]).tolist()
    fields = [
        numbers(256, LONG, [width]),
        numbers(257, LONG, [height]),
        numbers(258, SHORT, [8 * pixels.itemsize] * bands),
        numbers(259, SHORT, [DEFLATE]),
        numbers(262, SHORT, [GREY if bands < 3 else RGB]),
        numbers(277, SHORT, [bands]),
        numbers(284, SHORT, [1]),  # the bands of a pixel together
        numbers(317, SHORT, [DIFFERENCES]),
        numbers(322, SHORT, [TILE]),
        numbers(323, SHORT, [TILE]),
        numbers(324, LONG, starts),
        numbers(325, LONG, sizes),
        *([numbers(338, SHORT, [STRAIGHT])] if bands in (2, 4) else []),
        *for_masks(place, np.iinfo(pixels.dtype).max),
    ]
    own = carried.fields(height, width)
    fields += (
        own if any(each.tag == orientation.TAG for each in own) else (numbers(orientation.TAG, SHORT, [turn]), *own)
    )
    body = b"".join(tiles)
    body += bytes(len(body) % 2)  # directories begin on even bytes
    file = struct.pack("<2sHI", b"II", 42, HEADER + len(body)) + body + directory(fields, HEADER + len(body))
    return placed(file, {tag: each for tag, each in carried.directories(height, width).items() if tag})


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
