"""The bands of a TIFF page: which are shown, which is transparency, and how their samples become 8-bit sRGB.

Those of `--bands` are shown, or red, green and blue, as the file names them or as the first three bands, otherwise the
first band as grey. Wider samples than 8 bits become 8 bits by the rule of `levels`, or by `--stretch`. A GeoTIFF
without an ICC profile is a measurement and no photo: without `--stretch`, its 2nd and 98th percentiles become black and
white. A GeoTIFF here is a page with tags of GeoTIFF or of GDAL.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import georeference, orientation
from clipseg_cli.inputs.colour import conversion, levels, profiles
from clipseg_cli.inputs.decoders import no_data
from clipseg_cli.inputs.decoders import tiff_arrays as arrays
from clipseg_cli.inputs.decoders.result import damaged, unsupported
from clipseg_cli.inputs.frames.tiff_pages import Directory, Page
from clipseg_cli.settings.inputs import NONE, DecodeOptions, Stretch

PERCENTILES: Stretch = (2.0, 98.0)  # of GeoTIFFs: what QGIS shows by default
SPACES = (arrays.PALETTE, arrays.CMYK, arrays.LAB, arrays.ICC_LAB)  # photometrics whose bands alone mean nothing
LARGEST_PROFILE = 1 << 22  # bytes


@dataclass(frozen=True, slots=True)
class Shown:
    """Which bands of a page are shown, and how. The last four are found in the samples of the whole page."""

    form: arrays.Layout
    kept: tuple[int, ...]  # the 0-based bands; the last one is the transparency, if there is one
    alpha: bool  # whether there is one
    stretch: Stretch | None
    transparent: bool = False  # the last band looks like transparency
    soft: bool = False  # some of it is neither 0 nor the highest value
    highest: float = 0.0  # its highest value
    limits: levels.Limits | None = None  # the values that become 0 and 255; None: those of the type

    @property
    def geo(self) -> bool:
        """Whether it is a page of a GeoTIFF."""
        return is_geotiff(self.form.directory)


def chosen(page: Page, options: DecodeOptions, notes: list[str]) -> Shown:
    """Returns what is shown of a page, before its samples are read; adds notes. Raises ImageError, ValueError."""
    form = arrays.layout(page.directory)
    form = replace(form, form=arrays.UNSIGNED if form.form == arrays.UNDEFINED else form.form)
    shown, alpha = _bands(form, options.bands, notes)
    measured = form.bits > 8 or form.form != arrays.UNSIGNED
    stretch = options.stretch
    if measured and is_geotiff(page.directory) and not form.directory.content(arrays.ICC_PROFILE, LARGEST_PROFILE):
        stretch = stretch or PERCENTILES
    return Shown(form, shown if alpha is None else (*shown, alpha), alpha is not None, stretch)


def decode(page: Page, options: DecodeOptions, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns uint8 (H, W, 3) of a page, and bool (H, W): which pixels have no data, or None; adds notes.

    Both are upright. Raises ImageError.
    """
    try:
        shown = chosen(page, options, notes)
        arrays.check(shown.form, len(shown.kept), options.max_pixels)
        samples = arrays.samples(shown.form, page, shown.kept)
        shown = surveyed(shown, lambda: [(0, samples)], notes)
        pixels, clear = rgb(shown, samples, notes)
        turn = page.directory.number(orientation.TAG, 1)
    except ValueError as error:
        raise damaged(str(error)) from error
    if turn not in orientation.VALUES:
        notes.append(orientation.OUT_OF_RANGE)
        turn = 1
    return orientation.upright(pixels, turn), orientation.upright(clear, turn) if clear.any() else None


def native(page: Page, options: DecodeOptions) -> tuple[np.ndarray, bytes, bool] | None:
    """Returns uint16 (H, W, 3) of a page of more than 8 bits, upright, its ICC profile, and whether that is of grey.

    None if `decode` stretches its samples, or converts them otherwise than by their profile. Raises ImageError.
    """
    try:
        shown = chosen(page, options, [])
        form, profile = shown.form, shown.form.directory.content(arrays.ICC_PROFILE, LARGEST_PROFILE)
        if not 8 < form.bits <= 16 or _is_stretched(form, shown.stretch):
            return None
        if form.photometric in (*SPACES, arrays.YCBCR):
            return None
        samples = arrays.samples(form, page, shown.kept)
        shown = surveyed(shown, lambda: [(0, samples)], [])
        turn = page.directory.number(orientation.TAG, 1)
    except ValueError as error:
        raise damaged(str(error)) from error
    (own, clear), white = _parts(shown, samples), (1 << form.bits) - 1
    wide = conversion.sixteen_bits(own, white)
    if form.photometric == arrays.WHITE_IS_ZERO:
        wide = 65535 - wide
    if grey := own.shape[2] == 1:
        wide = np.repeat(wide, 3, axis=2)
    if shown.transparent and shown.soft:
        opacity = conversion.sixteen_bits(samples[:, :, -1:], int(shown.highest) if shown.geo else white)
        wide = conversion.composited(np.dstack([wide, opacity]), arrays.PREMULTIPLIED in form.extra)
    wide[clear] = 65535
    space = profiles.space(profile)
    used = space == "RGB" or (space == "L" and grey)
    upright = orientation.upright(wide, turn if turn in orientation.VALUES else 1)
    return upright, profile if used else b"", used and space == "L"


