"""QOI, with Pillow: slow, about 0.7 megapixels a second, but unlike the reference decoder it reports missing pixels."""

from typing import BinaryIO

from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, damaged
from clipseg_cli.settings.inputs import DecodeOptions

LONGEST_RUN = 62  # pixels in a byte


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a QOI. Raises ImageError."""
    memory = pillow.in_memory(file)
    length = pillow.size(memory)
    image = pillow.opened(kind, memory, options.max_pixels)
    if image.width * image.height > length * LONGEST_RUN:
        raise damaged("fewer pixels than its header says")
    return pillow.finished(image)
