"""Colour: converts a decoded Pillow image of any mode to 8-bit RGB.

wide, float     by the rule of `levels`; but of 16-bit colour that Pillow reads, the high byte
transparency    composited on `BACKGROUND`
CMYK            through its ICC profile if that is sound, otherwise by the plain formula
LAB             to sRGB; other embedded profiles are not applied, as in the reference processor
"""

import io

import numpy as np
import PIL.Image
from PIL import ImageCms, PpmImagePlugin, TiffImagePlugin

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import levels

BACKGROUND = (255, 255, 255)  # RGB behind transparent pixels: the white of the pages that most such images stand on
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "HSV")


def rgb(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    """Returns uint8 (H, W, 3) of a loaded image; adds notes on what was converted.

    Raises ImageError `unsupported` for a mode that cannot be converted.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_grey(image, notes)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        return np.array(_on_background(image, notes))
    if image.mode == "CMYK":
        image = _from_cmyk(image, notes)
    elif image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB")) or image
        notes.append("LAB converted to sRGB")
    elif image.mode not in PLAIN_MODES:
        raise ImageError("unsupported", "load", f"pixel mode {image.mode} is not supported; save it as 8-bit RGB")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _on_background(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    notes.append("transparency composited on white")
    canvas = PIL.Image.new("RGB", rgba.size, BACKGROUND)
    canvas.paste(rgba, mask=alpha)
    return canvas


def _from_cmyk(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    if profile := image.info.get("icc_profile"):
        try:
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            notes.append("broken ICC profile ignored")
        else:
            notes.append("CMYK converted with its ICC profile")
            return converted or image
    notes.append("CMYK converted without an ICC profile")
    return image.convert("RGB")


def _from_grey(image: PIL.Image.Image, notes: list[str]) -> np.ndarray:
    """Returns uint8 (H, W, 3) of grey values that are floats, or integers wider than 8 bits."""
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if image.mode.startswith("I;16") or (isinstance(image, PpmImagePlugin.PpmImageFile) and image.mode == "I"):
        white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
        grey = levels.scaled(values, white, "grey", notes)
    else:
        grey = levels.stretched(values, notes)
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # 0 is white; Pillow inverts only 8-bit images
        grey = 255 - grey
    if isinstance(clear := image.info.get("transparency"), int) and (values == clear).any():
        grey[values == clear] = BACKGROUND[0]
        notes.append("transparency composited on white")
    return np.repeat(grey[:, :, None], 3, axis=2)
