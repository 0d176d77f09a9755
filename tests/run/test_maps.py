"""Runs on GeoTIFFs and on images with world files: masks and polygons lie where the image does."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyogrio
import pyproj
import pytest
import rasterio
from rasterio.features import rasterize
from rasterio.transform import Affine

from clipseg_cli.inputs.orientation import matrix, stored
from geotiffs import PLACE, SCALE, SYSTEM, TIE, UTM, by_gdal, by_tags, keys, opened
from output_folder import tree
from pictures import Program, picture, records

ROTATED = PLACE @ Affine.rotation(20) @ Affine.shear(5)
FORMATS = "mask,soft,soft16,labels,joined,geojson,gpkg"
LATIN = "My site in S\xe3o Paulo|\0".encode("latin-1")
TEXT = (34737, "s", 12, b"My own grid|", True)  # the text of geo keys
PROMPTS = "-p 'a red circle' -p 'a blue square'"


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Files of one scene, with and without pixels that have no data, and an empty one."""
    folder, scene = tmp_path / "i", np.moveaxis(np.maximum(picture(200, 150, 5), 1), 2, 0)
    folder.mkdir()
    hole = scene.copy()
    hole[:, 40:90, 105:160] = 0
    other = {"crs": "EPSG:3857", "transform": Affine.translation(1e6, 6e6) @ Affine.scale(2, -2)}
    files = {
        "a": by_gdal(scene),
        "b": by_gdal(hole, nodata=0, transform=ROTATED, compress="deflate"),
        "c": by_gdal(scene.astype(np.uint16) * 9, **other),
        "d": by_gdal(np.zeros((3, 30, 40), np.uint8), nodata=0),
    }
    for name, data in files.items():
        (folder / f"{name}.tif").write_bytes(data)
    return folder


def read(path: Path) -> np.ndarray:
    """Returns the pixels of a GeoTIFF."""
    with rasterio.open(path) as image:
        return image.read(1)  # type: ignore[no-any-return]


def test_masks_lie_where_the_image_does(quick_clipseg: Program, maps: Path, tmp_path: Path) -> None:
    """Transform, system and bounds of every output are those of the image, and none has pixels without data.

    `post` writes the same bytes, also with options that make masks grow, and needs no georeference of its own.
    """
    grown = "-t p80 --grow 9 --fill-holes all"
    quick_clipseg(f"clipseg segment i {PROMPTS} -f {FORMATS} {grown} -o out")
    quick_clipseg(f"clipseg post out -f {FORMATS} {grown} -o again")
    before, after = (
        {name: data for name, data in tree(tmp_path / out).items() if name[0] != "."} for out in ("out", "again")
    )
    assert before.keys() - {"run.json"} == after.keys() - {"run.json"}
    assert [name for name in before if name != "run.json" and before[name] != after[name]] == []
    filled = 0
    for row in records(tmp_path / "out/manifest.jsonl"):
        source = tmp_path / row["image"]
        with rasterio.open(source) as image:
            empty = image.dataset_mask() == 0
        for mask in row["masks"]:
            for path in (mask["path"], mask["soft"], mask["soft16"], row["files"]["labels"], row["files"]["joined"]):
                assert path.endswith(".tif")
                assert opened((tmp_path / "out" / path).read_bytes())[:3] == opened(source.read_bytes())[:3]
                assert not read(tmp_path / "out" / path)[empty].any()
            assert mask["area"] == np.count_nonzero(read(tmp_path / "out" / mask["path"]))
            filled += mask["area"]
    assert filled and empty.all() and row["notes"] == "all of the pixels have no data"


