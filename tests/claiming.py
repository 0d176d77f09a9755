"""Tiny files whose headers claim another size."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image

from image_files import LOSSLESS, overwritten, saved, tiff


def claiming(form: str, width: int, height: int) -> bytes:
    """Returns a file of a few hundred bytes, of this kind, whose header claims this size."""
    if form == "TIFF":
        return tiff(np.zeros((2, 2), np.uint8), width=width, height=height)
    if form == "JPEG XL":
        side = max(width, height)  # no small side, 30 bits of height, ratio 1:1, all else by default
        return b"\xff\x0a" + (3 << 1 | side - 1 << 3 | 1 << 33 | 1 << 36).to_bytes(8, "little")
    options = {"bitmap_format": "bmp", "sizes": [(8, 8)]} if form == "ICO" else LOSSLESS.get(form, {})
    data = saved(PIL.Image.new("RGB", (8, 8), "red"), form, **options)
    for at, new in PLACES[form](data, width, height):
        data = overwritten(data, at, new)
    if form == "PNG":
        data = overwritten(data, 29, struct.pack(">I", zlib.crc32(data[12:29])))
    return data


Places = list[tuple[int, bytes]]  # of the size, and what to write there


def _in_box(name: bytes, skip: int) -> Callable[[bytes, int, int], Places]:
    """Returns a function for a kind with a box of this name, which has width and height after `skip` bytes."""
    return lambda data, width, height: [(data.index(name) + 4 + skip, struct.pack(">II", width, height))]


def _jpeg2000(data: bytes, width: int, height: int) -> Places:
    stream, head = data.index(b"\xff\x4f\xff\x51"), data.index(b"ihdr")
    big = struct.pack(">II", width, height)
    return [(stream + 8, big), (stream + 24, big), (head + 4, struct.pack(">II", height, width))]


def _text(data: bytes, width: int, height: int) -> Places:
    at = data.index(b"8 8\n")
    return [(at, b"%d %d" % (width, height) + data[at + 3 :])]


def _hdr(data: bytes, width: int, height: int) -> Places:
    return [(data.index(b"-Y 8 +X 8"), b"-Y %d +X %d\n" % (height, width))]


def _exr(data: bytes, width: int, height: int) -> Places:
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    return [(data.index(name + b"\0box2i\0") + len(name) + 11, window) for name in (b"dataWindow", b"displayWindow")]


PLACES: dict[str, Callable[[bytes, int, int], Places]] = {
    "PNG": lambda _, width, height: [(16, struct.pack(">II", width, height))],
    "JPEG": lambda data, width, height: [(data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))],
    "GIF": lambda data, width, height: [(at, struct.pack("<HH", width, height)) for at in (6, data.index(b",") + 5)],
    "BMP": lambda _, width, height: [(18, struct.pack("<II", width, height))],
    "WEBP": lambda _, width, height: [(21, struct.pack("<I", width - 1 | height - 1 << 14))],
    "AVIF": _in_box(b"ispe", 4),
    "HEIC": _in_box(b"ispe", 4),
    "JPEG2000": _jpeg2000,
    "PPM": _text,
    "PFM": _text,
    "HDR": _hdr,
    "EXR": _exr,
    "PSD": lambda _, width, height: [(14, struct.pack(">II", height, width))],
    "TGA": lambda _, width, height: [(12, struct.pack("<HH", width, height))],
    "DDS": lambda _, width, height: [(12, struct.pack("<II", height, width))],
    "QOI": lambda _, width, height: [(4, struct.pack(">II", width, height))],
    "ICO": lambda _, width, height: [(26, struct.pack("<II", width, 2 * height))],
}
