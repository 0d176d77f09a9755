"""Pixels: one source becomes an upright 8-bit RGB array, or an `ImageError` that says why not.

Pillow decodes, and only the formats of `PLUGINS`, each named by the file's first bytes and never by its extension:

    in    JPEG (also MPO and Ultra HDR), PNG, GIF, WebP, BMP, TIFF, PNM/PFM, AVIF, JPEG 2000: what cameras, phones,
          browsers, scanners, microscopes and satellites write
    out   HEIC and JPEG XL (Pillow has no decoder); TGA (no magic bytes: any text could be one); ICO and ICNS (icons);
          PSD, EPS, WMF, FITS, BLP, FLI and the rest (rare, unsafe or external programs). None of those is imported.

What happens to pixels that are not 8-bit RGB:

    16-bit grey     divided by 257, so that it equals the 8-bit version; 12-bit grey by 4095/255
    wider, signed   stretched from its lowest to its highest value
    float           0..1 becomes 0..255; other ranges are stretched; NaN is black
    16-bit colour   the high byte
    transparency    shown on `BACKGROUND`
    CMYK            through its ICC profile where that is sound, otherwise by the plain formula
    LAB             to sRGB; other embedded profiles are not applied, as in the reference processor
    EXIF            orientation 1-8 applied; anything else counts as 1, with a note
    animation       the first frame
"""

import errno
import io
import logging
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageCms,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    TiffTags,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from clipseg_cli.errors import ErrorClass, ImageError
from clipseg_cli.inputs.discovery import Source
from clipseg_cli.storage import buckets
from clipseg_cli.storage.files import SNIFF, TORN, bare_png, fault, is_url, not_a_file, short_png, sniff, unread

# Called directly instead of through PIL.Image.open: nothing outside this table can run, and errors keep their reason.
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
}
BACKGROUND = (255, 255, 255)  # RGB behind transparent pixels: the white of the pages that most such images stand on
# Bytes; larger files are read in place where Pillow does. In memory, a file cut short meanwhile cannot crash libtiff.
READ_WHOLE = 1 << 26
WHOLE = {*TORN, "WEBP", "AVIF"}  # in memory whatever their size, which is therefore limited
LARGEST_PIXEL = 8  # bytes in a file: four channels of 16 bits that could not be compressed
MOST_PAGES = 1000  # TIFF pages counted: each costs a jump in the file
LARGEST_TILE = 1 << 24  # pixels of a TIFF's tile, of which whole ones are decoded: 16 times that of any writer
TIFF_HEADER = 8  # bytes; before it stand no pixels
ORIENTATION = 0x0112  # TIFF tag, also of EXIF
SUBFILE_TYPE, DNG_VERSION = 0x00FE, 0xC612  # TIFF tags
WEBP = 50001  # TIFF compression that Pillow's libtiff is built without
# How Pillow says that a sound file is of a kind that it does not know.
UNREAD = "unknown pixel mode|unknown raw mode|samples per pixel|cannot handle|not supported|Unsupported BMP (?!Palette)"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # or its complaints about a file would go to stderr

ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "HSV")


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A decoded image."""

    pixels: np.ndarray  # uint8 (H, W, 3) RGB, upright, C-contiguous, its own memory
    format: str  # the real container, a key of PLUGINS, whatever the file's name
    frames: int  # in the file, of which the first is read; a multi-page TIFF counts to MOST_PAGES
    notes: tuple[str, ...]  # what was not plain: "first of 12 frames", "broken EXIF ignored"


def load(source: Source, *, max_pixels: int) -> Image:
    """Decodes one source. Safe to call from several threads; nothing is printed by Python code.

    Raises ImageError only, with stage "load" or what discovery met; a MemoryError becomes `out_of_memory`.
    An image of more than `max_pixels` is refused from its header, before memory is taken for it.
    """
    if source.error is not None:
        raise source.error
    _hush(max_pixels)
    with _opened(source) as file:
        try:
            return _decode(file, max_pixels)
        except MemoryError as error:
            raise _failure("out_of_memory", "not enough memory to decode it; lower --jobs or --max-pixels") from error


def orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block, 1 where it has none. Raises ValueError where the block is broken."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        raise ValueError("no byte order")
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", block, entry)
            if tag == ORIENTATION:
                layout = {1: "B", 3: "H", 4: "I"}.get(kind, "H")  # BYTE, SHORT (the standard's), LONG
                return int(struct.unpack_from(order + layout, block, entry + 8)[0])
    except struct.error as error:
        raise ValueError(str(error)) from error
    return 1


def upright(pixels: np.ndarray, value: int) -> np.ndarray:
    """Turns an array (H, W, ...) stored with EXIF orientation 1-8 the way a viewer shows it; a view where it can be."""
    if value >= 5:  # the stored rows are the columns that a viewer shows
        pixels = pixels.swapaxes(0, 1)
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _failure(kind: ErrorClass, message: str) -> ImageError:
    return ImageError(kind, "load", message)


def _hush(max_pixels: int) -> None:
    """Silences Pillow's warnings and lifts its own pixel limit where ours is higher.

    Both are global to the process, so they only ever move one way: no thread can see another's setting undone.
    They are set here and not at import, because others reset the warning filters.
    """
    mine = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if mine not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    if PIL.Image.MAX_IMAGE_PIXELS is not None and max_pixels > PIL.Image.MAX_IMAGE_PIXELS:
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """The source's bytes. Whatever goes wrong while they are used, `changed` wins where the file changed meanwhile."""
    if source.data is not None:
        yield io.BytesIO(source.data)
        return
    try:
        if is_url(source.path):
            with buckets.opened(source.path, int((source.tag or [0])[0])) as file:
                yield file
            return
        # O_NONBLOCK: where a FIFO has taken the file's place, opening it must not wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(source.path, flags), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise not_a_file("load")
            try:
                yield file
            finally:
                after = os.fstat(file.fileno())
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise _failure("changed", "modified while it was read; it is read again by the next run")
    except (OSError, ValueError) as error:
        raise fault(error, "load") from error


