"""What every decoder returns, and the errors that they share."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.georeference import NOWHERE, Georeference
from clipseg_cli.inputs.metadata import NOTHING, Metadata
from clipseg_cli.settings.inputs import DecodeOptions

MOST_FRAMES = 1000  # frames that are counted if each costs a seek in the file


class Native(NamedTuple):
    """One frame in its file's own colours and depth, for outputs that keep them."""

    pixels: np.ndarray  # uint8 or uint16 (H, W, 3), upright
    profile: bytes = b""  # the ICC profile of these pixels; b"" if they have none
    grey: bool = False  # it describes grey pixels: the three channels are equal
    metadata: Metadata = NOTHING


def as_shown(pixels: np.ndarray, notes: Iterable[str]) -> Native:
    """Returns a decoded frame with these notes as it is: its colours are sRGB, and say so if they were others."""
    return Native(pixels, profiles.srgb() if profiles.is_converted(notes) else b"")


class Decoded(NamedTuple):
    """What a decoder returns: one frame."""

    pixels: np.ndarray  # uint8 (H, W, 3) RGB, upright
    frames: int  # number in the file, counted up to MOST_FRAMES
    notes: list[str]  # what was converted or ignored
    orientation: int = 1  # the EXIF orientation that was applied; 1 if there is none, or if every reader applies it
    clear: np.ndarray | None = None  # bool (H, W): pixels without data, which masks never have; None if all have some
    georeference: Georeference = NOWHERE
    kind: str = ""  # if the file turned out to be of another kind than its first bytes say
    # Returns the frame in its own colours; called before the file is closed, if at all. None: `pixels` are what it has.
    native: Callable[[], Native] | None = None


def damaged(why: str) -> ImageError:
    """Returns the error for a file whose pixels cannot all be decoded."""
    return ImageError("corrupt", "load", f"damaged or truncated ({why}); copy or export it again")


def too_large(what: str) -> ImageError:
    """Returns the error for an image that exceeds --max-pixels."""
    way = "raise that limit if there is enough memory; for a TIFF, --tile 512px needs little"
    return ImageError("too_large", "load", f"{what} exceeds --max-pixels; {way}")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError `too_large` for an image of more than `max_pixels`."""
    if width * height > max_pixels:
        raise too_large(f"{width} x {height} pixels")


def unsupported(what: str, way: str) -> ImageError:
    """Returns the error for a sound file that cannot be read, with a way that may help."""
    return ImageError("unsupported", "load", f"{what} is not supported; {way}")


def check_bands(kind: str, options: DecodeOptions) -> None:
    """Raises ImageError if `--bands` or `--stretch` is given for a file of a kind that has none to choose."""
    if options.bands is not None or options.stretch is not None:
        what = "--stretch" if options.bands is None else "--bands"
        raise unsupported(f"{what} for {kind}", "leave it out, or save the image as TIFF")


class Sequence(Protocol):
    """The frames of one open file."""

    def decode(self, index: int) -> Decoded:
        """Decodes the frame of this 0-based number. Frames in rising order are decoded once. Raises ImageError."""


@runtime_checkable
class TimedSequence(Sequence, Protocol):
    """The frames of one open video."""

    times: tuple[float, ...]  # when each is shown, in seconds since the start of the file, rising
