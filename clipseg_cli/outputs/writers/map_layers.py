"""Map layers: the masks of a run as polygons for GIS programs, in GeoJSON and in GeoPackage.

masks.geojson    one feature per annotation, in WGS 84, right-handed (RFC 7946)
masks.gpkg       the same in the image's own reference system; images of several systems are in several layers

The polygons follow the borders of pixels, so their area is that of the mask. The files of a run are made at its end
from one fragment per image, as in `per_run`. For one image, `single_geojson` and `single_gpkg` return the whole file.
"""

import base64
import contextlib
import json
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.outputs.record import readable_text
from clipseg_cli.outputs.writers import location
from clipseg_cli.outputs.writers.annotations import FRAGMENTS, objects
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.outputs import TOP_NAMES
from clipseg_cli.storage import store
from clipseg_cli.storage.store import AnyPath

DIGITS = 9  # of degrees: 0.1 mm
LAYER = "masks"
GROUP = 10_000  # features that are in memory at once
DATE = "2000-01-01T00:00:00Z"  # in GeoPackages, in place of the present time: equal runs have equal files
COLUMNS = {"image": object, "frame": np.int64, "label": object, "presence": np.float64, "score": np.float64}
COLUMNS |= {"area_px": np.int64, "area_m2": np.float64}
# Of GeoPackage (OGC 12-128r18, 1.1.2.1.2): coordinates of a system that is not known. GDAL writes this as number -1.
UNKNOWN = (
    'ENGCRS["Undefined Cartesian SRS with unknown unit",EDATUM["Unknown engineering datum"],CS[Cartesian,2],'
    'AXIS["X",unspecified,ORDER[1]],AXIS["Y",unspecified,ORDER[2]],LENGTHUNIT["unknown",0]]'
)
POLYGON, MULTI_POLYGON = 3, 6  # types of well-known binary


def geojson(stem: str, result: Result) -> Iterator[File]:
    """Yields the features of an image, one per line. Raises ImageError."""
    lines = (json.dumps(feature, ensure_ascii=False, separators=(",", ":")) + "\n" for feature in _features(result))
    yield f"{FRAGMENTS}/geojson/{stem}.jsonl", None, "".join(lines).encode()


def gpkg(stem: str, result: Result) -> Iterator[File]:
    """Yields the features of an image as JSON, their polygons as well-known binary. Raises ImageError."""
    yield f"{FRAGMENTS}/gpkg/{stem}.json", None, json.dumps(_layer(result), ensure_ascii=False).encode()


def write_geojson(out: AnyPath, fragments: Sequence[tuple[str, str]], labels: Sequence[str], fsync: bool) -> None:
    """Writes masks.geojson."""
    contents = store.contents(out, [path for _, path in fragments])
    store.write(out / TOP_NAMES["geojson"], _collection(contents), fsync)


def write_gpkg(out: AnyPath, fragments: Sequence[tuple[str, str]], labels: Sequence[str], fsync: bool) -> None:
    """Writes masks.gpkg."""
    store.write(out / TOP_NAMES["gpkg"], _package(store.contents(out, [path for _, path in fragments])), fsync)


def single_geojson(stem: str, result: Result) -> bytes:
    """Returns the GeoJSON file of one image. Raises ImageError."""
    return b"".join(_collection(_contents(geojson(stem, result))))


def single_gpkg(stem: str, result: Result) -> bytes:
    """Returns the GeoPackage of one image. Raises ImageError."""
    return b"".join(_package(_contents(gpkg(stem, result))))


def _contents(files: Iterator[File]) -> Iterator[bytes]:
    return (data for _, _, data in files if isinstance(data, bytes))


def _features(result: Result) -> Iterator[dict[str, Any]]:
    """Yields the GeoJSON features of an image. Raises ImageError."""
    where = location.of(result)
    for properties, mask in _objects(result):
        shape = location.to_wgs84(location.polygons(mask, where), where.system)
        coordinates = [
            [np.round([*ring, ring[0]], DIGITS).tolist() for ring in location.right_handed(polygon)]
            for polygon in shape
        ]
        geometry = {"type": "MultiPolygon", "coordinates": coordinates}
        yield {"type": "Feature", "geometry": geometry, "properties": properties | {"area_m2": _area(shape)}}


