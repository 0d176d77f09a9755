"""PNM: with Pillow, except binary grey and colour of other depths than 8 bits: it takes seconds for a megapixel."""

import re
from typing import BinaryIO

import numpy as np

from clipseg_cli.inputs.colour import levels
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, check_size, damaged
from clipseg_cli.settings.inputs import DecodeOptions

GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"  # with comments
HEADER = re.compile(rb"P([56])" + GAP + rb"(\d{1,9})" + GAP + rb"(\d{1,9})" + GAP + rb"(\d{1,5})\s")
LONGEST_HEADER = 1 << 16  # bytes
BYTE, WIDEST = 255, 65535  # largest values
PIECE = 1 << 18  # pixels that are converted at once


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a PBM, PGM, PPM or grey PFM. Raises ImageError."""
    header = HEADER.match(file.read(LONGEST_HEADER))
    file.seek(0)
    if header is None or not 0 < int(header[4]) <= WIDEST or int(header[4]) == BYTE:
        return pillow.decode(kind, file, options)
    bands = 1 if header[1] == b"5" else 3
    width, height, white = int(header[2]), int(header[3]), int(header[4])
    check_size(width, height, options.max_pixels)
    form, count = np.dtype("u1" if white < BYTE else ">u2"), width * height * bands
    data = pillow.whole(file, options.max_pixels)
    if not count or len(data) < header.end() + count * form.itemsize:
        raise damaged("fewer pixels than its header says")
    stored = np.frombuffer(data, form, count, header.end()).reshape(-1, bands)
    pixels = np.empty((width * height, 3), np.uint8)
    for start in range(0, len(stored), PIECE):
        values = np.minimum(stored[start : start + PIECE], white).astype(np.uint32)
        pixels[start : start + PIECE] = (values * BYTE + white // 2) // white
    notes = [f"16-bit grey{levels.SCALED}"] if bands == 1 and white > BYTE else []
    return Decoded(pixels.reshape(height, width, 3), 1, notes)
