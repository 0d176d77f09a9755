"""GeoTIFFs: masks and soft maps with the georeference of their image, as tags that are copied as they are.

Tiles of 256 x 256 pixels, compressed by Deflate with differences between neighbours, as `gdal_translate -co TILED=YES
-co COMPRESS=DEFLATE -co PREDICTOR=2` writes them. The layout is that of TIFF 6.0 (Adobe, 1992).
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.georeference import Georeference, for_masks
from clipseg_cli.outputs.writers.carried import NOTHING, Carried
from clipseg_cli.outputs.writers.directories import LONG, LONG8, SHORT, directory, header, numbers, placed

TILE = 256  # pixels: the side of a tile
CLASSIC = 0xF000_0000  # bytes of tiles: with the directory, more do not fit into the 4 GiB of a TIFF that is no BigTIFF
GREY, RGB, DEFLATE, DIFFERENCES, STRAIGHT = 1, 2, 8, 2, 2  # values of tags


def encoded(array: NDArray[Any], place: Georeference, turn: int, carried: Carried = NOTHING) -> bytes:
    """Returns a GeoTIFF of an image, uint8 or uint16: grey (H, W), with transparency (H, W, 2), RGB or RGBA.

    The georeference is of the file's own pixels. If the array is turned from them by an EXIF orientation, it is stored
    in that frame too, with this orientation: GDAL goes by the pixels, and viewers turn them.
    """
    stored = np.ascontiguousarray(orientation.stored(array, turn))
    tiles = [*tiled(stored)]
    form = Form(stored.shape[0], stored.shape[1], stored.shape[2] if stored.ndim == 3 else 1, stored.dtype)
    before, after = around([len(tile) for tile in tiles], form, place, turn, carried)
    further = carried.directories(form.height, form.width).items()
    return placed(b"".join((before, *tiles, after)), {tag: fields for tag, fields in further if tag})


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
    sizes: Sequence[int], form: Form, place: Georeference, turn: int = 1, carried: Carried = NOTHING
) -> tuple[bytes, bytes]:
    """Returns what stands before and behind the tiles of a GeoTIFF, given the number of bytes of each. See `encoded`.

    A file that 32 bits cannot address is a BigTIFF.
    """
    total = sum(sizes)
    big = total > CLASSIC
    even = bytes(total % 2)  # directories begin on even bytes
    first = len(header(0, big))
    at = first + total + len(even)
    starts = [first, *(first + np.cumsum(sizes[:-1])).tolist()]
    fields = [
        numbers(256, LONG, [form.width]),
        numbers(257, LONG, [form.height]),
        numbers(258, SHORT, [8 * form.dtype.itemsize] * form.bands),
        numbers(259, SHORT, [DEFLATE]),
        numbers(262, SHORT, [GREY if form.bands < 3 else RGB]),
        numbers(277, SHORT, [form.bands]),
        numbers(284, SHORT, [1]),  # the bands of a pixel together
        numbers(317, SHORT, [DIFFERENCES]),
        numbers(322, SHORT, [TILE]),
        numbers(323, SHORT, [TILE]),
        numbers(324, LONG8 if big else LONG, starts),
        numbers(325, LONG, sizes),
        *([numbers(338, SHORT, [STRAIGHT])] if form.bands in (2, 4) else []),
        *for_masks(place, np.iinfo(form.dtype).max),
    ]
    own = carried.fields(form.height, form.width)
    turned = [] if any(each.tag == orientation.TAG for each in own) else [numbers(orientation.TAG, SHORT, [turn])]
    fields += [*turned, *own]
    return header(at, big), even + directory(fields, at, big=big)


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
