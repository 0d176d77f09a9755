"""TIFF: finds the pages, and decides what reads each one.

Pillow reads the layouts that it knows, except those of `_misread` and `_measured`. `tiff_bands` reads all others.
Camera raw files that are TIFFs go to `raw`.
"""

import struct
from contextlib import suppress
from functools import partial
from typing import BinaryIO, cast

import numpy as np
from PIL import TiffImagePlugin

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import georeference, metadata, orientation
from clipseg_cli.inputs.colour import conversion
from clipseg_cli.inputs.decoders import jpeg, libtiff, no_data, pillow, tiff_bands, tiff_codecs
from clipseg_cli.inputs.decoders import tiff_arrays as arrays
from clipseg_cli.inputs.decoders.result import (
    MOST_FRAMES,
    Decoded,
    Native,
    as_shown,
    check_bands,
    damaged,
    too_large,
    unsupported,
)
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.frames.tiff_pages import Directory, Page
from clipseg_cli.inputs.kinds import KINDS, pip_line
from clipseg_cli.settings.inputs import DecodeOptions

WEBP = 50001  # a compression


class Pages:
    """The pages of an open TIFF file."""

    def __init__(self, kind: str, file: BinaryIO, options: DecodeOptions, most: int) -> None:
        """Lists the pages, at most so many. Raises ImageError."""
        self.kind, self.file, self.options = kind, pillow.in_memory(file), options
        try:
            self.pages = tiff_pages.listed(self.file, most)
            first = self.pages[0].directory
            self.raw = tiff_pages.is_camera_raw(first)
            thumbnail = not self.raw and tiff_pages.is_thumbnail(first)
        except ValueError as error:
            raise damaged(str(error)) from error
        if thumbnail:
            raise unsupported("TIFF whose first page is the thumbnail of another image in it", "save it as plain TIFF")

    def decode(self, index: int) -> Decoded:
        """Decodes the page of this 0-based number, upright. Raises ImageError."""
        if index >= len(self.pages):
            raise ImageError("corrupt", "load", f"page {index} is missing; copy or export it again")
        if self.raw:
            check_bands("RAW", self.options)
            return _from_camera(self.file, self.options)
        page, notes = self.pages[index], list[str]()
        pixels, clear, image = None, None, None
        bands = self.options.bands is not None or self.options.stretch is not None or _measured(page.directory)
        if page.plane == 0 and not bands and not _misread(page.directory):
            pixels, clear, image = self._by_pillow(page, notes)
        if pixels is None:
            pixels, clear = tiff_bands.decode(page, self.options, notes)
            if not bands or page.directory.number(tiff_pages.SAMPLES, 1) > 4:
                notes.insert(0, conversion.RARE_LAYOUT)
        masked = tiff_bands.masked(page, self.options.max_pixels)
        if masked is not None and masked.shape == pixels.shape[:2]:
            clear = masked if clear is None else masked | clear
            pixels[masked] = conversion.BACKGROUND
        turn = 1
        with suppress(ValueError):
            turn = page.directory.number(orientation.TAG, 1)
        turn = turn if turn in orientation.VALUES else 1
        notes += [] if clear is None else no_data.noted(int(clear.sum()), clear.size)
        place = georeference.of_tiff(page.directory)
        native = partial(self._native, page, pixels, tuple(notes), clear, image)
        count = min(len(self.pages), MOST_FRAMES)
        return Decoded(pixels, count, notes, turn, clear=clear, georeference=place, native=native)

    def _native(
        self,
        page: Page,
        pixels: np.ndarray,
        notes: tuple[str, ...],
        clear: np.ndarray | None,
        image: TiffImagePlugin.TiffImageFile | None,
    ) -> Native:
        """Returns a page in its own colours. `image`: Pillow has decoded it; otherwise `pixels` are in sRGB."""
        found = as_shown(pixels, notes) if image is None else pillow.native(image)
        with suppress(ImageError):  # Pillow knows more compressions
            found = Native(*(tiff_bands.native(page, self.options) or found))
        if clear is not None:
            found = found._replace(pixels=np.array(found.pixels))
            found.pixels[clear] = np.iinfo(found.pixels.dtype).max
        return found._replace(metadata=metadata.of_tiff(page.directory))

    def _by_pillow(
        self, page: Page, notes: list[str]
    ) -> tuple[np.ndarray | None, np.ndarray | None, TiffImagePlugin.TiffImageFile | None]:
        """Returns a page that Pillow decodes, its pixels without data, and Pillow's image.

        Nothing if Pillow does not know the layout. Adds notes. Raises ImageError.
        """
        file = self.file if page is self.pages[0] else cast(BinaryIO, _From(self.file, page.directory))
        self.file.seek(0)
        try:
            image = pillow.opened(self.kind, file, self.options.max_pixels)
            assert isinstance(image, TiffImagePlugin.TiffImageFile)
            pixels = _pixels(image, notes)
        except ImageError as error:
            if error.kind != "unsupported":
                raise
            notes.clear()
            return None, None, None
        _check_jpegs(page.directory)
        value = georeference.no_data(page.directory)
        if value is None or not (clear := no_data.found(pixels, value)).any():
            return pixels, None, image
        pixels[clear] = conversion.BACKGROUND
        return pixels, clear, image


