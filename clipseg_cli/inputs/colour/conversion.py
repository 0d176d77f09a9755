"""Colour: converts a decoded Pillow image of any mode to 8-bit sRGB.

wide, float     by the rule of `levels`; but of 16-bit colour that Pillow reads, the high byte
ICC profile     converted to sRGB by `profiles`, before anything is composited
transparency    composited on `BACKGROUND`
CMYK            through its ICC profile if that is sound, otherwise by the plain formula
LAB             to sRGB
"""

from collections.abc import Mapping, Sequence
from typing import Any

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


def native(image: PIL.Image.Image, wide: np.ndarray | None = None) -> tuple[np.ndarray, bytes, bool]:
    """Returns uint8 or uint16 (H, W, 3) of a loaded image in its own colours, their ICC profile, and if it is of grey.

    Only what an RGB or grey profile describes has colours of its own: all else is sRGB, as `rgb` returns it. 16 bits
    are those of `wide`, (H, W, 3 or 4), if Pillow holds fewer. The image is not to be used afterwards.
    """
    profile, notes = image.info.get("icc_profile"), list[str]()
    deep = is_deep(image)
    grey = image.mode in GREY_MODES or deep
    mode = "" if image.mode in ("CMYK", "LAB") else profiles.space(profile)
    if mode != "RGB" and (mode, grey) != ("L", True):
        if not deep and wide is None:
            pixels = rgb(image, notes)
            return pixels, profiles.srgb() if profiles.is_converted(notes) else b"", False
        profile = b""
    image.info["icc_profile"] = None  # so that colours stay as they are
    if wide is not None:
        return composited(wide), profile or b"", False
    return _deep_grey(image) if deep else rgb(image, notes), profile or b"", mode == "L"


def composited(
    pixels: np.ndarray, premultiplied: bool = False, ground: tuple[int, int, int] = (255, 255, 255)
) -> np.ndarray:
    """Returns RGB, uint8 or uint16 (H, W, 3), of RGB or RGBA pixels: transparency is composited on an 8-bit colour."""
    if pixels.shape[2] == 3:
        return pixels
    most = np.iinfo(pixels.dtype).max
    share = pixels[..., 3:].astype(np.float32) / most
    colours = pixels[..., :3] if premultiplied else pixels[..., :3] * share
    flat = np.array(ground, np.float32) * (most // 255)
    return np.rint(colours + flat * (1 - share)).clip(0, most).astype(pixels.dtype)


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
    if is_deep(image):
        grey, profile = levels.scaled(values, _white(image), "grey", notes), image.info.get("icc_profile")
    else:
        grey, profile = levels.stretched(values, notes), None  # measurements, whatever their profile says
    if _inverted(image):
        grey = 255 - grey
    pixels = profiles.to_srgb(grey, profile, notes)
    if isinstance(clear := image.info.get("transparency"), int) and (values == clear).any():
        pixels[values == clear] = BACKGROUND
        notes.append("transparency composited on white")
    return pixels


def _deep_grey(image: PIL.Image.Image) -> np.ndarray:
    """Returns uint16 (H, W, 3) of grey values of up to 16 bits: the highest value becomes 65535."""
    values = np.asarray(image)
    grey = sixteen_bits(values, _white(image))
    grey = 65535 - grey if _inverted(image) else grey
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 65535
    return np.repeat(grey[:, :, None], 3, axis=2)


def sixteen_bits(values: np.ndarray, white: int) -> np.ndarray:
    """Returns uint16 of the same shape, a copy: of unsigned integers to 16 bits, `white` and more becomes 65535."""
    if white == 65535:
        return values.astype(np.uint16)
    return np.asarray(((values.astype(np.uint32) * 65535 + white // 2) // white).clip(0, 65535), np.uint16)


def is_deep(image: PIL.Image.Image) -> bool:
    """Returns whether an image has grey values of more than 8 bits, up to 16."""
    return image.mode.startswith("I;16") or (isinstance(image, PpmImagePlugin.PpmImageFile) and image.mode == "I")


def _white(image: PIL.Image.Image) -> int:
    return 4095 if _tags(image).get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535


def _inverted(image: PIL.Image.Image) -> bool:
    """Returns whether 0 is white: Pillow inverts only 8-bit images."""
    return bool(_tags(image).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0)


def _tags(image: PIL.Image.Image) -> Mapping[int, Any]:
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
