"""Colour PFM, which Pillow does not read: scene-linear floats, RGB, from the bottom row to the top one.

`linear` says how light becomes sRGB. Grey PFM mostly has depths or disparities, so `colour` stretches it instead.
"""

import re
from typing import BinaryIO

import numpy as np

from clipseg_cli.inputs.colour import linear
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, check_size, damaged
from clipseg_cli.settings.inputs import DecodeOptions

HEADER = re.compile(rb"PF\s+(\d{1,9})\s+(\d{1,9})\s+([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s")


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a colour PFM. Raises ImageError."""
    data = pillow.whole(file, 2 * options.max_pixels)  # 12 bytes per pixel
    header = HEADER.match(data)
    if header is None:
        raise damaged("no size and scale")
    width, height = int(header[1]), int(header[2])
    check_size(width, height, options.max_pixels)
    count = 3 * width * height
    if not count or len(data) < header.end() + 4 * count:
        raise damaged("fewer pixels than its header says")
    order = "<" if header[3].startswith(b"-") else ">"
    light = np.frombuffer(data, f"{order}f4", count, header.end()).reshape(height, width, 3)
    return Decoded(linear.srgb(light)[::-1], 1, [])
