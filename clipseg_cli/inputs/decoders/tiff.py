"""TIFF: refuses what Pillow would misread, and counts pages without following an endless chain."""

from typing import BinaryIO

from PIL import TiffImagePlugin

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import colour, libtiff, orientation
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import MOST_FRAMES, Decoded, damaged, too_large
from clipseg_cli.settings.inputs import DecodeOptions

LARGEST_TILE = 1 << 24  # pixels of a tile, which is decoded whole: 16 times that of any writer
HEADER = 8  # bytes; no pixels are stored before their end
SUBFILE_TYPE, DNG_VERSION = 0x00FE, 0xC612  # tags
WEBP = 50001  # a compression that Pillow's libtiff lacks


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the first page of a TIFF; its pages are counted up to `MOST_FRAMES`. Raises ImageError."""
    image = pillow.opened(kind, pillow.in_memory(file), options.max_pixels)
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    notes: list[str] = []
    with pillow.reasons() as reports:
        _check(image)
        if image.tag_v2.get(orientation.TAG, 1) not in orientation.VALUES:
            notes.append(orientation.OUT_OF_RANGE)
        turn = int(image.tag_v2.get(orientation.TAG, 1))
        image.load()  # also applies the orientation
        if lost := libtiff.lost_pixels(reports):  # of some files Pillow returns what was decoded until then
            raise damaged(lost)
        notes += libtiff.skipped_tags(reports)
        pixels = colour.rgb(image, notes)
    return Decoded(pixels, _pages(image), notes, turn if turn in orientation.VALUES else 1)


def _check(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raises ImageError for a file that Pillow would misread: a thumbnail before the main image, a tile that is a
    decompression bomb, missing pixels, or an encoding that it cannot read."""
    tags, (width, height) = image.tag_v2, image.size
    if tags.get(TiffImagePlugin.COMPRESSION) == WEBP:
        raise ImageError(
            "unsupported", "load", "WebP compression in TIFF is not supported; save it as WebP, or as plain TIFF"
        )
    if DNG_VERSION in tags or (tags.get(SUBFILE_TYPE, 0) == 1 and TiffImagePlugin.SUBIFD in tags):
        raise ImageError("unsupported", "load", "camera raw files are not supported; convert it to JPEG or TIFF")
    tile = int(tags.get(TiffImagePlugin.TILEWIDTH, 0)) * int(tags.get(TiffImagePlugin.TILELENGTH, 0))
    if tile > max(width * height, LARGEST_TILE):
        raise too_large(f"a tile of {tile} pixels")
    raw = [tile for tile in image.tile if tile.codec_name == "raw"]
    layers = len(image.getbands()) if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 else 1
    if raw and layers > 1 and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8:  # Pillow reads every other byte
        why = "uncompressed 16-bit colour planes are not supported; save it compressed, or as 8-bit RGB"
        raise ImageError("unsupported", "load", why)
    boxes = [tile.extents or (0, 0, 0, 0) for tile in raw]
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if raw and (covered < layers * width * height or min(tile.offset for tile in raw) < HEADER):
        raise ImageError("corrupt", "load", "some of its pixels are missing; copy or export it again")


def _pages(image: TiffImagePlugin.TiffImageFile) -> int:
    """Counts the pages, at least 1; damage after the first one ends the count."""
    page = 1
    try:
        for page in range(1, MOST_FRAMES):  # n_frames follows a chain of any length, in quadratic time
            image.seek(page)
    except Exception:
        return page
    return MOST_FRAMES
