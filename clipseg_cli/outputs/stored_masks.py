"""`StoredMasks`: the masks of a run without mask files, read back from its other files, such as those of --layout."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from clipseg_cli.masks import coco_codec, yolo_codec
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.record import key_of
from clipseg_cli.outputs.writers import raster
from clipseg_cli.outputs.writers.annotations import FRAGMENTS
from clipseg_cli.outputs.writers.per_run import READ_FROM
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage.store import AnyPath

Record = dict[str, Any]  # of a manifest
Masks = list[NDArray[np.uint8]]  # one per label of the record, (H, W): 0 to 255


@dataclass(frozen=True, slots=True)
class StoredMasks:
    """Where the masks of a run are."""

    out: AnyPath
    form: Format | None = None  # that holds the masks; None: no format does
    white: bool = True  # whether the object is white in a joined mask
    fragments: Mapping[str, str] = field(default_factory=dict)  # the fragment of each image, by its key

    @classmethod
    def of(cls, out: AnyPath, settings: Mapping[str, Any]) -> "StoredMasks":
        """Returns those of the run in an output folder, with the `settings` of its run.json.

        A run with mask files or soft maps needs none.
        """
        formats = settings.get("formats", ())
        if {"mask", "soft", "soft16"} & {*formats}:
            return cls(out)
        form = next((form for form in READERS if form in formats), None)
        hidden = manifest.written(out, f"{FRAGMENTS}/{form}/") if form in READ_FROM else {}
        return cls(out, form, settings.get("polarity") != "black", hidden)

    def read(self, record: Record) -> Masks | None:
        """Returns the masks of an image; None if they are gone or damaged.

        A joined mask does not tell labels apart: each label has what lies in its box.
        """
        if self.form is None:
            return None
        path = self.fragments.get(key_of(record), "") if self.form in READ_FROM else record["files"].get(self.form, "")
        if not path:
            return None
        try:
            return READERS[self.form](self, record, (self.out / path).read_bytes())
        except (OSError, ValueError, SyntaxError, KeyError, IndexError, TypeError):
            return None


def _joined(stored: StoredMasks, record: Record, data: bytes) -> Masks:
    return _boxed(stored, record, np.asarray(raster.levels(data), np.uint8))


def _alpha(stored: StoredMasks, record: Record, data: bytes) -> Masks:
    with PIL.Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "TIFF")) as image:
        return _boxed(stored, record, np.array(image.getchannel("A")))


def _boxed(stored: StoredMasks, record: Record, joined: NDArray[np.uint8]) -> Masks:
    """Returns what each label's box shows of a mask of all labels."""
    white = joined if stored.white else 255 - joined
    masks = [np.zeros_like(white) for _ in record["masks"]]
    for mask, (x, y, width, height) in zip(masks, (each["bbox"] for each in record["masks"]), strict=True):
        box = np.s_[y : y + height, x : x + width]
        mask[box] = white[box]
    return masks


def _numbered(stored: StoredMasks, record: Record, data: bytes) -> Masks:
    with PIL.Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:  # grey or indexed
        numbers = np.array(image)
    return [_grey(numbers == number) for number in range(1, len(record["masks"]) + 1)]


def _coco(stored: StoredMasks, record: Record, data: bytes) -> Masks:
    shape = record["height"], record["width"]
    masks = [np.zeros(shape, bool) for _ in record["masks"]]
    for annotation in json.loads(data)["annotations"]:
        masks[annotation["category_id"] - 1] |= coco_codec.from_segmentation(annotation["segmentation"], *shape)
    return [*map(_grey, masks)]


def _yolo(stored: StoredMasks, record: Record, data: bytes) -> Masks:
    masks = [np.zeros((record["height"], record["width"]), np.uint8) for _ in record["masks"]]
    for line in data.decode().splitlines():
        number, *points = line.split()
        yolo_codec.draw(masks[int(number)], np.array(points, np.float32))
    return masks


def _imagefolder(stored: StoredMasks, record: Record, data: bytes) -> Masks:
    folder = record["files"]["imagefolder"].rpartition("/")[0]
    _, *masks = json.loads(data).values()  # the first is the image
    return [np.asarray(raster.levels((stored.out / f"{folder}/{mask}").read_bytes()), np.uint8) for mask in masks]


def _grey(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(mask, np.uint8(255), np.uint8(0))


# From the formats that hold every label exactly to those that do not.
READERS: dict[Format, Callable[[StoredMasks, Record, bytes], Masks]] = {
    "imagefolder": _imagefolder,
    "annotations": _coco,
    "coco": _coco,
    "ultralytics": _yolo,
    "yolo": _yolo,
    "semantic": _numbered,
    "labels": _numbered,
    "joined": _joined,
    "alpha": _alpha,
}
