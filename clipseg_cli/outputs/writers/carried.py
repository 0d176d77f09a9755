"""What a file of colours carries beside its pixels: an ICC profile, EXIF and XMP. And which photo it is made of.

A cutout and an overlay are made of the photo in its own colours, with its profile, wherever their file can hold that.
All other files are made of the photo in sRGB.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from clipseg_cli.inputs import metadata, orientation
from clipseg_cli.inputs.colour import profiles
from clipseg_cli.inputs.decoders.result import Native
from clipseg_cli.inputs.frames.tiff_pages import Field
from clipseg_cli.inputs.metadata import EXIF, GPS, XMP, Metadata
from clipseg_cli.outputs.writers import directories
from clipseg_cli.outputs.writers.directories import BYTE, BYTES, LONG, SHORT
from clipseg_cli.outputs.writers.result import Result
from clipseg_cli.settings.outputs import Format

HOLDING = (".png", ".jpg", ".webp", ".tif")  # files that can say what their colours are
DEEP = (".png", ".tif")  # files that hold 16 bits, and grey with transparency
COLOURED: tuple[Format, ...] = ("overlay", "cutout", "alpha")  # formats made of the photo
KEEPING: tuple[Format, ...] = ("cutout",)  # formats that keep EXIF and XMP unless --metadata says otherwise
PROFILE, WIDTH, HEIGHT = 34675, 40962, 40963  # tags; the last two are of the EXIF directory
HEADER = len(directories.header(0))  # bytes of an EXIF block before its directories
# In XMP: the orientation; small views of the whole photo; where the rest of a long packet is, which is not kept.
TURN = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|>)\s*)[1-8]")
THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails>.*?</\1:Thumbnails>", re.DOTALL)
EXTENSION = re.compile(rb"\s*xmpNote:HasExtendedXMP\s*=\s*(?:\"[^\"]*\"|'[^']*')")


@dataclass(frozen=True, slots=True)
class Carried:
    """What a file carries beside its pixels."""

    profile: bytes = b""  # the ICC profile; b"": the file says nothing about its colours
    grey: bool = False  # it describes grey: the file has one channel instead of three equal ones
    metadata: Metadata = metadata.NOTHING
    turn: int = 1  # the EXIF orientation of the pixels

    @property
    def is_srgb(self) -> bool:
        """Whether the colours are those of the sRGB profile that this program writes."""
        return self.profile == profiles.srgb()

    def directories(self, height: int, width: int) -> dict[int, tuple[Field, ...]]:
        """Returns EXIF's directories for an image of this size, by the tag that points to each; 0: the main one.

        Empty if there is nothing to say.
        """
        main, exif, gps, _ = self.metadata
        if self.turn != 1 or main or exif or gps:
            main = (directories.numbers(orientation.TAG, SHORT, [self.turn]), *main)
        size = {WIDTH: width, HEIGHT: height}
        fitted = (directories.numbers(each.tag, LONG, [size[each.tag]]) if each.tag in size else each for each in exif)
        return {tag: fields for tag, fields in ((0, main), (EXIF, tuple(fitted)), (GPS, gps)) if fields}

    def block(self, height: int, width: int) -> bytes:
        """Returns an EXIF block, without the six bytes that precede it in a JPEG; b"" if there is nothing to say."""
        found = self.directories(height, width)
        if not found:
            return b""
        data, pointers = b"", []
        for tag, fields in found.items():
            if tag:
                pointers.append(directories.numbers(tag, LONG, [HEADER + len(data)]))
                data += directories.directory(fields, HEADER + len(data))
        start = HEADER + len(data)
        return directories.header(start) + data + directories.directory([*found[0], *pointers], start)

    def packet(self) -> bytes:
        """Returns the XMP, with the orientation of the pixels; b"" if there is none."""
        turned = TURN.sub(rb"\g<1>%d" % self.turn, self.metadata.xmp)
        return EXTENSION.sub(b"", THUMBNAILS.sub(b"", turned))

    def fields(self, height: int, width: int) -> tuple[Field, ...]:
        """Returns the tags of a TIFF's page; those that point to directories are 0: see `directories.placed`."""
        found = self.directories(height, width)
        pointers = (directories.numbers(tag, LONG, [0]) for tag in found if tag)
        profile = (Field(PROFILE, BYTES, len(self.profile), self.profile),) if self.profile else ()
        packet = self.packet()
        return (*found.get(0, ()), *pointers, *profile, *([Field(XMP, BYTE, len(packet), packet)] if packet else []))


NOTHING = Carried()


def converted(result: Result) -> Carried:
    """Returns what a file of the photo in sRGB carries: that it is sRGB, if it was something else before."""
    return Carried(profiles.srgb() if result.converted else b"")


def carried(form: Format, suffix: str, result: Result) -> tuple[Result, Carried]:
    """Returns the result, whose photo is the one that a file of this format and suffix is made of, and what it carries.

    Raises ImageError if the photo cannot be read again.
    """
    if form not in COLOURED:
        return result, NOTHING
    keep = (result.export.metadata or ("keep" if form in KEEPING else "strip")) == "keep"
    wanted = form == "cutout" or (form == "overlay" and (keep or result.converted))
    if not wanted or suffix not in HOLDING:
        return result, converted(result)
    turned = result.orientation if result.turn == 1 else 1  # with --orientation stored
    own = _shown(result) if result.native is None else _stored(result.native(), turned)
    opaque = form == "overlay" or result.export.backdrop is not None
    if own.grey and (opaque or suffix not in DEEP):  # what is drawn has colours, or the file has no grey
        own = _shown(result)._replace(metadata=own.metadata)
    if own.pixels.dtype == np.uint16 and (form == "overlay" or suffix not in DEEP):
        own = own._replace(pixels=((own.pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    if suffix == ".tif" and result.georeference.is_geotiff:  # always in the frame of the file
        turned = result.orientation
    about, turn = (own.metadata, turned) if keep else (metadata.NOTHING, 1)
    export, backdrop = result.export, result.export.backdrop
    if backdrop is not None and profiles.space(own.profile) == "RGB":
        red, green, blue = profiles.from_srgb(np.array([backdrop], np.uint8), own.profile)[0].tolist()
        export = replace(export, backdrop=(red, green, blue))
    return replace(result, photo=lambda: own.pixels, export=export), Carried(own.profile, own.grey, about, turn)


def _shown(result: Result) -> Native:
    return Native(result.photo(), converted(result).profile)


def _stored(found: Native, turn: int) -> Native:
    return found._replace(pixels=np.ascontiguousarray(orientation.stored(found.pixels, turn)))
