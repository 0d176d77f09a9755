"""JPEG XL, with libjxl: code streams and containers, also those that hold a JPEG, and the first frame of animations.

libjxl applies the orientation; only the JPEG in a container keeps its own, in its EXIF. libjxl reports missing data.
The size is read here before libjxl takes memory. pillow_jxl returns the last frame of an animation, so imagecodecs
decodes those; the number of their frames is not stored, and counting them would mean decoding them all.
"""

import importlib.util
import io
from collections.abc import Iterator
from typing import BinaryIO

import PIL.Image
import pillow_jxl

from clipseg_cli.inputs.decoders import jpeg, pillow
from clipseg_cli.inputs.decoders.result import Decoded, check_size, damaged, unsupported
from clipseg_cli.inputs.kinds import pip_line
from clipseg_cli.settings.inputs import DecodeOptions

CODE_STREAM = b"\xff\x0a"
HEADER = 64  # bytes: more than the size and the flags behind it take
RATIOS = ((1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
BITS = (9, 13, 18, 30)  # of a large side
ONE_THREAD = 0  # images are decoded in parallel already


class Bits:
    """The bits of a code stream, from the lowest of each byte. Those after the end are 0."""

    def __init__(self, data: bytes) -> None:
        self.rest = int.from_bytes(data, "little")

    def read(self, count: int) -> int:
        """Returns the next `count` bits as a number."""
        value = self.rest & ((1 << count) - 1)
        self.rest >>= count
        return value


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a JPEG XL; of an animation, its first frame. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    width, height, animated = _header(data)
    check_size(width, height, options.max_pixels)
    if animated:
        return pillow.finished(_first_frame(data), notes=("first frame of an animation",))
    try:
        is_jpeg, info, pixels, profile, boxes = pillow_jxl.Decoder(num_threads=ONE_THREAD)(data)
    except RuntimeError as error:
        raise damaged("libjxl cannot decode it") from error
    if is_jpeg:
        return jpeg.decode("JPEG", io.BytesIO(pixels), options)._replace(orientation=1)
    mode = "F" if info.mode == "F;16" else info.mode
    with pillow.reasons():
        image = PIL.Image.frombytes(mode, (info.width, info.height), pixels)
    if profile:
        image.info["icc_profile"] = bytes(profile)
    contents = {bytes(box.box_type): bytes(box.data) for box in boxes}
    image.info[pillow.TURNED] = contents.get(b"Exif", b"")[4:]  # after the position of the block in the box
    image.info["xmp"] = contents.get(b"xml ")
    return pillow.finished(image)


def _header(data: bytes) -> tuple[int, int, bool]:
    """Returns the width and height as stored, and whether it is an animation. Raises ImageError if it has no header."""
    stream = b"".join(_streams(data))
    if not stream.startswith(CODE_STREAM):
        raise damaged("no code stream")
    bits = Bits(stream[len(CODE_STREAM) :])
    width, height = _size(bits)
    if bits.read(1) or not bits.read(1):  # every field has its default, or all these have
        return width, height, False
    bits.read(3)  # orientation
    if bits.read(1):
        _size(bits)  # the size at which to show it
    if bits.read(1):
        _preview(bits)
    return width, height, bool(bits.read(1))


def _streams(data: bytes) -> Iterator[bytes]:
    """Yields the first bytes of a code stream: itself, or the boxes of a container that have parts of it."""
    if data.startswith(CODE_STREAM):
        yield data[:HEADER]
        return
    start = 0
    while start + 8 <= len(data):
        length, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        head = 8
        if length == 1:  # a 64-bit length follows
            length, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        end = start + length if length else len(data)
        if name in (b"jxlc", b"jxlp"):
            skip = head + (4 if name == b"jxlp" else 0)  # the number of the part
            yield data[start + skip : min(end, start + skip + HEADER)]
        if end < start + head:
            return
        start = end


def _size(bits: Bits) -> tuple[int, int]:
    """Returns the width and height of a size header."""
    small = bits.read(1)
    height = _side(bits, small)
    if ratio := bits.read(3):
        across, down = RATIOS[ratio - 1]
        return height * across // down, height
    return _side(bits, small), height


def _side(bits: Bits, small: int) -> int:
    return (1 + bits.read(5)) * 8 if small else 1 + bits.read(BITS[bits.read(2)])


def _preview(bits: Bits) -> None:
    """Skips the size of a preview."""
    in_eights = bits.read(1)
    _preview_side(bits, in_eights)
    if not bits.read(3):
        _preview_side(bits, in_eights)


def _preview_side(bits: Bits, in_eights: int) -> None:
    choice = bits.read(2)
    if in_eights:
        bits.read((0, 0, 5, 9)[choice])  # 16, 32, or given
    else:
        bits.read((6, 8, 10, 12)[choice])


def _first_frame(data: bytes) -> PIL.Image.Image:
    """Returns the first frame of an animation. Raises ImageError, also if imagecodecs is missing."""
    if importlib.util.find_spec("imagecodecs") is None:
        raise unsupported("an animated JPEG XL without one more package", pip_line("tiff"))
    import imagecodecs

    try:
        frame = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    except imagecodecs.JpegxlError as error:
        raise damaged("libjxl cannot decode it") from error
    with pillow.reasons():
        return PIL.Image.fromarray(frame if frame.ndim == 2 or frame.shape[2] > 1 else frame[:, :, 0])
