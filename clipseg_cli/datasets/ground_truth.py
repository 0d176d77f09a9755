"""Ground truth: for a picture and a label, which pixels are right. Read one mask at a time.

    GT/<label>/<dir>/<stem>.png         a folder of masks a label
    GT/<dir>/<stem>.png                 one label: the only one that was predicted
    GT.json                             COCO: the categories are the labels, polygons or runs the masks
    GT/classes.txt and GT/<stem>.png    the pixel's value is the label's number, 0 the background, 255 unknown

A mask is bright where it is true: above 127, or above 0 where no pixel is above 1.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs import kinds, names
from clipseg_cli.inputs.decoders.pillow import PLUGINS
from clipseg_cli.masks import coco_codec
from clipseg_cli.prompts.slugs import unique_slugs

CLASSES = "classes.txt"
UNKNOWN = 255  # of an indexed mask: pixels that count nowhere
BACKGROUNDS = {"background", "__background__", "_background_"}


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The truth of one picture and label."""

    mask: NDArray[np.bool_]  # (H, W)
    valid: NDArray[np.bool_] | None  # (H, W): the pixels that count; None: all
    where: str  # the file it was read from


class Truth(Protocol):
    """A ground truth of any layout."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels; one empty name where it has a single label without a name."""

    def stems(self, label: str) -> Iterator[str]:
        """The path without extension, "/"-separated, of every picture it answers for, sorted."""

    def answer(self, label: str, stem: str) -> Answer | None:
        """What is right; None where it knows nothing of the picture. Raises UsageError for a file that is no mask."""


def open_truth(path: Path, wanted: Sequence[str] | None) -> Truth:
    """The truth at `path`. `wanted`: the labels that were predicted, which tell folders of labels from other folders;
    None: every folder is a label. Raises UsageError where there is no truth."""
    if path.suffix.lower() == ".json" and path.is_file():
        return coco(path)
    if not path.is_dir():
        raise UsageError(f"no ground truth at {path}: give a folder of masks, or a COCO file *.json")
    if (path / CLASSES).is_file():
        return indexed(path)
    folders = {name: path / name for name in label_folders(path)}
    if wanted is None or any(pair(wanted, tuple(folders)).values()):
        return Folders(folders)
    if len(wanted) == 1:
        return Folders({"": path})
    raise UsageError(
        f"{path} has no folder for any of the labels {', '.join(wanted)}, but {', '.join(folders) or 'none at all'}: "
        f"name the folders like the labels, {path}/{unique_slugs(wanted[:1])[0]}/... first"
    )


def pair(wanted: Sequence[str], known: Sequence[str]) -> dict[str, str | None]:
    """For each wanted label the known one of that name or, failing that, of that name as a folder; or None."""
    exact = {name: name for name in known}
    folded = dict(zip(unique_slugs(known), known, strict=True))
    return {label: exact.get(label, folded.get(unique_slugs([label])[0])) for label in wanted}


def label_folders(path: Path) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones, which notebooks and file managers leave, aside."""
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def read_mask(path: Path) -> Answer:
    """A mask's file, of any format that is read here and any depth. Raises UsageError."""
    values = read_values(path)
    return Answer(values > (127 if values.max(initial=0) > 1 else 0), None, str(path))


