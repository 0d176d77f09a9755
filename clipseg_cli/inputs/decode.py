"""Decoding: a source becomes an upright 8-bit RGB array, or an `ImageError` that says why it cannot.

The kind of a file is decided by its first bytes, never by its extension; `kinds.KINDS` names the decoder of each
kind. Together they read what cameras, phones, browsers, scanners, microscopes and satellites write. `colour` describes
how pixels that are not 8-bit sRGB are converted. An EXIF orientation of 1-8 is applied; any other value counts as 1,
with a note. Of a file with several frames, the frame that the source names is decoded, otherwise the first.
"""

import importlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import decoders, georeference
from clipseg_cli.inputs.decoders.result import MOST_FRAMES, Decoded, Native, as_shown, check_bands, unsupported
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.georeference import NOWHERE, Georeference
from clipseg_cli.inputs.kinds import DECODABLE, KINDS, SNIFF, pip_line, sniff
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.storage import buckets
from clipseg_cli.storage.paths import fault, is_url, not_a_file

if TYPE_CHECKING:
    from clipseg_cli.inputs.decoders.tiff_rows import LongImage

DEFAULTS = DecodeOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A decoded image."""

    pixels: np.ndarray  # uint8 (H, W, 3) RGB, upright, C-contiguous, its own memory
    format: str  # the kind of the file, a key of KINDS, whatever its name
    frames: int  # number in the file, counted up to MOST_FRAMES; only the first is decoded
    notes: tuple[str, ...]  # what was converted or ignored: "first of 12 frames", "broken EXIF ignored"
    orientation: int = 1  # the EXIF orientation that was applied to the stored pixels
    clear: np.ndarray | None = None  # bool (H, W): pixels without data, which masks never have; None if all have some
    georeference: Georeference = NOWHERE

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width


def load(source: Source, options: DecodeOptions = DEFAULTS) -> Image:
    """Decodes a source. Safe to call from several threads; no Python code prints anything.

    An image of more than `options.max_pixels` is refused after its header is read, before memory is allocated for it.
    Raises only ImageError: of stage "load", or the error that discovery found. A MemoryError becomes `out_of_memory`.
    """
    if source.error is not None:
        raise source.error
    with opened(source) as file, enough_memory():
        kind, decoder = recognised(file, options)
        if source.frame is not None:
            return finished(kind, decoder.sequence(kind, file, options).decode(source.frame), alone=True)
        image = finished(kind, decoder.decode(kind, file, options))
    found = placed(source, image.format)
    return replace(image, georeference=replace(found, tags=image.georeference.tags)) if found.world else image


def native(source: Source, options: DecodeOptions = DEFAULTS) -> Native:
    """Decodes a source, which `load` has decoded, in its file's own colours and depth. Raises ImageError."""
    with opened(source) as file, enough_memory():
        kind, decoder = recognised(file, options)
        found: Decoded = (
            decoder.decode(kind, file, options)
            if source.frame is None
            else decoder.sequence(kind, file, options).decode(source.frame)
        )
        return as_shown(found.pixels, found.notes) if found.native is None else found.native()


@contextmanager
def by_rows(source: Source, options: DecodeOptions = DEFAULTS) -> "Iterator[LongImage]":
    """Opens a TIFF that is read by rows, of any number of pixels. Raises ImageError."""
    from clipseg_cli.inputs.decoders.tiff_rows import LongImage

    with opened(source) as file, enough_memory():
        kind, _ = recognised(file, options)
        if kind != "TIFF":
            why = f"{kind} must be in memory as a whole: convert it to TIFF, or raise --max-pixels"
            raise ImageError("too_large", "load", why)
        yield LongImage(file, options)


def is_geotiff(source: Source) -> bool:
    """Returns whether a file on this machine says where it lies. Reads its tags alone; False if it cannot."""
    if is_url(source.path):
        return False
    number = source.frame or 0
    try:
        with opened(source) as file:
            page = tiff_pages.listed(file, number + 1)[number]
            return georeference.of_tiff(page.directory).is_geotiff
    except (ImageError, ValueError, LookupError):
        return False


def placed(source: Source, kind: str) -> Georeference:
    """Returns where an image of this kind lies by the files beside it."""
    if source.data is not None or is_url(source.path) or KINDS[kind].video:
        return NOWHERE
    return georeference.beside(source.path)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Converts a MemoryError into an ImageError."""
    try:
        yield
    except MemoryError as error:
        why = "not enough memory to decode it; lower --jobs or --max-pixels"
        raise ImageError("out_of_memory", "load", why) from error


@contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """Opens a source. If the file changes while it is open, the error is `changed`, whatever else goes wrong."""
    if source.data is not None:
        yield io.BytesIO(source.data)
        return
    try:
        if is_url(source.path):
            with buckets.opened(source.path, int((source.tag or [0])[0])) as file:
                yield file
            return
        # O_NONBLOCK: if a FIFO has taken the file's place, opening it must not wait for a writer.
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
                    raise changed()
    except (OSError, ValueError) as error:
        raise fault(error, "load") from error


def changed() -> ImageError:
    """Returns the error for a file that changed while it was read."""
    return ImageError("changed", "load", "the file changed while it was read; the next run reads it again")


def recognised(file: BinaryIO, options: DecodeOptions = DEFAULTS) -> tuple[str, Any]:
    """Returns the kind of a file and the module that decodes it, and rewinds the file. Raises ImageError.

    Also if the kind has no bands to choose, and the options choose some.
    """
    head = file.read(SNIFF)
    if not head:
        raise ImageError("empty", "load", "the file is empty; copy it again")
    kind = sniff(head)
    if kind is None or kind not in DECODABLE:
        what = "not a known image format" if kind is None else f"{kind} is not supported"
        raise ImageError("unsupported", "load", f"{what}; convert it to PNG, JPEG or TIFF")
    if not KINDS[kind].installed:
        raise unsupported(f"{kind} without one more package", pip_line(KINDS[kind].extra))
    if kind != "TIFF":
        check_bands(kind, options)
    file.seek(0)
    return kind, importlib.import_module(f"{decoders.__name__}.{KINDS[kind].decoder}")


def finished(kind: str, decoded: Decoded, alone: bool = False) -> Image:
    """Returns the image of a decoded frame. `alone`: it was asked for by its number, so others are not left out."""
    frames = 1 if alone else decoded.frames
    notes = [*decoded.notes, *counted(frames)]
    pixels = np.require(decoded.pixels, np.uint8, ("C", "W"))
    place = decoded.georeference
    return Image(pixels, decoded.kind or kind, frames, tuple(notes), decoded.orientation, decoded.clear, place)


def counted(frames: int) -> Iterator[str]:
    """Yields a note on how many frames a file has, if only the first of several is decoded."""
    if frames > 1:
        more = " or more" if frames == MOST_FRAMES else ""
        yield f"first of {frames} frames{more}"
