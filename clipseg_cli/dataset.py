"""What a decoder is fitted to: pictures, phrases, and the mask of each phrase. Read when needed, one at a time.

DATA/images/... and DATA/masks/<label>/...   a folder of masks a label, its hyphens spaces in the phrase
DATA.csv, DATA.jsonl                         columns or keys image, mask, phrase; paths from the file's own folder
DATA.json                                    COCO: every category is a phrase; pictures beside the file or in images/
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.images import load
from clipseg_cli.settings import MAX_PIXELS
from clipseg_cli.sources import Source
from clipseg_cli.truth import Answer, Folders, coco, read_mask, walk


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One phrase about one picture."""

    image: Path
    phrase: str
    read: Callable[[], Answer | None]  # its mask; raises UsageError

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """bool (H, W), where the phrase is true; of the picture's own `shape`, or UsageError."""
        answer = self.read()
        if answer is None:
            raise UsageError(f"the mask of {self.phrase!r} in {self.image} is gone since training began")
        if answer.mask.shape != shape:
            sizes = " and ".join(f"{each[1]} x {each[0]}" for each in (shape, answer.mask.shape))
            raise UsageError(f"sizes differ: {self.image} and {answer.where} are {sizes} pixels")
        return answer.mask


def pixels(image: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of a training picture. Raises UsageError for one that cannot be read: a gap would be silent."""
    try:
        return load(Source(str(image), str(image), ""), max_pixels=MAX_PIXELS).pixels
    except ImageError as error:
        raise UsageError(f"the training picture {image} cannot be used: {error}") from error


def read(path: Path) -> tuple[Example, ...]:
    """Every example of a data set, in an order that depends on its content alone. Raises UsageError."""
    form = path.suffix.lower() if path.is_file() else ""
    readers = {".csv": _table, ".jsonl": _table, ".json": _coco, "": _folders}
    if form not in readers or not path.exists():
        raise UsageError(
            f"no training data at {path}: give a folder with images/ and masks/<label>/, .csv, .jsonl or .json"
        )
    examples = tuple(readers[form](path))
    if not examples:
        raise UsageError(f"{path} holds no picture with a mask: their paths without extension must end alike")
    return examples


def _table(path: Path) -> Iterator[Example]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = list(csv.DictReader(text.splitlines()))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    for number, row in enumerate(rows, 1):
        try:
            image, mask, phrase = (str(row[key] or "").strip() for key in ("image", "mask", "phrase"))
        except (KeyError, TypeError):
            raise UsageError(f"{path} row {number}: it needs image, mask and phrase") from None
        if not image or not mask or not phrase:
            raise UsageError(f"{path} row {number}: image, mask or phrase is empty")
        yield Example(path.parent / image, phrase, partial(read_mask, path.parent / mask))


def _coco(path: Path) -> Iterator[Example]:
    truth = coco(path)
    for stem, image in truth.images.items():
        places = [path.parent / folder / image["file_name"] for folder in ("", "images")]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(f"{path}: the picture {image['file_name']} is neither beside it nor in images/")
        for label in truth.labels:
            yield Example(found, label, partial(truth.answer, label, stem))


def _folders(path: Path) -> Iterator[Example]:
    if not (path / "images").is_dir() or not (path / "masks").is_dir():
        raise UsageError(f"{path} has no images/ with masks/<label>/ beside it")
    labels = sorted(each.name for each in (path / "masks").iterdir() if each.is_dir())
    truth = Folders({label: path / "masks" / label for label in labels})
    for stem, image in walk(path / "images"):
        for label in labels:
            if (path / "masks" / label / f"{stem}.png").is_file():
                yield Example(image, label.replace("-", " ").replace("_", " "), partial(truth.answer, label, stem))