def test_polygons_fill_the_masks(quick_clipseg: Program, maps: Path, tmp_path: Path) -> None:
    """Drawn by rasterio on the image's own grid, those of the GeoPackage are the masks, and so are those of GeoJSON.

    GeoJSON is right-handed, in longitude and latitude; both have the area on the ellipsoid in square metres.
    """
    quick_clipseg(f"clipseg segment i {PROMPTS} -f mask,geojson,gpkg -t p80 -o out")
    features = json.loads((tmp_path / "out/masks.geojson").read_bytes())["features"]
    layers = [name for name, _ in pyogrio.list_layers(tmp_path / "out/masks.gpkg")]
    assert layers == ["masks", "masks_2"]
    rows = [row for layer in layers for row in by_gdal_vector(tmp_path / "out/masks.gpkg", layer)]
    masks = {
        (row["image"], mask["label"]): mask for row in records(tmp_path / "out/manifest.jsonl") for mask in row["masks"]
    }
    assert len(features) == len(rows) == sum(mask["area"] > 0 for mask in masks.values()) >= 5
    for feature in features:
        properties = feature["properties"]
        name, label = properties["image"], properties["label"]
        mask = masks[name, label]
        own = next(row for row in rows if (row["image"], row["label"]) == (name, label))
        assert {**properties} == {key: own[key] for key in properties}
        assert (properties["presence"], properties["score"], properties["area_px"]) == (
            mask["presence"], mask["score"], mask["area"],
        )  # fmt: skip
        with rasterio.open(tmp_path / name) as image:
            grid, system, pixel = image.transform, image.crs, abs(image.transform.determinant)
        expected = read(tmp_path / "out" / mask["path"]) > 0
        assert np.array_equal(rasterize([own["geometry"]], expected.shape, transform=grid) > 0, expected)
        back = pyproj.Transformer.from_crs("EPSG:4326", system.to_wkt(), always_xy=True)
        rings = [ring for polygon in feature["geometry"]["coordinates"] for ring in polygon]
        assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in rings)
        assert all(
            (turn(ring) > 0) == (not index)
            for part in feature["geometry"]["coordinates"]
            for index, ring in enumerate(part)
        )
        shape = [[list(zip(*back.transform(*zip(*ring, strict=True)), strict=True)) for ring in part]
                 for part in feature["geometry"]["coordinates"]]  # fmt: skip
        drawn = rasterize([{"type": "MultiPolygon", "coordinates": shape}], expected.shape, transform=grid) > 0
        assert np.array_equal(drawn, expected)
        scale = pyproj.Proj(system.to_wkt()).get_factors(*rings[0][0]).areal_scale
        assert properties["area_m2"] == pytest.approx(mask["area"] * pixel / scale, rel=1e-3)


def turn(ring: list[list[float]]) -> float:
    """Returns the signed area of a closed ring."""
    (x, y), base = np.array(ring).T, np.array(ring[0])
    return float(np.sum((x[:-1] - base[0]) * (y[1:] - base[1]) - (x[1:] - base[0]) * (y[:-1] - base[1])))


def by_gdal_vector(path: Path, layer: str) -> list[dict[str, Any]]:
    """Returns the rows of a layer, with geometries as in GeoJSON, by converting it with GDAL."""
    meta, _, shapes, values = pyogrio.raw.read(path, layer=layer)
    columns = dict(zip(meta["fields"], values, strict=True))
    return [
        {name: column[index] for name, column in columns.items()} | {"geometry": geometry(bytes(shape))}
        for index, shape in enumerate(shapes)
    ]


def geometry(data: bytes) -> dict[str, Any]:
    """Returns a multi-polygon in well-known binary as in GeoJSON."""
    words, at = np.dtype("<u4"), 9
    parts = []
    for _ in range(int(np.frombuffer(data, words, 1, 5)[0])):
        (count,), at = np.frombuffer(data, words, 1, at + 5), at + 9
        rings = []
        for _ in range(count):
            (length,), at = np.frombuffer(data, words, 1, at), at + 4
            rings.append(np.frombuffer(data, "<f8", 2 * length, at).reshape(-1, 2).tolist())
            at += 16 * int(length)
        parts.append(rings)
    return {"type": "MultiPolygon", "coordinates": parts}


