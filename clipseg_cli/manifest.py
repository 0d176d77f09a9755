"""The record of each image, and the manifest they are kept in: JSON, one line an image, schema version 1."""

import base64
import json
import os
from dataclasses import dataclass
from typing import Any

from clipseg_cli.errors import ImageError

VERSION = 1
MANIFEST = "manifest.jsonl"
RUN = "run.json"


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
    path: str | None  # of the mask, under the output directory
    soft: str | None = None  # of the soft map


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
    notes: tuple[str, ...] = ()
    error: ImageError | None = None

    @property
    def ok(self) -> bool:
        """True when the image was segmented; its masks may be empty."""
        return self.error is None

    def document(self) -> dict[str, Any]:
        """The record as JSON types. `image_b64` holds the name's bytes where they are not UTF-8."""
        name = os.fsencode(self.image)
        shown = name.decode("utf-8", "backslashreplace")
        document: dict[str, Any] = {"v": VERSION, "image": shown}
        if shown != self.image:
            document["image_b64"] = base64.b64encode(name).decode("ascii")
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
        if self.notes:
            document["notes"] = list(self.notes)
        return document

    def line(self) -> str:
        """The record as one line of JSON, without its line end."""
        return json.dumps(self.document(), ensure_ascii=False, separators=(",", ":"))


def _mask(mask: Mask) -> dict[str, Any]:
    document: dict[str, Any] = {
        "label": mask.label,
        "prompt": mask.prompt,
        "threshold": mask.threshold,
        "score": round(mask.score, 4),
        "mean": round(mask.mean, 4),
        "area": mask.area,
        "area_frac": round(mask.area_frac, 6),
        "bbox": None if mask.bbox is None else list(mask.bbox),
        "path": mask.path,
    }
    if mask.soft is not None:
        document["soft"] = mask.soft
    return document
