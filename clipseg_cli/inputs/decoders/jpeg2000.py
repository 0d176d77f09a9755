"""JPEG 2000: refuses truncated files, whose missing part OpenJPEG would leave black."""

import io
from typing import BinaryIO

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded
from clipseg_cli.settings.inputs import DecodeOptions

START, END = b"\xff\x4f\xff\x51", b"\xff\xd9"  # SOC and SIZ; EOC


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a JPEG 2000 file or code stream. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    image = pillow.opened(kind, io.BytesIO(data), options.max_pixels)
    start = data.find(START)
    if not data.find(END, start) > start >= 0:
        raise ImageError("corrupt", "load", "truncated: it has no end marker; copy or export it again")
    return pillow.finished(image)
