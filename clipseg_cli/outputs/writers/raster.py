"""Encodes arrays as bytes of PNG, JPEG, WebP, TIFF, PGM, PPM, PFM, npy and npz, and reads grey PNGs back.

`srgb`: the file of a colour image says that its colours are sRGB. Without it, it says nothing.
"""

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

from clipseg_cli.inputs.colour import profiles
from clipseg_cli.outputs import colours

RUNS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
JPEG_QUALITY = 90
DATASET_QUALITY = 95  # of the photos in data sets
JPEG_SIDE = 65_500  # pixels: the longest side that libjpeg writes
PNG_HEADER = 33  # bytes: the signature and the chunk IHDR
PNG_SIDE = 1_000_000  # pixels: the longest side that OpenCV's libpng writes


def png(grey: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Returns a grey PNG of a uint8 or uint16 (H, W) array, with the same bit depth.

    Masks have 8 bits, not 1: Pillow and numpy open a 1-bit PNG as booleans, for which `mask > 127` is never true.
    Deflate's run-length strategy suits masks: it is the fastest strategy that still makes small files.
    """
    return _png(grey, RUNS)


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """Returns a grey PNG without a filter: smaller and faster than `png` for images with few grey levels."""
    return _png(mask, [*RUNS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE])


def colour_png(colours: NDArray[np.uint8], srgb: bool = False) -> bytes:
    """Returns a PNG of an RGB image, uint8 (H, W, 3), or of an RGBA image (H, W, 4)."""
    data = _png(colours, [])
    if not srgb:
        return data
    content = b"sRGB\1"  # relative colorimetric
    chunk = struct.pack(">I", 1) + content + struct.pack(">I", zlib.crc32(content))
    return data[:PNG_HEADER] + chunk + data[PNG_HEADER:]


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
    with PngImageFile(file) if data[:1] == b"\x89" else Image.open(file, formats=("TIFF", "WEBP", "PPM")) as image:
        if image.mode == "F":  # a PFM
            return np.asarray(np.rint(np.array(image) * 255), np.uint8)
        return np.array(image if image.mode in ("L", "I;16", "P") else image.convert("L"))


def webp(array: NDArray[np.uint8], lossless: bool, srgb: bool = False) -> bytes:
    """Returns a WebP of a grey, RGB or RGBA image, uint8 (H, W) or (H, W, 3 or 4). No side may exceed 16383 pixels."""
    with io.BytesIO() as file:
        options = {"lossless": True, "exact": True} if lossless else {"quality": JPEG_QUALITY}
        Image.fromarray(array).save(file, "WEBP", **options, **_profile(srgb))
        return file.getvalue()


def tiff(array: NDArray[np.uint8] | NDArray[np.uint16], srgb: bool = False) -> bytes:
    """Returns a TIFF of a grey, RGB or RGBA image, uint8 or uint16 (H, W), or uint8 (H, W, 3 or 4); lossless."""
    with io.BytesIO() as file:
        Image.fromarray(array).save(file, "TIFF", compression="tiff_adobe_deflate", **_profile(srgb))
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


def _profile(srgb: bool) -> dict[str, Any]:
    """Returns Pillow's option that embeds an sRGB profile."""
    return {"icc_profile": profiles.srgb()} if srgb else {}


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


def jpeg(rgb: NDArray[np.uint8], quality: int = JPEG_QUALITY, srgb: bool = False) -> bytes:
    """Returns a JPEG of a uint8 (H, W, 3) RGB image; shrinks an image whose side is too long for JPEG."""
    height, width = rgb.shape[:2]
    if max(height, width) > JPEG_SIDE:
        scale = JPEG_SIDE / max(height, width)
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    data = _encode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not srgb:
        return data
    content = b"ICC_PROFILE\0\1\1" + profiles.srgb()  # part 1 of 1
    end = 4 + int.from_bytes(data[4:6], "big")  # of JFIF's header, which must come first
    return data[:end] + b"\xff\xe2" + struct.pack(">H", 2 + len(content)) + content + data[end:]


def _png(array: NDArray[Any], parameters: list[int]) -> bytes:
    """Returns a PNG of a grey, RGB or RGBA array."""
    if max(array.shape[:2]) > PNG_SIDE:
        with io.BytesIO() as file:
            Image.fromarray(array).save(file, "PNG")
            return file.getvalue()
    swap = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    return _encode(".png", array if array.ndim == 2 else cv2.cvtColor(array, swap[array.shape[2]]), parameters)


def _encode(extension: str, array: NDArray[Any], parameters: list[int]) -> bytes:
    ok, data = cv2.imencode(extension, array, parameters)
    if not ok:  # only for shapes that no caller passes
        raise ValueError(f"cannot encode an array of shape {array.shape} as {extension}")
    return data.tobytes()
