"""DirectDraw surfaces: the first image, in blocks (BC1-5 and BC7) or plain.

BC6H is refused, since Pillow clips its light. Plain colour is unpacked here: Pillow takes a second for a megapixel.
"""

from typing import BinaryIO

import numpy as np
import PIL.Image

from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, damaged, unsupported
from clipseg_cli.settings.inputs import DecodeOptions

UNREAD = "Unimplemented|Unknown pixel format|Unsupported bitcount"  # Pillow's messages for a sound file
HEADER = 128  # bytes
LIGHT = 6  # BC6H
PIECE = 1 << 18  # pixels that are unpacked at once


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the first image of a DDS. Raises ImageError."""
    memory = pillow.in_memory(file)
    image = pillow.opened(kind, memory, options.max_pixels, UNREAD)
    codec, arguments = image.tile[0].codec_name, image.tile[0].args
    if codec == "bcn" and isinstance(arguments, tuple) and arguments[0] == LIGHT:
        raise unsupported("BC6H in DDS", "save it as EXR")
    if codec != "dds_rgb" or not isinstance(arguments, tuple):
        return pillow.finished(image)
    bits, masks = arguments
    memory.seek(HEADER)
    return pillow.finished(_unpacked(memory.read(bits // 8 * image.width * image.height), image.size, bits, masks))


def _unpacked(data: bytes, size: tuple[int, int], bits: int, masks: tuple[int, ...]) -> PIL.Image.Image:
    """Returns the image, RGB or RGBA, of pixels that have these bits, and of them those of `masks` for each channel."""
    width, height = size
    count = bits // 8
    if bits not in (8, 16, 24, 32):
        raise unsupported(f"{bits} bits per pixel in DDS", "save it with 24 or 32")
    if not len(data) == count * width * height > 0:
        raise damaged("fewer pixels than its header says")
    stored = np.frombuffer(data, np.uint8).reshape(-1, count)
    pixels = np.zeros((len(stored), len(masks)), np.uint8)
    for channel, mask in enumerate(masks):
        low = (mask & -mask).bit_length() - 1  # its lowest bit
        if mask and mask == 0xFF << low and low in range(0, bits, 8):  # a whole byte
            pixels[:, channel] = stored[:, low // 8]
            continue
        for start in range(0, len(stored) if mask else 0, PIECE):
            piece = stored[start : start + PIECE].astype(np.uint64)
            number = sum(piece[:, byte] << np.uint64(8 * byte) for byte in range(count)) & np.uint64(mask)
            levels = (number >> np.uint64(low)) * np.uint64(255) // np.uint64(mask >> low)
            pixels[start : start + PIECE, channel] = levels
    return PIL.Image.fromarray(pixels.reshape(height, width, len(masks)))
