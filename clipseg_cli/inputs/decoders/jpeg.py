"""JPEG: refuses variants that libjpeg-turbo cannot decode, and damaged files whose gaps it would fill with grey."""

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from PIL.ImageFile import ImageFile

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, Sequence
from clipseg_cli.settings.inputs import DecodeOptions

# In a scan ff00 is a data byte, ffd0-ffd7 restart it and ffff pads; all else is a marker.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF: start of frame
READ = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))  # lossy and not hierarchical
ARITHMETIC = (0xC9, 0xCA)  # frames with arithmetic coding
SOS, EOI, JPEG_LS = 0xDA, 0xD9, 0xF7  # start of scan, end of image
# DHT, DAC, SOS, DQT, DNL, DRI, APPn, COM
BETWEEN_SCANS = frozenset((0xC4, 0xCC, SOS, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE))


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a JPEG, also MPO and Ultra HDR. Raises ImageError."""
    data, image = _opened(kind, file, options.max_pixels)
    _check(data, image)
    return pillow.finished(image)


def sequence(kind: str, file: BinaryIO, options: DecodeOptions) -> Sequence:
    """Opens the images of an MPO. Raises ImageError."""
    data, _ = _opened(kind, file, options.max_pixels)
    return pillow.Frames(
        lambda: pillow.opened(kind, io.BytesIO(data), options.max_pixels),
        options.max_pixels,
        lambda image, index: _check(data[getattr(image, "offset", 0) :], image),
    )


def _opened(kind: str, file: BinaryIO, max_pixels: int) -> tuple[bytes, ImageFile]:
    """Returns the content of a file and its first image, not yet decoded. Raises ImageError."""
    data = pillow.whole(file, max_pixels)
    if variant := _unsupported(data):
        raise ImageError("unsupported", "load", f"{variant} is not supported; save it as baseline JPEG")
    return data, pillow.opened(kind, io.BytesIO(data), max_pixels)


def _check(data: bytes, image: ImageFile) -> None:
    """Raises ImageError if the JPEG that `data` begins with is damaged."""
    if fault := damage(data, image.width * image.height):
        raise ImageError("corrupt", "load", f"{fault}; copy or export it again")


def _unsupported(data: bytes) -> str:
    """Returns the name of a variant that cannot be decoded; "" for others."""
    for marker in _markers(data):
        if marker == JPEG_LS:
            return "JPEG-LS"
        if marker in FRAMES or marker == SOS:
            return "lossless or hierarchical JPEG" if marker in FRAMES - READ else ""
    return ""


def damage(data: bytes, pixels: int) -> str:
    """Returns how a file is damaged; "" if it is whole. libjpeg fills gaps with grey and reports nothing."""
    scanned, huffman = False, True
    for marker in _markers(data):
        if marker == EOI:
            # A block of 8 x 8 pixels takes at least one bit: the Huffman code of its first coefficient.
            return "too few bytes for its size" if huffman and pixels > len(data) * 8 * 64 else ""
        if scanned and marker not in BETWEEN_SCANS:
            return f"damaged: marker ff{marker:02x} among its pixels"
        scanned = scanned or marker == SOS
        huffman = huffman and marker not in ARITHMETIC
    return "truncated: it has no end marker"


def _markers(data: bytes) -> Iterator[int]:
    """Yields the second byte of every marker, up to the end marker."""
    position, marker = 2, 0
    while marker != EOI and (found := MARKER.search(data, position)):
        marker, position = data[found.end() - 1], found.end()
        if marker not in (0x01, 0xD8):  # TEM and SOI have no length
            position += int.from_bytes(data[position : position + 2], "big")
        yield marker
