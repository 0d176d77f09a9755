"""Encodes arrays as bytes of PNG, JPEG, WebP, TIFF, PGM, PPM, PFM, npy and npz, and reads grey PNGs back."""

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from clipseg_cli.outputs import colours
from clipseg_cli.outputs.writers.carried import NOTHING, Carried

RUNS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
JPEG_QUALITY = 90
DATASET_QUALITY = 95  # of the photos in data sets
JPEG_SIDE = 65_500  # pixels: the longest side that libjpeg writes
PNG_HEADER = 33  # bytes: the signature and the chunk IHDR
PNG_SIDE = 1_000_000  # pixels: the longest side that OpenCV's libpng writes
SEGMENT = 65_533  # bytes of a segment of a JPEG


def png(grey: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Returns a grey PNG of a uint8 or uint16 (H, W) array, with the same bit depth.

    Masks have 8 bits, not 1: Pillow and numpy open a 1-bit PNG as booleans, for which `mask > 127` is never true.
    Deflate's run-length strategy suits masks: it is the fastest strategy that still makes small files.
    """
    return _png(grey, RUNS)


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """Returns a grey PNG without a filter: smaller and faster than `png` for images with few grey levels."""
    return _png(mask, [*RUNS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def colour_png(colours: NDArray[np.uint8] | NDArray[np.uint16], carried: Carried = NOTHING) -> bytes:
    """Returns a PNG of an image, uint8 or uint16: RGB or RGBA, (H, W, 3 or 4), or grey with transparency, (H, W, 2)."""
    data = _png(colours, [])
    chunks = []
    if carried.is_srgb:
        chunks.append(_chunk(b"sRGB", b"\1"))  # relative colorimetric
    elif carried.profile:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(carried.profile)))
    if block := carried.block(*colours.shape[:2]):
        chunks.append(_chunk(b"eXIf", block))
    if packet := carried.packet():
        chunks.append(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    return b"".join((data[:PNG_HEADER], *chunks, data[PNG_HEADER:]))


def indexed_png(index: NDArray[np.uint8], palette: Iterable[colours.RGB]) -> bytes:
    """Returns an indexed PNG of a uint8 (H, W) array. `palette` has the colour of each of its values, from 0."""
    image = Image.fromarray(index, "P")
    image.putpalette([channel for colour in palette for channel in colour])
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def levels(data: bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Returns the levels of a grey PNG, TIFF, WebP, PGM or PFM that a run wrote, uint8 or uint16 (H, W).

    Those of an indexed PNG are its indices. Pillow decodes it: OpenCV's libpng would print errors on stderr. Raises
    OSError, ValueError or SyntaxError.
    """
    file = io.BytesIO(data)
    try:
        with PngImageFile(file) if data[:1] == b"\x89" else Image.open(file, formats=("TIFF", "WEBP", "PPM")) as image:
            if image.mode == "F":  # a PFM
                return np.asarray(np.rint(np.array(image) * 255), np.uint8)
            return np.array(image if image.mode in ("L", "I;16", "P") else image.convert("L"))
    except Image.DecompressionBombError as error:  # a map that was written by windows
        raise ValueError(str(error)) from error


def webp(array: NDArray[np.uint8], lossless: bool, carried: Carried = NOTHING) -> bytes:
    """Returns a WebP of a grey, RGB or RGBA image, uint8 (H, W) or (H, W, 3 or 4). No side may exceed 16383 pixels."""
    with io.BytesIO() as file:
        options = {"lossless": True, "exact": True} if lossless else {"quality": JPEG_QUALITY}
        about = {"icc_profile": carried.profile, "exif": carried.block(*array.shape[:2]), "xmp": carried.packet()}
        Image.fromarray(array).save(file, "WEBP", **options, **about)
        return file.getvalue()


def tiff(array: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Returns a TIFF of a grey image, uint8 or uint16 (H, W); lossless. Those of colours are written by `geotiff`."""
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, "TIFF", compression="tiff_adobe_deflate")
        return file.getvalue()


def pnm(array: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Returns a PGM of a grey image, uint8 or uint16 (H, W), or a PPM of an RGB image, uint8 (H, W, 3)."""
    height, width = array.shape[:2]
    form, most = b"P5" if array.ndim == 2 else b"P6", np.iinfo(array.dtype).max
    return b"%s\n%d %d\n%d\n" % (form, width, height, most) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def pfm(grey: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Returns a PFM of a grey image, uint8 or uint16 (H, W): float32 from 0 to 1, the lowest row first."""
    height, width = grey.shape
    shares = grey[::-1].astype("<f4") / np.float32(np.iinfo(grey.dtype).max)
    return b"Pf\n%d %d\n-1.0\n" % (width, height) + shares.astype("<f4").tobytes()


def npy(array: NDArray[Any]) -> bytes:
    """Returns an array as an npy file, for `numpy.load`."""
    with io.BytesIO() as file:
        np.save(file, array, allow_pickle=False)
        return file.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    """Returns a compressed npz archive of named arrays, for `numpy.load`."""
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, **arrays)
    return data.getvalue()


def jpeg(rgb: NDArray[np.uint8], quality: int = JPEG_QUALITY, carried: Carried = NOTHING) -> bytes:
    """Returns a JPEG of a uint8 (H, W, 3) RGB image; shrinks an image whose side is too long for JPEG.

    EXIF or XMP of more than 64 KB does not fit and is left out.
    """
    height, width = rgb.shape[:2]
    if max(height, width) > JPEG_SIDE:
        scale = JPEG_SIDE / max(height, width)
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    data = _encode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    segments = []
    if (block := carried.block(*rgb.shape[:2])) and len(block) <= SEGMENT - 6:
        segments.append(b"\xe1" + b"Exif\0\0" + block)
    if (packet := carried.packet()) and len(packet) <= SEGMENT - 29:
        segments.append(b"\xe1" + b"http://ns.adobe.com/xap/1.0/\0" + packet)
    step = SEGMENT - 14
    parts = [carried.profile[start : start + step] for start in range(0, len(carried.profile), step)]
    segments += [b"\xe2ICC_PROFILE\0" + bytes((number, len(parts))) + part for number, part in enumerate(parts, 1)]
    end = 4 + int.from_bytes(data[4:6], "big")  # of JFIF's header, which must come first
    made = (b"\xff" + each[:1] + struct.pack(">H", 1 + len(each)) + each[1:] for each in segments)
    return b"".join((data[:end], *made, data[end:]))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(array: NDArray[Any], parameters: list[int]) -> bytes:
    """Returns a PNG of a grey, grey and alpha, RGB or RGBA array."""
    if array.ndim == 3 and array.shape[2] == 2:
        return _grey_alpha_png(array)
    if max(array.shape[:2]) > PNG_SIDE:
        with io.BytesIO() as file:
            Image.fromarray(array).save(file, "PNG")
            return file.getvalue()
    swap = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    return _encode(".png", array if array.ndim == 2 else cv2.cvtColor(array, swap[array.shape[2]]), parameters)


def _grey_alpha_png(array: NDArray[Any]) -> bytes:
    """Returns a PNG of grey with transparency, uint8 or uint16 (H, W, 2), which OpenCV does not write.

    Each byte is stored as its difference from the one above: filter 2 of the standard.
    """
    height, width, _ = array.shape
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    header = struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, 4, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(filtered.tobytes())), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _encode(extension: str, array: NDArray[Any], parameters: list[int]) -> bytes:
    ok, data = cv2.imencode(extension, array, parameters)
    if not ok:  # only for shapes that no caller passes
        raise ValueError(f"cannot encode an array of shape {array.shape} as {extension}")
    return data.tobytes()
