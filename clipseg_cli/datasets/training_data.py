"""What a decoder is fitted to: pictures, phrases, and the mask of each phrase. Read when needed, one at a time.

DATA/images/... and DATA/masks/<label>/...   a folder of masks a label, its hyphens spaces in the phrase; masks pair
                                             with pictures by their paths without extension
DATA.csv, DATA.jsonl                         columns or keys image, mask, phrase; paths from the file's own folder
DATA.json                                    COCO: every category is a phrase, about the pictures that show it; pictures
                                             beside the file or in images/
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets.ground_truth import Answer, coco, label_folders, read_mask, walk
from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs.decode import load
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import MAX_PIXELS


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One phrase about one picture."""

    image: Path
    phrase: str
    read: Callable[[], Answer | None]  # its mask; raises UsageError
    files: tuple[Path, ...]  # that the mask is read from

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
    """uint8 (H, W, 3) of a data set's picture. Raises UsageError for one that cannot be read: a gap would be silent."""
    try:
        return load(Source(str(image), str(image), ""), max_pixels=MAX_PIXELS).pixels
    except ImageError as error:
        raise UsageError(f"the picture {image} cannot be used: {error}") from error


def read(path: Path) -> tuple[Example, ...]:
    """Every example of a data set, in an order that depends on its content alone. Raises UsageError.

    Where several masks are given for one phrase about one picture, as of things that have one each, their union counts.
    """
    form = path.suffix.lower() if path.is_file() else ""
    readers = {".csv": _table, ".jsonl": _table, ".json": _coco, "": _folders}
    if form not in readers or not path.exists():
        raise UsageError(
            f"no training data at {path}: give a folder with images/ and masks/<label>/, .csv, .jsonl or .json"
        )
    groups: dict[tuple[Path, str], list[Example]] = {}
    for each in readers[form](path):
        groups.setdefault((each.image, each.phrase), []).append(each)
    examples = tuple(some[0] if len(some) == 1 else _joined(some) for some in groups.values())
    if not examples:
        raise UsageError(f"{path} holds no picture with a mask: their paths without extension must end alike")
    return examples


def _joined(some: Sequence[Example]) -> Example:
    def read() -> Answer | None:
        answers = [answer for answer in (each.read() for each in some) if answer is not None]
        if len({answer.mask.shape for answer in answers}) > 1:
            raise UsageError(f"sizes differ: {' and '.join(answer.where for answer in answers)}")
        return Answer(np.any([answer.mask for answer in answers], 0), None, answers[0].where) if answers else None

    return Example(some[0].image, some[0].phrase, read, tuple(file for each in some for file in each.files))


def _table(path: Path) -> Iterator[Example]:
    try:
        with path.open(encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else None) as file:
            if path.suffix.lower() == ".csv":
                rows = list(csv.DictReader(file, skipinitialspace=True))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise UsageError(f"{path} has no row: it needs image, mask and phrase")
    for number, row in enumerate(rows, 1):
        try:
            image, mask, phrase = (str(row[key] or "").strip() for key in ("image", "mask", "phrase"))
        except (KeyError, TypeError):
            raise UsageError(f"{path} row {number}: it needs image, mask and phrase") from None
        if not image or not mask or not phrase:
            raise UsageError(f"{path} row {number}: image, mask or phrase is empty")
        place = path.parent / mask
        yield Example(path.parent / image, phrase, partial(read_mask, place), (place,))


def _coco(path: Path) -> Iterator[Example]:
    truth = coco(path)
    for stem, image in truth.images.items():
        places = [path.parent / folder / image["file_name"] for folder in ("", "images")]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(f"{path}: the picture {image['file_name']} is neither beside it nor in images/")
        # of what is not there the recipe asks by itself; a picture of nothing has only that to tell
        shown = [label for label in truth.labels if (image["id"], label) in truth.annotations]
        for label in shown or truth.labels:
            yield Example(found, label, partial(truth.answer, label, stem), (path,))


def _folders(path: Path) -> Iterator[Example]:
    if not (path / "images").is_dir() or not (path / "masks").is_dir():
        raise UsageError(f"{path} has no images/ with masks/<label>/ beside it")
    masks = {label: dict(walk(path / "masks" / label)) for label in label_folders(path / "masks")}
    images = list(walk(path / "images"))
    stems = {stem for stem, _ in images}
    for mine in masks.values():
        if alone := next((mask for stem, mask in mine.items() if stem not in stems), None):
            raise UsageError(f"the mask {alone} has no picture: there is none of that name in {path / 'images'}")
    for stem, image in images:
        for label, mine in masks.items():
            if stem in mine:
                yield Example(image, _spoken(label), partial(read_mask, mine[stem]), (mine[stem],))


def _spoken(label: str) -> str:
    return label.replace("-", " ").replace("_", " ")
