"""DirectDraw surfaces: the first image, block-compressed (BC1-5 and BC7) or plain; BC6H has light that Pillow clips.

Plain colour is unpacked here: Pillow takes a second per megapixel.
"""

from typing import BinaryIO

import numpy as np
import PIL.Image

from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, damaged, unsupported

UNREAD = "Unimplemented|Unknown pixel format|Unsupported bitcount"  # Pillow's messages for a sound file
HEADER = 128  # bytes
LIGHT = 6  # BC6H


def decode(kind: str, file: BinaryIO, max_pixels: int) -> Decoded:
    """Decodes the first image of a DDS. Raises ImageError."""
    memory = pillow.in_memory(file)
    image = pillow.opened(kind, memory, max_pixels, UNREAD)
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
    stored = np.frombuffer(data, np.uint8).reshape(height, width, count)
    pixels = np.zeros((height, width, len(masks)), np.uint8)
    for channel, mask in enumerate(masks):
        if not mask:
            continue
        low = (mask & -mask).bit_length() - 1
        if mask == 0xFF << low and low % 8 == 0:  # a byte
            pixels[:, :, channel] = stored[:, :, low // 8] if low // 8 < count else 0
            continue
        for row, values in zip(pixels, stored, strict=True):
            number = sum(values[:, byte].astype(np.uint64) << np.uint64(8 * byte) for byte in range(count))
            row[:, channel] = ((number & np.uint64(mask)) >> np.uint64(low)) * np.uint64(255) // np.uint64(mask >> low)
    return PIL.Image.fromarray(pixels)
