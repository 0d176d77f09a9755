"""Compressions of TIFF: a strip or a tile becomes bytes or samples, of the size that the file states and no larger.

`BYTES` holds compressions of bytes, `IMAGES` those that are small image files. Deflate and LZMA need no extra package.
"""

import importlib.util
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.decoders import jpeg, jpeg2000
from clipseg_cli.inputs.decoders.result import damaged, unsupported
from clipseg_cli.inputs.kinds import pip_line

LZMA_MEMORY = 1 << 28  # bytes: 4 times that of the highest preset
PACKBITS_RUN = 128  # bytes: PackBits may write one run more than a strip has
J2K_TILES = 4096  # within a strip or tile
YCBCR = 6  # a photometric interpretation
JPEG = 7  # a compression
NAMES = {
    2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "old-style JPEG", 7: "JPEG", 32773: "PackBits", 34676: "LogLuv",
    34712: "JPEG 2000", 34887: "LERC", 34926: "ZSTD", 50000: "ZSTD", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip


class Wanted(NamedTuple):
    """What a strip or tile that is an image file must decode to."""

    shape: tuple[int, int, int]  # rows, columns, samples
    dtype: np.dtype[Any]
    photometric: int
    tables: bytes | None  # of JPEG: shared by all strips
    inner: int  # of LERC: the compression around it: 0, 1 (Deflate) or 2 (ZSTD)


def inflate(data: bytes, most: int) -> bytes:
    """Decodes Deflate to at most `most` bytes. Raises zlib.error."""
    return zlib.decompressobj().decompress(data, most)


def _unxz(data: bytes, most: int) -> bytes:
    return lzma.LZMADecompressor(memlimit=LZMA_MEMORY).decompress(data, most)


def _packbits(data: bytes, most: int) -> bytes:
    return bytes(_library("PackBits").packbits_decode(data, out=most + PACKBITS_RUN))


def _lzw(data: bytes, most: int) -> bytes:
    return bytes(_library("LZW").lzw_decode(data, out=most))


def _zstd(data: bytes, most: int) -> bytes:
    return bytes(_library("ZSTD").zstd_decode(data, out=most))


# From the tag Compression. Each takes the data and the size of a full strip or tile.
BYTES: dict[int, Callable[[bytes, int], bytes]] = {
    1: lambda data, most: data[:most],
    5: _lzw,
    8: inflate,
    32946: inflate,
    32773: _packbits,
    34925: _unxz,
    34926: _zstd,
    50000: _zstd,
}


def _jpeg(data: bytes, wanted: Wanted, out: np.ndarray) -> np.ndarray:
    rows, columns, samples = wanted.shape
    if damage := jpeg.damage(data, rows * columns):
        raise damaged(damage)
    spaces = {}  # by default libjpeg takes three bands for YCbCr
    if samples == 3:
        spaces = {"colorspace": "YCBCR" if wanted.photometric == YCBCR else "RGB", "outcolorspace": "RGB"}
    bits = 8 if wanted.dtype.itemsize == 1 else 16
    decoded = _library("JPEG").jpeg_decode(data, tables=wanted.tables, bitspersample=bits, out=out, **spaces)
    return np.asarray(decoded)


def _jpeg2000(data: bytes, wanted: Wanted, out: np.ndarray) -> np.ndarray:
    at = data.find(jpeg2000.START)
    right, lower, _, _, across, down, x, y = struct.unpack_from(">8I", data, max(0, at) + 8)
    if min(across, down) < 1 or -(-(right - x) // across) * -(-(lower - y) // down) > J2K_TILES:
        raise damaged("too many tiles")  # OpenJPEG takes memory for each
    return np.asarray(_library("JPEG 2000").jpeg2k_decode(data, out=out))


def _jpegxl(data: bytes, wanted: Wanted, out: np.ndarray) -> np.ndarray:
    return np.asarray(_library("JPEG XL").jpegxl_decode(data, out=out))


def _webp(data: bytes, wanted: Wanted, out: np.ndarray) -> np.ndarray:
    return np.asarray(_library("WebP").webp_decode(data, hasalpha=wanted.shape[2] == 4, out=out))


def _lerc(data: bytes, wanted: Wanted, out: np.ndarray) -> np.ndarray:
    if wanted.inner:
        data = {1: inflate, 2: _zstd}[wanted.inner](data, 2 * out.nbytes + 65_536)
    return np.asarray(_library("LERC").lerc_decode(data, out=out))


# From the tag Compression. Each decodes into `out`, and refuses an image of another shape.
IMAGES: dict[int, Callable[[bytes, Wanted, np.ndarray], np.ndarray]] = {
    JPEG: _jpeg,
    34712: _jpeg2000,
    34887: _lerc,
    50001: _webp,
    50002: _jpegxl,
    52546: _jpegxl,
}


def unpacked(compression: int, data: bytes, most: int) -> bytes:
    """Decodes a strip or tile of a compression in `BYTES`, to at most about `most` bytes. Raises ImageError."""
    try:
        return BYTES[compression](data, most)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise damaged(str(error)) from error


def image(compression: int, data: bytes, wanted: Wanted, rows: int) -> np.ndarray:
    """Decodes a strip or tile of a compression in `IMAGES`: an array of the wanted shape and dtype.

    `rows` is the number of rows of a full strip, which some writers also give the last one. Raises ImageError.
    """
    height, *others = wanted.shape
    shape = (height, *(others if wanted.shape[2] > 1 else others[:1]))
    for first in dict.fromkeys((height, rows)):
        out = np.empty((first, *shape[1:]), wanted.dtype)
        try:
            return IMAGES[compression](data, wanted, out)[:height].reshape(wanted.shape)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            failure = error
    raise damaged(str(failure)) from failure


def _library(name: str) -> Any:
    """Returns imagecodecs. Raises ImageError `unsupported` if it is not installed."""
    if importlib.util.find_spec("imagecodecs") is None:
        raise unsupported(f"{name} compression in this kind of TIFF without one more package", pip_line("tiff"))
    import imagecodecs

    return imagecodecs
