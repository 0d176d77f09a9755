"""The record of each image, and the manifest they are kept in: JSON, one line an image, schema version 1."""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.inputs import names
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.storage import store
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.lines import open_lines
from clipseg_cli.storage.store import Place

VERSION = 1
MANIFEST = "manifest.jsonl"
JOURNAL = ".clipseg-journal.jsonl"  # beside each record what is needed to know later that it still holds
RUN = "run.json"

# JSON leaves these as they are, but many a reader takes them for the end of a line
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}

Identity = list[int | str]  # of an input file: size in bytes and mtime in nanoseconds, or size and sha256


@dataclass(frozen=True, slots=True)
class Mask:
    """One prompt's result on one image. Areas in pixels, box x, y, width, height in pixels, rest in [0, 1]."""

    label: str
    prompt: str
    threshold: float
    score: float  # the soft map's maximum
    mean: float  # the soft map's mean
    area: int
    area_frac: float
    bbox: tuple[int, int, int, int] | None
    presence: float  # how surely the image shows it: see `masks.presence`
    path: str | None = None  # of the mask, under the output directory
    soft: str | None = None  # of the soft map
    similarity: float | None = None  # cosine of the image's embedding and the prompt's, where it was asked for
    files: tuple[tuple[str, str], ...] = ()  # (format, path) of the label's other files


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one image: masks, or an error."""

    image: str  # as the operating system gives it: may hold bytes that are not UTF-8, as surrogates
    width: int = 0
    height: int = 0
    format: str | None = None  # of the file's content, whatever its extension says
    frames: int = 1
    masks: tuple[Mask, ...] = ()
    overlay: str | None = None
    files: tuple[tuple[str, str], ...] = ()  # (format, path) of the image's other files
    notes: tuple[str, ...] = ()
    error: ImageError | None = None
    identity: Identity | None = None  # of the file that was read
    output: str = ""  # what the paths of its files have in common
    outputs: tuple[tuple[str, int], ...] = ()  # path under the output directory, bytes
    kept: dict[str, Any] | None = None  # the record's document, where an earlier run did the image

    @property
    def ok(self) -> bool:
        """True when the image was segmented; its masks may be empty."""
        return self.error is None

    @property
    def presence(self) -> float:
        """That of the label which the image shows most surely; 0 without masks."""
        return max((mask.presence for mask in self.masks), default=0.0)

    def document(self) -> dict[str, Any]:
        """The record as JSON types. `image_b64` holds the name's bytes where they are not UTF-8."""
        if self.kept is not None:
            return self.kept
        name = shown(self.image)
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
        """The record as one line of JSON, without its line end."""
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
    """The manifest and the journal of an output directory: what is done there, and room for more. Use it with `with`.

    The journal's line comes first, the manifest's last: an image is done where both say so, its outputs have the
    sizes that were recorded, and it is still the file that was read.
    """

    def __init__(self, out: Place, fsync: bool = False) -> None:
        self.out = out
        self.manifest, self.journal = (
            open_lines(out / MANIFEST, fsync),
            open_lines(out / JOURNAL, fsync),
        )
        self.size = store.sizes(out)
        self.known: dict[str, bytes] = {}  # image -> its line in the manifest when the run began
        self.proofs: dict[str, tuple[Identity, dict[str, int]]] = {}
        self.taken: dict[int, int] = {}  # hash of an output path -> hash of the name of the image that has it
        self.again = False  # the manifest has two lines of an image, or one that is no record

    def __enter__(self) -> Self:
        self.manifest.__enter__()
        self.journal.__enter__()
        for line in self.manifest:
            document = _document(line)
            if document.get("v", VERSION) != VERSION:
                raise OutputError(
                    f"{self.out / MANIFEST} was written by another version of clipseg (schema {document['v']}): "
                    "choose another --out, or --overwrite"
                )
            name = image_name(document) if "image" in document else None
            self.again |= name is None or name in self.known
            if name is not None:
                self.known[name] = line
        for line in self.journal:
            document = _document(line)
            if {"image", "input", "outputs"} <= document.keys():
                name = image_name(document)
                self.proofs[name] = document["input"], document["outputs"]
                self.taken.setdefault(hash(document.get("output")), hash(name))
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *exception: object) -> None:
        self.journal.__exit__(kind)
        self.manifest.__exit__(kind)

    def kept(self, source: Source, checksum: bool) -> Record | None:
        """The record of an image that need not be done again, or None. Only what the journal knows is looked at."""
        line, (read, outputs) = self.known.get(source.name), self.proofs.get(source.name, (None, {}))
        if line is None or read is None or source.error is not None or source.data is not None:
            return None
        document = _document(line)
        try:
            same = identify(source, checksum) == read
            whole = same and all(self.size(path) == size for path, size in outputs.items())
        except (OSError, ValueError):
            return None
        return Record(source.name, kept=document) if whole and document.get("status") == "ok" else None

    def claim(self, source: Source) -> Source:
        """The source with an output path that no image of an earlier run has: two folders that are done into one."""
        owner = self.taken.get(hash(store.portable(source.output)), hash(source.name))
        mine = owner == hash(source.name)
        return source if mine else replace(source, output=names.renamed(source.output, source.name))

    def add(self, record: Record) -> None:
        """Keeps a record whose files are written; one that an earlier run kept stays as it is. What an earlier run
        wrote for the image and this one did not is removed: a mask under a final name is that of the last picture."""
        if record.kept is not None:
            return
        _, before = self.proofs.get(record.image, (None, {}))
        for path in before.keys() - dict(record.outputs).keys():
            with contextlib.suppress(OSError):  # gone, or a folder now
                (self.out / path).unlink()
        document = record.document()
        if record.ok and record.identity is not None:
            proof: dict[str, Any] = {key: document[key] for key in ("image", "image_b64") if key in document}
            proof |= {"output": record.output, "input": record.identity, "outputs": dict(record.outputs)}
            self.journal.append(_dumps(proof))
        self.again |= record.image in self.known
        self.manifest.append(_dumps(document))

    def close(self) -> None:
        """Ends a run: of two records of one image the later takes the place of the earlier; parts are joined."""
        if self.again or isinstance(self.out, Url):
            for lines in (self.manifest, self.journal):
                lines.rewrite(_latest)


