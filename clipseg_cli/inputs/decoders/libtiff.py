"""What libtiff, Pillow's library for compressed TIFFs, reports about a file: kept, and not printed on stderr.

libtiff has one handler of errors for the whole process. It is called in the thread that decodes, so every thread
keeps its own reports. If a Pillow has no libtiff, or hides its functions (as on Windows), nothing is collected.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from PIL import _imaging  # the module of Pillow that is linked with libtiff

LENGTH = 200  # characters of a report
MOST = 3  # reports about tags that become notes
FILE = "tempfile.tif: "  # what Pillow calls every file
# Functions of libtiff that report a tag which they skip. All others report lost pixels.
ABOUT_TAGS = ("TIFFReadDirectory", "TIFFFetchNormalTag", "TIFFSetField", "_TIFFVSetField")


class Report(NamedTuple):
    """One message of libtiff."""

    function: str  # or the part of libtiff that reports, or the name of the file
    text: str


class _Kept(threading.local):
    reports: dict[Report, None] | None = None  # each once, in their order


_kept = _Kept()


@contextmanager
def reports() -> Iterator[dict[Report, None]]:
    """Yields the reports of this thread until the end of the block: each once, in their order."""
    _kept.reports = found = dict[Report, None]()
    try:
        yield found
    finally:
        _kept.reports = None


def skipped_tags(found: dict[Report, None]) -> list[str]:
    """Returns notes on the tags that libtiff skipped: the first `MOST`, and the number of the others."""
    texts = [f"libtiff: {report.text}" for report in found if report.function in ABOUT_TAGS]
    more = len(texts) - MOST
    return texts[:MOST] + ([f"libtiff: {more} more reports"] if more > 0 else [])


def lost_pixels(found: dict[Report, None]) -> str:
    """Returns why libtiff could not decode all pixels; "" if it could."""
    return next((report.text for report in found if report.function not in ABOUT_TAGS), "")


def failure(found: dict[Report, None]) -> str:
    """Returns the likely reason why nothing could be decoded; "" if there was no report."""
    return lost_pixels(found) or next((report.text for report in reversed(found)), "")


# The arguments for the format are a va_list. All systems pass it as one pointer.
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)


def _keep(function: bytes | None, form: bytes, arguments: int) -> None:
    """Keeps a report of libtiff; drops it if nothing in this thread asks for reports."""
    if _kept.reports is not None:
        text = ctypes.create_string_buffer(LENGTH)
        _formatted(text, LENGTH, form, arguments)
        words = " ".join(text.value.decode("ascii", "replace").removeprefix(FILE).split())
        clean = "".join(letter if letter.isprintable() else "?" for letter in words)
        _kept.reports[Report((function or b"").decode("ascii", "replace"), clean)] = None


_formatted = ctypes.pythonapi.PyOS_vsnprintf
_formatted.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]
_handler = _Handler(_keep)
with suppress(AttributeError, OSError):
    _set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    _set_handler.argtypes, _set_handler.restype = [_Handler], ctypes.c_void_p
    _set_handler(_handler)
