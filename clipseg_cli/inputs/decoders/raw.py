"""Camera raw files, by LibRaw: the embedded JPEG if it is large enough, otherwise the developed sensor data.

Both have the size and the orientation of the developed image. The sensor data are unpacked in any case, since nothing
else shows that a file was cut short.
"""

import io
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import PIL.Image
import rawpy

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.colour import conversion
from clipseg_cli.inputs.decoders import jpeg, pillow, tiff_arrays
from clipseg_cli.inputs.decoders.result import Decoded, check_size, damaged, too_large, unsupported
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.settings.inputs import DecodeOptions

LEAST_PREVIEW = 1024  # pixels of its longer side
SAME_ASPECT = 0.01  # largest relative difference: previews are cropped by a few pixels
# EXIF orientations from LibRaw's: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 swaps rows and columns.
ORIENTATIONS = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}
PANASONIC = b"IIU\0"  # such files take at least 16 bytes per 14 pixels
UNKNOWN = "LibRaw cannot read it; convert it to DNG or JPEG"
# How the complaints of LibRaw and of its libjpeg begin.
COMPLAINT = re.compile(
    rb"unknown file: |Premature end of JPEG|Corrupt JPEG data|Invalid SOS parameters|Inconsistent progression"
)
_stderr = threading.Lock()


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a camera raw file. Raises ImageError."""
    data = pillow.whole(file, options.max_pixels)
    if _is_cut(io.BytesIO(data)):
        raise damaged("its sensor data end beyond the file")
    notes: list[str] = []
    with _without_complaints(), _reasons(), rawpy.RawPy() as raw:
        raw.open_buffer(io.BytesIO(data))
        sizes = raw.sizes
        check_size(sizes.raw_width, sizes.raw_height, options.max_pixels)
        pixels = _preview(raw, options.max_pixels, notes) if options.raw == "preview" else None
        if data.startswith(PANASONIC) and len(data) * 7 < sizes.raw_width * sizes.raw_height * 8:
            raise damaged("it has too few bytes for its size")  # LibRaw would leave the rest black
        raw.unpack()
        if pixels is None:
            pixels = raw.postprocess(use_camera_wb=True)
            notes.append("developed from the sensor data")
        turn = ORIENTATIONS[sizes.flip & 7]
    return Decoded(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2), 1, notes, turn)


def _preview(raw: Any, max_pixels: int, notes: list[str]) -> np.ndarray | None:
    """Returns the embedded JPEG in the size of the developed image, upright; None if it is missing or does not fit."""
    try:
        thumbnail = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    if thumbnail.format != rawpy.ThumbFormat.JPEG or raw.sizes.pixel_aspect != 1:
        return None
    found: list[str] = []
    try:
        image = pillow.opened("JPEG", io.BytesIO(thumbnail.data), max_pixels)
        if max(image.size) < LEAST_PREVIEW or jpeg.damage(thumbnail.data, image.width * image.height):
            return None
        with pillow.reasons():
            image.load()
            stored = conversion.rgb(image, found)
    except ImageError:
        return None
    size = _size(raw.sizes)
    for turn in _turns(raw.sizes.flip, image.info.get("exif")):
        upright = orientation.upright(stored, turn)
        height, width = upright.shape[:2]
        if abs(width * size[1] / (height * size[0]) - 1) <= SAME_ASPECT:
            notes += [*found, f"embedded preview of {width} x {height} pixels"]
            same = (width, height) == size
            return upright if same else np.array(PIL.Image.fromarray(upright).resize(size))
    return None


def _size(sizes: Any) -> tuple[int, int]:
    """Returns width and height of the developed image, as a viewer shows it."""
    return (sizes.height, sizes.width) if sizes.flip & 4 else (sizes.width, sizes.height)


def _turns(flip: int, exif: object) -> Iterator[int]:
    """Yields the EXIF orientations that a preview may have, the likeliest first.

    It may have its own, it may be stored like the sensor's data, or it may be upright already.
    """
    own: list[str] = []
    if isinstance(exif, bytes) and (turn := orientation.noted_orientation(exif, own)) != 1:
        yield turn
    yield ORIENTATIONS[flip & 7]
    yield 1


def _is_cut(file: BinaryIO) -> bool:
    """Returns whether sensor data of a file with TIFF directories are missing or end beyond the file."""
    size = file.seek(0, os.SEEK_END)
    try:
        for first in tiff_pages.directories(file):
            for directory in (first, *first.subdirectories()):
                if directory.number(tiff_pages.PHOTOMETRIC, 0) in tiff_pages.SENSOR:
                    places = list(directory.places())
                    if tiff_pages.DNG_VERSION in first.tags and len(places) < tiff_arrays.layout(directory).pieces:
                        return True
                    if any(start + length > size for start, length in places):
                        return True
    except (ValueError, ImageError):  # no TIFF, or an unusual one: LibRaw will say whether it is whole
        pass
    return False


@contextmanager
def _reasons() -> Iterator[None]:
    """Converts the errors of LibRaw into ImageError."""
    try:
        yield
    except (rawpy.LibRawFileUnsupportedError, rawpy.LibRawNotImplementedError) as error:
        raise unsupported("this camera raw file", UNKNOWN) from error
    except rawpy.LibRawTooBigError as error:
        raise too_large("the memory that LibRaw needs") from error
    except (rawpy.LibRawUnsufficientMemoryError, rawpy.LibRawMemPoolOverflowError) as error:
        raise MemoryError(str(error)) from error
    except rawpy.LibRawError as error:
        text = error.args[0] if error.args else ""
        raise damaged(text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)) from error


@contextmanager
def _without_complaints() -> Iterator[None]:
    """Keeps what LibRaw prints about damage off stderr, and raises ImageError if it was all that LibRaw did about it.

    What others print meanwhile follows afterwards.
    """
    complaint = b""
    with _stderr, tempfile.TemporaryFile() as kept:
        try:
            saved = os.dup(2)
        except OSError:  # there is no stderr
            yield
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            kept.seek(0)
            for line in kept:
                if COMPLAINT.match(line):
                    complaint = complaint or line
                else:
                    os.write(2, line)
    if complaint:
        raise damaged(complaint.decode("ascii", "replace").strip())
