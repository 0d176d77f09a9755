"""Ground truth: the true mask of an image and a label. Masks are read one at a time, when they are needed.

    GT/<label>/<dir>/<stem>.png         one folder of masks per label
    GT/<dir>/<stem>.png                 masks of a single label, if only one was predicted
    GT.json                             COCO: categories are labels, polygons and run lengths are masks
    GT/classes.txt and GT/<stem>.png    indexed masks: a pixel's value is its label's number, 0 background, 255 unknown

In a mask file, a pixel is true if its value is above 127, or above 0 if no value is above 1.
"""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs import kinds, names, orientation
from clipseg_cli.inputs.decoders.pillow import PLUGINS
from clipseg_cli.masks import coco_codec
from clipseg_cli.masks.instances import Instance, of_numbers, single
from clipseg_cli.prompts.slugs import unique_slugs

CLASSES = "classes.txt"
UNKNOWN = 255  # value of an indexed mask: these pixels are not scored
BACKGROUNDS = {"background", "__background__", "_background_"}


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of one image and label, kept apart; of ground truth, or predicted."""

    instances: tuple[Instance, ...]
    crowds: tuple[Instance, ...]  # regions of many objects that are not told apart: COCO's `iscrowd`
    shape: tuple[int, int]  # (H, W) of the image
    source: str  # where they were read from, for error messages


@dataclass(frozen=True, slots=True, eq=False)
class TrueMask:
    """The ground truth of one image and label."""

    mask: NDArray[np.bool_]  # (H, W)
    valid: NDArray[np.bool_] | None  # (H, W): the pixels that are scored; None: all
    source: str  # where it was read from, for error messages


class GroundTruth(Protocol):
    """Ground truth in any layout."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names; one empty name for a single label without a name."""

    def stems(self, label: str) -> Iterator[str]:
        """Yields the stem ("/"-separated path without extension) of every image that has ground truth, sorted."""

    def find(self, label: str, stem: str) -> TrueMask | None:
        """Returns the true mask; None if the image has no ground truth. Raises UsageError for an unreadable mask."""

    def objects(self, label: str, stem: str) -> Objects | None:
        """Returns the objects; None if the image has no ground truth. Raises UsageError, also if it has only masks."""


def open_ground_truth(path: Path, predicted: Sequence[str] | None) -> GroundTruth:
    """Opens the ground truth at `path`, in whichever layout it has.

    `predicted`: the predicted labels. They distinguish label folders from other folders; None: every folder is a label.
    Raises UsageError if `path` holds no ground truth.
    """
    if path.suffix.lower() == ".json" and path.is_file():
        return read_coco(path)
    if not path.is_dir():
        raise UsageError(f"no ground truth at {path}: give a folder of masks, or a COCO file *.json")
    if (path / CLASSES).is_file():
        return read_indexed(path)
    folders = {name: path / name for name in label_folders(path)}
    if predicted is None or any(match_labels(predicted, tuple(folders)).values()):
        return MaskFolders(folders)
    if len(predicted) == 1:
        return MaskFolders({"": path})
    raise UsageError(
        f"{path} has no folder for any of the labels {', '.join(predicted)}. Its folders: "
        f"{', '.join(folders) or 'none'}. Name the folders like the labels: {path}/{unique_slugs(predicted[:1])[0]}/..."
    )


def match_labels(wanted: Sequence[str], known: Sequence[str]) -> dict[str, str | None]:
    """Maps each wanted label to the known label of the same name or, failing that, of the same slug; else to None."""
    exact = {name: name for name in known}
    by_slug = dict(zip(unique_slugs(known), known, strict=True))
    return {label: exact.get(label, by_slug.get(unique_slugs([label])[0])) for label in wanted}


def label_folders(path: Path) -> list[str]:
    """Returns the names of the folders in `path`, sorted.

    Hidden folders are left out: notebooks and file managers make them.
    """
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))


def read_mask(path: Path) -> TrueMask:
    """Reads a mask file of any supported image format and bit depth. Raises UsageError."""
    values = read_values(path)
    return TrueMask(values > (127 if values.max(initial=0) > 1 else 0), None, str(path))


def numbered_objects(path: Path, scores: Mapping[int, float] | None = None, turn: int = 1) -> Objects:
    """Reads a grey image whose pixels are numbers of objects, 0 for none. Raises UsageError.

    `scores`: of the objects that are wanted, by number; None: all, with a score of 1. `turn`: the EXIF orientation that
    makes the image upright.
    """
    numbers = np.ascontiguousarray(orientation.upright(read_values(path, grey=True), turn))
    found = tuple(
        instance if scores is None else replace(instance, score=scores[number])
        for number, instance in of_numbers(numbers)
        if scores is None or number in scores
    )
    return Objects(found, (), (numbers.shape[0], numbers.shape[1]), str(path))


