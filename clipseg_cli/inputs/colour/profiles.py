"""ICC profiles: converts pixels to sRGB by the profile that their file carries, with LittleCMS.

The intent is relative colorimetric with black point compensation: white stays white, colours inside sRGB keep their
values, and shadows are not crushed. Matrix profiles (Display P3, Adobe RGB) come out as in a browser. Profiles with
tables, as those of presses, come out as in image editors; browsers differ among themselves there.
A profile that is sRGB in effect changes nothing. A broken profile is a note, never a failure.
"""

import functools
import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
from PIL import ImageCms

LARGEST = 1 << 24  # bytes of a profile that is used: several times those of presses
LONGEST_NAME = 60  # characters of a profile's name that a note quotes
CREATED = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # the date in our sRGB profile, in place of the present time
TAGS, MOST_TAGS = 132, 100  # bytes before the list of tags; how many LittleCMS reads
STRIP = 1 << 20  # pixels that are converted at once
# Notes.
BROKEN = "broken ICC profile ignored"
CONVERTED = "colours converted from "  # begins that of an image whose pixels were converted
CMYK_CONVERTED = "CMYK converted with its ICC profile"
MODES = {"GRAY": "L", "RGB ": "RGB", "CMYK": "CMYK"}  # Pillow's mode of the pixels, by a profile's colour space
# Without the cache of the last pixel, using a transform does not write to it, so threads can share it.
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_STEPS = np.linspace(0, 255, 9).round().astype(np.uint8)
# Colours that tell whether a profile is sRGB in effect: all greys, and a grid of colours.
PROBES = {
    "L": np.arange(256, dtype=np.uint8)[None],
    "RGB": np.concatenate(
        [
            np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1),
            np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS), axis=-1).reshape(-1, 3),
        ]
    )[None],
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a profile does to pixels."""

    space: str  # the colour space of its pixels, as it says
    mode: str  # Pillow's name of these pixels; "" if it has none
    transform: ImageCms.ImageCmsTransform | None  # to sRGB; None: it changes nothing
    name: str  # for notes


def to_srgb(pixels: np.ndarray, profile: bytes | None, notes: list[str]) -> np.ndarray:
    """Returns uint8 (H, W, 3) in sRGB of pixels that an ICC profile describes; adds a note on what was done.

    `pixels` is uint8 (H, W, 3) RGB or (H, W) grey; it is not changed, and is returned itself if it is RGB and there
    is nothing to convert. A profile that is broken or describes other pixels is ignored.
    """
    mode = "L" if pixels.ndim == 2 else "RGB"
    found = _usable(profile, mode, notes)
    if found is None:
        return _repeated(pixels)
    notes.append(f"{CONVERTED}{found.name} to sRGB")
    if found.mode == "RGB":
        return _applied(found, _repeated(pixels))
    return np.take(_applied(found, PROBES["L"])[0], pixels, axis=0)


def space(profile: object) -> str:
    """Returns Pillow's mode of the pixels that an ICC profile describes: L, RGB, CMYK; "" if it cannot be used."""
    if not isinstance(profile, bytes) or not 0 < len(profile) <= LARGEST:
        return ""
    try:
        return _conversion(profile).mode
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return ""


def from_srgb(colours: np.ndarray, profile: bytes) -> np.ndarray:
    """Returns uint8 (N, 3): colours in sRGB, uint8 (N, 3), as pixels of an RGB profile that `space` accepts."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(_bounded(profile)))
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), target, "RGB", "RGB", INTENT, FLAGS)
    converted: np.ndarray = np.array(transform.apply(PIL.Image.fromarray(colours[None])))[0]
    return converted


def is_converted(notes: Iterable[str]) -> bool:
    """Returns whether an image with these notes was converted to sRGB by an ICC profile."""
    return any(note == CMYK_CONVERTED or note.startswith(CONVERTED) for note in notes)


@functools.cache
def srgb() -> bytes:
    """Returns an ICC profile of sRGB, for files with converted colours: the same bytes at any time."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + CREATED + profile[36:]


def from_cmyk(inks: np.ndarray, profile: bytes | None, notes: list[str]) -> np.ndarray | None:
    """Returns uint8 (H, W, 3) in sRGB of inks by their ICC profile; None without a sound one.

    `inks` is uint8 (H, W, 4), 255 for full ink. A note says if there is a profile that cannot be used.
    """
    found = _usable(profile, "CMYK", notes)
    return None if found is None else _applied(found, inks)


def _repeated(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def _usable(profile: bytes | None, mode: str, notes: list[str]) -> Conversion | None:
    """Returns the conversion of pixels of this mode; None if nothing is to convert, or, with a note, cannot be."""
    if not profile:
        return None
    if len(profile) > LARGEST:
        notes.append(f"ICC profile of {len(profile)} bytes ignored")
        return None
    try:
        found = _conversion(bytes(profile))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        notes.append(BROKEN)
        return None
    # Grey images often carry an RGB profile: viewers apply it to three equal channels.
    if found.mode != mode and (mode, found.mode) != ("L", "RGB"):
        notes.append(f"ICC profile ignored: it describes {found.space} pixels, not {mode}")
        return None
    return None if found.transform is None else found


@functools.lru_cache(maxsize=8)
def _conversion(profile: bytes) -> Conversion:
    """Returns the conversion that a profile describes. Raises what ImageCms raises for a broken profile."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(_bounded(profile)))
    space = opened.profile.xcolor_space
    mode = MODES.get(space, "")
    if not mode:
        return Conversion(space.strip(), "", None, "")
    # LittleCMS would sample the curve of a grey profile, too coarsely for the shadows; only 256 values are converted.
    flags = FLAGS | ImageCms.Flags.NOOPTIMIZE if mode == "L" else FLAGS
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB", INTENT, flags)
    found = Conversion(space.strip(), mode, transform, _name(opened))
    probes = PROBES.get(mode)
    if probes is not None and np.abs(_applied(found, probes).astype(int) - _repeated(probes)).max() <= 1:
        return replace(found, transform=None)
    return found


def _bounded(profile: bytes) -> bytes:
    """Returns a profile without its tags of processing elements (D2B0, B2D0), which double other tags in floats.

    In 64 KB such a tag can ask for a minute of work. Its other tags take a time that the size of the profile bounds.
    """
    content = bytearray(profile)
    for at in range(TAGS, TAGS + 12 * min(int.from_bytes(content[TAGS - 4 : TAGS], "big"), MOST_TAGS), 12):
        if profile[at : at + 3] in (b"D2B", b"B2D"):
            content[at : at + 1] = b"x"  # the name of no tag
    return bytes(content)


def _name(opened: ImageCms.ImageCmsProfile) -> str:
    """Returns the name that a profile gives itself, if it is fit for a note."""
    name = (opened.profile.profile_description or "").strip()
    return name if name.isprintable() and 0 < len(name) <= LONGEST_NAME else "the embedded profile"


def _applied(conversion: Conversion, pixels: np.ndarray) -> np.ndarray:
    """Returns uint8 (H, W, 3): the converted pixels, by strips, since Pillow copies what it converts."""
    mode, transform = conversion.mode, conversion.transform
    assert transform is not None
    height, width = pixels.shape[:2]
    converted = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP // max(1, width))
    for top in range(0, height, rows):
        strip = np.ascontiguousarray(pixels[top : top + rows])
        image = PIL.Image.frombuffer(mode, (width, len(strip)), strip, "raw", mode, 0, 1)
        converted[top : top + rows] = np.asarray(transform.apply(image))
    return converted
