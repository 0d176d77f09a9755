"""The record of one image, and the manifest that holds one record per image: JSON Lines, schema version 1.

A journal beside the manifest says which input file each record describes and which files were written for it, so that
a resumed run can tell whether a record is still valid.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Self

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.inputs import names
from clipseg_cli.inputs.source import Source
from clipseg_cli.storage import store
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.lines import Line, Lines, open_lines
from clipseg_cli.storage.locks import Claims
from clipseg_cli.storage.store import AnyPath

VERSION = 1
MANIFEST = "manifest.jsonl"
JOURNAL = ".clipseg-journal.jsonl"
CLAIMS = ".clipseg-claims"
RUN = "run.json"

# JSON does not escape these characters, but many readers treat them as line ends
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}

Identity = list[int | str]  # of an input file: [size in bytes, mtime in nanoseconds] or [size in bytes, sha256]


@dataclass(frozen=True, slots=True)
class Mask:
    """The result of one prompt on one image. Areas are in pixels, scores in [0, 1]."""

    label: str
    prompt: str
    threshold: float
    score: float  # the soft map's maximum
    mean: float  # the soft map's mean
    area: int
    area_frac: float
    bbox: tuple[int, int, int, int] | None  # x, y, width, height in pixels; None for an empty mask
    presence: float  # presence score: see `soft_maps.presence`
    path: str | None = None  # of the mask file, relative to the output folder
    soft: str | None = None  # of the soft map file, likewise
    similarity: float | None = None  # cosine similarity of image and prompt embeddings; None unless requested
    files: tuple[tuple[str, str], ...] = ()  # (format, path) of the label's other files


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one image: its masks, or the error that it failed with."""

    image: str  # path as the operating system gives it; bytes that are not UTF-8 are surrogates
    width: int = 0
    height: int = 0
    format: str | None = None  # detected from the content, not from the extension
    frames: int = 1
    masks: tuple[Mask, ...] = ()
    overlay: str | None = None
    files: tuple[tuple[str, str], ...] = ()  # (format, path) of the image's other files
    notes: tuple[str, ...] = ()
    error: ImageError | None = None
    identity: Identity | None = None  # of the input file
    output: str = ""  # the image's output path: the common part of the paths of its files
    outputs: tuple[tuple[str, int], ...] = ()  # (path relative to the output folder, size in bytes)
    kept: dict[str, Any] | None = None  # the JSON document of another run, if the image was skipped

    @property
    def ok(self) -> bool:
        """True if the image was segmented, even if all its masks are empty."""
        return self.error is None

    @property
    def presence(self) -> float:
        """The highest presence score of all labels; 0 without masks."""
        return max((mask.presence for mask in self.masks), default=0.0)

    def document(self) -> dict[str, Any]:
        """Returns the record as JSON types. A name that is not UTF-8 is also in `image_b64`, byte for byte."""
        if self.kept is not None:
            return self.kept
        name = readable_name(self.image)
        document: dict[str, Any] = {"v": VERSION, "image": name}
        if name != self.image:
            document["image_b64"] = base64.b64encode(os.fsencode(self.image)).decode("ascii")
        document["status"] = "ok" if self.ok else "failed"
        if self.error is not None:
            message = str(self.error).encode("utf-8", "backslashreplace").decode("utf-8")
            document["error"] = {"class": self.error.kind, "stage": self.error.stage, "message": message}
            return document
        document |= {"width": self.width, "height": self.height, "format": self.format}
        if self.frames > 1:
            document["frames"] = self.frames
        document["masks"] = [_mask(mask) for mask in self.masks]
        if self.overlay is not None:
            document["overlay"] = self.overlay
        document |= dict(self.files)
        if self.notes:
            document["notes"] = list(self.notes)
        return document

    def line(self) -> str:
        """Returns the record as one line of JSON, without the line end."""
        return _dumps(self.document())


def _mask(mask: Mask) -> dict[str, Any]:
    document: dict[str, Any] = {
        "label": mask.label,
        "prompt": mask.prompt,
        "threshold": mask.threshold,
        "score": round(mask.score, 4),
        "mean": round(mask.mean, 4),
        "presence": mask.presence,
        "area": mask.area,
        "area_frac": round(mask.area_frac, 6),
        "bbox": None if mask.bbox is None else list(mask.bbox),
        "path": mask.path,
    }
    if mask.soft is not None:
        document["soft"] = mask.soft
    if mask.similarity is not None:
        document["similarity"] = round(mask.similarity, 4)
    return document | dict(mask.files)


