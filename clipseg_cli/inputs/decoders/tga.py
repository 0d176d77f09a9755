"""TGA, with Pillow. An alpha channel that the header does not announce, or that is 0 everywhere, is ignored.

TGA has no magic bytes: `kinds.KINDS` has a strict pattern of its header.
"""

from typing import BinaryIO

from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded
from clipseg_cli.settings.inputs import DecodeOptions

DESCRIPTOR, ALPHA_BITS = 17, 0x0F  # a byte of the header, and a part of it


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a TGA. Raises ImageError."""
    memory = pillow.in_memory(file)
    image = pillow.opened(kind, memory, options.max_pixels)
    memory.seek(DESCRIPTOR)
    announced = memory.read(1)[0] & ALPHA_BITS
    with pillow.reasons():
        image.load()
    opaque = image.mode == "RGBA" and (not announced or image.getchannel("A").getextrema() == (0, 0))
    return pillow.finished(image.convert("RGB") if opaque else image)
