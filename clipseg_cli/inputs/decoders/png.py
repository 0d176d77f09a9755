"""PNG: checks what Pillow does not (checksums, palette, missing rows), and drops chunks that do not change pixels."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import BinaryIO

import numpy as np
import PIL.Image

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.colour import primaries
from clipseg_cli.inputs.decoders import pillow
from clipseg_cli.inputs.decoders.result import Decoded, Sequence, damaged
from clipseg_cli.settings.inputs import DecodeOptions

ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # chunks of an APNG
PIECE = 65_536  # bytes that are inflated at once
LARGEST_PROFILE = 1 << 20  # bytes: the longest ICC profile that Pillow inflates
ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip


def _chunk(name: bytes, content: bytes) -> bytes:
    """Returns a chunk with a valid checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


BROKEN_EXIF = _chunk(b"eXIf", b"")  # a valid empty chunk in place of a damaged one


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a PNG or APNG. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    if data[12:16] == b"CgBI":
        raise ImageError("unsupported", "load", "Apple's CgBI variant is not supported; save it as standard PNG")
    transfer = int.from_bytes(_colour_chunks(data).get(b"cICP", b"")[1:2], "big")
    xmp = _xmp(data)
    data, frames = _without_metadata(data)
    image = pillow.opened(kind, io.BytesIO(data), options.max_pixels)
    if damage := _damage(data):
        raise ImageError("corrupt", "load", f"{damage}; copy or export it again")
    with pillow.reasons():
        image.load()
        # missing rows stay black: the last ones, or any of an interlaced image
        doubtful = data[28] or not np.asarray(image.crop((0, image.height - 1, image.width, image.height))).any()
        if doubtful and _lacks_rows(data[16:29], _contents(data, b"IDAT")):
            raise ImageError("corrupt", "load", "truncated: fewer pixels than its header says; copy or export it again")
    image.info |= {"transfer": transfer, "xmp": xmp}
    deep = data[24] == 16 and data[25] in (2, 6) and "transparency" not in image.info  # RGB and RGBA
    wide = partial(_sixteen_bits, data, image, options.max_pixels) if deep else None
    return pillow.finished(image, frames, wide=wide)


def _sixteen_bits(data: bytes, high: PIL.Image.Image, max_pixels: int) -> np.ndarray:
    """Returns uint16 (H, W, 3 or 4) of a PNG of 16-bit colours, of which Pillow has decoded the high bytes.

    It takes the high byte of each sample in the byte order that it is told, so in the other order it takes the low one.
    """
    low = pillow.opened("PNG", io.BytesIO(data), max_pixels)
    low.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in low.tile]
    low.load()
    return np.asarray(np.asarray(high).astype(np.uint16) << 8 | np.asarray(low), np.uint16)


def sequence(kind: str, file: BinaryIO, options: DecodeOptions) -> Sequence:
    """Opens the frames of an APNG. Raises ImageError."""
    data, _ = _without_metadata(pillow.whole(file, options.max_pixels), ANIMATION)
    frames = _animation(data)
    return pillow.Frames(
        lambda: pillow.opened(kind, io.BytesIO(data), options.max_pixels),
        options.max_pixels,
        lambda image, index: _check_frame(data, frames[index]),
    )


def _animation(data: bytes) -> list[tuple[bytes, list[tuple[int, int]]]]:
    """Returns, for each frame of an APNG, its header like that of a PNG, and start and end of its chunks of pixels."""
    frames: list[tuple[bytes, list[tuple[int, int]]]] = []
    for name, start, end in _chunks(data):
        if name == b"fcTL":
            frames.append((data[start + 12 : start + 20] + data[24:29], []))
        elif name == b"IDAT" and not frames:
            frames.append((data[16:29], []))
        if name in (b"IDAT", b"fdAT"):
            frames[-1][1].append((start, end))
    return frames


def _check_frame(data: bytes, frame: tuple[bytes, list[tuple[int, int]]]) -> None:
    """Raises ImageError for a frame of an APNG whose pixels are damaged or missing."""
    header, chunks = frame
    if not all(_sound(data, start, end) for start, end in chunks):
        raise damaged("a checksum does not match")
    inner = (data[start + (12 if data[start + 4 : start + 8] == b"fdAT" else 8) : end - 4] for start, end in chunks)
    with pillow.reasons():
        if _lacks_rows(header, inner):
            raise damaged("fewer pixels than its header says")


