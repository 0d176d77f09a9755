"""Photoshop PSD and PSB: the composite that Photoshop stores beside the layers. The layers are not read.

Bitmap, grey, duotone (as grey), indexed, RGB, CMYK and Lab are read with 8 and 16 bits; RGB and grey also with 32, as
`linear` light. A file saved without "Maximize Compatibility" has a white composite, and says so: it is refused. A
channel beyond the colours is transparency only if the file says so; otherwise it is a saved selection. Photoshop stores
transparent colours already composited on white; other programs do not.

Pillow's plug-in is not used: it reads 8 bits only, takes a saved selection for transparency, and a missing composite
for a white image.
"""

import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL.Image

from clipseg_cli.inputs.colour import linear
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, check_size, damaged, unsupported
from clipseg_cli.settings.inputs import DecodeOptions

HEADER = struct.Struct(">4sH6xHIIHH")  # magic, then a Header
PSB = 2  # a version: some lengths take twice as many bytes
BITMAP, INDEXED, CMYK, DUOTONE, LAB = 0, 2, 4, 8, 9
MODES = {BITMAP: "1", 1: "L", INDEXED: "P", 3: "RGB", CMYK: "CMYK", DUOTONE: "L", LAB: "LAB"}  # Pillow's
COLOURS = {"CMYK": 4, "RGB": 3, "LAB": 3}  # channels; the other modes have one
RAW, RLE, ZIP = 0, 1, 2  # compressions
ICC_PROFILE, TRANSPARENT_INDEX, VERSION_INFO = 1039, 1047, 1057  # resources
PALETTE = 768  # bytes


class Header(NamedTuple):
    """The numbers at the start of a file."""

    version: int
    channels: int
    height: int
    width: int
    bits: int  # of a channel
    mode: int