def read_values(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The file's own numbers, uint8 or uint16 (H, W): grey levels, or the indices of a palette; of colours their grey.

    Raises UsageError where the file is missing or is no picture.
    """
    try:
        with path.open("rb") as file:
            form = kinds.sniff(file.read(kinds.SNIFF))
            if form not in PLUGINS:
                raise ValueError("not a picture")
            file.seek(0)
            image: PIL.Image.Image = PLUGINS[form](file, "")
            image.load()
            if image.mode in ("1", "I;16B") or image.mode not in ("L", "P", "I;16"):
                image = image.convert("I;16" if image.mode == "I;16B" else "L")
            values = np.array(image)
    except Exception as error:  # Pillow raises far more kinds than it documents
        raise UsageError(f"{path}: cannot be read as a mask: {error}") from error
    return values if values.dtype == np.uint16 else values.astype(np.uint8)


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """(stem, file) of every picture below the folder, in the order of the stems' parts; one folder in memory."""
    entries = [
        (entry.name if entry.is_dir() else names.stem(entry.name), entry.is_dir(), entry.name)
        for entry in os.scandir(folder)
        if is_picture(entry) or (entry.is_dir() and not entry.name.startswith("."))
    ]
    for stem, is_folder, name in sorted(entries):
        if is_folder:
            yield from walk(folder / name, f"{prefix}{stem}/")
        else:
            yield prefix + stem, folder / name


def is_picture(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry of a folder is called like a picture and no hidden one. A link that leads nowhere is one too:
    who reads it says so."""
    named = os.path.splitext(entry.name)[1].lower() in kinds.EXTENSIONS and not entry.name.startswith(".")
    return named and (entry.is_file() or entry.is_symlink()) and not entry.is_dir()


def nearest(stem: str, others: Sequence[str]) -> str | None:
    """The only one of `others` that ends in the same path as `stem`, or that `stem` ends in; None where none or
    several do."""
    found = [other for other in others if ("/" + other).endswith("/" + stem) or ("/" + stem).endswith("/" + other)]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class Folders:
    """A folder of masks for each label."""

    folders: dict[str, Path]
    _elsewhere: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # label: last part of a stem: stems
    _paths: dict[tuple[str, str], Path] = field(default_factory=dict)  # of the masks whose name does not end in .png

    @property
    def labels(self) -> tuple[str, ...]:
        """The folders' names."""
        return tuple(self.folders)

    def stems(self, label: str) -> Iterator[str]:
        """As the walk finds them."""
        return (stem for stem, _ in walk(self.folders[label]))

    def answer(self, label: str, stem: str) -> Answer | None:
        """The mask of that very path; failing that, the only one whose path ends alike."""
        direct = self.folders[label] / f"{stem}.png"
        if direct.is_file():
            return read_mask(direct)
        if label not in self._elsewhere:  # only where names do not meet, since it holds them all
            places: dict[str, list[str]] = defaultdict(list)
            for other, path in walk(self.folders[label]):
                places[other.rsplit("/", 1)[-1]].append(other)
                self._paths[label, other] = path
            self._elsewhere[label] = places
        found = nearest(stem, self._elsewhere[label].get(stem.rsplit("/", 1)[-1], ()))
        return None if found is None else read_mask(self._paths[label, found])


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """Pictures whose pixels are the numbers of labels."""

    folder: Folders
    numbers: dict[str, int]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes without the background."""
        return tuple(self.numbers)

    def stems(self, label: str) -> Iterator[str]:
        """Every picture, whatever the label."""
        return self.folder.stems("")

    def answer(self, label: str, stem: str) -> Answer | None:
        """The pixels of the label's number."""
        place = self.folder.folders[""] / f"{stem}.png"
        if not place.is_file():
            found = self.folder.answer("", stem)
            if found is None:
                return None
            place = Path(found.where)
        values = read_values(place)
        valid = values != UNKNOWN
        return Answer(values == self.numbers[label], None if valid.all() else valid, str(place))


def indexed(path: Path) -> Indexed:
    """Reads the classes file: one name a line from number 1 on, or from 0 where the first is the background."""
    try:
        content = (path / CLASSES).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path / CLASSES} cannot be read: {error}") from error
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if twice := [name for name in lines if lines.count(name) > 1]:
        raise UsageError(f"{path / CLASSES} names the class {twice[0]!r} twice: each number needs a name of its own")
    first = 0 if lines and lines[0].casefold() in BACKGROUNDS else 1
    numbers = {name: number for number, name in enumerate(lines, first) if number > 0}
    if not numbers:
        raise UsageError(f"{path / CLASSES} names no class: write one name a line, the background first or not at all")
    return Indexed(Folders({"": path}), numbers)


@dataclass(frozen=True, slots=True, eq=False)
class Coco:
    """A COCO file. A picture that it lists is answered for in every category; crowds count as the category, and
    categories of one name, which some exporters write, as one."""

    path: Path
    labels: tuple[str, ...]  # the categories' names
    images: dict[str, dict[str, Any]]  # by stem, or by name where two have one stem, as outputs are
    annotations: dict[tuple[int, str], list[Any]]  # (image, category's name): segmentations
    ends: dict[str, list[str]]  # last part of a stem: stems

    def stems(self, label: str) -> Iterator[str]:
        """Every picture, whatever the label."""
        return iter(self.images)

    def answer(self, label: str, stem: str) -> Answer | None:
        """The union of the category's annotations."""
        if stem not in self.images:
            near = nearest(stem, self.ends.get(stem.rsplit("/", 1)[-1], ()))
            if near is None:
                return None
            stem = near
        image = self.images[stem]
        where = f"{self.path}, image {image['file_name']}"
        try:
            height, width = int(image["height"]), int(image["width"])
            mask = np.zeros((height, width), bool)
            for shape in self.annotations.get((image["id"], label), ()):
                if not shape:
                    raise ValueError("it has no segmentation, only a box or nothing")
                if isinstance(shape, dict):
                    mask |= coco_codec.from_runs(shape["counts"], height, width)
                else:
                    for polygon in shape:
                        mask |= coco_codec.from_polygon(polygon, height, width)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"{where}: its annotation cannot be read: {error!r}") from error
        return Answer(mask, None, where)


def coco(path: Path) -> Coco:
    """Reads a COCO file. Raises UsageError where it is none."""
    try:
        content = json.loads(path.read_bytes())
        categories = {each["id"]: str(each["name"]) for each in content["categories"]}
        outputs = names.output_names(str(each["file_name"]) for each in content["images"])
        stems = sorted((outputs[each["file_name"]], each["id"]) for each in content["images"])
        by_id = {each["id"]: each for each in content["images"]}
        annotations: dict[tuple[int, str], list[Any]] = defaultdict(list)
        for each in content["annotations"]:
            if each["category_id"] in categories:
                annotations[each["image_id"], categories[each["category_id"]]].append(each.get("segmentation"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: not a COCO file of images, annotations and categories: {error!r}") from error
    ends: dict[str, list[str]] = defaultdict(list)
    for stem, _ in stems:
        ends[stem.rsplit("/", 1)[-1]].append(stem)
    labels = tuple(dict.fromkeys(categories.values()))
    return Coco(path, labels, {stem: by_id[number] for stem, number in stems}, annotations, ends)
