"""Metadata: what a photo's file says about it in EXIF and XMP, read so that outputs can carry it.

EXIF is kept as the tags of its directories, which any file can hold again. Left out are the layout of the pixels, the
thumbnail and the camera maker's own notes: they hold other views of the whole photo, and positions in its file.
"""

import io
from typing import NamedTuple

from clipseg_cli.inputs.frames.tiff_pages import DESCRIPTION, Directory, Field, directories

EXIF, GPS, XMP = 34665, 34853, 700  # tags of a main directory that point to the others, or hold XMP
# Of the main directory: description, make, model, resolution (3 tags), software, date, artist, computer, rating
# (2 tags), copyright, and Windows' title, comment, author, keywords, subject.
MAIN = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096))
NOT_KEPT = (37500, 40965)  # of the EXIF directory: the maker's notes, and where another directory is
LARGEST = 1 << 16  # bytes of a tag
LARGEST_XMP = 1 << 20  # bytes
# How the description of a TIFF begins that says how other programs shall read the pixels: ImageJ, OME, tifffile.
LAYOUTS = (b"ImageJ=", b"<", b"{", b"SCIFIO")


class Metadata(NamedTuple):
    """What a file says about its image, without the orientation, which follows from the pixels."""

    main: tuple[Field, ...] = ()  # tags of EXIF
    exif: tuple[Field, ...] = ()
    gps: tuple[Field, ...] = ()
    xmp: bytes = b""


NOTHING = Metadata()


def of_block(exif: object, xmp: object) -> Metadata:
    """Returns the metadata in a block of EXIF and a packet of XMP, each if it is bytes. A damaged block is left out."""
    packet = xmp if isinstance(xmp, bytes) and len(xmp) <= LARGEST_XMP else b""
    if not isinstance(exif, bytes):
        return Metadata(xmp=packet)
    try:
        first = next(directories(io.BytesIO(exif.removeprefix(b"Exif\0\0"))))
    except ValueError:
        return Metadata(xmp=packet)
    return _of_directory(first)._replace(xmp=packet)


def of_tiff(directory: Directory) -> Metadata:
    """Returns the metadata in the directory of a TIFF's page."""
    found = _of_directory(directory)
    try:
        packet = directory.content(XMP, LARGEST_XMP + 1)
    except ValueError:
        packet = b""
    main = tuple(field for field in found.main if field.tag != DESCRIPTION or not field.content.startswith(LAYOUTS))
    return found._replace(main=main, xmp=packet if len(packet) <= LARGEST_XMP else b"")


def _of_directory(directory: Directory) -> Metadata:
    main, exif, gps = (
        [each.field(tag, LARGEST) for each in group for tag in each.tags]
        for group in ([directory], directory.subdirectories(EXIF), directory.subdirectories(GPS))
    )
    return Metadata(
        tuple(field for field in main if field is not None and field.tag in MAIN),
        tuple(field for field in exif if field is not None and field.tag not in NOT_KEPT),
        tuple(field for field in gps if field is not None),
    )
