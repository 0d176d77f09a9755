"""The bands of a TIFF page: which are shown, which is transparency, and how their samples become 8-bit sRGB.

Those of `--bands` are shown, or red, green and blue, as the file names them or as the first three bands, otherwise the
first band as grey. Wider samples than 8 bits become 8 bits by the rule of `levels`, or by `--stretch`. A GeoTIFF
without an ICC profile is a measurement and no photo: without `--stretch`, its 2nd and 98th percentiles become black and
white. A GeoTIFF here is a page with tags of GeoTIFF or of GDAL.
"""

from dataclasses import replace

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


def decode(page: Page, options: DecodeOptions, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns uint8 (H, W, 3) of a page, and bool (H, W): which pixels have no data, or None; adds notes.

    Both are upright. Raises ImageError.
    """
    try:
        form = arrays.layout(page.directory)
        form = replace(form, form=arrays.UNSIGNED if form.form == arrays.UNDEFINED else form.form)
        shown, alpha = _bands(form, options.bands, notes)
        kept = shown if alpha is None else (*shown, alpha)
        arrays.check(form, len(kept), options.max_pixels)
        samples = arrays.samples(form, page, kept)
        if alpha is not None and is_geotiff(page.directory):
            samples, alpha = _judged(samples, alpha, notes)
        pixels, clear = _rgb(form, samples, alpha is not None, options.stretch, notes)
        turn = page.directory.number(orientation.TAG, 1)
    except ValueError as error:
        raise damaged(str(error)) from error
    if turn not in orientation.VALUES:
        notes.append(orientation.OUT_OF_RANGE)
        turn = 1
    return orientation.upright(pixels, turn), orientation.upright(clear, turn) if clear.any() else None


def native(page: Page, options: DecodeOptions) -> tuple[np.ndarray, bytes, bool] | None:
    """Returns uint16 (H, W, 3) of a page of more than 8 bits, upright, its ICC profile, and whether that is of grey.

    None if `decode` stretches or converts its samples otherwise than by their type and profile. Raises ImageError.
    """
    try:
        form = arrays.layout(page.directory)
        profile = form.directory.content(arrays.ICC_PROFILE, LARGEST_PROFILE)
        plain = form.form in (arrays.UNSIGNED, arrays.UNDEFINED) and 8 < form.bits <= 16
        plain &= options.stretch in (None, NONE) and form.photometric not in (*SPACES, arrays.YCBCR)
        if not plain or (options.stretch is None and is_geotiff(page.directory) and not profile):
            return None
        form = replace(form, form=arrays.UNSIGNED)
        shown, alpha = _bands(form, options.bands, [])
        samples = arrays.samples(form, page, shown if alpha is None else (*shown, alpha))
        turn = page.directory.number(orientation.TAG, 1)
    except ValueError as error:
        raise damaged(str(error)) from error
    clear = no_data.found(samples[:, :, : len(shown)], georeference.no_data(page.directory))
    white = (1 << form.bits) - 1
    wide = conversion.sixteen_bits(samples[:, :, : len(shown)], white)
    if form.photometric == arrays.WHITE_IS_ZERO:
        wide = 65535 - wide
    if len(shown) == 1:
        wide = np.repeat(wide, 3, axis=2)
    band = samples[:, :, len(shown) :]
    if alpha is not None and (not is_geotiff(page.directory) or no_data.is_transparency(band[:, :, 0])):
        opacity = conversion.sixteen_bits(band, white if not is_geotiff(page.directory) else int(band.max() or 1))
        wide = conversion.composited(np.dstack([wide, opacity]), arrays.PREMULTIPLIED in form.extra)
    wide[clear] = 65535
    space = profiles.space(profile)
    used = space == "RGB" or (space == "L" and len(shown) == 1)
    wide = orientation.upright(wide, turn if turn in orientation.VALUES else 1)
    return wide, profile if used else b"", used and space == "L"


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


def _judged(samples: np.ndarray, alpha: int, notes: list[str]) -> tuple[np.ndarray, int | None]:
    """Returns the samples and the number of the last band, if it is transparency; without that band if it is not.

    Adds a note on what it was taken for.
    """
    band = samples[:, :, -1]
    if no_data.is_transparency(band):
        if (band != band.max()).any() or not band.any():
            notes.append(f"band {alpha + 1}{conversion.ALPHA}")
        return samples, alpha
    notes.append(f"band {alpha + 1}{conversion.NOT_ALPHA}")
    return samples[:, :, :-1], None


def _rgb(
    form: arrays.Layout, samples: np.ndarray, has_alpha: bool, stretch: Stretch | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 (H, W, 3) of the kept bands, and bool (H, W): which pixels have no data.

    Transparency and other colour spaces are left to `colour`.
    """
    profile, geo = form.directory.content(arrays.ICC_PROFILE, LARGEST_PROFILE), is_geotiff(form.directory)
    shown = samples[:, :, :-1] if has_alpha else samples
    clear = no_data.found(shown, georeference.no_data(form.directory))
    if has_alpha and geo:
        alpha = samples[:, :, -1]
        clear |= alpha == 0
        has_alpha = bool(((alpha > 0) & (alpha < alpha.max())).any())  # otherwise `_blank` does all
    if form.photometric == arrays.PALETTE:
        return _blank(_from_palette(form, samples[:, :, 0]), clear), clear
    if form.photometric in (arrays.LAB, arrays.ICC_LAB):
        mode, eight = "LAB", _lab(form, samples)
    else:
        grey = shown.shape[2] == 1
        mode = "L" if grey else "CMYK" if form.photometric == arrays.CMYK else "RGB"
        if geo and not profile and (form.bits > 8 or form.form != arrays.UNSIGNED):
            stretch = stretch or PERCENTILES
        eight = _eight(form, shown, "grey" if grey else "colour", notes, stretch, clear)
        if form.photometric == arrays.WHITE_IS_ZERO:
            eight = 255 - eight
        if has_alpha:
            eight = np.concatenate([eight, _alpha(form, samples[:, :, -1:], geo)], axis=2)
            mode += "a" if arrays.PREMULTIPLIED in form.extra else "A"
    image = PIL.Image.frombytes(mode, (form.width, form.height), eight.tobytes())
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


def _alpha(form: arrays.Layout, band: np.ndarray, geo: bool) -> np.ndarray:
    """Returns transparency as uint8. That of a GeoTIFF is full at its highest value, whatever its type holds."""
    if not geo:
        return _eight(form, band, "alpha", [])
    highest = band.max() or 1
    if form.form == arrays.UNSIGNED and form.bits <= 16:
        return levels.scaled(band, int(highest), "alpha", [])
    return np.asarray((band.astype(np.float32) * np.float32(255 / highest)).round().clip(0, 255), np.uint8)


def _eight(
    form: arrays.Layout,
    values: np.ndarray,
    what: str,
    notes: list[str],
    stretch: Stretch | None = None,
    clear: np.ndarray | None = None,
) -> np.ndarray:
    """Returns samples as 8 bits, by the rule of `levels`; `stretch` and `clear` as there."""
    narrow = form.form == arrays.UNSIGNED and form.bits <= 16
    if not narrow or (stretch is not None and stretch != NONE):
        return levels.stretched(values, notes, stretch, clear)
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
