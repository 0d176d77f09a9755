"""From a file to pixels: one decoder per kind of file. `DECODERS` is the only list of them.

A decoder takes an open file and the largest allowed number of pixels. It checks the header before it takes memory for
the pixels, and returns the first frame as upright 8-bit RGB. It raises ImageError for every bad file. To add a kind,
write its decoder beside these, and name it here and in `kinds.MAGIC`.
"""

from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from clipseg_cli.inputs.decoders import jpeg, jpeg2000, pillow, png, tiff
from clipseg_cli.inputs.decoders.pillow import Decoded

Decoder = Callable[[BinaryIO, int], Decoded]

# By the kind that `kinds.sniff` names.
DECODERS: dict[str, Decoder] = {
    "JPEG": jpeg.decode,
    "PNG": png.decode,
    "GIF": partial(pillow.decode, "GIF"),
    "WEBP": partial(pillow.decode, "WEBP"),
    "BMP": partial(pillow.decode, "BMP"),
    "TIFF": tiff.decode,
    "PPM": partial(pillow.decode, "PPM"),
    "AVIF": partial(pillow.decode, "AVIF"),
    "JPEG2000": jpeg2000.decode,
}
