"""Colour: converts a decoded Pillow image of any mode to 8-bit sRGB.

16-bit grey     divided by 257, which equals the 8-bit version; 12-bit grey by 4095/255
wider, signed   stretched from the lowest to the highest value
float           0..1 becomes 0..255; other ranges are stretched; NaN is black
16-bit colour   the high byte
ICC profile     converted to sRGB by `profiles`, before anything is composited
transparency    composited on `BACKGROUND`
CMYK            through its ICC profile if that is sound, otherwise by the plain formula
LAB             to sRGB
"""

from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL import ImageCms, PpmImagePlugin, TiffImagePlugin

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import profiles

BACKGROUND = (255, 255, 255)  # RGB behind transparent pixels: the white of the pages that most such images stand on
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
GREY_MODES = ("1", "L", "LA", "La")
# Notes, and the end of one.
CMYK, LAB, SCALED = "CMYK converted without an ICC profile", "LAB converted to sRGB", " scaled to 8 bits"
PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "HSV")


def rgb(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    """Returns uint8 (H, W, 3), sRGB, of a loaded image; adds notes on what was converted.

    `image.info["icc_profile"]` holds the ICC profile of its pixels, if it has one.
    Raises ImageError `unsupported` for a mode that cannot be converted.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_grey(image, notes)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        return _on_background(image, notes)
    if image.mode == "CMYK":
        return _from_cmyk(image, notes)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB")) or image
        notes.append(LAB)
        return np.array(image)
    if image.mode not in PLAIN_MODES:
        raise ImageError("unsupported", "load", f"pixel mode {image.mode} is not supported; save it as 8-bit RGB")
    return profiles.to_srgb(np.array(_plain(image)), image.info.get("icc_profile"), notes)


def is_uncommon(notes: Sequence[str]) -> bool:
    """Returns whether an image with these notes is CMYK, Lab, or grey of more than 8 bits: many readers fail at it."""
    return any(note.endswith(SCALED) or note in (CMYK, LAB, profiles.CMYK_CONVERTED) for note in notes)


def _plain(image: PIL.Image.Image) -> PIL.Image.Image:
    """Returns an image as RGB, or as L if its pixels are grey."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on_background(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    """Returns uint8 (H, W, 3), sRGB, of an image with transparency, composited."""
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    opaque = rgba.getchannel("R") if image.mode in GREY_MODES else rgba.convert("RGB")
    pixels = profiles.to_srgb(np.array(opaque), image.info.get("icc_profile"), notes)
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return pixels
    notes.append("transparency composited on white")
    canvas = PIL.Image.new("RGB", rgba.size, BACKGROUND)
    canvas.paste(PIL.Image.fromarray(pixels), mask=alpha)
    return np.array(canvas)


def _from_cmyk(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    pixels = profiles.from_cmyk(np.array(image), image.info.get("icc_profile"), notes)
    if pixels is None:
        notes.append(CMYK)
        return np.array(image.convert("RGB"))
    notes.append(profiles.CMYK_CONVERTED)
    return pixels


def _from_grey(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    """Returns uint8 (H, W, 3) of grey values that are floats, or integers wider than 8 bits."""
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if image.mode.startswith("I;16") or (isinstance(image, PpmImagePlugin.PpmImageFile) and image.mode == "I"):
        white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
        table = (np.arange(65536) * 255 + white // 2) // white
        grey = table.clip(0, 255).astype(np.uint8)[values]
        notes.append(f"16-bit grey{SCALED}")
        profile = image.info.get("icc_profile")
    else:
        grey, profile = _stretched(values, notes), None  # measurements, whatever their profile says
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white; Pillow inverts only 8-bit images
        grey = 255 - grey
    pixels = profiles.to_srgb(grey, profile, notes)
    if isinstance(clear := image.info.get("transparency"), int) and (values == clear).any():
        pixels[values == clear] = BACKGROUND
        notes.append("transparency composited on white")
    return pixels


def _stretched(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Scales values to uint8 of the same shape: floats within 0..1 from that range, others from their finite range."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    notes.append(f"values {low:g} to {high:g}{SCALED}")
    scale = 255 / (high - low) if high > low else 0.0
    with np.errstate(all="ignore"):
        scaled = values.astype(np.float32) * np.float32(scale) - np.float32(low * scale)
        scaled = np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0).round().clip(0, 255)
    return np.asarray(scaled, np.uint8)