def read_values(path: Path, grey: bool = False) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Returns the stored values of an image file, uint8 or uint16 (H, W): grey levels or palette indices.

    Colour is converted to grey or, if the values must be `grey`, refused. Raises UsageError if the file is missing or
    is not an image.
    """
    try:
        with path.open("rb") as file:
            kind = kinds.sniff(file.read(kinds.SNIFF))
            if kind not in PLUGINS:
                raise ValueError("not an image in a supported format")
            file.seek(0)
            image: PIL.Image.Image = PLUGINS[kind](file, "")
            image.load()
            if grey and image.mode not in ("1", "L", "P", "I;16", "I;16B"):
                raise ValueError(f"numbers of objects are grey values of 8 or 16 bits, not {image.mode}")
            if image.mode in ("1", "I;16B") or image.mode not in ("L", "P", "I;16"):
                image = image.convert("I;16" if image.mode == "I;16B" else "L")
            values = np.array(image)
    except Exception as error:  # Pillow raises many errors that it does not document
        raise UsageError(f"{path}: cannot be read as a mask: {error}") from error
    return values if values.dtype == np.uint16 else values.astype(np.uint8)


def walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Yields (stem, file) for every image below `folder`, ordered by the components of the stem.

    Holds the entries of one folder per level in memory.
    """
    entries = [
        (entry.name if entry.is_dir() else names.stem(entry.name), entry.is_dir(), entry.name)
        for entry in os.scandir(folder)
        if is_image_file(entry) or (entry.is_dir() and not entry.name.startswith("."))
    ]
    for stem, is_folder, name in sorted(entries):
        if is_folder:
            yield from walk(folder / name, f"{prefix}{stem}/")
        else:
            yield prefix + stem, folder / name


def is_image_file(entry: "os.DirEntry[str]") -> bool:
    """Returns whether a folder entry has an image extension and is not hidden.

    A dangling link counts: reading it raises an error, whereas skipping it would hide the problem.
    """
    named = os.path.splitext(entry.name)[1].lower() in kinds.STILL and not entry.name.startswith(".")
    return named and (entry.is_file() or entry.is_symlink()) and not entry.is_dir()


def match_stem(stem: str, others: Sequence[str]) -> str | None:
    """Returns the one stem of `others` that ends in `stem`, or that `stem` ends in, compared by whole path components.

    Returns None if there is no such stem, or more than one.
    """
    matches = [other for other in others if ("/" + other).endswith("/" + stem) or ("/" + stem).endswith("/" + other)]
    return matches[0] if len(matches) == 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class MaskFolders:
    """One folder of masks per label."""

    folders: dict[str, Path]  # by label
    _by_name: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # label: last component: stems
    _paths: dict[tuple[str, str], Path] = field(default_factory=dict)  # (label, stem): file, for those in `_by_name`

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the folders."""
        return tuple(self.folders)

    def stems(self, label: str) -> Iterator[str]:
        """Yields the stems of the label's folder, in the order of `walk`."""
        return (stem for stem, _ in walk(self.folders[label]))

    def find(self, label: str, stem: str) -> TrueMask | None:
        """Returns the mask at exactly this path or, failing that, the only one whose path has the same ending."""
        path = self._file(label, stem)
        return None if path is None else read_mask(path)

    def objects(self, label: str, stem: str) -> Objects | None:
        """Returns the objects that the pixels of the same file number."""
        path = self._file(label, stem)
        return None if path is None else numbered_objects(path)

    def _file(self, label: str, stem: str) -> Path | None:
        direct = self.folders[label] / f"{stem}.png"
        if direct.is_file():
            return direct
        if label not in self._by_name:  # built only when a path does not match, since it holds every stem
            by_name: dict[str, list[str]] = defaultdict(list)
            for other, path in walk(self.folders[label]):
                by_name[other.rsplit("/", 1)[-1]].append(other)
                self._paths[label, other] = path
            self._by_name[label] = by_name
        match = match_stem(stem, self._by_name[label].get(stem.rsplit("/", 1)[-1], ()))
        return None if match is None else self._paths[label, match]


@dataclass(frozen=True, slots=True, eq=False)
class IndexedMasks:
    """Images whose pixel values are label numbers."""

    folder: MaskFolders
    numbers: dict[str, int]  # by label

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes without the background."""
        return tuple(self.numbers)

    def stems(self, label: str) -> Iterator[str]:
        """Yields the stem of every image, whatever the label."""
        return self.folder.stems("")

    def find(self, label: str, stem: str) -> TrueMask | None:
        """Returns the pixels that have the label's number."""
        path = self.folder.folders[""] / f"{stem}.png"
        if not path.is_file():
            match = self.folder.find("", stem)
            if match is None:
                return None
            path = Path(match.source)
        values = read_values(path)
        valid = values != UNKNOWN
        return TrueMask(values == self.numbers[label], None if valid.all() else valid, str(path))

    def objects(self, label: str, stem: str) -> Objects | None:
        """Raises UsageError: all objects of a label have one number."""
        raise UsageError(
            f"{self.folder.folders['']} has a {CLASSES}, so its pixels are numbers of labels, not of objects: give a "
            "COCO file, or a folder of PNGs for each label whose pixels number the objects"
        )