def _layer(result: Result) -> dict[str, Any]:
    """Returns the reference system of an image and its features. Raises ImageError."""
    where = location.of(result)
    rows = []
    for properties, mask in _objects(result):
        own = location.polygons(mask, where)
        with contextlib.suppress(ImageError):  # a system without degrees: the area stays unknown
            properties["area_m2"] = _area(location.to_wgs84(own, where.system))
        rows.append([*properties.values(), base64.b64encode(_binary(own)).decode()])
    return {"system": where.system if location.is_known(where.system) else "", "rows": rows}


def _objects(result: Result) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """Yields the properties of each annotation, in the order of `COLUMNS`, and its mask. The last is still unknown."""
    for index, mask, score in objects(result):
        properties = {
            "image": readable_text(result.name),
            "frame": result.frame or 0,
            "label": readable_text(result.labels[index]),
            "presence": float(result.presences[index]),
            "score": round(score, 4),
            "area_px": int(np.count_nonzero(mask)),
            "area_m2": None,
        }
        yield properties, mask


def _area(shape: Sequence[location.Polygon]) -> float:
    return round(location.area(shape), 4)


def _binary(shape: Iterable[location.Polygon]) -> bytes:
    """Returns polygons as well-known binary (OGC 06-103r4, section 8): a multi-polygon of closed rings."""
    parts = []
    for polygon in map(location.right_handed, shape):
        rings = [np.concatenate([ring, ring[:1]]).astype("<f8") for ring in polygon]
        packed = b"".join(struct.pack("<I", len(ring)) + ring.tobytes() for ring in rings)
        parts.append(struct.pack("<BII", 1, POLYGON, len(rings)) + packed)
    return struct.pack("<BII", 1, MULTI_POLYGON, len(parts)) + b"".join(parts)


def _collection(fragments: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the pieces of a GeoJSON file."""
    yield b'{"type":"FeatureCollection","features":[\n'
    before = b""
    for line in (line for fragment in fragments for line in fragment.splitlines()):
        yield before + line
        before = b",\n"
    yield b"\n]}\n"


def _package(fragments: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the pieces of a GeoPackage: a layer for each reference system, in the order in which they appear."""
    layers: dict[str, str] = {}
    waiting: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.gpkg"
        for fragment in fragments:
            found = json.loads(fragment)
            system = found["system"]
            if system not in layers:
                layers[system] = LAYER if not layers else f"{LAYER}_{len(layers) + 1}"
                _append(path, layers[system], system, [])
            rows = waiting.setdefault(system, [])
            rows += found["rows"]
            if len(rows) >= GROUP:
                _append(path, layers[system], system, waiting.pop(system))
        if not layers:
            _append(path, LAYER, "", [])
        for system, rows in waiting.items():
            _append(path, layers[system], system, rows)
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece


def _append(path: Path, layer: str, system: str, rows: Sequence[Sequence[Any]]) -> None:
    """Writes rows to a layer, which is made if there are none. Raises OutputError."""
    import pyogrio
    import pyogrio.raw

    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": DATE})
    values = list(zip(*rows, strict=True)) if rows else [()] * (len(COLUMNS) + 1)
    columns = [np.array(column, kind) for column, kind in zip(values, COLUMNS.values(), strict=False)]
    shapes = np.array([*map(base64.b64decode, values[-1]), None], object)[:-1]  # None: no array of bytes
    try:
        pyogrio.raw.write(
            path, shapes, columns, list(COLUMNS), layer=layer, driver="GPKG", geometry_type="MultiPolygon",
            crs=system or UNKNOWN, append=bool(rows), dataset_options={"VERSION": "1.2"},
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:  # GDAL's, for example of a full disk
        raise OutputError(f"{TOP_NAMES['gpkg']} cannot be written: {error}") from error
