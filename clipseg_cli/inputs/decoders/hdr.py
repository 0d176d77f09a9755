"""Radiance HDR: RGBE and XYZE, flat or run-length coded, in any of its eight orientations.

`linear` says how light becomes sRGB. The values are shown as stored: EXPOSURE lines tell what was already applied.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from clipseg_cli.inputs.colour import linear
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, check_size, damaged, unsupported
from clipseg_cli.settings.inputs import DecodeOptions

LONGEST_HEADER = 1 << 20  # bytes
SIZE = re.compile(rb"\n([+-])([XY]) +(\d{1,9}) +([+-])([XY]) +(\d{1,9})\r?\n")
FORMAT = re.compile(rb"^FORMAT *= *(\S+)", re.MULTILINE)
PRIMARIES = re.compile(rb"^PRIMARIES *=((?:\s+[\d.eE+-]+){8})\s*$", re.MULTILINE)
LENGTHS = range(8, 1 << 15)  # of scan lines that may be coded channel by channel
STRIP = 64  # scan lines that are converted at once
LONGEST_RUN = 127
TRUNCATED = "fewer pixels than its header says"


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a Radiance HDR. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    size = SIZE.search(data, 0, LONGEST_HEADER)
    if size is None:
        raise damaged("no size")
    down, axis, lines, right, other, length = size.groups()
    if axis == other:
        raise damaged("one side only")
    check_size(int(lines), int(length), options.max_pixels)
    if not int(lines) * int(length):
        raise damaged("a side of 0 pixels")
    matrix, notes = _matrix(data[: size.start()])
    pixels = np.empty((int(lines), int(length), 3), np.uint8)
    start = 0
    for strip in _strips(data, size.end(), int(lines), int(length)):
        pixels[start : start + len(strip)] = linear.srgb(_light(strip), matrix)
        start += len(strip)
    pixels = pixels[
        :: -1 if (down == b"+") == (axis == b"Y") else 1, :: -1 if (right == b"+") == (other == b"Y") else 1
    ]
    return Decoded(pixels if axis == b"Y" else pixels.swapaxes(0, 1), 1, notes)


def _matrix(header: bytes) -> tuple[np.ndarray | None, list[str]]:
    """Returns the matrix to Rec. 709, if one is needed, and notes. Raises ImageError for an unknown format."""
    form = FORMAT.search(header)
    if form and form[1] == b"32-bit_rle_xyze":
        return linear.FROM_XYZ, ["XYZ converted to sRGB"]
    if form and form[1] != b"32-bit_rle_rgbe":
        raise unsupported(f"Radiance format {form[1].decode('ascii', 'replace')}", "save it as RGBE")
    try:
        primaries = [float(word) for word in found[1].split()] if (found := PRIMARIES.search(header)) else linear.REC709
    except ValueError:
        return None, []
    matrix = linear.to_rec709(primaries)
    return matrix, [] if matrix is None else ["primaries converted to sRGB"]


def _light(lines: np.ndarray) -> np.ndarray:
    """Returns light, float32 (N, W, 3), of pixels, uint8 (N, 4, W): three mantissas and an exponent."""
    scale = np.ldexp(np.float32(1), lines[:, 3].astype(np.int32) - (128 + 8))
    scale[lines[:, 3] == 0] = 0
    return np.asarray(lines[:, :3].swapaxes(1, 2) * scale[:, :, None])


def _strips(data: bytes, start: int, lines: int, length: int) -> Iterator[np.ndarray]:
    """Yields all scan lines in turn, some at once: uint8 (N, 4, length). Raises ImageError if data is missing."""
    if length < LENGTHS.start:  # all at once: there may be millions
        pixels, _ = _by_pixel(data, start, lines * length)
        yield pixels.reshape(4, lines, length).swapaxes(0, 1)
        return
    for first in range(0, lines, STRIP):
        strip = []
        for _ in range(min(STRIP, lines - first)):
            if length in LENGTHS and data[start : start + 4] == bytes((2, 2, length >> 8, length & 255)):
                line, start = _by_channel(data, start + 4, length)
            else:
                line, start = _by_pixel(data, start, length)
            strip.append(line)
        yield np.stack(strip)


def _by_channel(data: bytes, start: int, length: int) -> tuple[np.ndarray, int]:
    """Returns a scan line with runs in each channel, and where the next one starts."""
    line = bytearray()
    for end in range(length, 4 * length + 1, length):
        while len(line) < end:
            count = data[start] if start < len(data) else 0
            if count > LONGEST_RUN + 1:
                line += data[start + 1 : start + 2] * (count - LONGEST_RUN - 1)
                start += 2
            else:
                line += data[start + 1 : start + 1 + count]
                start += 1 + count
            if not count or start > len(data) or len(line) > end:
                raise damaged(TRUNCATED)
    return np.frombuffer(line, np.uint8).reshape(4, length), start


def _by_pixel(data: bytes, start: int, length: int) -> tuple[np.ndarray, int]:
    """Returns a scan line of pixels, of which (1, 1, 1, n) repeats the last one, and where the next one starts."""
    line = np.frombuffer(data[start : start + 4 * length], np.uint8)
    if line.size == 4 * length and not (line.reshape(-1, 4)[:, :3] == 1).all(axis=1).any():
        return line.reshape(-1, 4).T, start + 4 * length
    pixels, shift = bytearray(), 0
    while len(pixels) < 4 * length:
        pixel = data[start : start + 4]
        start += 4
        if len(pixel) < 4:
            raise damaged(TRUNCATED)
        if pixel[:3] == b"\1\1\1":  # several in a row: the digits of one number
            count = min(pixel[3] << shift, length)
            pixels += pixels[-4:] * count
            shift += 8
        else:
            pixels += pixel
            shift = 0
        if shift > 32 or len(pixels) > 4 * length or (shift and not pixels):
            raise damaged(TRUNCATED)
    return np.frombuffer(pixels, np.uint8).reshape(-1, 4).T, start
