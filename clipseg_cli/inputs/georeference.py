"""Georeference: where on the earth an image lies, as its file says, or the small files beside it.

It travels as it is stored, with the image to the writers: the tags of a GeoTIFF, and the bytes of a world file and of a
`.prj`. Nothing is lost that way, not even a reference system that no program knows, and no package is needed. Only
`outputs/writers/location.py` asks what it means.
"""

import os
import re
from dataclasses import dataclass

import numpy as np

from clipseg_cli.inputs.frames.tiff_pages import Directory, Field

# Tags of GeoTIFF (OGC 19-008r4, annex B) and of GDAL's driver for it (gdal.org/drivers/raster/gtiff.html).
PIXEL_SCALE, TIE_POINTS, INTERGRAPH, TRANSFORMATION, RPC = 33550, 33922, 33920, 34264, 50844
GEO_KEYS, GEO_DOUBLES, GEO_TEXT = 34735, 34736, 34737
METADATA, NO_DATA = 42112, 42113
PLACE = (PIXEL_SCALE, INTERGRAPH, TIE_POINTS, TRANSFORMATION, GEO_KEYS, GEO_DOUBLES, GEO_TEXT, RPC)
LARGEST = 1 << 20  # bytes of a tag: 20,000 tie points
LARGEST_FILE = 1 << 16  # bytes of a world file or a .prj
ITEM = re.compile(r"<Item\s[^<>]*>[^<]*</Item>")  # of GDAL_METADATA


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where an image lies, as it is stored. It refers to the file's own pixels, before any EXIF orientation."""

    tags: tuple[Field, ...] = ()  # of a GeoTIFF
    world: bytes = b""  # the content of its world file: six numbers
    projection: bytes = b""  # the content of its .prj: the reference system as text

    @property
    def is_geotiff(self) -> bool:
        """Whether the file says itself where it lies, or in which reference system."""
        return any(field.tag in PLACE for field in self.tags)


NOWHERE = Georeference()


def of_tiff(directory: Directory) -> Georeference:
    """Returns the georeference in the tags of a page, with GDAL's own tags; without tags if it has none of them."""
    fields = [directory.field(tag, LARGEST) for tag in (*PLACE, METADATA, NO_DATA)]
    return Georeference(tuple(field for field in fields if field is not None))


def no_data(directory: Directory) -> float | None:
    """Returns the value that stands for no data; None if there is none."""
    field = directory.field(NO_DATA, LARGEST_FILE)
    try:
        return None if field is None else float(_text(field))
    except ValueError:
        return None


def colour_bands(directory: Directory) -> tuple[int, int, int] | None:
    """Returns the 0-based numbers of the bands that GDAL's metadata calls red, green and blue; None if any lacks."""
    field = directory.field(METADATA, LARGEST)
    found: dict[str, int] = {}
    for item in ITEM.findall("" if field is None else _text(field)):
        sample = re.search(r'\ssample="(\d{1,5})"', item)
        if sample and re.search(r'\srole="colorinterp"', item):
            found.setdefault(item.partition(">")[2].partition("<")[0].strip().lower(), int(sample[1]))
    names = ("red", "green", "blue")
    if not found.keys() >= {*names}:
        return None
    red, green, blue = (found[name] for name in names)
    return red, green, blue


def for_masks(georeference: Georeference, most: int) -> tuple[Field, ...]:
    """Returns the tags for a file of masks or soft maps whose highest value is `most`, in the order of their numbers.

    Metadata of single bands is left out: it describes the image's values. So is a no-data value that the masks use
    for the object, since programs would hide it.
    """
    kept = []
    for field in georeference.tags:
        if field.tag == METADATA:
            items = "".join(item for item in ITEM.findall(_text(field)) if not re.search(r"\ssample=", item))
            content = f"<GDALMetadata>{items}</GDALMetadata>\0".encode("utf-8", "surrogateescape")
            field = field._replace(length=len(content), content=content)
            if not items:
                continue
        if field.tag == NO_DATA and _hides(_text(field), most):
            continue
        kept.append(field)
    return tuple(sorted(kept))


def _hides(text: str, most: int) -> bool:
    """Returns whether a no-data value is one of 1 to `most`."""
    try:
        return 0 < float(text) <= most
    except ValueError:
        return True


def _text(field: Field) -> str:
    return field.content.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def beside(path: str) -> Georeference:
    """Returns the georeference in the world file and the `.prj` beside a file on this machine.

    The world file of a.jpg is a.jgw, a.jpgw or a.wld, in lower case or in capitals (gdal.org/drivers/raster/wld.html).
    One that holds no six numbers is ignored.
    """
    root, suffix = os.path.splitext(path)
    endings = [f"{suffix[:2]}{suffix[-1:]}w", f"{suffix}w", ".wld"] if len(suffix) > 1 else [".wld"]
    world = _first(root, endings)
    if numbers(world) is None:
        return NOWHERE
    return Georeference(world=world, projection=_first(root, [".prj"]))


def world_suffix(suffix: str) -> str:
    """Returns the usual suffix of a world file: `.pgw` for `.png`."""
    return f"{suffix[:2]}{suffix[-1]}w"


def numbers(world: bytes) -> tuple[float, ...] | None:
    """Returns the six numbers of a world file; None if it holds others."""
    try:
        found = tuple(float(word.replace(",", ".")) for word in world.decode("ascii").split()[:6])
    except ValueError:
        return None
    return found if len(found) == 6 and all(abs(number) < 1e300 for number in found) else None


def world_transform(world: bytes) -> np.ndarray:
    """Returns the matrix, float (3, 3), from coordinates (x, y, 1) in pixels from the image's corner to the map's.

    The six numbers are A, D, B, E, C, F of x = A column + B row + C and y = D column + E row + F. Rows and columns
    count the centres of pixels.
    """
    a, d, b, e, c, f = numbers(world) or (1, 0, 0, 1, 0, 0)
    return np.array([[a, b, c - (a + b) / 2], [d, e, f - (d + e) / 2], [0, 0, 1]], np.float64)


def _first(root: str, endings: list[str]) -> bytes:
    """Returns the content of the first of these files that there is; b"" if there is none of a sensible size."""
    for ending in endings:
        for name in dict.fromkeys((ending.lower(), ending.upper())):
            try:
                with open(root + name, "rb") as file:
                    content = file.read(LARGEST_FILE + 1)
            except (OSError, ValueError):
                continue
            return content if len(content) <= LARGEST_FILE else b""
    return b""
