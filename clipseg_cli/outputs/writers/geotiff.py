"""GeoTIFFs: masks and soft maps with the georeference of their image, as tags that are copied as they are."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.frames.tiff_pages import Field
from clipseg_cli.inputs.georeference import Georeference, for_masks
from clipseg_cli.outputs.writers import paged_tiff
from clipseg_cli.outputs.writers.paged_tiff import Page

BYTES, DOUBLE = 7, 12  # types of tags
ORIENTATION, PROFILE = 274, 34675


def encoded(array: NDArray[Any], place: Georeference, turn: int, srgb: bool = False) -> bytes:
    """Returns a GeoTIFF of a grey, RGB or RGBA image, uint8 or uint16 (H, W), or uint8 (H, W, 3 or 4).

    `srgb` as in `raster`.
    """
    colour = srgb and array.ndim == 3
    profile = (Field(PROFILE, BYTES, len(profiles.srgb()), profiles.srgb()),) if colour else ()
    return b"".join(paged_tiff.pieces([page(array, place, turn, *profile)], 1, array.nbytes, tiled=True))


def page(array: NDArray[Any], place: Georeference, turn: int, *fields: Field) -> Page:
    """Returns an image as a page with its georeference and these tags.

    The georeference is of the file's own pixels. If the array is turned from them by an EXIF orientation, it is stored
    in that frame too, with this orientation: GDAL goes by the pixels, and viewers turn them.
    """
    stored = np.ascontiguousarray(orientation.stored(array, turn))
    turned = paged_tiff.numbers(ORIENTATION, paged_tiff.SHORT, [turn])
    return Page(stored, (turned, *for_masks(place, np.iinfo(array.dtype).max), *fields))


def doubles(tag: int, values: list[float]) -> Field:
    """Returns a tag of float64 numbers."""
    return Field(tag, DOUBLE, len(values), struct.pack(f"<{len(values)}d", *values))