def forget(out: Place) -> None:
    """Takes from an output directory what tells that a run is there. Raises OutputError."""
    for name in (MANIFEST, JOURNAL):
        open_lines(out / name).clear()
    with store.failing(out):
        (out / RUN).unlink(missing_ok=True)


def _latest(lines: list[bytes]) -> list[bytes]:
    """Each image's last line, at the place of its first; lines that are no record are dropped."""
    latest: dict[str, bytes] = {}
    for line in lines:
        document = _document(line)
        if "image" in document:
            latest[image_name(document)] = line
    return list(latest.values())


def in_order(lines: list[bytes]) -> list[bytes]:
    """Each image's last line, sorted by the image's name."""
    return sorted(_latest(lines), key=lambda line: os.fsencode(image_name(_document(line))))


def shown(name: str) -> str:
    """A name as valid Unicode: bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def documents(path: Place) -> Iterator[dict[str, Any]]:
    """The records of a manifest, as it stands; a bucket's each image once."""
    lines = _latest(list(open_lines(path))) if isinstance(path, Url) else open_lines(path)
    return (document for line in lines if "image" in (document := _document(line)))


def latest(path: Place) -> dict[str, dict[str, Any]]:
    """The record of each image by its name: the later one, where an unfinished run holds two."""
    return {image_name(document): document for document in documents(path)}


def _document(line: bytes) -> dict[str, Any]:
    """The object on a line; empty for anything else, such as a line that was edited by hand."""
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def image_name(document: dict[str, Any]) -> str:
    """The name of a record's image as the operating system gives it."""
    if "image_b64" in document:
        return os.fsdecode(base64.b64decode(document["image_b64"]))
    return str(document["image"])


def _dumps(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
