"""Records as JSON: one shape for every result, described by the schema in the package, read by data frames."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest
from pycocotools import mask as coco_masks

from clipseg_cli.errors import ImageError
from clipseg_cli.outputs.record import Mask, Record
from clipseg_cli.settings.outputs import FORMATS
from mask_shapes import PLACE
from pictures import Program, picture, records, save

SCHEMA = json.loads((files("clipseg_cli.outputs") / "record.schema.json").read_text())
MASK = Mask("cat", "a cat", 0.3, 0.93, 0.12, 10233, 0.033, (12, 40, 200, 310), 0.97, files=(("mask", "m.png"),))
DONE = Record("imgs/a.jpg", 640, 480, "JPEG", masks=(MASK,), files=(("overlay", "o.jpg"),))
EMPTY = replace(MASK, area=0, area_frac=0.0, bbox=(0, 0, 0, 0), files=())
COUNT = 50_000
LAST = 3  # the last records: an empty mask, a note and a failure


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """Returns a record that fits the schema."""
    jsonschema.validate(document, SCHEMA, jsonschema.Draft202012Validator)
    return document


def shape(value: Any) -> Any:
    """Returns keys and types of a JSON value; of a list, those of its first item."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value)


def test_every_result_has_the_same_keys_and_types() -> None:
    """A success, an empty mask, a note, an odd name and a failure differ in values only."""
    formats = ("mask", "soft", "overlay", "coco")
    odd = Record("b\udcff.jpg", 1, 1, "PNG", masks=(EMPTY,), notes=("one", "two"), time=2, frame=3)
    failed = Record("c.jpg").failed(ImageError("corrupt", "load", "cut short"))
    shapes = [shape(checked(each.of_run(formats).document())) for each in (DONE, odd)]
    assert shapes[0] == shapes[1]
    last = shape(checked(failed.of_run(formats).document()))
    assert last | {"masks": shapes[0]["masks"]} == shapes[0]
    assert list(last["files"]) == ["overlay", "coco"] and list(shapes[0]["masks"][0])[-2:] == ["path", "soft"]


def test_a_run_writes_what_the_schema_says(clipseg: Program, tmp_path: Path) -> None:
    """Every line of a run with all formats fits the schema, and all lines have one shape."""
    save(tmp_path / "i/a.png", picture())
    save(tmp_path / "i/none.png", picture() * 0)
    (tmp_path / "i/bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    for name in ("a", "none"):  # maps need a place
        (tmp_path / f"i/{name}.pgw").write_bytes(PLACE.world)
        (tmp_path / f"i/{name}.prj").write_bytes(PLACE.projection)
    clipseg(
        f"clipseg segment i -p 'a red circle' -p red -f {','.join(FORMATS)} --instances --empty skip -o o", expect=3
    )
    rows = [checked(row) for row in records(tmp_path / "o/manifest.jsonl")]
    emptied = [row | {"masks": [mask | {"instances": []} for mask in row["masks"]]} for row in rows]
    shapes = [shape(row) for row in emptied if row["status"] == "ok"]
    assert len(rows) == 3 and shapes[0] == shapes[1]
    assert all(mask.keys() == rows[0]["masks"][0].keys() for row in rows for mask in row["masks"])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of `COUNT` records, of which the first failure, note and empty mask come last."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.jsonl"
    formats = ("mask", "overlay")
    last = [
        replace(DONE, image="empty.jpg", masks=(EMPTY,)),
        replace(DONE, image="noted.jpg", notes=("EXIF ignored",)),
        Record("bad.jpg").failed(ImageError("corrupt", "load", "cut short")),
    ]
    with path.open("w") as file:
        for index in range(COUNT - LAST):
            file.write(replace(DONE, image=f"imgs/{index}.jpg").of_run(formats).line() + "\n")
        file.writelines(record.of_run(formats).line() + "\n" for record in last)
    return path


def _polars(path: Path) -> list[dict[str, Any]]:
    return pytest.importorskip("polars").read_ndjson(path)[-LAST:].to_dicts()


def _pandas(path: Path) -> list[dict[str, Any]]:
    return pytest.importorskip("pandas").read_json(path, lines=True)[-LAST:].to_dict("records")


def _duckdb(path: Path) -> list[dict[str, Any]]:
    found = pytest.importorskip("duckdb").sql(f"SELECT * FROM '{path}'").fetchall()
    names = [each[0] for each in pytest.importorskip("duckdb").sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall()]
    return [dict(zip(names, row, strict=True)) for row in found[-LAST:]]


def _datasets(path: Path) -> list[dict[str, Any]]:
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset("json", data_files=str(path), cache_dir=str(path.parent / "cache"), split="train")
    return [data[index] for index in range(COUNT - LAST, COUNT)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("read", [_polars, _pandas, _duckdb, _datasets], ids=lambda read: read.__name__[1:])
def test_data_frames_read_a_manifest_with_their_defaults(
    manifest: Path, read: Callable[[Path], list[dict[str, Any]]]
) -> None:
    """The first failure, note and empty mask of 50,000 records come last, and nothing of them is lost."""
    empty, noted, failed = read(manifest)
    assert list(empty["masks"][0]["bbox"]) == [0, 0, 0, 0] and empty["masks"][0]["path"] == ""
    assert noted["notes"] == "EXIF ignored" and noted["error"] == {"class": "", "stage": "", "message": ""}
    assert failed["status"] == "failed" and not len(failed["masks"])
    assert failed["error"] == {"class": "corrupt", "stage": "load", "message": "cut short"}
    assert failed["files"] == {"overlay": ""}


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_parquet_holds_the_records_with_their_masks(clipseg: Program, tmp_path: Path) -> None:
    """A failed image comes first, and yet every column has its type; pycocotools decodes the masks of the files."""
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "i").mkdir()
    (tmp_path / "i/0.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    for name in ("a", "b"):
        save(tmp_path / f"i/{name}.png", picture(90, 70, ord(name)))
    clipseg("clipseg segment i -p 'a red circle' -p blue -f mask,parquet,soft -o out", expect=3)
    rows = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    lines = sorted(records(tmp_path / "out/manifest.jsonl"), key=lambda row: row["image"])
    assert len(rows) == 3 and rows[0]["masks"] == []
    for row, line in zip(rows, lines, strict=True):
        for mask in row["masks"]:
            runs = mask.pop("rle")
            decoded = coco_masks.decode({"size": runs["size"], "counts": runs["counts"].encode()})
            assert np.array_equal(decoded * 255, cv2.imread(str(tmp_path / "out" / mask["path"]), cv2.IMREAD_GRAYSCALE))
        assert checked(row) == line
