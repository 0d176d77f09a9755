"""The record of one image, or of one frame of a file: its masks, or the error that it failed with.

As JSON, every record has the same keys, each with one type, and no null, so that data frames read a manifest with their
default settings. `record.schema.json` in this folder is its JSON Schema, version 2.
"""

import base64
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.inputs.georeference import NOWHERE, Georeference
from clipseg_cli.inputs.source import Source, key, readable

VERSION = 2
# Formats whose files show one label: the key of their path in the JSON of a mask. Other paths are in `files`.
PER_LABEL = {"mask": "path", "soft": "soft", "soft16": "soft16", "cutout": "cutout", "video": "video"}

# JSON does not escape these characters, but many readers treat them as line ends
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}

Identity = list[int | str]  # of an input file: [size in bytes, mtime in nanoseconds] or [size in bytes, sha256]


@dataclass(frozen=True, slots=True)
class Numbered:
    """An instance, and its number in the image."""

    id: int  # from 1, over all labels
    area: int  # pixels
    bbox: tuple[int, int, int, int]  # x, y, width, height in pixels
    score: float  # the soft map's maximum in it

    def document(self) -> dict[str, Any]:
        """Returns the instance as JSON types."""
        return {"id": self.id, "area": self.area, "bbox": list(self.bbox), "score": round(self.score, 4)}


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
    bbox: tuple[int, int, int, int]  # x, y, width, height in pixels; zeros for an empty mask
    presence: float  # presence score: see `soft_maps.presence`
    similarity: float = 0.0  # cosine similarity of image and prompt embeddings; 0 unless requested
    refined: bool = False  # by --refine
    held_back: str = ""  # why --refine sam left the mask, or a part of it, as it was
    instances: tuple[Numbered, ...] | None = None  # None without --instances
    files: tuple[tuple[str, str], ...] = ()  # (format, path relative to the output folder) of the label's files

    def document(self, formats: Sequence[str]) -> dict[str, Any]:
        """Returns the mask as JSON types, with a path for each of `formats` that shows one label."""
        files = dict(self.files)
        return {
            "label": self.label,
            "prompt": self.prompt,
            "threshold": float(self.threshold),
            "score": round(float(self.score), 4),
            "mean": round(float(self.mean), 4),
            "presence": float(self.presence),
            "similarity": round(float(self.similarity), 4),
            "area": self.area,
            "area_frac": round(float(self.area_frac), 6),
            "bbox": list(self.bbox),
            "refined": self.refined,
            "held_back": self.held_back,
            **({} if self.instances is None else {"instances": [each.document() for each in self.instances]}),
            "path": files.get("mask", ""),
        } | {key: files.get(form, "") for form, key in PER_LABEL.items() if form in formats and form != "mask"}


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one image: its masks, or the error that it failed with."""

    image: str  # path as the operating system gives it; bytes that are not UTF-8 are surrogates
    width: int = 0
    height: int = 0
    format: str = ""  # detected from the content, not from the extension
    frames: int = 1  # of a file that was taken as one image: how many it holds
    masks: tuple[Mask, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # (format, path relative to the output folder) of the image's files
    notes: tuple[str, ...] = ()
    error: ImageError | None = None
    identity: Identity | None = None  # of the input file
    output: str = ""  # the image's output path: the common part of the paths of its files
    outputs: tuple[tuple[str, int], ...] = ()  # (path relative to the output folder, size in bytes)
    frame: int | None = None  # the number of the frame in its file, from 0; None: the file was taken as one image
    time: float = 0.0  # of the frame, in seconds
    orientation: int = 1  # the EXIF orientation that was applied
    split: str = ""  # its part of a data set: see `splits.split`
    photos: tuple[int, int] = (0, 0)  # in its data sets: original files, and images that were encoded again
    georeference: Georeference = NOWHERE  # of the image
    formats: tuple[str, ...] = ()  # of the run: each has a path in the JSON
    kept: dict[str, Any] | None = None  # the JSON document of another run, if the image was skipped

    @classmethod
    def of(cls, source: Source) -> Self:
        """Returns the record of a source, without a result yet."""
        return cls(source.name, frame=source.frame, time=source.time)

    @classmethod
    def kept_from(cls, document: dict[str, Any]) -> Self:
        """Returns the record that another run has written."""
        told = document["error"]
        error = ImageError(told["class"], told["stage"], told["message"]) if told["class"] else None
        frame, time = document["frame"], document["time"]
        turn = document["orientation"]
        return cls(image_name(document), frame=frame, time=time, orientation=turn, error=error, kept=document)

    def failed(self, error: ImageError) -> "Record":
        """Returns the record of the same image with an error in place of its result."""
        return Record(self.image, frame=self.frame, time=self.time, error=error)

    def of_run(self, formats: Sequence[str]) -> "Record":
        """Returns the record as one of a run with these formats."""
        return replace(self, formats=tuple(formats))

    @property
    def key(self) -> str:
        """What tells this image from all others of a run: see `source.key`."""
        return key(self.image, self.frame)

    @property
    def shown(self) -> str:
        """The image's name as it is shown: its path, with `#12` for frame 12 of a file."""
        return readable(self.key)

    @property
    def ok(self) -> bool:
        """True if the image was segmented, even if all its masks are empty."""
        return self.error is None

    @property
    def presence(self) -> float:
        """The highest presence score of all labels; 0 without masks."""
        return max((mask.presence for mask in self.masks), default=0.0)

    def document(self) -> dict[str, Any]:
        """Returns the record as JSON types: the same keys whatever the result.

        Keys that do not apply hold 0, "" or an empty list. A name that is not UTF-8 is also in `image_b64`, byte for
        byte.
        """
        if self.kept is not None:
            return self.kept
        name = readable_name(self.image)
        raw = base64.b64encode(os.fsencode(self.image)).decode("ascii") if name != self.image else ""
        told = ("", "", "") if self.error is None else (self.error.kind, self.error.stage, readable_text(self.error))
        files = dict(self.files)
        return {
            "v": VERSION,
            "image": name,
            "image_b64": raw,
            "status": "ok" if self.ok else "failed",
            "width": self.width,
            "height": self.height,
            "orientation": self.orientation,
            "format": self.format,
            "frames": self.frames,
            "frame": self.frame or 0,
            "time": float(self.time),
            "masks": [mask.document(self.formats) for mask in self.masks],
            "files": {form: files.get(form, "") for form in self.formats if form not in PER_LABEL},
            "notes": "; ".join(self.notes),
            "error": dict(zip(("class", "stage", "message"), told, strict=True)),
        }

    def line(self) -> str:
        """Returns the record as one line of JSON, without the line end."""
        return dumps(self.document())