def _decode(file: BinaryIO, max_pixels: int) -> Image:
    head = file.read(SNIFF)
    if not head:
        raise _failure("empty", "the file has no bytes; copy it again")
    form = sniff(head)
    if form not in PLUGINS:
        what = "not an image" if form is None else f"{form} is not read"
        raise _failure("unsupported", f"{what}; convert it to one of {', '.join(PLUGINS)}")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if form in WHOLE and size > max(READ_WHOLE, LARGEST_PIXEL * max_pixels):
        raise _too_large(f"{size} bytes")
    data, frames = b"", 0
    if size <= READ_WHOLE or form in TORN:
        data = file.read()
        if what := unread(form, data):
            raise _failure("unsupported", f"{what} is not read; save it as 8-bit RGB")
        if form == "PNG":
            data, frames = bare_png(data)
        file = io.BytesIO(data)
    notes: list[str] = []
    with _reasons():
        image = PLUGINS[form](file, "")
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(f"{width} x {height} pixels")
    if form in TORN and (torn := TORN[form](data, width * height)):
        raise _failure("corrupt", f"{torn}; copy or export it again")
    with _reasons():
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff(image)
        stored = _tiff_orientation(image, notes)  # Pillow turns TIFF itself while loading, and forgets the tag
        image.load()
        # a row that is missing stays black; in an interlaced picture it may be any
        doubtful = form == "PNG" and (data[28] or not np.asarray(image.crop((0, height - 1, width, height))).any())
        if doubtful and short_png(data):
            raise _failure("corrupt", "fewer pixels than its header says; copy or export it again")
        pixels = _rgb(image, notes)
    pixels = upright(pixels, stored if stored is not None else _exif_orientation(image, notes))
    frames = frames or _frames(image)
    if frames > 1:
        notes.append(f"first of {frames} frames" if frames != MOST_PAGES else f"first of {frames} frames or more")
    return Image(np.require(pixels, np.uint8, ("C", "W")), form, frames, tuple(notes))