def _without_metadata(data: bytes, more: tuple[bytes, ...] = ()) -> tuple[bytes, int]:
    """Returns a PNG without the chunks that do not change its pixels, and the number of its frames.

    Only the first frame is kept, unless `more` names the chunks of the others.

    A text or a profile may be huge or damaged, and Pillow would refuse an image that viewers show. What the chunks
    of colour say becomes one ICC profile.
    """
    view, end = memoryview(data), 8
    kept: list[bytes | memoryview] = [data[:8]]
    frames, still, animated, pixels = 0, False, False, False
    for name, start, end in _chunks(data):
        if name == b"eXIf" and not _sound(data, start, end):
            kept.append(BROKEN_EXIF)
        elif not name.isalpha() or name[:1].isupper() or name in (b"tRNS", b"eXIf", *more):
            kept.append(view[start:end])
        if name == b"IHDR" and len(kept) == 2 and (profile := _profile(_colour_chunks(data))):
            kept.append(_chunk(b"iCCP", b"colours\0\0" + zlib.compress(profile, 1)))
        frames += name == b"fcTL"
        animated |= name == b"acTL" and not pixels
        still |= name == b"IDAT" and frames == 0  # a still image for viewers that show no animation
        pixels |= name == b"IDAT"
    return b"".join((*kept, view[end:])), frames + still if animated else 1


def _colour_chunks(data: bytes) -> dict[bytes, bytes]:
    """Returns the contents of the chunks that say what its colours mean; b"" for a damaged one."""
    found: dict[bytes, bytes] = {}
    for name, start, end in _chunks(data):
        if name == b"IDAT":
            break
        if name in (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"):
            found.setdefault(name, data[start + 8 : end - 4] if _sound(data, start, end) else b"")
    return found


def _profile(chunks: dict[bytes, bytes]) -> bytes:
    """Returns the ICC profile that the chunks of colour amount to, in the order of the standard; b"" for sRGB.

    Returns a broken profile in place of one that is damaged, or that Pillow would not inflate.
    """
    codes = chunks.get(b"cICP", b"")
    if len(codes) == 4 and (codes[1] in primaries.HDR or primaries.by_code(*codes[:2])):
        return primaries.by_code(*codes[:2])
    if b"iCCP" in chunks:
        packed = chunks[b"iCCP"].partition(b"\0")[2]
        stream = zlib.decompressobj()
        try:
            profile = stream.decompress(packed[1:], LARGEST_PROFILE)
        except zlib.error:
            return b"damaged"
        return profile if profile and stream.eof and packed[:1] == b"\0" else b"damaged"
    if b"sRGB" in chunks or not {b"gAMA", b"cHRM"} & chunks.keys():
        return b""
    return primaries.by_gamma(chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b""))


def _xmp(data: bytes) -> bytes:
    """Returns the XMP of a PNG; b"" if it has none, or if it is damaged or compressed."""
    start = b"XML:com.adobe.xmp\0\0\0"  # the keyword of its text, which is not compressed
    for name, at, end in _chunks(data):
        if name == b"iTXt" and data[at + 8 : at + 8 + len(start)] == start and _sound(data, at, end):
            _, _, packet = data[at + 8 + len(start) : end - 4].split(b"\0", 2)  # after the language and its keyword
            return packet
    return b""


def _damage(data: bytes) -> str:
    """Returns how a file is damaged; "" if it is whole. Pillow skips the checksums of pixels, and invents a palette."""
    indexed = data[25:26] == b"\3"
    for name, start, end in _chunks(data):
        if name == b"IDAT" and not _sound(data, start, end):
            return "damaged: a checksum does not match"
        if name == b"IDAT" and indexed:
            return "its palette is missing"
        indexed = indexed and name != b"PLTE"
    return ""


def _contents(data: bytes, wanted: bytes) -> Iterator[bytes]:
    """Yields the contents of the chunks of this name."""
    return (data[start + 8 : end - 4] for name, start, end in _chunks(data) if name == wanted)


def _lacks_rows(header: bytes, compressed: Iterable[bytes]) -> bool:
    """Returns whether there are fewer pixels than the header says. Pillow leaves missing rows black."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * {2: 3, 4: 2, 6: 4}.get(kind, 1)
    lacking = 0  # bytes
    for x, y, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        lacking += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    stream = zlib.decompressobj()
    for content in compressed:
        for at in range(0, len(content), PIECE):
            more = content[at : at + PIECE]
            while more and lacking > 0 and not stream.eof:
                lacking -= len(stream.decompress(more, PIECE))
                more = stream.unconsumed_tail
    return lacking > 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the complete chunks of a PNG: name, start and end, length and checksum included."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):  # Pillow reports it
            return
        yield data[position + 4 : position + 8], position, end
        position = end


def _sound(data: bytes, start: int, end: int) -> bool:
    """Returns whether a chunk's checksum matches."""
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
