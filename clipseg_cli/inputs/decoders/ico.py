"""Windows icons: the largest of the images, PNG or bitmap. An alpha channel that is 0 everywhere is ignored."""

import io
import struct
from typing import BinaryIO

from clipseg_cli.inputs.decoders import pillow, png
from clipseg_cli.inputs.decoders.result import Decoded, damaged, too_large
from clipseg_cli.settings.inputs import DecodeOptions

HEAD = struct.Struct("<2xHH")  # type and number of images
ENTRY = struct.Struct("<BBxxHHII")  # width and height, 0 for 256; planes, bits per pixel, length and start
BITMAP = struct.Struct("<Iii")  # length of the header, width and twice the height


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the largest image of an icon. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    _, count = HEAD.unpack_from(data)
    if len(data) < HEAD.size + count * ENTRY.size:
        raise damaged("the list of images is not whole")
    entries = ENTRY.iter_unpack(data[HEAD.size : HEAD.size + count * ENTRY.size])
    width, height, _, bits, length, start = max(
        entries, key=lambda entry: ((entry[0] or 256) * (entry[1] or 256), entry[3])
    )
    content = data[start : start + length]
    if len(content) < max(length, BITMAP.size):
        raise damaged("the largest image is not whole")
    if content.startswith(b"\x89PNG"):
        return png.decode("PNG", io.BytesIO(content), options)._replace(frames=1)
    _, across, down = BITMAP.unpack_from(content)
    if abs(across * down) // 2 > options.max_pixels:
        raise too_large(f"{across} x {down // 2} pixels")
    alone = HEAD.pack(1, 1) + ENTRY.pack(width, height, 1, bits, length, HEAD.size + ENTRY.size) + content
    image = pillow.opened(kind, io.BytesIO(alone), options.max_pixels)
    clear = image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)
    return pillow.finished(image.convert("RGB") if clear else image)
