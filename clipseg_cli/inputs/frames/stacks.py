"""Stacks of microscopes: what the header of an OME-TIFF or of an ImageJ file says of its planes.

Planes are the pages of the file. Their axes, and the sizes of their pixels where they are known, go into the stacks of
masks: `header` rewrites the description for planes of one band.

OME: the schema 2016-06 (docs.openmicroscopy.org/ome-model). ImageJ: `key=value` lines (ij.io.FileInfo, TiffDecoder).
"""

import re
from dataclasses import dataclass
from typing import BinaryIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.frames.tiff_pages import Directory, Field

LARGEST = 1 << 24  # bytes of a description
LARGEST_NUMBER = 64  # bytes of a tag of resolution
RESOLUTION = (282, 283, 296)  # tags: pixels per unit across and down, the unit
NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SCHEMA = f"{NAMESPACE} {NAMESPACE}/ome.xsd"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
TYPES = {1: "uint8", 2: "uint16"}  # by bytes
SIZES = ("SizeX", "SizeY", "SizeZ", "SizeC", "SizeT")
# Attributes of OME's Pixels, and of ImageJ, that stay true for masks.
KEPT: tuple[str, ...] = ("ID", "DimensionOrder", *SIZES, "TimeIncrement", "TimeIncrementUnit")
KEPT += tuple(f"PhysicalSize{axis}{unit}" for axis in "XYZ" for unit in ("", "Unit"))
KEYS: tuple[str, ...] = (
    "ImageJ",
    "images",
    "channels",
    "slices",
    "frames",
    "hyperstack",
    "unit",
    "yunit",
    "zunit",
    "spacing",
)
KEYS += ("finterval", "tunit", "fps", "loop")


@dataclass(frozen=True, slots=True)
class Stack:
    """What the header of a file says."""

    planes: int  # of all its images
    description: bytes  # ImageJ's lines, or OME's XML
    resolution: tuple[Field, ...] = ()  # its tags

    def header(self, name: str, itemsize: int) -> bytes:
        """Returns the description of a stack of masks or soft maps with the same axes, with pixels of 1 or 2 bytes."""
        if _is_imagej(self.description):
            return _imagej(self.description)
        return _ome(ElementTree.fromstring(self.description), name, TYPES[itemsize])


def read(file: BinaryIO) -> Stack | None:
    """Returns what the header of a TIFF says of its planes; None if it is no OME-TIFF and not by ImageJ."""
    try:
        first = next(tiff_pages.directories(file))
        description = first.content(tiff_pages.DESCRIPTION, LARGEST).rstrip(b"\0")
        planes = _planes(description)
    except (ValueError, LookupError, ElementTree.ParseError):
        return None
    return Stack(planes, description, _resolution(first)) if planes > 1 else None


def _planes(description: bytes) -> int:
    """Returns the number of planes; 0 if the description is of another kind. Raises ValueError, ParseError."""
    if _is_imagej(description):
        return int(_lines(description).get(b"images", b"1"))
    if b"<OME" not in description[:4096]:
        return 0
    total = 0
    for pixels in ElementTree.fromstring(description).iterfind("{*}Image/{*}Pixels"):
        channels = len(pixels.findall("{*}Channel")) or int(pixels.attrib["SizeC"])
        total += channels * int(pixels.attrib["SizeZ"]) * int(pixels.attrib["SizeT"])
    return total


def _resolution(first: Directory) -> tuple[Field, ...]:
    found = (first.field(tag, LARGEST_NUMBER) for tag in RESOLUTION)
    return tuple(field for field in found if field is not None)


def _is_imagej(description: bytes) -> bool:
    return description.startswith(b"ImageJ=")


def _lines(description: bytes) -> dict[bytes, bytes]:
    return dict(re.findall(rb"^([^=\n]+)=([^\n]*?)\s*$", description, re.MULTILINE))


def _imagej(description: bytes) -> bytes:
    lines = _lines(description)
    kept = [key.encode() + b"=" + lines[key.encode()] for key in KEYS if key.encode() in lines]
    return b"\n".join([*kept, b"mode=grayscale", b""])


def _ome(root: Element, name: str, kind: str) -> bytes:
    """Returns the XML of the same images with one band per channel. What describes the instrument is left out."""
    ome = Element("OME", {"xmlns": NAMESPACE, "xmlns:xsi": INSTANCE, "xsi:schemaLocation": SCHEMA})
    for number, image in enumerate(root.iterfind("{*}Image")):
        source = image.find("{*}Pixels")
        if source is None:
            continue
        found = SubElement(ome, "Image", {"ID": image.get("ID", f"Image:{number}"), "Name": name})
        channels = source.findall("{*}Channel")
        told = {key: source.attrib[key] for key in KEPT if key in source.attrib} | {"Type": kind}
        told |= {"SizeC": str(len(channels) or told["SizeC"]), "BigEndian": "false"}
        pixels = SubElement(found, "Pixels", {"ID": f"Pixels:{number}"} | told)
        for index, channel in enumerate(channels):
            kept = {key: channel.attrib[key] for key in ("Name",) if key in channel.attrib}
            SubElement(pixels, "Channel", {"ID": f"Channel:{number}:{index}", "SamplesPerPixel": "1"} | kept)
        for block in source.findall("{*}TiffData") or [Element("TiffData")]:
            SubElement(pixels, "TiffData", block.attrib)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(ome)
