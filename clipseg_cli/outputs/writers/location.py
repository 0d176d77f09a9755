"""Location: what a georeference means. GDAL reads the tags of a GeoTIFF, PROJ knows the reference systems (extra geo).

Polygons are lists of rings, float64 (K, 2): x, y; the first ring is the outer one, the others are holes. Rings are
closed without repeating the first point.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import georeference, orientation
from clipseg_cli.inputs.frames.tiff_pages import TEXT
from clipseg_cli.inputs.georeference import Georeference
from clipseg_cli.masks import outline
from clipseg_cli.outputs.writers import directories, geotiff
from clipseg_cli.outputs.writers.result import Result

Ring = NDArray[np.float64]
Polygon = list[Ring]
WGS84 = "EPSG:4326"
STEP = 64  # pixels: longer edges get points between their ends, since straight edges are curved in another system
ASCII = bytes(range(128)) + b"?" * 128  # a table: all other bytes become question marks
LARGEST = 1e15  # of a coordinate: beyond, float64 cannot tell metres apart
FARTHEST = 540  # degrees of longitude: some systems go on beyond the antimeridian
TRANSFORMED = (
    {georeference.TRANSFORMATION},
    {georeference.PIXEL_SCALE, georeference.TIE_POINTS},
    {georeference.INTERGRAPH},
)


@dataclass(frozen=True, slots=True, eq=False)
class Location:
    """Where an image lies."""

    transform: NDArray[np.float64]  # (3, 3): from x, y, 1 in pixels from the corner of the masks to those of the map
    system: str  # the reference system as WKT; "": it is not known


def of(result: Result) -> Location:
    """Returns where the masks of an image lie. Raises ImageError if nothing says so."""
    place = result.georeference
    tags = {field.tag for field in place.tags}
    inside = any(needed <= tags for needed in TRANSFORMED)
    others = tuple(field for field in place.tags if field.tag not in {each.tag for each in _SOME})
    own = _of_tags(place if inside else Georeference(others + _SOME)) if place.is_geotiff else None
    if inside and own is not None:
        transform = own.transform
    elif place.world:
        transform = georeference.world_transform(place.world)
    elif georeference.TIE_POINTS in tags:
        raise _refused("it has tie points, but no transformation: warp it first, for example with gdalwarp")
    else:
        raise _refused("nothing says where it lies: -f coco and -f svg hold polygons in pixels")
    if not np.isfinite(transform).all() or abs(np.linalg.det(transform[:2, :2])) < 1e-300:
        raise _refused("its transformation is no sound one")
    system = (
        own.system if own is not None and own.system else place.projection.decode("utf-8", "replace").strip("\0 \r\n")
    )
    height, width = result.masks[0].shape
    transform = transform @ orientation.matrix(result.turn, height, width)
    if not (np.abs(transform @ np.array([(0, 0, 1), (width, height, 1)]).T) < LARGEST).all():
        raise _refused("its coordinates are no sound ones")
    return Location(transform, system)


# A transformation for the tags of a file whose own one is in a world file: GDAL reads the reference system alone.
_SOME = (
    directories.doubles(georeference.PIXEL_SCALE, [2, 2, 0]),
    directories.doubles(georeference.TIE_POINTS, [0, 0, 0, 0, 0, 0]),
)


def _of_tags(place: Georeference) -> Location:
    """Returns where the pixels of a GeoTIFF lie, as GDAL understands its tags."""
    import rasterio

    _quieten(rasterio.errors.NotGeoreferencedWarning)
    # rasterio fails at text that is not UTF-8, such as names in Latin-1; no number depends on it
    plain = (
        field._replace(content=field.content.translate(ASCII)) if field.kind == TEXT else field for field in place.tags
    )
    data = geotiff.encoded(np.zeros((1, 1), np.uint8), Georeference(tuple(plain)), 1)
    try:
        with rasterio.MemoryFile(data) as file, file.open() as image:
            if image.transform.is_identity:
                raise _refused("GDAL finds no sound transformation in its tags")
            a, b, c, d, e, f = tuple(image.transform)[:6]
            system = "" if image.crs is None else image.crs.to_wkt()
    except (rasterio.errors.RasterioError, ValueError) as error:
        raise _refused(f"GDAL cannot read its tags ({error})") from error
    return Location(np.array([[a, b, c], [d, e, f], [0, 0, 1]], np.float64), system)


def _quieten(category: Any) -> None:
    """Keeps GDAL's messages off stderr; what matters becomes an error."""
    for name in ("rasterio", "pyogrio"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    mine = ("ignore", None, category, None, 0)
    if mine not in warnings.filters:
        warnings.simplefilter("ignore", category)


def _refused(why: str) -> ImageError:
    return ImageError("unsupported", "write", f"its masks cannot be laid on a map: {why}")


def polygons(mask: NDArray[np.uint8], location: Location) -> list[Polygon]:
    """Returns the polygons of a mask in the image's own system. They follow the borders of pixels."""
    return [
        [_placed(ring, location.transform) for ring in (component.outer, *component.holes)]
        for component in outline.polygons(mask)
    ]


def _placed(ring: outline.Ring, transform: NDArray[np.float64]) -> Ring:
    after = np.roll(ring, -1, 0)
    counts = -(-np.abs(after - ring).max(1) // STEP)
    starts = np.repeat(np.arange(len(ring)), counts)
    share = (np.arange(len(starts)) - np.repeat(np.cumsum(counts) - counts, counts)) / counts[starts]
    points = ring[starts] + (after - ring)[starts] * share[:, None]
    return np.asarray(points @ transform[:2, :2].T + transform[:2, 2])


def is_known(system: str) -> bool:
    """Returns whether PROJ can convert coordinates of a reference system."""
    import pyproj

    try:
        _transformer(system)
    except pyproj.exceptions.ProjError:
        return False
    return True


def _transformer(system: str) -> Any:
    """Returns what converts coordinates to longitude and latitude. Raises ProjError."""
    import pyproj

    return pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(system), WGS84, always_xy=True)


def to_wgs84(shape: Sequence[Polygon], system: str) -> list[Polygon]:
    """Returns polygons as longitude and latitude in degrees. Raises ImageError.

    A polygon that crosses the antimeridian goes on beyond 180 degrees, so that it stays in one piece.
    """
    import pyproj

    if not system:
        raise _refused("its reference system is not known, which GeoJSON needs: -f gpkg keeps its own coordinates")
    try:
        transformer = _transformer(system)
    except pyproj.exceptions.ProjError as error:
        what = system.partition("\n")[0][:60]
        raise _refused(f"PROJ does not know its reference system ({what} ...)") from error

    def moved(ring: Ring) -> Ring:
        degrees = np.stack(transformer.transform(*ring.T), axis=1)
        if not (np.abs(degrees) <= (FARTHEST, 90)).all():  # infinite, NaN, or another system than the file says
            raise _refused("its coordinates are outside its reference system, or those of another one")
        degrees[:, 0] = np.unwrap(degrees[:, 0], period=360)
        return np.asarray(degrees)

    return [_joined([moved(ring) for ring in polygon]) for polygon in shape]


def _joined(polygon: Polygon) -> Polygon:
    """Returns a polygon whose holes are on the same side of the antimeridian as its outer ring."""
    middle = polygon[0][:, 0].mean()
    return [ring - [360 * round((ring[:, 0].mean() - middle) / 360), 0] for ring in polygon]


def area(shape: Sequence[Polygon]) -> float:
    """Returns the area of polygons of longitudes and latitudes on the ellipsoid of WGS 84, in square metres."""
    import pyproj

    geod = pyproj.Geod(ellps="WGS84")
    rings = [[abs(geod.polygon_area_perimeter(*ring.T)[0]) for ring in polygon] for polygon in shape]
    return float(sum(outer - sum(holes) for outer, *holes in rings))


def right_handed(polygon: Polygon) -> Polygon:
    """Returns a polygon whose outer ring is counter-clockwise, seen with y upwards, and whose holes are clockwise."""
    return [ring if (_signed(ring) > 0) == (index == 0) else ring[::-1] for index, ring in enumerate(polygon)]


def _signed(ring: Ring) -> float:
    """Returns the signed area of a ring; above 0 if it is counter-clockwise."""
    x, y = (ring - ring[0]).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
