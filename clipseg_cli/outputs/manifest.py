"""The manifest of an output folder: one record per image, as JSON Lines. Here it is read; `ledger` writes it."""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from clipseg_cli.outputs.record import dumps, key_of, parsed
from clipseg_cli.settings.outputs import TOP_NAMES
from clipseg_cli.storage import store, unfinished
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.lines import open_lines
from clipseg_cli.storage.store import AnyPath

MANIFEST = "manifest.jsonl"
JOURNAL = ".clipseg-journal.jsonl"  # beside each record: its input file and the files that were written for it
CLAIMS = ".clipseg-claims"
RUN = "run.json"


def forget(out: AnyPath) -> None:
    """Deletes the manifest, the journal and run.json of an output folder. Raises OutputError.

    Deletes outputs that --name has put elsewhere than into the usual folders too: a walk would take them for images.
    """
    for document in documents(out / JOURNAL):
        for path in document.get("outputs", ()):
            if path.partition("/")[0] not in TOP_NAMES.values() and not path.startswith("."):
                with contextlib.suppress(OSError):
                    (out / path).unlink()
    if isinstance(out, Path):
        unfinished.delete(out / unfinished.FOLDER)
    for name in (MANIFEST, JOURNAL):
        open_lines(out / name).clear()
    with store.failing(out):
        (out / RUN).unlink(missing_ok=True)


def latest_lines(lines: list[bytes]) -> list[bytes]:
    """Returns the last line of each image, in the order of the first lines; drops lines that are not records."""
    latest: dict[str, bytes] = {}
    for line in lines:
        document = parsed(line)
        if "image" in document:
            latest[key_of(document)] = line
    return list(latest.values())


def in_order(lines: list[bytes]) -> list[bytes]:
    """Returns the last line of each image, sorted by the image's name."""
    return sorted(latest_lines(lines), key=lambda line: os.fsencode(key_of(parsed(line))))


def documents(path: AnyPath) -> Iterator[dict[str, Any]]:
    """Yields the records of a manifest. In a bucket, each image comes once; elsewhere, once per line."""
    lines = latest_lines(list(open_lines(path))) if isinstance(path, Url) else open_lines(path)
    return (document for line in lines if "image" in (document := parsed(line)))


def latest(path: AnyPath) -> dict[str, dict[str, Any]]:
    """Returns each image's record by name; the later one if an unfinished run holds two."""
    return {key_of(document): document for document in documents(path)}


def written(out: AnyPath, folder: str) -> dict[str, str]:
    """Returns the path of each image's output below `folder`, a path that ends in "/", by the image's name."""
    return {
        key_of(document): path
        for document in documents(out / JOURNAL)
        for path in document.get("outputs", ())
        if path.startswith(folder)
    }


def outputs(out: AnyPath) -> dict[str, str]:
    """Returns the output path of each image by the image's key, from the journal. Memory grows with their number."""
    return {key_of(document): str(document["output"]) for document in documents(out / JOURNAL) if "output" in document}


def splits(out: AnyPath) -> dict[str, str]:
    """Returns the part of a data set that each image belongs to, by the image's key; empty without --split."""
    return {key_of(document): document["split"] for document in documents(out / JOURNAL) if "split" in document}


def point(out: AnyPath, key: str, paths: dict[str, str], fsync: bool) -> None:
    """Makes the records name these paths under `key`, by the images' keys. Keeps each image's latest record."""

    def pointed(line: bytes) -> bytes:
        document = parsed(line)
        path = paths.get(key_of(document))
        if path is None or document["files"].get(key) in (None, "", path):
            return line
        return (dumps(document | {"files": document["files"] | {key: path}}) + "\n").encode()

    documents_at = open_lines(out / MANIFEST, fsync)
    documents_at.rewrite(lambda lines: [pointed(line) for line in latest_lines(lines)])


class Index:
    """The latest record of each image, by name. Memory holds names and positions; the records stay in the file.

    Names come in the order of their first lines. Use it with `with`.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._positions: dict[str, int] = {}
        self.digest = ""  # SHA-256 of the manifest, in hexadecimal digits

    def __enter__(self) -> Self:
        self._file = self._opened()
        seen, at = hashlib.sha256(), 0
        for line in self._file:
            if "image" in (document := parsed(line)):
                self._positions[key_of(document)] = at
            seen.update(line)
            at += len(line)
        self.digest = seen.hexdigest()
        return self

    def _opened(self) -> BinaryIO:
        if isinstance(self.path, Url):
            return io.BytesIO(b"".join(latest_lines(list(open_lines(self.path)))))
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            return io.BytesIO()

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, name: str) -> bool:
        return name in self._positions

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Returns the record of an image. Raises KeyError if there is none."""
        self._file.seek(self._positions[name])
        return parsed(self._file.readline())
