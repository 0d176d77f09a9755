"""Training data: images, prompts, and the mask of each prompt. Files are read one at a time, as needed.

DATA/images/... and DATA/masks/<label>/...   one folder of masks per label; the prompt is the label with its hyphens as
                                             spaces; masks pair with images by their paths without extension
DATA.csv, DATA.jsonl                         columns or keys image, mask, prompt; paths are relative to the file
DATA.json                                    COCO: each category is a prompt for the images that show it; images lie
                                             beside the file, in images/, in images/ beside the file's folder
                                             annotations/, or in the image_root of a file of this program
DATA/refer_train.json and DATA/images/       PhraseCut (VGPhraseCut_v0): each phrase is a prompt for its image
"""

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets import paper_datasets
from clipseg_cli.datasets.ground_truth import TrueMask, label_folders, read_coco, read_mask, walk
from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import names
from clipseg_cli.inputs.decode import load
from clipseg_cli.inputs.source import Source

PHRASECUT = "refer_train.json"  # by which a folder is known to be PhraseCut
PROMPT_COLUMNS = ("prompt", "phrase")  # "phrase" is the older name


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """An image, a prompt, and where the prompt's mask is read from."""

    image: Path
    prompt: str
    read: Callable[[], TrueMask | None]  # raises UsageError
    files: tuple[Path, ...]  # the mask files

    def mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Returns the prompt's mask, bool (H, W). Raises UsageError if it does not have the image's `shape`."""
        true_mask = self.read()
        if true_mask is None:
            raise UsageError(f"the mask of {self.prompt!r} in {self.image} was removed after training began")
        if true_mask.mask.shape != shape:
            sizes = " and ".join(f"{width} x {height}" for height, width in (shape, true_mask.mask.shape))
            raise UsageError(f"sizes differ: {self.image} and {true_mask.source} are {sizes} pixels")
        return true_mask.mask


def pixels(image: Path) -> NDArray[np.uint8]:
    """Returns the pixels of a data set's image, uint8 (H, W, 3).

    Raises UsageError for an unreadable image: skipping it would change the data set silently.
    """
    try:
        return load(Source(str(image), str(image), "")).pixels
    except ImageError as error:
        raise UsageError(f"the image {image} cannot be used: {error}") from error


def read(path: Path) -> tuple[Example, ...]:
    """Returns every example of a data set, in an order that depends only on its content. Raises UsageError.

    Several masks of one prompt in one image, such as one per object, become one example with their union.
    """
    suffix = path.suffix.lower() if path.is_file() else ""
    folders = _read_phrasecut if (path / PHRASECUT).is_file() else _read_folders
    readers = {".csv": _read_table, ".jsonl": _read_table, ".json": _read_coco, "": folders}
    if suffix not in readers or not path.exists():
        raise UsageError(
            f"no training data at {path}: give a folder with images/ and masks/<label>/, a .csv, .jsonl or .json, or "
            "VGPhraseCut_v0/"
        )
    groups: dict[tuple[Path, str], list[Example]] = {}
    for example in readers[suffix](path):
        groups.setdefault((example.image, example.prompt), []).append(example)
    examples = tuple(group[0] if len(group) == 1 else _merged(group) for group in groups.values())
    if not examples:
        raise UsageError(f"{path} has no image with a mask: an image and its mask need the same path without extension")
    return examples


def _merged(group: Sequence[Example]) -> Example:
    """Returns one example whose mask is the union of the group's masks."""

    def read_union() -> TrueMask | None:
        masks = [true_mask for true_mask in (example.read() for example in group) if true_mask is not None]
        if len({true_mask.mask.shape for true_mask in masks}) > 1:
            raise UsageError(f"sizes differ: {' and '.join(true_mask.source for true_mask in masks)}")
        if not masks:
            return None
        return TrueMask(np.any([true_mask.mask for true_mask in masks], 0), None, masks[0].source)

    return Example(
        group[0].image, group[0].prompt, read_union, tuple(file for example in group for file in example.files)
    )


def _read_table(path: Path) -> Iterator[Example]:
    rows: list[Any]
    try:
        with path.open(encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else None) as file:
            if path.suffix.lower() == ".csv":
                rows = list(csv.DictReader(file, skipinitialspace=True))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise UsageError(f"{path} has no rows: each row needs image, mask and prompt")
    for number, row in enumerate(rows, 1):
        try:
            column = next(name for name in PROMPT_COLUMNS if name in row)
            image, mask, prompt = (str(row[name] or "").strip() for name in ("image", "mask", column))
        except (KeyError, TypeError, StopIteration):
            raise UsageError(f"{path} row {number}: it needs image, mask and prompt") from None
        if not image or not mask or not prompt:
            raise UsageError(f"{path} row {number}: image, mask or {column} is empty")
        file_of_mask = path.parent / mask
        yield Example(path.parent / image, prompt, partial(read_mask, file_of_mask), (file_of_mask,))


def _read_coco(path: Path) -> Iterator[Example]:
    coco = read_coco(path)
    folders = _image_folders(path, coco.image_root)
    for stem, image in coco.images.items():
        candidates = [folder / image["file_name"] for folder in folders]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            places = ", ".join(dict.fromkeys(map(str, folders)))
            raise UsageError(f"{path}: the image {image['file_name']} is in none of the folders {places}")
        # Training draws absent prompts itself, so only annotated labels become examples. An image without annotations
        # would then have no example, so it gets every label with an empty mask.
        annotated = [label for label in coco.labels if (image["id"], label) in coco.annotations]
        for label in annotated or coco.labels:
            yield Example(file, label, partial(coco.find, label, stem), (path,))


def _read_phrasecut(path: Path) -> Iterator[Example]:
    def read(sample: paper_datasets.Sample) -> TrueMask:
        return TrueMask(sample.true_mask() == 1, None, f"{path / PHRASECUT} ({sample.phrase!r})")

    for sample in paper_datasets.phrasecut(path, "train"):
        yield Example(sample.image, sample.phrase, partial(read, sample), (path / PHRASECUT,))


def _image_folders(path: Path, image_root: str) -> list[Path]:
    """Returns the folders in which the images of a COCO file may lie.

    A relative image root is relative to the working directory of the run that wrote the file, which is in its run.json.
    """
    beside = [path.parent, path.parent / "images"]
    if path.parent.name == "annotations":
        beside.append(path.parent.parent / "images")
    if not image_root:
        return beside
    directory = ""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        directory = str(json.loads((path.parent / "run.json").read_bytes()).get("directory") or "")
    return [*beside, Path(image_root), Path(directory, image_root)]


def _read_folders(path: Path) -> Iterator[Example]:
    if not (path / "images").is_dir() or not (path / "masks").is_dir():
        raise UsageError(f"{path} needs a folder images/ and, beside it, masks/<label>/")
    masks = {label: dict(walk(path / "masks" / label)) for label in label_folders(path / "masks")}
    files = {str(file.relative_to(path / "images").as_posix()): file for _, file in walk(path / "images")}
    images = [(stem, files[name]) for name, stem in names.output_names(files).items()]  # a.jpg and a.png stay apart
    stems = {stem for stem, _ in images}
    for by_stem in masks.values():
        if orphan := next((mask for stem, mask in by_stem.items() if stem not in stems), None):
            raise UsageError(f"the mask {orphan} has no image of the same name in {path / 'images'}")
    for stem, image in images:
        for label, by_stem in masks.items():
            if stem in by_stem:
                prompt = label.replace("-", " ").replace("_", " ")
                yield Example(image, prompt, partial(read_mask, by_stem[stem]), (by_stem[stem],))