class _From:
    """An open TIFF file whose header names another first directory."""

    def __init__(self, file: BinaryIO, directory: Directory) -> None:
        order, at = directory.order, directory.at
        mark = b"II" if order == "<" else b"MM"
        self._head = mark + struct.pack(
            order + ("HHHQ" if directory.big else "HI"), *((43, 8, 0, at) if directory.big else (42, at))
        )
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Reads like the file."""
        at = self._file.tell()
        data = self._file.read(size)
        return self._head[at : at + len(data)] + data[max(0, len(self._head) - at) :]

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the first page of a TIFF; its pages are counted up to `MOST_FRAMES`. Raises ImageError."""
    return Pages(kind, file, options, MOST_FRAMES).decode(0)


def sequence(kind: str, file: BinaryIO, options: DecodeOptions) -> Pages:
    """Returns the pages of a TIFF. Raises ImageError."""
    return Pages(kind, file, options, tiff_pages.MOST_TAGS)


def _from_camera(file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a camera raw file. Raises ImageError."""
    if not KINDS["RAW"].installed:
        raise unsupported("a camera raw file without one more package", pip_line(KINDS["RAW"].extra))
    from clipseg_cli.inputs.decoders import raw

    return raw.decode("RAW", file, options)._replace(kind="RAW")


def _measured(directory: Directory) -> bool:
    """Returns whether a GeoTIFF needs its own samples: of more than 8 bits, with more bands than its colours, or with
    a no-data value that is not the colour of a pixel."""
    if not tiff_bands.is_geotiff(directory):
        return False
    try:
        wide = directory.number(tiff_pages.BITS, 1) > 8 or directory.number(arrays.FORMAT, 1) != arrays.UNSIGNED
        more = directory.number(tiff_pages.SAMPLES, 1) not in (1, 3) or georeference.colour_bands(directory)
        indexed = directory.number(tiff_pages.PHOTOMETRIC, 0) == arrays.PALETTE or arrays.ICC_PROFILE in directory.tags
    except ValueError:
        return False
    return bool(wide or more or (indexed and georeference.NO_DATA in directory.tags))


def _misread(directory: Directory) -> bool:
    """Returns whether Pillow opens such a page but gets its pixels wrong."""
    number, big_endian = directory.number, directory.order == ">"
    try:
        form, bits = number(arrays.FORMAT, arrays.UNSIGNED), number(tiff_pages.BITS, 1)
        compression, samples = number(tiff_pages.COMPRESSION, 1), number(tiff_pages.SAMPLES, 1)
        planes = number(arrays.PLANAR, 1) == 2 and samples > 1
        greys = number(tiff_pages.PHOTOMETRIC, 0) in (arrays.WHITE_IS_ZERO, arrays.BLACK_IS_ZERO)
    except ValueError:  # Pillow may be able to do without
        return False
    return (
        (big_endian and directory.big)  # read in the wrong byte order, like the next
        or (big_endian and compression != 1 and (form != arrays.UNSIGNED or bits > 16))
        or (form == arrays.SIGNED and bits == 8)  # read as unsigned
        or (planes and (greys or compression == 1))  # only one plane is read, or every other byte
        or compression == WEBP  # missing from its libtiff
    )


def _check_jpegs(directory: Directory) -> None:
    """Raises ImageError if a strip or tile is a damaged JPEG, whose gaps libjpeg would fill with grey."""
    with suppress(ValueError):  # others will say what is wrong
        if directory.number(tiff_pages.COMPRESSION, 1) == tiff_codecs.JPEG:
            for at, count in directory.places():
                directory.file.seek(at)
                if fault := jpeg.damage(directory.file.read(min(count, pillow.READ_WHOLE)), 0):
                    raise damaged(fault)


def _pixels(image: TiffImagePlugin.TiffImageFile, notes: list[str]) -> np.ndarray:
    """Returns uint8 (H, W, 3) of an image that Pillow has opened, upright; adds notes. Raises ImageError."""
    with pillow.reasons() as reports:
        _check(image)
        if image.tag_v2.get(orientation.TAG, 1) not in orientation.VALUES:
            notes.append(orientation.OUT_OF_RANGE)
        image.load()  # also applies the orientation
        if lost := libtiff.lost_pixels(reports):  # of some files Pillow returns what was decoded until then
            raise damaged(lost)
        notes += libtiff.skipped_tags(reports)
        return conversion.rgb(image, notes)


def _check(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raises ImageError for a tile that is a decompression bomb, and for missing pixels."""
    tags, (width, height) = image.tag_v2, image.size
    tile = int(tags.get(TiffImagePlugin.TILEWIDTH, 0)) * int(tags.get(TiffImagePlugin.TILELENGTH, 0))
    if tile > max(width * height, arrays.LARGEST_TILE):
        raise too_large(f"a tile of {tile} pixels")
    boxes = [tile.extents or (0, 0, 0, 0) for tile in image.tile if tile.codec_name == "raw"]
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if boxes and (covered < width * height or min(tile.offset for tile in image.tile) < arrays.HEADER):
        raise ImageError("corrupt", "load", "some of its pixels are missing; copy or export it again")