@contextmanager
def _reasons() -> Iterator[None]:
    """Turns what Pillow raises on a bad file into an ImageError. It raises far more kinds than it documents."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise _too_large("a part of it") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a place before its beginning
            raise  # the disk's own failure, not the image's
        text = str(error) or type(error).__name__
        key = error.__cause__.args[0] if isinstance(error.__cause__, KeyError) else None
        if key in TiffTags.TAGS_V2:
            text = f"no {TiffTags.TAGS_V2[key].name}"
        elif key is not None or re.search(UNREAD, text):
            text = f"compression {text}" if text.isdecimal() else text
            why = f"a kind of pixels that is not read ({text}); save it as 8-bit RGB"
            raise _failure("unsupported", why) from error
        raise _failure("corrupt", f"broken or cut short ({text}); copy or export it again") from error


def _too_large(what: str) -> ImageError:
    return _failure("too_large", f"{what} is more than --max-pixels allows; raise it if memory does")


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuses what Pillow takes: a picture beside the one that is meant, a tile that is a bomb, parts that are missing
    or misread. Raises ImageError."""
    tags, (width, height) = image.tag_v2, image.size
    if tags.get(TiffImagePlugin.COMPRESSION) == WEBP:
        raise _failure("unsupported", "WebP within TIFF is not read; save it as one or the other")
    if DNG_VERSION in tags or (tags.get(SUBFILE_TYPE, 0) == 1 and TiffImagePlugin.SUBIFD in tags):
        raise _failure("unsupported", "a camera's raw file is not read; convert it to JPEG or TIFF")
    tile = int(tags.get(TiffImagePlugin.TILEWIDTH, 0)) * int(tags.get(TiffImagePlugin.TILELENGTH, 0))
    if tile > max(width * height, LARGEST_TILE):
        raise _too_large(f"a tile of {tile} pixels")
    raw = [tile for tile in image.tile if tile.codec_name == "raw"]
    layers = len(image.getbands()) if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 else 1
    if raw and layers > 1 and max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8:  # Pillow takes every other byte
        raise _failure("unsupported", "16-bit colour in planes is not read; save it compressed, or as 8-bit RGB")
    boxes = [tile.extents or (0, 0, 0, 0) for tile in raw]
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
    if raw and (covered < layers * width * height or min(tile.offset for tile in raw) < TIFF_HEADER):
        raise _failure("corrupt", "parts of its pixels are missing; copy or export it again")


def _tiff_orientation(image: ImageFile, notes: list[str]) -> int | None:
    """1 for a TIFF, which Pillow turns; None for the other formats."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    value = image.tag_v2.get(ORIENTATION, 1)
    if value not in range(1, 9):
        notes.append("orientation outside 1-8 ignored")
    return 1


def _exif_orientation(image: ImageFile, notes: list[str]) -> int:
    """The stored orientation, 1 with a note where it makes no sense."""
    exif = image.info.get("exif")
    if not isinstance(exif, bytes):
        return 1
    try:
        value = orientation(exif)
    except ValueError:
        notes.append("broken EXIF ignored")
        return 1
    if value in range(1, 9):
        return value
    notes.append("orientation outside 1-8 ignored")
    return 1


def _rgb(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    """uint8 (H, W, 3) of a loaded image of any mode. ImageError for a mode that is not read."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(image, notes)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        return np.array(_on_background(image, notes))
    if image.mode == "CMYK":
        image = _from_cmyk(image, notes)
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB")) or image
        notes.append("LAB converted to sRGB")
    elif image.mode not in PLAIN_MODES:
        raise _failure("unsupported", f"pixel mode {image.mode} is not read; save it as 8-bit RGB")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _on_background(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    notes.append("transparency shown on white")
    canvas = PIL.Image.new("RGB", rgba.size, BACKGROUND)
    canvas.paste(rgba, mask=alpha)
    return canvas


def _from_cmyk(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    if profile := image.info.get("icc_profile"):
        try:
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            notes.append("broken colour profile ignored")
        else:
            notes.append("CMYK converted by its profile")
            return converted or image
    notes.append("CMYK converted without a profile")
    return image.convert("RGB")


def _grey(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    """uint8 (H, W, 3) of integers beyond 8 bits or floats."""
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if image.mode.startswith("I;16") or (isinstance(image, PpmImagePlugin.PpmImageFile) and image.mode == "I"):
        white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
        table = (np.arange(65536) * 255 + white // 2) // white
        grey = table.clip(0, 255).astype(np.uint8)[values]
        notes.append("16-bit grey scaled to 8 bits")
    else:
        grey = _stretched(values, notes)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero; Pillow turns only 8 bits round
        grey = 255 - grey
    if isinstance(clear := image.info.get("transparency"), int) and (values == clear).any():
        grey[values == clear] = BACKGROUND[0]
        notes.append("transparency shown on white")
    return np.repeat(grey[:, :, None], 3, axis=2)


def _stretched(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """uint8 of the same shape: 0..1 of floats, otherwise the whole range of the finite values, onto 0..255."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    notes.append(f"values {low:g} to {high:g} scaled to 8 bits")
    scale = 255 / (high - low) if high > low else 0.0
    with np.errstate(all="ignore"):
        scaled = values.astype(np.float32) * np.float32(scale) - np.float32(low * scale)
        scaled = np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0).round().clip(0, 255)
    return np.asarray(scaled, np.uint8)


def _frames(image: ImageFile) -> int:
    """How many frames the file has, at least 1, without decoding another; damage behind the first is not its fault."""
    page = 1
    try:
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return int(getattr(image, "n_frames", 1))
        for page in range(1, MOST_PAGES):  # n_frames would follow a chain of any length, in quadratic time
            image.seek(page)
    except Exception:
        return page
    return MOST_PAGES
