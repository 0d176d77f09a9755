"""HEIC and HEIF, with libheif: the primary image. Thumbnails, depth maps and further images are not read.

libheif applies the stored rotation, mirroring and crop, and scales 10 and 12 bits to 8. Like every HEIF reader it
ignores the EXIF orientation: writers repeat there what the rotation already does. Missing data is an error. An image
larger than its own header says is refused before memory is taken; the headers are checked here.
"""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import pi_heif

from clipseg_cli.inputs.colour import primaries
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, check_size, unsupported
from clipseg_cli.settings.inputs import DecodeOptions

VERSION = 4  # bytes of version and flags, at the start of some boxes
CODECS = "Unsupported (feature|codec|file|image|color|colour)|No decoding plugin"  # libheif's words for a sound file


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the primary image of a HEIC or HEIF file. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    for width, height in _sizes(memoryview(data)):
        check_size(width, height, options.max_pixels)
    with pillow.reasons(CODECS):
        images = pi_heif.open_heif(io.BytesIO(data))
        if not len(images):
            raise unsupported("HEIF without a still image", "save its first image as HEIC or JPEG")
        width, height = images.size
        check_size(width, height, options.max_pixels)
        image = images.to_pillow()
    image.info[pillow.TURNED] = image.info.pop("exif", None)
    if codes := image.info.get("nclx_profile"):
        profile = primaries.by_code(codes["color_primaries"], codes["transfer_characteristics"])
        image.info.setdefault("icc_profile", profile)
        image.info["transfer"] = codes["transfer_characteristics"]
    return pillow.finished(image)


def _sizes(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yields the width and height of every image in a file, as its header says: also of tiles, and before a crop."""
    parts = [data]
    for name, skip in ((b"meta", VERSION), (b"iprp", 0), (b"ipco", 0)):
        parts = [body[skip:] for part in parts for found, body in _boxes(part) if found == name]
    for part in parts:
        for found, body in _boxes(part):
            if found == b"ispe" and len(body) >= VERSION + 8:
                yield struct.unpack_from(">II", body, VERSION)


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yields the name and the content of each box of a file, or of a box."""
    start = 0
    while start + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1 and start + 16 <= len(data):  # a 64-bit length follows
            (length,), head = struct.unpack_from(">Q", data, start + 8), 16
        end = start + length if length else len(data)  # 0: until the end
        yield name, data[start + head : end]
        if end < start + head:
            return
        start = end
