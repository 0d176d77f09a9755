"""OpenEXR: the first part of a file, with its display window, as ImageMagick shows it.

Pixels outside the data window are transparent, or black if there is no alpha. Colour is read from the channels R, G, B;
or Y; or Y, RY, BY; otherwise from a layer: one called combined, beauty, rgba or rgb, or else the first. `linear` says
how light becomes sRGB. Colours are premultiplied, so light adds to the background; an alpha of 0 everywhere is ignored.
Depth and other data without colour, and deep images, are unsupported. Missing data is an error in OpenEXR.

The header is checked here, before OpenEXR takes memory. OpenEXR writes some of its errors on stderr.
"""

import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import OpenEXR

from clipseg_cli.inputs.colour import conversion, linear
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, check_size, damaged, too_large, unsupported
from clipseg_cli.settings.inputs import DecodeOptions

LARGEST_TILE = 1 << 24  # pixels of a tile, which is decoded whole
BLOCK = 256  # rows that are decoded at once, at most
DEEP = 0x0800  # a flag of the version
COLOURS = (("R", "G", "B"), ("Y", "RY", "BY"), ("Y",))  # channels, best first
MAIN_LAYERS = ("combined", "beauty", "rgba", "rgb")  # the last part of a layer's name, in lower case
PIXEL_TYPES = (np.uint32, np.float16, np.float32)
Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are inside


class Stream(io.BytesIO):
    """A file in memory on which no seek fails: OpenEXR ends the process if one does."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a position, at most to the end."""
        start = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(min(max(start + offset, 0), len(self.getbuffer())))


class Channel(NamedTuple):
    """What the header says of a channel."""

    type: int  # an index of PIXEL_TYPES
    across: int  # pixels per value
    down: int


class Header(NamedTuple):
    """The header of the first part."""

    window: Box  # of the stored pixels
    shown: Box  # of what a viewer shows
    channels: dict[str, Channel]
    primaries: tuple[float, ...]  # x and y of red, green, blue and white


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes the first part of an EXR. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    header = _header(data)
    _check(header, options.max_pixels)
    names, notes = _colour(header.channels)
    with pillow.reasons():
        planes = _planes(data, header, names)
    light = _framed(_light(planes, header.primaries), header)
    matrix = linear.to_rec709(header.primaries) if light.shape[2] == 3 else None
    if matrix is not None:
        notes.append("primaries converted to sRGB")
    if "A" in planes and (planes["A"] > 0).any():
        clear = 1 - np.clip(_framed(planes["A"][:, :, None], header), 0, 1)
        if clear.any():
            notes.append("transparency composited on white")
            light = light + clear * np.float32(conversion.BACKGROUND[0] / 255)
    pixels = linear.srgb(light, matrix)
    return Decoded(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels, 1, notes)


def _header(data: bytes) -> Header:
    """Returns the header of the first part. Raises ImageError if it is damaged, or of a deep image."""
    attributes = dict(_attributes(data))
    if int.from_bytes(data[4:8], "little") & DEEP or attributes.get("type", b"").startswith(b"deep"):
        raise unsupported("a deep EXR", "flatten it")
    try:
        window, shown = (struct.unpack("<4i", attributes[name]) for name in ("dataWindow", "displayWindow"))
        across, down, _ = struct.unpack("<IIB", attributes.get("tiles", bytes(9)))
        channels = dict(_channels(attributes["channels"]))
        primaries = (
            struct.unpack("<8f", attributes["chromaticities"]) if "chromaticities" in attributes else linear.REC709
        )
    except (KeyError, struct.error) as error:
        raise damaged("no sound header") from error
    width, height = _size(window)
    if across * down > max(width * height, LARGEST_TILE):
        raise too_large(f"a tile of {across * down} pixels")
    return Header(window, shown, channels, primaries)


def _check(header: Header, max_pixels: int) -> None:
    """Raises ImageError for an image that takes too much memory, or whose sizes make no sense."""
    for box in (header.window, header.shown):
        width, height = _size(box)
        if min(width, height) < 1:
            raise damaged("an empty window")
        check_size(width, height, max_pixels)
    width, height = _size(header.window)
    if len(header.channels) * width * min(height, BLOCK) > 4 * max(max_pixels, LARGEST_TILE):
        raise too_large(f"a block of {len(header.channels)} channels")
    for channel in header.channels.values():
        if channel.type not in range(len(PIXEL_TYPES)) or min(channel.across, channel.down) < 1:
            raise damaged("an unknown channel")