def test_world_files_go_with_the_masks(quick_clipseg: Program, tmp_path: Path) -> None:
    """Byte for byte, with the `.prj`. For an image that is turned by its EXIF orientation, for the turned mask."""
    world, scene = "0.5\n0.1\n0.2\n-0.5\n500000.25\n5499999.75\n", picture(100, 80, 5)
    place = np.array([[0.5, 0.2, 500000.25], [0.1, -0.5, 5499999.75]])
    (tmp_path / "i").mkdir()
    for value in (1, 6):
        exif = PIL.Image.Exif()
        exif[0x0112] = value
        PIL.Image.fromarray(np.ascontiguousarray(stored(scene, value))).save(tmp_path / f"i/{value}.png", exif=exif)
        (tmp_path / f"i/{value}.pgw").write_text(world)
        (tmp_path / f"i/{value}.prj").write_text(pyproj.CRS(SYSTEM).to_wkt("WKT1_ESRI"))
    said = quick_clipseg("clipseg segment i -p 'a red circle' -f mask,soft,overlay,gpkg -o out").stderr
    assert "left out" not in said
    quick_clipseg("clipseg segment i -p 'a red circle' -f mask,gpkg --orientation stored -o raw")
    assert not [*(tmp_path / "out/overlays").glob("*w")]
    for value in (1, 6):
        for folder in ("out/masks", "out/soft", "raw/masks"):
            beside = tmp_path / folder / f"a-red-circle/{value}.pgw"
            assert beside.with_suffix(".prj").read_bytes() == (tmp_path / f"i/{value}.prj").read_bytes()
            if value == 1 or folder == "raw/masks":
                assert beside.read_text() == world
            a, d, b, e, c, f = map(float, beside.read_text().split())
            turned = np.array([[a, b, c], [d, e, f]])
            shown = (150, 150) if folder == "raw/masks" else (80, 100)
            lead = np.eye(3) if folder == "raw/masks" else matrix(value, *shown)
            for x, y in ((0, 0), (7, 3)):  # centres of pixels of the mask
                inside = lead @ (x + 0.5, y + 0.5, 1)
                assert np.allclose(turned @ (x, y, 1), place @ (inside[0] - 0.5, inside[1] - 0.5, 1), atol=1e-6)
    bounds = [pyogrio.read_bounds(tmp_path / out / "masks.gpkg")[1] for out in ("out", "raw")]
    assert np.allclose(bounds[0], bounds[1]) and np.allclose(bounds[0], bounds[0][:, :1], atol=80)


def test_an_image_that_lies_nowhere_is_refused(quick_clipseg: Program, tmp_path: Path) -> None:
    """By GeoJSON and GeoPackage, before anything is written. Masks alone are written, with all tags."""
    scene = np.ascontiguousarray(picture(60, 40, 5))
    bands = np.moveaxis(scene, 2, 0)
    own = (keys((1024, 0, 1, 1), (1025, 0, 1, 1), (3072, 0, 1, 32767), (3073, 34737, 11, 0)), TEXT)
    flat = (33550, "d", 3, (0.0, 0.0, 0.0), True)
    files = {
        "plain": (by_tags(scene), "nothing says where it lies", ""),
        "system": (by_tags(scene, SCALE, TIE), "its reference system is not known", "geojson"),
        "keys": (by_tags(scene, SCALE, TIE, *own), "PROJ does not know", "geojson"),
        "points": (by_gdal(bands, transform=None, gcps=[
            rasterio.control.GroundControlPoint(*point) for point in ((0, 0, 1, 5), (0, 60, 2, 5), (40, 0, 1, 4))
        ]), "gdalwarp", ""),
        "degrees": (by_gdal(bands, crs="EPSG:4326"), "outside its reference system", "geojson"),
        "flat": (by_tags(scene, flat, TIE, keys(*UTM)), "no sound transformation", ""),
    }  # fmt: skip
    (tmp_path / "i").mkdir()
    for name, (data, _, _) in files.items():
        (tmp_path / f"i/{name}.tif").write_bytes(data)
    for form in ("geojson", "gpkg"):
        done = quick_clipseg(f"clipseg segment i -p 'a red circle' -f mask,{form} -o {form}", expect=3)
        rows = {row["image"]: row for row in records(tmp_path / form / "manifest.jsonl")}
        written = {path.stem for path in (tmp_path / form).glob("masks/*/*")}
        for name, (_, why, only) in files.items():
            error = rows[f"i/{name}.tif"]["error"]
            refused = only in ("", form)
            assert (name not in written) == refused and (why in error["message"]) == refused, (form, name)
            assert error["class"] == ("unsupported" if refused else "")
        assert "Traceback" not in done.stderr
    assert pyogrio.read_info(tmp_path / "gpkg/masks.gpkg", layer="masks_2")["features"] >= 1
    quick_clipseg("clipseg segment i/keys.tif -p 'a red circle' -f mask -o alone")
    assert b"My own grid|" in (tmp_path / "alone/masks/a-red-circle/i/keys.tif").read_bytes()


