"""Colour: converts a decoded Pillow image of any mode to 8-bit sRGB.

wide, float     by the rule of `levels`; but of 16-bit colour that Pillow reads, the high byte
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
from clipseg_cli.inputs.colour import levels, profiles

BACKGROUND = (255, 255, 255)  # RGB behind transparent pixels: the white of the pages that most such images stand on
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
GREY_MODES = ("1", "L", "LA", "La")
CMYK, LAB = "CMYK converted without an ICC profile", "LAB converted to sRGB"  # notes
RARE_LAYOUT = "TIFF layout that many programs do not read"  # a note
CHOSEN_BANDS = " shown"  # ends a note
ALPHA = " taken as transparency"  # ends a note
NOT_ALPHA = " is marked as transparency, but does not look like it: ignored"  # ends a note
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
    """Returns whether many readers fail at an image with these notes: CMYK, Lab, more than 8 bits, a rare layout.

    Also if other bands of it are shown than they would.
    """
    uncommon = (CMYK, LAB, RARE_LAYOUT, profiles.CMYK_CONVERTED)
    return any(note.endswith((levels.SCALED, CHOSEN_BANDS, NOT_ALPHA)) or note in uncommon for note in notes)


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
        grey, profile = levels.scaled(values, white, "grey", notes), image.info.get("icc_profile")
    else:
        grey, profile = levels.stretched(values, notes), None  # measurements, whatever their profile says
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white; Pillow inverts only 8-bit images
        grey = 255 - grey
    pixels = profiles.to_srgb(grey, profile, notes)
    if isinstance(clear := image.info.get("transparency"), int) and (values == clear).any():
        pixels[values == clear] = BACKGROUND
        notes.append("transparency composited on white")
    return pixels
