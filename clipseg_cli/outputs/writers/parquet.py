"""Parquet: the records of a run as one table with declared types, each mask as COCO's run lengths."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from clipseg_cli.masks import coco_codec
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.record import PER_LABEL
from clipseg_cli.outputs.writers.annotations import FRAGMENTS
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.outputs import TOP_NAMES
from clipseg_cli.storage import store
from clipseg_cli.storage.store import AnyPath

GROUP = 1000  # records that are in memory at once: a row group


def masks(stem: str, result: Result) -> Iterator[File]:
    """Yields a JSON fragment: the run lengths of each label's mask. `table` adds the record."""
    runs = [{"size": list(mask.shape), "counts": coco_codec.packed(mask)} for mask in result.masks]
    yield f"{FRAGMENTS}/parquet/{stem}.json", None, json.dumps(runs).encode()


def table(out: AnyPath, fragments: Sequence[tuple[str, str]], labels: Sequence[str], fsync: bool) -> None:
    """Writes manifest.parquet: the manifest's records in the order of the images' names, failed ones too."""
    store.write(out / TOP_NAMES["parquet"], _pieces(out, dict(fragments)), fsync)


def _pieces(out: AnyPath, fragments: dict[str, str]) -> Iterator[bytes]:
    """Yields the pieces of the file, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with manifest.Index(out / manifest.MANIFEST) as records:
        names = iter(sorted(records))
        whole = next((record for name in sorted(records) if (record := records[name])["masks"]), None)
        schema, sink = _schema(whole or next(map(records.__getitem__, records))), _Sink()
        with pq.ParquetWriter(pa.PythonFile(sink, "w"), schema, compression="zstd") as writer:
            while group := list(itertools.islice(names, GROUP)):
                rows = {name: _with_runs(records[name]) for name in group}
                found = [name for name in group if name in fragments]
                for name, data in zip(found, store.contents(out, [fragments[each] for each in found]), strict=True):
                    for mask, runs in zip(rows[name]["masks"], json.loads(data), strict=True):
                        mask["rle"] = runs
                writer.write_table(pa.Table.from_pylist([*rows.values()], schema))
                yield sink.taken()
        yield sink.taken()


class _Sink:
    """A file that keeps what is written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        """Keeps a copy of the bytes."""
        self.pieces.append(bytes(data))
        return len(self.pieces[-1])

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def taken(self) -> bytes:
        """Returns the bytes that were written since the last call."""
        data, self.pieces = b"".join(self.pieces), []
        return data


def _with_runs(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record whose masks have empty run lengths."""
    empty = {"size": [0, 0], "counts": ""}
    return record | {"masks": [mask | {"rle": empty} for mask in record["masks"]]}


def _schema(record: dict[str, Any]) -> Any:
    """Returns the types of the columns. Which paths there are depends on the run's formats, as one record shows."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    paths = [key for key in PER_LABEL.values() if any(key in mask for mask in record["masks"]) or key == "path"]
    mask = {"label": text, "prompt": text, "threshold": real, "score": real, "mean": real, "presence": real}
    mask |= {"similarity": real, "area": whole, "area_frac": real, "bbox": pa.list_(whole), "refined": pa.bool_()}
    mask |= {"held_back": text}
    if any("instances" in mask for mask in record["masks"]):
        instance = {"id": whole, "area": whole, "bbox": pa.list_(whole), "score": real}
        mask |= {"instances": pa.list_(pa.struct(instance))}
    mask |= dict.fromkeys(paths, text) | {"rle": pa.struct({"size": pa.list_(whole), "counts": text})}
    columns = {"v": whole, "image": text, "image_b64": text, "status": text, "width": whole, "height": whole}
    columns |= {"orientation": whole, "format": text, "frames": whole, "frame": whole, "time": real}
    columns |= {"masks": pa.list_(pa.struct(mask)), "files": pa.struct(dict.fromkeys(record["files"], text))}
    columns |= {"notes": text, "error": pa.struct({"class": text, "stage": text, "message": text})}
    return pa.schema(columns)