def test_names_of_systems_may_be_in_any_encoding(quick_clipseg: Program, tmp_path: Path) -> None:
    """Text in the geo keys that is not UTF-8 costs no map, and is in the mask as it was."""
    text = (34737, "s", len(LATIN), LATIN, True)
    system = keys(*UTM[:2], (1026, 34737, len(LATIN) - 1, 0), UTM[2])
    (tmp_path / "a.tif").write_bytes(by_tags(picture(60, 40, 5), SCALE, TIE, system, text))
    quick_clipseg("clipseg segment a.tif -p 'a red circle' -f mask,geojson -o out")
    assert LATIN in (tmp_path / "out/masks/a-red-circle/a.tif").read_bytes()
    assert json.loads((tmp_path / "out/masks.geojson").read_bytes())["features"][0]["properties"]["area_m2"] > 0


def test_a_dry_run_names_the_files_that_a_run_writes(quick_clipseg: Program, maps: Path, tmp_path: Path) -> None:
    """Also of GeoTIFFs, of TIFFs that are none, of files with another suffix, and of files that cannot be read."""
    (maps / "e.tif").write_bytes(by_tags(picture(60, 40, 5)))
    (maps / "f.png").write_bytes((maps / "a.tif").read_bytes())
    PIL.Image.fromarray(picture(60, 40, 5)).save(maps / "g.jpg")
    (maps / "h.tif").write_bytes(b"II*\0")
    for form in ("mask", "labels", "tiff", "exr"):
        command = f"clipseg segment i -p red -p blue -f {form} -o out-{form}"
        planned = dict(line.split(" -> ") for line in quick_clipseg(f"{command} -n").stdout.splitlines())
        quick_clipseg(command, expect=3)
        rows = [row for row in records(tmp_path / f"out-{form}/manifest.jsonl") if row["status"] == "ok"]
        assert len(rows) == 7 and [*planned] == [f"i/{name}" for name in sorted(each.name for each in maps.iterdir())]
        for row in rows:
            paths = [mask["path"] for mask in row["masks"]] if form == "mask" else [row["files"][form]]
            assert planned[row["image"]].split(" ") == paths


def test_one_file_may_be_a_map(quick_clipseg: Program, maps: Path, tmp_path: Path) -> None:
    """`-o FILE` by its suffix: GeoJSON, GeoPackage and GeoTIFF of one image. `post` and `merge` write them too."""
    for name in ("m.geojson", "m.gpkg", "m.tif"):
        quick_clipseg(f"clipseg segment i/a.tif -p 'a red circle' -o {name}")
    assert opened((tmp_path / "m.tif").read_bytes())[:3] == opened((maps / "a.tif").read_bytes())[:3]
    infos = [pyogrio.read_info(tmp_path / name) for name in ("m.geojson", "m.gpkg")]
    assert [info["features"] for info in infos] == [1, 1] and infos[1]["crs"] == SYSTEM
    assert {"image", "label", "presence", "area_m2"} <= {*infos[0]["fields"]}