def image_name(document: dict[str, Any]) -> str:
    """Returns the name of a record's image as the operating system gives it."""
    if document["image_b64"]:
        return os.fsdecode(base64.b64decode(document["image_b64"]))
    return str(document["image"])


def key_of(document: dict[str, Any]) -> str:
    """Returns the key of a record: see `source.key`."""
    return key(image_name(document), document["frame"])


def readable_name(name: str) -> str:
    """Returns a name or a key as valid Unicode: bytes that are not UTF-8 become escapes like `\\xff`."""
    return os.fsencode(readable(name)).decode("utf-8", "backslashreplace")


def readable_text(text: object) -> str:
    """Returns a text as valid Unicode: bytes that are not UTF-8 become escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def relocated(document: dict[str, Any], out: str) -> dict[str, Any]:
    """Returns a record whose paths begin with that of the output folder, so that they exist from where `out` does."""

    def at(paths: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
        return paths | {key: os.path.join(out, paths[key]) for key in keys if paths.get(key)}

    masks = [at(mask, PER_LABEL.values()) for mask in document["masks"]]
    return document | {"masks": masks, "files": at(document["files"], document["files"])}


def dumps(document: dict[str, Any]) -> str:
    """Returns a JSON object as one line, without the line end."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)


def parsed(line: bytes) -> dict[str, Any]:
    """Returns the JSON object on a line; an empty one if the line holds anything else, for example after a bad edit.

    Raises OutputError for a record of another schema.
    """
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    if document.get("v", VERSION) != VERSION:
        raise OutputError(
            f"the manifest was written by another version of clipseg (schema {document['v']}, not {VERSION}): "
            "run it again in another folder, or with --overwrite"
        )
    return document