class Ledger:
    """The manifest and the journal of one output folder. A context manager: entering reads both.

    The journal line of an image is written before its manifest line. An image counts as done if both lines exist, its
    output files have the recorded sizes, and the input file is unchanged.

    Runs that work in one folder at the same time share the images: a run claims an image before it processes it, and
    ends the claim once its manifest line is written. In a bucket, which has no locks, each run processes all images.
    """

    def __init__(self, out: AnyPath, fsync: bool = False) -> None:
        self.out = out
        self.manifest = open_lines(out / MANIFEST, fsync)
        self.journal = open_lines(out / JOURNAL, fsync)
        self.claims = None if isinstance(out, Url) else Claims(out / CLAIMS)
        self.size = store.sizes(out)
        self.known: dict[str, bytes] = {}  # image name -> its manifest line when the run began
        self.news: dict[int, int] = {}  # hash of an image name -> place of the line that another run has added since
        self.proofs: dict[str, tuple[Identity | None, dict[str, int]]] = {}  # name -> input identity, sizes of outputs
        self.owners: dict[int, int] = {}  # hash of an output path -> hash of the name of its image; hashes save memory
        self.untidy = False  # the manifest holds two lines for one image, or a line that is not a record

    def __enter__(self) -> Self:
        self.manifest.__enter__()
        self.journal.__enter__()
        for line in self.manifest:
            document = _document(line)
            if document.get("v", VERSION) != VERSION:
                raise OutputError(
                    f"{self.out / MANIFEST} was written by another version of clipseg (schema {document['v']}): "
                    "choose another --out, or use --overwrite"
                )
            name = image_name(document) if "image" in document else None
            self.untidy |= name is None or name in self.known
            if name is not None:
                self.known[name] = line
        for line in self.journal:
            document = _document(line)
            if {"image", "input", "outputs"} <= document.keys():
                name = image_name(document)
                self.proofs[name] = document["input"], document["outputs"]
                self.owners.setdefault(hash(document.get("output")), hash(name))
        if self.claims is not None:
            with store.failing(self.out / CLAIMS):
                self.claims.open()
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        self.journal.__exit__(kind)
        self.manifest.__exit__(kind)
        if self.claims is not None:
            self.claims.close()

    def take(self, name: str, identify: Callable[[], Identity] | None) -> Record | bool:
        """Returns the record of an image that is finished; else whether this run may process it.

        It is finished if an earlier run did it and `identify` returns the identity that the input had then, or if
        another run has just done it, or has found that it fails. `identify` is None for an input that cannot be the
        same as before; it is not called for images without a journal line. False: another run is processing it.
        """
        kept = self._kept(name, identify)
        if kept is not None or self.claims is None or not isinstance(self.manifest, Lines):
            return kept or True
        if not self.claims.take(name):
            return False
        self._learn(self.manifest.news())
        document = _document(self.manifest.at(self.news[hash(name)])) if hash(name) in self.news else {}
        if "image" not in document or image_name(document) != name:
            return True
        self.claims.drop(name)
        error = document.get("error")
        failure = None if error is None else ImageError(error["class"], error["stage"], error["message"])
        return Record(name, kept=document, error=failure)

    def _kept(self, name: str, identify: Callable[[], Identity] | None) -> Record | None:
        """Returns the record of an image that an earlier run finished."""
        line, (recorded, outputs) = self.known.get(name), self.proofs.get(name, (None, {}))
        if line is None or recorded is None or identify is None:
            return None
        document = _document(line)
        try:
            complete = identify() == recorded and all(self.size(path) == size for path, size in outputs.items())
        except (OSError, ValueError):
            return None
        return Record(name, kept=document) if complete and document.get("status") == "ok" else None

    def _learn(self, lines: list[Line]) -> None:
        """Notes the manifest lines that other runs have added."""
        for place, line in lines:
            document = _document(line)
            if "image" in document:
                name = image_name(document)
                self.untidy |= name in self.known
                self.news[hash(name)] = place

    def with_own_output(self, source: Source) -> Source:
        """Returns the source with an output path that no other image of an earlier run owns.

        Two input folders that share an output folder may hold images with the same relative path.
        """
        owner = self.owners.get(hash(store.portable(source.output)), hash(source.name))
        return (
            source if owner == hash(source.name) else replace(source, output=names.renamed(source.output, source.name))
        )

    def add(self, record: Record) -> None:
        """Appends the record of an image whose files are written. The record of a skipped image does not change.

        Deletes files that an earlier run wrote for this image and this run did not, so that no outdated mask remains.
        Raises OutputError.
        """
        if record.kept is not None:
            return
        _, before = self.proofs.get(record.image, (None, {}))
        for path in before.keys() - dict(record.outputs).keys():
            with contextlib.suppress(OSError):  # gone, or a folder now
                (self.out / path).unlink()
        document = record.document()
        if record.ok:
            proof: dict[str, Any] = {key: document[key] for key in ("image", "image_b64") if key in document}
            proof |= {"output": record.output, "input": record.identity, "outputs": dict(record.outputs)}
            self.journal.append(_dumps(proof))
        self._learn(self.manifest.append(_dumps(document)))
        self.untidy |= record.image in self.known or hash(record.image) in self.news
        if self.claims is not None:
            self.claims.drop(record.image)

    def close(self) -> None:
        """Ends a run: keeps the latest record of each image and, in a bucket, joins the parts. Raises OutputError."""
        if self.untidy or isinstance(self.out, Url):
            for lines in (self.manifest, self.journal):
                lines.rewrite(_latest)