@pytest.mark.slow
def test_shards_make_the_same_map(quick_clipseg: Program, maps: Path, tmp_path: Path) -> None:
    """Equal runs have equal files, whatever their shards."""
    quick_clipseg("clipseg segment i -p 'a red circle' -f geojson,gpkg -o whole")
    for shard in range(2):
        quick_clipseg(f"clipseg segment i -p 'a red circle' -f geojson,gpkg -o parts --shard {shard}/2", expect=None)
    quick_clipseg("clipseg merge parts")
    for name in ("masks.geojson", "masks.gpkg"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_bands_and_stretch_are_in_the_record(quick_clipseg: Program, maps: Path, tmp_path: Path) -> None:
    """A run with other ones is another run, and `post` draws overlays of the same bands."""
    quick_clipseg("clipseg segment i/c.tif -p 'a red circle' -f soft,overlay --bands 3,2,1 --stretch 5,95% -o out")
    (row,) = records(tmp_path / "out/manifest.jsonl")
    assert row["notes"].startswith("bands 3,2,1 shown; values ") and "(5 to 95 %)" in row["notes"]
    settings = json.loads((tmp_path / "out/run.json").read_bytes())["settings"]
    assert (settings["bands"], settings["stretch"]) == ([3, 2, 1], [5, 95])
    quick_clipseg("clipseg post out -f overlay -o again")
    assert (tmp_path / "out/overlays/i/c.jpg").read_bytes() == (tmp_path / "again/overlays/i/c.jpg").read_bytes()


def test_the_summary_says_what_became_of_the_fourth_band(quick_clipseg: Program, tmp_path: Path) -> None:
    """Transparency, or not."""
    scene, infrared = np.moveaxis(picture(60, 40, 5), 2, 0), np.moveaxis(picture(60, 40, 6), 2, 0)[:1]
    (tmp_path / "i").mkdir()
    alpha = np.where(np.arange(60) < 20, 0, 255).astype(np.uint8)[None, None].repeat(40, 1)
    for name, band in (("a", alpha), ("b", infrared), ("c", infrared)):
        (tmp_path / f"i/{name}.tif").write_bytes(by_gdal(np.concatenate([scene, band])))
    said = quick_clipseg("clipseg segment i -p 'a red circle' -o out").stderr
    assert "band marked as transparency: taken as such in 1 images, ignored in 2, where its values are not" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="no ogrinfo on the path (Debian: apt install gdal-bin)")
def test_ogrinfo_and_gdalinfo_open_the_files(quick_clipseg: Program, maps: Path, tmp_path: Path) -> None:
    """With the extent of the mask in the image's own system, and in degrees; GDAL's tool sees the image's corners."""
    quick_clipseg(
        "clipseg segment i -e tif -E d.tif -E c.tif -p 'a red circle' -t p80 --grow 200 -f mask,geojson,gpkg -o out"
    )

    def tool(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        assert not done.stderr
        return done.stdout

    for name in ("a", "b"):
        one, two = (
            json.loads(tool("gdalinfo", "-json", path))
            for path in (f"i/{name}.tif", f"out/masks/a-red-circle/{name}.tif")
        )
        assert one["cornerCoordinates"] == two["cornerCoordinates"]
        assert one["coordinateSystem"]["wkt"] == two["coordinateSystem"]["wkt"]
    corners = [PLACE @ (0, 0), PLACE @ (200, 150), *(ROTATED @ at for at in ((0, 0), (200, 0), (0, 150), (200, 150)))]
    expected = [*np.min(corners, 0), *np.max(corners, 0)]
    degrees = pyproj.Transformer.from_crs(SYSTEM, "EPSG:4326", always_xy=True).transform_bounds(*expected)
    for kind, extent, near in (("gpkg", expected, 0.01), ("geojson", degrees, 1e-5)):
        said = tool("ogrinfo", "-ro", "-so", "-al", f"out/masks.{kind}")
        assert "Layer name: masks\n" in said and "Feature Count: 2\n" in said
        found = re.search(r"Extent: \((\S+), (\S+)\) - \((\S+), (\S+)\)", said)
        assert found and np.allclose([*map(float, found.groups())], extent, atol=near)
