"""TIFFs that are read row by row, from the top: of an image that is larger than memory only some rows are in memory.

The pixels are those that `tiff_bands` gives for the whole page. What it must know of the whole page, such as the
percentiles that become black and white, is found first, in a pass over the file that reads it by rows too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import georeference, orientation
from clipseg_cli.inputs.colour import conversion
from clipseg_cli.inputs.decoders import tiff_arrays as arrays
from clipseg_cli.inputs.decoders import tiff_bands
from clipseg_cli.inputs.decoders.result import MOST_FRAMES, damaged, unsupported
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.frames.tiff_pages import Page
from clipseg_cli.inputs.georeference import Georeference
from clipseg_cli.inputs.rows import Rows
from clipseg_cli.settings.inputs import DecodeOptions

CHUNK = 256  # rows that are converted at once, or those of one row of tiles if they are more
MOST_BYTES = 1 << 29  # of the samples of such a chunk
WAY = "store it in tiles, for example with gdal_translate -co TILED=YES"

Facts = tuple[float, ...]  # what a pass over the file has found


class LongImage:
    """The first page of an open TIFF file."""

    def __init__(self, file: BinaryIO, options: DecodeOptions) -> None:
        """Reads the tags. Raises ImageError."""
        with _errors():
            pages = tiff_pages.listed(file, MOST_FRAMES)
            self.page, self.frames = pages[0], len(pages)
            directory = self.page.directory
            if tiff_pages.is_camera_raw(directory) or tiff_pages.is_thumbnail(directory) or self.page.plane:
                raise unsupported("camera raw in windows", "raise --max-pixels")
            if directory.number(orientation.TAG, 1) != 1:
                raise unsupported("an EXIF orientation in windows", "turn the image itself, or raise --max-pixels")
            self.notes: list[str] = []
            self.shown = tiff_bands.chosen(self.page, options, self.notes)
            self.mask = _mask(self.page)
            for form in (self.shown.form, self.mask):
                if form is not None:
                    _check(form, len(self.shown.kept))
            if self.shown.alpha and not self.shown.geo and (self.shown.form.bits > 16 or self.shown.form.form != 1):
                raise unsupported("transparency of this type in windows", "raise --max-pixels")
        self.height, self.width = self.shown.form.height, self.shown.form.width
        self._pixels, self._clear = Rows(), Rows()

    @property
    def georeference(self) -> Georeference:
        """Where it lies, by its tags."""
        return georeference.of_tiff(self.page.directory)

    def survey(self, facts: Facts = ()) -> Facts:
        """Finds what only the whole page says, in one or two passes over the file, unless the facts are given.

        Returns them. Must be called before `between`. Raises ImageError.
        """
        if not facts:
            with _errors():
                self.shown = tiff_bands.surveyed(self.shown, self._blocks, self.notes)
            shown = self.shown
            return (shown.transparent, shown.soft, shown.highest, *(shown.limits or ()))
        limits = (facts[3], facts[4]) if len(facts) > 3 else None
        self.shown = replace(
            self.shown, transparent=bool(facts[0]), soft=bool(facts[1]), highest=facts[2], limits=limits
        )
        return facts

    def between(self, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows as uint8 (R, W, 3), and bool (R, W): which pixels have no data. `top` never falls.

        Raises ImageError.
        """
        step = self._step
        if self._pixels.held is None:
            for rows in (self._pixels, self._clear):
                rows.drop(top // step * step)
        with _errors():
            made = [self._converted(span) for span in _spans(self._pixels.end, bottom, self.height, step)]
        for rows, parts in zip((self._pixels, self._clear), zip(*made, strict=True), strict=False):
            rows.add(np.concatenate(parts))
        self._pixels.drop(top)
        self._clear.drop(top)
        return self._pixels.between(top, bottom), self._clear.between(top, bottom)

    @property
    def _step(self) -> int:
        """Rows that can only be decoded together."""
        return 1 if self.shown.form.is_cut else self.shown.form.down

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        for span in _spans(0, self.height, self.height, self._step):
            yield span.start, arrays.samples(self.shown.form, self.page, self.shown.kept, span)

    def _converted(self, span: slice) -> tuple[np.ndarray, np.ndarray]:
        notes: list[str] = []
        samples = arrays.samples(self.shown.form, self.page, self.shown.kept, span)
        pixels, clear = tiff_bands.rgb(self.shown, samples, notes)
        if self.mask is not None and self.page.mask is not None:
            clear |= arrays.samples(self.mask, Page(self.page.mask), (0,), span)[:, :, 0] == 0
            pixels[clear] = conversion.BACKGROUND
        self.notes += [note for note in notes if note not in self.notes]
        return pixels, clear


def _spans(start: int, bottom: int, height: int, step: int) -> Iterator[slice]:
    """Yields spans of rows that together reach `bottom` or more, each of whole strips or tiles."""
    rows = max(step, CHUNK // step * step)
    while start < bottom:
        stop = min(height, start + rows)
        yield slice(start, stop)
        start = stop


def _mask(page: Page) -> arrays.Layout | None:
    """Returns the layout of the page's own transparency mask; None without one. Raises ImageError, ValueError."""
    if page.mask is None:
        return None
    form, whole = arrays.layout(page.mask), arrays.layout(page.directory)
    return form if (form.width, form.height) == (whole.width, whole.height) else None


def _check(form: arrays.Layout, kept: int) -> None:
    """Raises ImageError for a page that cannot be read by rows."""
    arrays.check_kind(form)
    rows = 1 if form.is_cut else form.down
    if rows * form.width * kept * form.dtype.itemsize > MOST_BYTES or (
        not form.is_cut and form.size(rows) > MOST_BYTES
    ):
        raise ImageError("too_large", "load", f"a strip or tile of {form.across} x {rows} pixels; {WAY}")


@contextmanager
def _errors() -> Iterator[None]:
    """Converts a ValueError into an ImageError."""
    try:
        yield
    except ValueError as error:
        raise damaged(str(error)) from error