def is_geotiff(directory: Directory) -> bool:
    """Returns whether a page has tags of GeoTIFF or of GDAL."""
    return bool(georeference.of_tiff(directory).tags)


def masked(page: Page, max_pixels: int) -> np.ndarray | None:
    """Returns the pixels that the page's own transparency mask leaves out, upright: bool (H, W). None without one.

    Raises ImageError.
    """
    if page.mask is None:
        return None
    try:
        form, whole = arrays.layout(page.mask), arrays.layout(page.directory)
        if (form.width, form.height) != (whole.width, whole.height):
            return None
        arrays.check(form, 1, max_pixels)
        turn = page.directory.number(orientation.TAG, 1)
        clear = arrays.samples(form, Page(page.mask), (0,))[:, :, 0] == 0
    except ValueError as error:
        raise damaged(str(error)) from error
    return orientation.upright(clear, turn if turn in orientation.VALUES else 1)


def _bands(form: arrays.Layout, wanted: tuple[int, ...] | None, notes: list[str]) -> tuple[tuple[int, ...], int | None]:
    """Returns the 0-based bands that are shown and that of the transparency, if there is one. Raises ImageError.

    `wanted` are those of `--bands`, from 1. Adds a note if the bands are not the usual ones.
    """
    base = form.samples - len(form.extra)
    alpha = next(
        (base + index for index, kind in enumerate(form.extra) if kind in (arrays.PREMULTIPLIED, arrays.STRAIGHT)), None
    )
    if form.photometric == arrays.RGB and form.samples == 4 and not form.extra:
        alpha = 3  # some writers leave out what the fourth band is
    needed = {arrays.RGB: 3, arrays.YCBCR: 3, arrays.LAB: 3, arrays.ICC_LAB: 3, arrays.CMYK: 4, arrays.PALETTE: 1}.get(
        form.photometric
    )
    if needed is None and form.photometric not in (arrays.WHITE_IS_ZERO, arrays.BLACK_IS_ZERO):
        raise unsupported(f"TIFF with photometric interpretation {form.photometric}", "save it as RGB")
    mixed = form.photometric in (*SPACES, arrays.YCBCR)  # these are never combined with transparency
    chosen = tuple(band - 1 for band in wanted) if wanted else None if mixed else _named(form)
    if chosen:
        if form.photometric in SPACES:
            raise unsupported("--bands for a TIFF with a palette, CMYK or Lab", "leave it out")
        if max(chosen) >= form.samples:
            which = f"there is no band {max(chosen) + 1} for --bands: the file has {form.samples}"
            raise ImageError("unsupported", "load", which)
        notes.append(f"bands {','.join(str(band + 1) for band in chosen)}{conversion.CHOSEN_BANDS}")
        return chosen, None if mixed or alpha in chosen else alpha
    plain = [band for band in range(form.samples) if band != alpha]
    if needed is None:
        needed = 3 if len(plain) >= 3 else 1
    if len(plain) < needed or (alpha is not None and alpha < 0):
        raise ValueError(f"{form.samples} bands")
    return tuple(plain[:needed]), None if mixed else alpha


def _named(form: arrays.Layout) -> tuple[int, ...] | None:
    """Returns the bands that GDAL's metadata calls red, green and blue, if they are not the usual ones."""
    named = georeference.colour_bands(form.directory)
    return None if named is None or named == (0, 1, 2) or max(named) >= form.samples else named


Blocks = Callable[[], Iterable[tuple[int, np.ndarray]]]  # the first row and the samples (R, W, B) of blocks of rows


def surveyed(shown: Shown, blocks: Blocks, notes: list[str]) -> Shown:
    """Returns what is shown, with what only the samples of the whole page say. Raises ValueError, ImageError.

    `blocks` yields them, if need be twice. Adds a note on what a band was taken for that is marked as transparency.
    """
    form = shown.form
    if shown.alpha and shown.geo:
        counts = no_data.counted(samples[:, :, -1] for _, samples in blocks())
        shown = replace(shown, transparent=counts.is_transparency, soft=counts.soft, highest=counts.highest)
        band = f"band {shown.kept[-1] + 1}"
        if not shown.transparent:
            notes.append(f"{band}{conversion.NOT_ALPHA}")
        elif not counts.full:
            notes.append(f"{band}{conversion.ALPHA}")
    elif shown.alpha:
        shown = replace(shown, transparent=True, soft=True)
    plain = form.photometric not in (arrays.PALETTE, arrays.LAB, arrays.ICC_LAB)
    if plain and _is_stretched(form, shown.stretch):
        rows = ((top, *_parts(shown, samples)) for top, samples in blocks())
        size = form.width * form.height * (len(shown.kept) - shown.alpha)
        shown = replace(shown, limits=levels.measured(rows, size, shown.stretch))
    return shown