class Reader:
    """Reads a file in pieces. A piece that is not whole is `corrupt`."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = pillow.size(file)
        self.file = file

    def bytes(self, count: int) -> bytes:
        """Returns the next `count` bytes. Raises ImageError."""
        if self.file.tell() + count > self.size:
            raise damaged("it ends too early")
        return self.file.read(count)

    def number(self, count: int) -> int:
        """Returns the big-endian number in the next `count` bytes. Raises ImageError."""
        return int.from_bytes(self.bytes(count), "big")


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the composite of a PSD or PSB. Raises ImageError."""
    reader = Reader(file)
    header = Header(*HEADER.unpack(reader.bytes(HEADER.size))[1:])
    _check(header, options.max_pixels)
    mode, wide = MODES[header.mode], 8 if header.version == PSB else 4
    palette = reader.bytes(reader.number(4))
    resources = _resources(reader.bytes(reader.number(4)))
    if resources.get(VERSION_INFO, b"")[4:5] == b"\0":
        raise unsupported("PSD without a composite", "save it with 'Maximize Compatibility'")
    layers = reader.number(wide)
    after = file.tell() + layers
    # the number of layers is negative if the next channel after the colours is transparency
    clear = layers > wide + 2 and reader.number(wide) > 0 and reader.number(2) >> 15 == 1
    file.seek(after)
    colours = COLOURS.get(mode, 1)
    clear = clear and mode in ("L", "RGB") and header.channels > colours
    planes = _planes(reader, header, colours + clear)
    if header.bits == 32:
        light = np.stack([plane.view(">f4") for plane in planes[:colours]], axis=2)
        pixels = linear.srgb(light)
        return Decoded(pixels if colours == 3 else pixels.repeat(3, axis=2), 1, [])
    if header.bits == 16:
        planes = [((plane.view(">u2").astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8) for plane in planes]
    notes = ["duotone read as grey"] if header.mode == DUOTONE else []
    if clear and all((plane >= 254 - np.minimum(planes[-1], 254)).all() for plane in planes[:-1]):
        clear, planes = False, planes[:-1]  # on white already
        notes.append("transparency composited on white")
    image = _image(header, f"{mode}A" if clear else mode, planes)
    if mode == "P":
        image.putpalette(np.frombuffer(palette.ljust(PALETTE, b"\0")[:PALETTE], np.uint8).reshape(3, -1).T.tobytes())
        if TRANSPARENT_INDEX in resources:
            image.info["transparency"] = int.from_bytes(resources[TRANSPARENT_INDEX][:2], "big")
    if ICC_PROFILE in resources:
        image.info["icc_profile"] = resources[ICC_PROFILE]
    return pillow.finished(image, notes=notes)


def _check(header: Header, max_pixels: int) -> None:
    """Raises ImageError for a header that is damaged, or that describes an image that cannot be read."""
    check_size(header.width, header.height, max_pixels)
    if not header.width * header.height or header.version not in (1, PSB):
        raise damaged("no sound header")
    if header.mode not in MODES:
        raise unsupported(f"Photoshop's colour mode {header.mode}", "save it as RGB")
    depths = {BITMAP: (1,), INDEXED: (8,), 1: (8, 16, 32), 3: (8, 16, 32)}.get(header.mode, (8, 16))
    if header.bits not in depths:
        raise unsupported(f"PSD with {header.bits} bits in this colour mode", "save it with 8 bits")
    if header.channels < COLOURS.get(MODES[header.mode], 1):
        raise damaged("not enough channels")


def _resources(data: bytes) -> dict[int, bytes]:
    """Returns the image resources by number. What is damaged ends the list."""
    resources: dict[int, bytes] = {}
    start = 0
    while start + 12 <= len(data) and data[start : start + 4] in (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR"):
        number = int.from_bytes(data[start + 4 : start + 6], "big")
        length_at = start + 6 + (data[start + 6] + 2) // 2 * 2  # behind the name, which is padded
        length = int.from_bytes(data[length_at : length_at + 4], "big")
        resources.setdefault(number, data[length_at + 4 : length_at + 4 + length])
        start = length_at + 4 + (length + 1) // 2 * 2
    return resources


def _planes(reader: Reader, header: Header, count: int) -> list[np.ndarray]:
    """Returns the first `count` channels of the composite, uint8 (H, bytes of a row). Raises ImageError."""
    row = -(-header.width * header.bits // 8)
    shape, size = (header.height, row), header.height * row
    compression = reader.number(2)
    if compression == RAW:
        return [np.frombuffer(reader.bytes(size), np.uint8).reshape(shape) for _ in range(count)]
    if compression == RLE:
        form = ">u4" if header.version == PSB else ">u2"
        table = reader.bytes(header.channels * header.height * np.dtype(form).itemsize)
        lengths = np.frombuffer(table, form).reshape(header.channels, -1).sum(axis=1, dtype=np.int64)
        packed = [reader.bytes(int(length)) for length in lengths[:count]]
        with pillow.reasons():
            return [
                np.asarray(PIL.Image.frombytes("L", (row, header.height), data, "packbits", "L")) for data in packed
            ]
    if compression == ZIP:
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(reader.bytes(reader.size - reader.file.tell()), count * size)
        except zlib.error as error:
            raise damaged(str(error)) from error
        if len(data) < count * size:
            raise damaged("fewer pixels than its header says")
        return list(np.frombuffer(data, np.uint8).reshape(count, *shape))
    raise unsupported(f"PSD compression {compression}", "save it with 'Maximize Compatibility'")


def _image(header: Header, mode: str, planes: list[np.ndarray]) -> PIL.Image.Image:
    """Returns an image of these planes, uint8 (H, bytes of a row)."""
    if mode == "1":
        return PIL.Image.frombytes("1", (header.width, header.height), planes[0].tobytes(), "raw", "1;I")
    if header.mode == CMYK:  # 255 is no ink
        planes = [255 - plane for plane in planes]
    bands = [PIL.Image.fromarray(plane) for plane in planes]
    if len(bands) > 1:
        return PIL.Image.merge(mode, bands)
    if mode == "P":
        bands[0].putpalette(b"")
    return bands[0]