def _attributes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the names and values of the first part's header, as far as it is whole."""
    start = 8  # after the magic bytes and the version
    while (name_end := data.find(b"\0", start)) > start:
        type_end = data.find(b"\0", name_end + 1)
        length = int.from_bytes(data[type_end + 1 : type_end + 5], "little")
        if type_end < 0 or type_end + 5 + length > len(data):
            return
        yield data[start:name_end].decode("latin-1"), data[type_end + 5 : type_end + 5 + length]
        start = type_end + 5 + length


def _channels(data: bytes) -> Iterator[tuple[str, Channel]]:
    """Yields the names and types of the channels. Raises struct.error if their list is not whole."""
    start = 0
    while (end := data.find(b"\0", start)) > start:
        yield data[start:end].decode("latin-1"), Channel(*struct.unpack_from("<i4xii", data, end + 1))
        start = end + 17


def _size(box: Box) -> tuple[int, int]:
    """Returns the width and height of a window."""
    return box[2] - box[0] + 1, box[3] - box[1] + 1


def _colour(channels: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Returns the channels that show the image by their names without a layer, alpha included, and notes.

    Raises ImageError if none show an image.
    """
    layers = {name.rpartition(".")[0] for name in channels}
    for layer in sorted(layers, key=lambda name: (name != "", name.split(".")[-1].lower() not in MAIN_LAYERS, name)):
        full = {name.rpartition(".")[2].upper(): name for name in channels if name.rpartition(".")[0] == layer}
        for names in COLOURS:
            if full.keys() >= set(names):
                chosen = {name: full[name] for name in (*names, "A") if name in full}
                return chosen, [f"layer {layer}"] if layer else []
    raise unsupported(f"EXR without colour (channels {', '.join(channels)})", "save it with channels R, G and B")


def _planes(data: bytes, header: Header, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Returns the channels of these names, float or integer (H, W) in the data window. Chroma is repeated."""
    # File reads every part and channel, gigabytes of a render, and prints. InputFile's header() can crash.
    opened = OpenEXR.InputFile(Stream(data))
    width, height = _size(header.window)
    chosen = [header.channels[full] for full in names.values()]
    if all((channel.across, channel.down) == (1, 1) for channel in chosen):
        values = opened.channels(list(names.values()))  # decodes the file once
    else:
        values = [opened.channel(full) for full in names.values()]
    planes = {}
    for name, channel, raw in zip(names, chosen, values, strict=True):
        stored = np.frombuffer(raw, PIXEL_TYPES[channel.type])
        plane = stored.reshape(-(-height // channel.down), -(-width // channel.across))
        if channel.down > 1 or channel.across > 1:
            plane = plane.repeat(channel.down, axis=0).repeat(channel.across, axis=1)[:height, :width]
        planes[name] = plane
    return planes


def _light(planes: Mapping[str, np.ndarray], primaries: Sequence[float]) -> np.ndarray:
    """Returns linear light, float (H, W, 3) of R, G and B, or (H, W, 1) of grey."""
    if "R" in planes:
        return np.stack([planes["R"], planes["G"], planes["B"]], axis=2)
    if "RY" not in planes:
        return planes["Y"][:, :, None]
    with np.errstate(all="ignore"):
        y = planes["Y"].astype(np.float32)
        red, blue = (planes["RY"] + 1) * y, (planes["BY"] + 1) * y  # RY is (R - Y) / Y
        of_red, of_green, of_blue = linear.luminance(primaries)
        return np.stack([red, (y - of_red * red - of_blue * blue) / of_green, blue], axis=2).astype(np.float32)


def _framed(plane: np.ndarray, header: Header) -> np.ndarray:
    """Returns the display window of an array (H, W, C) of the data window. What lies outside the latter is 0."""
    window, shown = header.window, header.shown
    if window == shown:
        return plane
    width, height = _size(shown)
    framed = np.zeros((height, width, plane.shape[2]), plane.dtype)
    left, top = max(window[0], shown[0]), max(window[1], shown[1])
    right, bottom = min(window[2], shown[2]) + 1, min(window[3], shown[3]) + 1
    if left < right and top < bottom:
        framed[top - shown[1] : bottom - shown[1], left - shown[0] : right - shown[0]] = plane[
            top - window[1] : bottom - window[1], left - window[0] : right - window[0]
        ]
    return framed
