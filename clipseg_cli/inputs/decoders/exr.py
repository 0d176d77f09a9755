"""OpenEXR: the first part of a file, with its display window, as the viewers exrdisplay, mrv2 and ImageMagick show it.

Pixels outside the data window are transparent, or black if there is no alpha. Colour is read from the channels R, G, B;
or Y; or Y, RY, BY; otherwise from a layer: one called combined, beauty, rgba or rgb, or else the first. `linear` says
how light becomes sRGB. Colours are premultiplied, so light adds to the background; an alpha of 0 everywhere is ignored.
Depth and other data without colour, and deep images, are unsupported. Missing data is an error in OpenEXR.

The header is checked here, before OpenEXR takes memory. OpenEXR writes some of its errors on stderr.
"""

import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import OpenEXR

from clipseg_cli.inputs import colour, linear
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, damaged, too_large, unsupported

LARGEST_TILE = 1 << 24  # pixels of a tile, which is decoded whole
BLOCK = 256  # rows that are decoded at once, at most
DEEP = 0x0800  # a flag of the version
COLOURS = (("R", "G", "B"), ("Y", "RY", "BY"), ("Y",))  # channels, best first
MAIN_LAYERS = ("combined", "beauty", "rgba", "rgb")  # the last part of a layer's name, in lower case
PIXEL_TYPES = {"UINT": np.uint32, "HALF": np.float16, "FLOAT": np.float32}
Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two are inside


class Stream(io.BytesIO):
    """A file in memory on which no seek fails: OpenEXR ends the process if one does."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a position, at most to the end."""
        start = (0, self.tell(), len(self.getbuffer()))[whence]
        return super().seek(min(max(start + offset, 0), len(self.getbuffer())))


def decode(kind: str, file: BinaryIO, max_pixels: int) -> Decoded:
    """Decodes the first part of an EXR. Raises ImageError."""
    data = pillow.whole(file, max_pixels)
    window, shown = _windows(data, max_pixels)
    with pillow.reasons():
        opened = OpenEXR.InputFile(Stream(data))  # File reads every part and channel: gigabytes, of a render
        header = opened.header()
        names, notes = _colour(header["channels"])
        planes = _planes(opened, header["channels"], names, window)
    primaries = _primaries(header.get("chromaticities"))
    light = _framed(_light(planes, primaries), window, shown)
    matrix = linear.to_rec709(primaries) if light.shape[2] == 3 else None
    if matrix is not None:
        notes.append("primaries converted to sRGB")
    if "A" in planes and (planes["A"] > 0).any():
        clear = 1 - np.clip(_framed(planes["A"][:, :, None], window, shown), 0, 1)
        if clear.any():
            notes.append("transparency composited on white")
            light = light + clear * np.float32(colour.BACKGROUND[0] / 255)
    pixels = linear.srgb(light, matrix)
    return Decoded(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels, 1, notes)


def _windows(data: bytes, max_pixels: int) -> tuple[Box, Box]:
    """Returns the data and the display window of the first part. Raises ImageError, also `too_large`."""
    attributes = dict(_attributes(data))
    if int.from_bytes(data[4:8], "little") & DEEP or attributes.get("type", b"").startswith(b"deep"):
        raise unsupported("a deep EXR", "flatten it")
    try:
        boxes = [struct.unpack("<4i", attributes[name]) for name in ("dataWindow", "displayWindow")]
        tile = struct.unpack("<IIB", attributes["tiles"]) if "tiles" in attributes else (0, 0, 0)
        channels = attributes["channels"].count(b"\0") // 2  # at least one zero in its 16 bytes, and one after its name
    except (KeyError, struct.error) as error:
        raise damaged("no sound header") from error
    for box in boxes:
        width, height = _size(box)
        if min(width, height) < 1:
            raise damaged("an empty window")
        if width * height > max_pixels:
            raise too_large(f"{width} x {height} pixels")
    width, height = _size(boxes[0])
    if tile[0] * tile[1] > max(width * height, LARGEST_TILE):
        raise too_large(f"a tile of {tile[0] * tile[1]} pixels")
    if channels * width * min(height, BLOCK) > 4 * max(max_pixels, LARGEST_TILE):
        raise too_large(f"a block of {channels} channels")
    return boxes[0], boxes[1]


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


def _planes(
    opened: OpenEXR.InputFile, channels: Mapping[str, Any], names: Mapping[str, str], window: Box
) -> dict[str, np.ndarray]:
    """Returns the channels of these names, float or integer (H, W) in the data window. Chroma is repeated."""
    width, height = _size(window)
    steps = {name: (channels[full].xSampling, channels[full].ySampling) for name, full in names.items()}
    if set(steps.values()) == {(1, 1)}:
        values = opened.channels(list(names.values()))  # decodes the file once
    else:
        values = [opened.channel(full) for full in names.values()]
    planes = {}
    for (name, full), raw in zip(names.items(), values, strict=True):
        across, down = steps[name]
        plane = np.frombuffer(raw, PIXEL_TYPES[str(channels[full].type)]).reshape(-(-height // down), -(-width // across))
        planes[name] = plane.repeat(down, axis=0).repeat(across, axis=1)[:height, :width] if across * down > 1 else plane
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


def _framed(plane: np.ndarray, window: Box, shown: Box) -> np.ndarray:
    """Returns the display window of an array (H, W, C) of the data window. What lies outside the latter is 0."""
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


def _primaries(chromaticities: Any) -> Sequence[float]:
    """Returns x and y of red, green, blue and white, as a header gives them; Rec. 709's without."""
    if chromaticities is None:
        return linear.REC709
    ends = (chromaticities.red, chromaticities.green, chromaticities.blue, chromaticities.white)
    return [float(value) for end in ends for value in (end.x, end.y)]
