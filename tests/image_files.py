"""Image files for tests: saved by Pillow or made by hand, and what `load` makes of their bytes."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenEXR
import PIL.Image
import pytest
import skimage
import tifffile

import written_files as written
from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decode import Image, load
from clipseg_cli.inputs.kinds import DECODABLE, KINDS
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import DecodeOptions

PHOTOS = Path(skimage.__file__).parent / "data"
LIMIT = 100_000_000  # pixels
LOSSLESS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "WEBP": {"lossless": True},
    "JPEG2000": {"irreversible": False},
    "TGA": {},
    "DDS": {},
    "ICO": {"sizes": [(130, 90)]},
    "QOI": {},
    "PSD": {},
    "JPEG XL": {},
}
LOSSY = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}, "WEBP": {"quality": 95}}
TILED = {"type": OpenEXR.tiledimage, "tiles": OpenEXR.TileDescription()}
# Files that load, with Pillow's options; blanks at the end tell several variants of a format apart.
VALID = {
    "JPEG": {}, "PNG": {}, "GIF": {}, "WEBP": {}, "BMP": {}, "TIFF": {}, "PPM": {}, "AVIF": {}, "JPEG2000": {},
    "JPEG ": {"progressive": True}, "JPEG  ": {"restart_marker_blocks": 2}, "WEBP ": {"lossless": True},
    "TIFF ": {"compression": "tiff_adobe_deflate"}, "TIFF  ": {"compression": "tiff_lzw"},
    "TIFF   ": {"compression": "packbits"}, "TIFF    ": {"compression": "jpeg"},
    "JPEG   ": {"subsampling": 2, "quality": 30}, "PNG ": {"optimize": True}, "GIF ": {"interlace": False},
    "JPEG2000 ": {"irreversible": True}, "TGA": {}, "TGA ": {"compression": "tga_rle"}, "DDS": {},
    "DDS ": {"pixel_format": "DXT1"}, "ICO": {}, "ICO ": {"bitmap_format": "bmp"}, "QOI": {}, "PSD": {},
    "PSD ": {"compression": 1}, "PSD  ": {"compression": 2}, "HEIC": {}, "JPEG XL": {}, "JPEG XL ": {"distance": 1},
    "EXR": {}, "EXR ": {"compression": OpenEXR.PIZ_COMPRESSION}, "EXR  ": TILED, "HDR": {}, "PFM": {},
}  # fmt: skip
# How to write the kinds that Pillow does not write, from an array and options.
WRITERS: dict[str, Callable[..., bytes]] = {
    "PSD": lambda pixels, **options: written.psd(np.moveaxis(pixels, 2, 0), **options),
    "HEIC": written.heic,
    "JPEG XL": written.jxl,
    "EXR": lambda pixels, **options: written.exr({"RGB": written.light(pixels).astype(np.float16)}, **options),
    "HDR": written.hdr,
    "PFM": written.pfm,
}
# The kinds whose decoders read whole files: camera raw files and videos have their own tests.
IMAGE_KINDS = tuple(kind for kind in DECODABLE if KINDS[kind].decoder not in ("raw", "video"))


def read(data: bytes, max_pixels: int = LIMIT) -> Image:
    """Loads bytes as if they came through standard input."""
    return load(Source("-", "-", "stdin", data=data), DecodeOptions(max_pixels=max_pixels))


def refused(data: bytes, max_pixels: int = LIMIT) -> tuple[str, str]:
    """Returns the error class and message of bytes that must not load."""
    with pytest.raises(ImageError) as caught:
        read(data, max_pixels)
    assert caught.value.stage == "load"
    return caught.value.kind, str(caught.value)


def saved(image: PIL.Image.Image | np.ndarray, form: str, **options: object) -> bytes:
    """Returns the bytes of a file in this format."""
    if form in WRITERS:
        return WRITERS[form](np.asarray(image), **options)
    file = io.BytesIO()
    (image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG of a kind that Pillow does not write."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = [head, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in body
    )


def overwritten(data: bytes, at: int, new: bytes) -> bytes:
    """Returns the bytes with `new` written at a position."""
    return data[:at] + new + data[at + len(new) :]


def tiff(pixels: np.ndarray, others: dict[int, int] | None = None, **tags: int) -> bytes:
    """Returns a little-endian grey TIFF of one strip. A tag of two shorts is given as one long."""
    entries = {"width": (256, pixels.shape[1]), "height": (257, pixels.shape[0]), "bits": (258, 8 * pixels.itemsize)}
    entries |= {"compression": (259, 1), "photometric": (262, 1), "offset": (273, 8), "samples": (277, 1)}
    entries |= {"rows": (278, pixels.shape[0]), "bytes": (279, pixels.nbytes), "format": (339, 1)}
    entries |= {name: (entries.get(name, (338,))[0], value) for name, value in tags.items()}
    entries |= {str(tag): (tag, value) for tag, value in (others or {}).items()}
    raw = pixels.tobytes()
    directory = b"".join(
        struct.pack("<HHII", tag, 3 if value >> 16 else 4, 2 if value >> 16 else 1, value)
        for tag, value in sorted(entries.values())
    )
    return b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + struct.pack("<H", len(entries)) + directory + bytes(4)


def packed_tiff(pixels: np.ndarray, others: dict[int, int]) -> bytes:
    """Returns a grey TIFF with one compressed strip, and with other tags; see `tiff`. Pillow leaves it to libtiff."""
    (height, width), packed = pixels.shape, np.frombuffer(zlib.compress(pixels.tobytes()), np.uint8)
    return tiff(packed[None], others, width=width, height=height, rows=height, compression=8)


def odd_tiff(pixels: np.ndarray, *tags: int) -> bytes:
    """Returns a valid TIFF with tags of a type that no reader knows. libtiff reports each of them."""
    data = packed_tiff(pixels, dict.fromkeys(tags, 1))
    for tag in tags:
        data = data.replace(struct.pack("<HH", tag, 4), struct.pack("<HH", tag, 99))
    return data


def planar(planes: np.ndarray, **options: object) -> bytes:
    """Returns an RGB TIFF with a separate plane per colour, as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", metadata=None, **options)
    return file.getvalue()


def as_rgb(plane: np.ndarray) -> np.ndarray:
    """Returns a grey plane as RGB."""
    return np.stack([plane] * 3, axis=2)
