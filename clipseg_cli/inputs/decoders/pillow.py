"""The steps shared by all decoders that use Pillow: open, check the size, decode, explain errors.

Pillow opens only the kinds of `PLUGINS`. The plug-in for PSD is missing since `psd` reads more of it; those for EPS and
WMF since they are documents; FITS, BLP, FLI, ICNS and the rest since they are rare, unsafe, or need external programs.
None of those plug-ins is imported.
"""

import errno
import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    DdsImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    QoiImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    TiffTags,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import metadata, orientation
from clipseg_cli.inputs.colour import conversion, primaries
from clipseg_cli.inputs.decoders import libtiff
from clipseg_cli.inputs.decoders.result import Decoded, Native, Sequence, check_size, damaged, too_large
from clipseg_cli.settings.inputs import DecodeOptions

# Called directly and not through PIL.Image.open: no other plug-in can run, and errors keep their reason.
PLUGINS: dict[str, Callable[[BinaryIO, str], ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "ICO": IcoImagePlugin.IcoImageFile,
    "DDS": DdsImagePlugin.DdsImageFile,
    "QOI": QoiImagePlugin.QoiImageFile,
    "TGA": TgaImagePlugin.TgaImageFile,
}
WHOLE = ("WEBP", "AVIF")  # kinds whose plug-in reads the whole file, so the size of the file is limited
# Bytes; smaller files are read into memory first, where a file that is cut short meanwhile cannot crash libtiff.
READ_WHOLE = 1 << 26
HEADERS = 1 << 16  # bytes of an AVIF that hold its boxes, before its pixels
LARGEST_PIXEL = 8  # bytes in a file: four channels of 16 bits that could not be compressed
# Pillow's messages for a sound file whose kind of pixels it cannot read.
TURNED = "turned exif"  # in `image.info`: an EXIF block whose orientation the pixels have already
UNREAD = "unknown pixel mode|unknown raw mode|samples per pixel|cannot handle|not supported|Unsupported BMP (?!Palette)"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise its complaints about a file go to stderr


def decode(kind: str, file: BinaryIO, options: DecodeOptions) -> Decoded:
    """Decodes a file of a kind that needs no checks beyond Pillow's own. Raises ImageError."""
    if kind in WHOLE:
        _check_bytes(file, options.max_pixels)
    return finished(opened(kind, in_memory(file), options.max_pixels))


def sequence(kind: str, file: BinaryIO, options: DecodeOptions) -> Sequence:
    """Opens the frames of an animation of a kind that needs no checks beyond Pillow's own. Raises ImageError."""
    if kind in WHOLE:
        _check_bytes(file, options.max_pixels)
    content = in_memory(file)
    return Frames(lambda: opened(kind, content, options.max_pixels), options.max_pixels)


class Frames:
    """The frames of a file that `open` opens. `check` raises ImageError for a damaged frame."""

    def __init__(
        self,
        open: Callable[[], ImageFile],
        max_pixels: int,
        check: Callable[[ImageFile, int], None] = lambda image, index: None,
    ) -> None:
        self.open, self.max_pixels, self.check = open, max_pixels, check
        self.image = open()

    def decode(self, index: int) -> Decoded:
        """Decodes the frame of this number, composed with those before it. Raises ImageError."""
        if index < self.image.tell():  # Pillow's way back fails on some files
            self.image = self.open()
        with reasons():
            self.image.seek(index)
        check_size(*self.image.size, self.max_pixels)
        self.check(self.image, index)
        return finished(self.image, 1)


def in_memory(file: BinaryIO) -> BinaryIO:
    """Returns a copy in memory of a file of up to `READ_WHOLE` bytes; a larger file itself."""
    return io.BytesIO(file.read()) if size(file) <= READ_WHOLE else file


def whole(file: BinaryIO, max_pixels: int) -> bytes:
    """Returns the content of a file. Raises ImageError `too_large` if it could not be an image of `max_pixels`."""
    _check_bytes(file, max_pixels)
    return file.read()


def size(file: BinaryIO) -> int:
    """Returns the size of a file in bytes, and rewinds it."""
    count = file.seek(0, os.SEEK_END)
    file.seek(0)
    return count


def _check_bytes(file: BinaryIO, max_pixels: int) -> None:
    count = size(file)
    if count > max(READ_WHOLE, LARGEST_PIXEL * max_pixels):
        raise too_large(f"{count} bytes")


def opened(kind: str, file: BinaryIO, max_pixels: int, unread: str = UNREAD) -> ImageFile:
    """Reads the header of a file; its pixels are not decoded yet. Raises ImageError, also `too_large`.

    `unread` is explained at `reasons`.
    """
    _hush(max_pixels)
    file.seek(0)
    with reasons(unread):
        image = PLUGINS[kind](file, "")
    check_size(*image.size, max_pixels)
    if kind == "AVIF":
        file.seek(0)
        codes = primaries.nclx(file.read(HEADERS))
        image.info.setdefault("icc_profile", primaries.by_code(*codes))
        image.info["transfer"] = codes[1]
    return image


def finished(
    image: PIL.Image.Image,
    frames: int = 0,
    notes: Iterable[str] = (),
    wide: Callable[[], np.ndarray] | None = None,
) -> Decoded:
    """Decodes the pixels, converts them to RGB and applies the EXIF orientation. `frames` 0: as Pillow counts them.

    `image.info` may hold an ICC profile, and as "transfer" H.273's code of the curve. `notes` are added to. `wide`
    returns the stored pixels, uint16 (H, W, 3 or 4), if they have 16 bits and the image only 8 of them.
    """
    notes = [*notes, *primaries.notes(image.info.get("transfer", 0))]
    with reasons():
        image.load()
        pixels = conversion.rgb(image, notes)
    turn = orientation.noted_orientation(image.info.get("exif"), notes)
    own = partial(native, image, turn, wide)
    return Decoded(orientation.upright(pixels, turn), frames or _frames(image), notes, turn, native=own)


def native(image: PIL.Image.Image, turn: int = 1, wide: Callable[[], np.ndarray] | None = None) -> Native:
    """Returns a loaded image in its own colours, upright by the EXIF orientation `turn`. `wide` as in `finished`.

    The image is not to be used afterwards.
    """
    info = image.info
    with reasons():
        pixels, profile, grey = conversion.native(image, None if wide is None else wide())
    about = metadata.of_block(info.get("exif") or info.get(TURNED), info.get("xmp"))
    return Native(orientation.upright(pixels, turn), profile, grey, about)


def _frames(image: PIL.Image.Image) -> int:
    """Returns how many frames the file has, at least 1. Damage after the first frame does not matter."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        return 1


def _hush(max_pixels: int) -> None:
    """Silences Pillow's warnings and raises its own pixel limit to ours.

    Both settings are global to the process, so they only ever change in one direction: no thread can see another's
    setting undone. They are set here and not at import, because others reset the warning filters.
    """
    mine = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if mine not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    if PIL.Image.MAX_IMAGE_PIXELS is not None and max_pixels > PIL.Image.MAX_IMAGE_PIXELS:
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels


@contextmanager
def reasons(unread: str = UNREAD) -> Iterator[dict[libtiff.Report, None]]:
    """Converts what a decoder raises for a bad file into an ImageError. Pillow raises far more types than it documents.

    `unread` is a regular expression of the messages for a sound file that cannot be read. Yields what libtiff reports
    meanwhile.
    """
    with libtiff.reports() as reports, _reasons(reports, unread):
        yield reports


@contextmanager
def _reasons(reports: dict[libtiff.Report, None], unread: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise too_large("a part of the image") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek before the start
            raise  # an error of the disk, not of the image
        text = str(error) or type(error).__name__
        key = error.__cause__.args[0] if isinstance(error.__cause__, KeyError) else None
        if key in TiffTags.TAGS_V2:
            text = f"no {TiffTags.TAGS_V2[key].name}"
        elif key is not None or re.search(unread, text):
            text = f"compression {text}" if text.isdecimal() else text
            why = f"unsupported pixel format ({text}); save it as 8-bit RGB"
            raise ImageError("unsupported", "load", why) from error
        if text.startswith("decoder error"):  # all that Pillow knows of an error of libtiff
            text = libtiff.failure(reports) or text
        raise damaged(text) from error