def _parts(shown: Shown, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the samples that are shown, and bool (H, W): which pixels have no data."""
    own = samples[:, :, :-1] if shown.alpha else samples
    clear = no_data.found(own, georeference.no_data(shown.form.directory))
    return own, clear | (samples[:, :, -1] == 0) if shown.transparent and shown.geo else clear


def rgb(shown: Shown, samples: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 (H, W, 3) of the kept bands, or of some rows of them, and bool (H, W): which pixels have no data.

    Transparency and other colour spaces are left to `colour`. Adds notes. Raises ImageError, ValueError.
    """
    form, (own, clear) = shown.form, _parts(shown, samples)
    profile = form.directory.content(arrays.ICC_PROFILE, LARGEST_PROFILE)
    if form.photometric == arrays.PALETTE:
        return _blank(_from_palette(form, samples[:, :, 0]), clear), clear
    if form.photometric in (arrays.LAB, arrays.ICC_LAB):
        mode, eight = "LAB", _lab(form, samples)
    else:
        grey = own.shape[2] == 1
        mode = "L" if grey else "CMYK" if form.photometric == arrays.CMYK else "RGB"
        eight = _eight(form, own, "grey" if grey else "colour", notes, shown.stretch, shown.limits)
        if form.photometric == arrays.WHITE_IS_ZERO:
            eight = 255 - eight
        if shown.transparent and shown.soft:  # otherwise `_blank` does all
            eight = np.concatenate([eight, _alpha(shown, samples[:, :, -1:])], axis=2)
            mode += "a" if arrays.PREMULTIPLIED in form.extra else "A"
    image = PIL.Image.frombytes(mode, (eight.shape[1], eight.shape[0]), eight.tobytes())
    if mode == "RGBa":
        image = image.convert("RGBA")
    if profile:
        image.info["icc_profile"] = profile
    return _blank(conversion.rgb(image, notes), clear), clear


def _blank(pixels: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Returns the pixels with those without data like the background of transparency."""
    if clear.any():
        pixels[clear] = conversion.BACKGROUND
    return pixels


def _alpha(shown: Shown, band: np.ndarray) -> np.ndarray:
    """Returns transparency as uint8. That of a GeoTIFF is full at its highest value, whatever its type holds."""
    form, highest = shown.form, shown.highest or 1
    if not shown.geo:
        return _eight(form, band, "alpha", [])
    if form.form == arrays.UNSIGNED and form.bits <= 16:
        return levels.scaled(band, int(highest), "alpha", [])
    return np.asarray((band.astype(np.float32) * np.float32(255 / highest)).round().clip(0, 255), np.uint8)


def _is_stretched(form: arrays.Layout, stretch: Stretch | None) -> bool:
    """Returns whether the values that become black and white are other ones than the lowest and highest of the type."""
    return form.form != arrays.UNSIGNED or form.bits > 16 or (stretch is not None and stretch != NONE)


def _eight(
    form: arrays.Layout,
    values: np.ndarray,
    what: str,
    notes: list[str],
    stretch: Stretch | None = None,
    limits: levels.Limits | None = None,
) -> np.ndarray:
    """Returns samples as 8 bits, by the rule of `levels`; `stretch` and `limits` as there."""
    if _is_stretched(form, stretch):
        return levels.stretched(values, notes, stretch, limits)
    return values if form.bits == 8 else levels.scaled(values, (1 << form.bits) - 1, what, notes)


def _lab(form: arrays.Layout, values: np.ndarray) -> np.ndarray:
    """Returns CIELAB of 8 bits, with signed a and b, as Pillow has it. Raises ImageError."""
    if form.bits not in (8, 16) or form.form == arrays.FLOAT:
        raise unsupported(f"LAB with {form.bits} bits of sample format {form.form}", "save it as RGB")
    high = (values.astype(values.dtype.str.replace("i", "u")) >> (form.bits - 8)).astype(np.uint8)
    return high ^ np.array([0, 128, 128], np.uint8) if form.photometric == arrays.ICC_LAB else high


def _from_palette(form: arrays.Layout, values: np.ndarray) -> np.ndarray:
    """Returns the colours of a palette. Raises ValueError if it has too few."""
    colours = form.directory.numbers(arrays.COLOUR_MAP)
    if form.form != arrays.UNSIGNED or form.bits > 16 or len(colours) < 3 << form.bits:
        raise ValueError("its palette is missing")
    table = np.array(colours[: 3 << form.bits], np.uint16).reshape(3, -1).T >> 8
    return np.asarray(table.astype(np.uint8)[values])
