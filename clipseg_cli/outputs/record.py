"""The record of one image, or of one frame of a file: its masks, or the error that it failed with. Schema version 1."""

import base64
import json
import os
from dataclasses import dataclass
from typing import Any, Self

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.source import Source, key, readable

VERSION = 1

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
    frame: int | None = None  # the number of the frame in its file, from 0; None: the file was taken as one image
    time: float = 0.0  # of the frame, in seconds
    kept: dict[str, Any] | None = None  # the JSON document of another run, if the image was skipped

    @classmethod
    def of(cls, source: Source) -> Self:
        """Returns the record of a source, without a result yet."""
        return cls(source.name, frame=source.frame, time=source.time)

    @classmethod
    def kept_from(cls, document: dict[str, Any]) -> Self:
        """Returns the record that another run has written."""
        told = document.get("error")
        error = None if told is None else ImageError(told["class"], told["stage"], told["message"])
        frame, time = document.get("frame"), document.get("time", 0.0)
        return cls(image_name(document), frame=frame, time=time, error=error, kept=document)

    def failed(self, error: ImageError) -> "Record":
        """Returns the record of the same image with an error in place of its result."""
        return Record(self.image, frame=self.frame, time=self.time, error=error)

    @property
    def key(self) -> str:
        """What tells this image from all others of a run: see `source.key`."""
        return key(self.image, self.frame)

    @property
    def shown(self) -> str:
        """The image's name as it is shown: its path, or `clip.mp4#12` for a frame."""
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
        """Returns the record as JSON types. A name that is not UTF-8 is also in `image_b64`, byte for byte."""
        if self.kept is not None:
            return self.kept
        name = readable_name(self.image)
        document: dict[str, Any] = {"v": VERSION, "image": name}
        if name != self.image:
            document["image_b64"] = base64.b64encode(os.fsencode(self.image)).decode("ascii")
        if self.frame is not None:
            document |= {"frame": self.frame, "time": self.time}
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
        return dumps(self.document())


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


def image_name(document: dict[str, Any]) -> str:
    """Returns the name of a record's image as the operating system gives it."""
    if "image_b64" in document:
        return os.fsdecode(base64.b64decode(document["image_b64"]))
    return str(document["image"])


def key_of(document: dict[str, Any]) -> str:
    """Returns the key of a record: see `source.key`."""
    return key(image_name(document), document.get("frame"))


def readable_name(name: str) -> str:
    """Returns a name or a key as valid Unicode: bytes that are not UTF-8 become escapes like `\\xff`."""
    return os.fsencode(readable(name)).decode("utf-8", "backslashreplace")


def dumps(document: dict[str, Any]) -> str:
    """Returns a JSON object as one line, without the line end."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)


def parsed(line: bytes) -> dict[str, Any]:
    """Returns the JSON object on a line; an empty one if the line holds anything else, for example after a bad edit."""
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