def read_indexed(path: Path) -> IndexedMasks:
    """Reads the classes file of a folder of indexed masks. Raises UsageError.

    The file has one name per line. Numbers start at 1, or at 0 if the first name is the background.
    """
    try:
        content = (path / CLASSES).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path / CLASSES} cannot be read: {error}") from error
    names = [line.strip() for line in content.splitlines() if line.strip()]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{path / CLASSES} has the class {repeated[0]!r} twice: give each number its own name")
    first = 0 if names and names[0].casefold() in BACKGROUNDS else 1
    numbers = {name: number for number, name in enumerate(names, first) if number > 0}
    if not numbers:
        raise UsageError(
            f"{path / CLASSES} has no class: write one name per line (the background may come first, or be left out)"
        )
    return IndexedMasks(MaskFolders({"": path}), numbers)


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation of a COCO file."""

    segmentation: Any
    crowd: bool
    score: float  # 1 if it has none

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """Returns its mask, bool (H, W). Raises KeyError, ValueError, TypeError or OverflowError if it is damaged."""
        if not self.segmentation:
            raise ValueError("it has no segmentation")
        return coco_codec.from_segmentation(self.segmentation, height, width)


@dataclass(frozen=True, slots=True, eq=False)
class CocoFile:
    """The contents of a COCO file.

    A listed image has ground truth for every category: without annotations its mask is empty. Crowd annotations count
    as their category. Categories of the same name, which some exporters write, count as one.
    """

    path: Path
    labels: tuple[str, ...]  # the category names
    images: dict[str, dict[str, Any]]  # by stem; by full name if two images share a stem, as outputs are named
    annotations: dict[tuple[int, str], list[Annotation]]  # by (image id, category name)
    stem_of: dict[str, str]  # stem or full name of an image: its key in `images`
    by_name: dict[str, list[str]]  # last component of a stem or full name: stems and full names
    image_root: str = ""  # the folder that this program's files name, as it was typed; "" in other files

    def stems(self, label: str) -> Iterator[str]:
        """Yields the stem of every image, whatever the label."""
        return iter(self.images)

    def find(self, label: str, stem: str) -> TrueMask | None:
        """Returns the union of the category's annotations. `stem` may also be the image's full name."""
        image = self._image(stem)
        if image is None:
            return None
        with self._reading(image) as (shape, source):
            mask = np.zeros(shape, bool)
            for annotation in self.annotations.get((image["id"], label), ()):
                mask |= annotation.mask(*shape)
        return TrueMask(mask, None, source)

    def objects(self, label: str, stem: str) -> Objects | None:
        """Returns each of the category's annotations that has pixels. `stem` may also be the image's full name."""
        image = self._image(stem)
        if image is None:
            return None
        found: dict[bool, list[Instance]] = {False: [], True: []}
        with self._reading(image) as (shape, source):
            for annotation in self.annotations.get((image["id"], label), ()):
                instance = single(annotation.mask(*shape).view(np.uint8) * np.uint8(255), annotation.score)
                found[annotation.crowd] += [instance] if instance is not None else []
        return Objects(tuple(found[False]), tuple(found[True]), shape, source)

    def _image(self, stem: str) -> dict[str, Any] | None:
        if stem not in self.stem_of:
            match = match_stem(stem, self.by_name.get(stem.rsplit("/", 1)[-1], ()))
            if match is None:
                return None
            stem = match
        return self.images[self.stem_of[stem]]

    @contextlib.contextmanager
    def _reading(self, image: dict[str, Any]) -> Iterator[tuple[tuple[int, int], str]]:
        """Gives the height and width of an image, and its name. Raises UsageError if an annotation cannot be read."""
        source = f"{self.path}, image {image['file_name']}"
        try:
            yield (int(image["height"]), int(image["width"])), source
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"{source}: an annotation cannot be read: {error!r}") from error


def read_coco(path: Path) -> CocoFile:
    """Reads a COCO file. Raises UsageError if it is not one."""
    try:
        content = json.loads(path.read_bytes())
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        outputs = names.output_names(str(image["file_name"]) for image in content["images"])
        stems = sorted((outputs[image["file_name"]], image["id"]) for image in content["images"])
        by_id = {image["id"]: image for image in content["images"]}
        annotations: dict[tuple[int, str], list[Annotation]] = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation["category_id"] in categories:
                label = categories[annotation["category_id"]]
                crowd, score = bool(annotation.get("iscrowd")), float(annotation.get("score", 1))
                drawn = Annotation(annotation.get("segmentation"), crowd, score)
                annotations[annotation["image_id"], label].append(drawn)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: not a COCO file with images, annotations and categories: {error!r}") from error
    stem_of = {str(by_id[number]["file_name"]): stem for stem, number in stems} | {stem: stem for stem, _ in stems}
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in stem_of:
        by_name[name.rsplit("/", 1)[-1]].append(name)
    labels = tuple(dict.fromkeys(categories.values()))
    images = {stem: by_id[number] for stem, number in stems}
    info = content.get("info")
    root = str(info.get("image_root", "")) if isinstance(info, dict) else ""
    return CocoFile(path, labels, images, annotations, stem_of, by_name, root)