def forget(out: AnyPath) -> None:
    """Deletes the manifest, the journal and run.json of an output folder. Raises OutputError."""
    for name in (MANIFEST, JOURNAL):
        open_lines(out / name).clear()
    with store.failing(out):
        (out / RUN).unlink(missing_ok=True)


def _latest(lines: list[bytes]) -> list[bytes]:
    """Returns the last line of each image, in the order of the first lines; drops lines that are not records."""
    latest: dict[str, bytes] = {}
    for line in lines:
        document = _document(line)
        if "image" in document:
            latest[image_name(document)] = line
    return list(latest.values())


def in_order(lines: list[bytes]) -> list[bytes]:
    """Returns the last line of each image, sorted by the image's name."""
    return sorted(_latest(lines), key=lambda line: os.fsencode(image_name(_document(line))))


def readable_name(name: str) -> str:
    """Returns a name as valid Unicode: bytes that are not UTF-8 become escapes like `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def documents(path: AnyPath) -> Iterator[dict[str, Any]]:
    """Yields the records of a manifest. In a bucket, each image comes once; elsewhere, once per line."""
    lines = _latest(list(open_lines(path))) if isinstance(path, Url) else open_lines(path)
    return (document for line in lines if "image" in (document := _document(line)))


def latest(path: AnyPath) -> dict[str, dict[str, Any]]:
    """Returns each image's record by name; the later one if an unfinished run holds two."""
    return {image_name(document): document for document in documents(path)}


def written(out: AnyPath, folder: str) -> dict[str, str]:
    """Returns the path of each image's output below `folder`, a path that ends in "/", by the image's name."""
    return {
        image_name(document): path
        for document in documents(out / JOURNAL)
        for path in document.get("outputs", ())
        if path.startswith(folder)
    }


def point(out: AnyPath, key: str, paths: dict[str, str], fsync: bool) -> None:
    """Makes the records name these paths under `key`, by readable name, and keeps the latest record of each image."""

    def pointed(line: bytes) -> bytes:
        document = _document(line)
        path = paths.get(document["image"])
        if document.get(key) in (None, path):
            return line
        return (_dumps(document | {key: path}) + "\n").encode()

    documents_at = open_lines(out / MANIFEST, fsync)
    documents_at.rewrite(lambda lines: [pointed(line) for line in _latest(lines)])


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
            if "image" in (document := _document(line)):
                self._positions[image_name(document)] = at
            seen.update(line)
            at += len(line)
        self.digest = seen.hexdigest()
        return self

    def _opened(self) -> BinaryIO:
        if isinstance(self.path, Url):
            return io.BytesIO(b"".join(_latest(list(open_lines(self.path)))))
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
        return _document(self._file.readline())


def _document(line: bytes) -> dict[str, Any]:
    """Returns the JSON object on a line; an empty one if the line holds anything else, for example after a bad edit."""
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def image_name(document: dict[str, Any]) -> str:
    """Returns the name of a record's image as the operating system gives it."""
    if "image_b64" in document:
        return os.fsdecode(base64.b64decode(document["image_b64"]))
    return str(document["image"])


def _dumps(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
