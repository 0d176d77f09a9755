"""The questions of the paper's evaluations, from the data sets' own files. Read when needed, one at a time.

    VGPhraseCut_v0/   refer_test.json, image_data_split.json, images/<id>.jpg
    VOC2012/          JPEGImages/, SegmentationClass/ or SegmentationClassAug/, ImageSets/Segmentation/val.txt
    COCO2014/         val2014/*.jpg, annotations/val2014/*.png (HSNet's masks), splits/coco/val/fold<0-3>.pkl (HSNet's)

Which picture is the support of which is drawn by lot, as in the loaders that the paper used; here by a seed.
"""

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from clipseg_cli.datasets import warp
from clipseg_cli.datasets.ground_truth import read_values
from clipseg_cli.errors import UsageError

UNKNOWN = 255  # pixels that count nowhere
FOLDS = 4
LEAST = 2 * 32 * 32  # pixels: what PFENet takes for an object
COCO_EPISODES = 1000  # a fold, as HSNet's

VOC = (  # JoEm's names, by the number of the pixel
    "background", "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
UNSEEN = (10, 14, 1, 18, 8, 20, 19, 5, 9, 16)  # of VOC: the first n are the paper's unseen-n
WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}  # within a sentence

Levels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One question: where in the picture is what the phrase says, or what the support shows?"""

    image: Path
    group: int  # the class of the mean IoU that it belongs to
    phrase: str
    truth: Callable[[], Levels]  # uint8 (H, W): 1 true, 0 not, 255 counts nowhere; raises UsageError
    support: Path | None = None
    support_mask: Callable[[], Levels] | None = None


def phrasecut(data: Path, split: str) -> Iterator[Episode]:
    """Every phrase of a split, each a group of its own. Raises UsageError.

    Left out: phrases whose boxes have no area, and pictures whose file has another size than the annotations say, of
    which the paper's code lists the ids.
    """
    tasks = _json(data / f"refer_{split}.json")
    sizes = next(iter(sorted(data.glob("image_data_split*.json"))), data / "image_data_split.json")
    by_image: dict[int, list[tuple[str, Any]]] = {}
    try:
        known = {each["image_id"]: (each["height"], each["width"]) for each in _json(sizes)}
        for task in tasks:
            if sum(box[2] * box[3] for box in task["instance_boxes"]) > 0:
                by_image.setdefault(task["image_id"], []).append((task["phrase"], task["Polygons"]))
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(f"{data}: refer_{split}.json or {sizes.name} is not PhraseCut's: {error!r}") from error
    number = 0
    for image_id, mine in by_image.items():
        image = data / "images" / f"{image_id}.jpg"
        if _size(image) != known.get(image_id):
            continue
        for phrase, polygons in mine:
            yield Episode(image, number, phrase, partial(_polygons, polygons, known[image_id]))
            number += 1


def _polygons(instances: Sequence[Sequence[Any]], size: tuple[int, int]) -> Levels:
    mask = np.zeros(size, bool)
    for polygons in instances:
        for points in polygons:
            mask |= warp.polygon(np.asarray(points, np.float64), *size)
    return mask.view(np.uint8)


def voc(data: Path) -> Iterator[tuple[Path, Path]]:
    """(picture, class mask) of VOC's 1449 validation pictures. Raises UsageError."""
    masks = next(
        (data / name for name in ("SegmentationClassAug", "SegmentationClass") if (data / name).is_dir()), data
    )
    listed = data / "ImageSets" / "Segmentation" / "val.txt"
    for name in _text(listed).split():
        yield data / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png"


def pascal_5i(data: Path, fold: int, seed: int, by_name: bool = False) -> Iterator[Episode]:
    """PFENet's validation episodes of a fold: one for each picture with an object of its five classes, about one of
    them by lot, its support by lot from the others that have such an object; `by_name`: without support."""
    classes = range(fold * 5 + 1, fold * 5 + 6)
    shown: dict[int, list[tuple[Path, Path]]] = {one: [] for one in classes}
    queries: list[tuple[Path, Path, list[int]]] = []
    for image, mask in voc(data):
        areas = np.bincount(read_values(mask).ravel(), minlength=256)
        large = [one for one in classes if areas[one] >= LEAST]
        for one in large:
            shown[one].append((image, mask))
        if large:
            queries.append((image, mask, [one for one in classes if areas[one]]))
    rng = np.random.default_rng([seed, fold])
    for image, mask, present in queries:
        possible = [one for one in present if any(path != image for path, _ in shown[one])]
        if not possible:
            continue  # the only picture of its class
        chosen = possible[int(rng.integers(len(possible)))]
        others = [pair for pair in shown[chosen] if pair[0] != image]
        support, its_mask = others[int(rng.integers(len(others)))]
        name = WORDS.get(VOC[chosen], VOC[chosen])
        truths = (partial(_class, each, chosen, UNKNOWN) for each in (mask, its_mask))
        query = Episode(image, chosen, f"a photo of a {name}.", next(truths))
        yield query if by_name else replace(query, support=support, support_mask=next(truths))


def coco_20i(data: Path, fold: int, seed: int, count: int = COCO_EPISODES) -> Iterator[Episode]:
    """HSNet's test episodes of a fold: a class by lot, then two different pictures of it."""
    classes = [fold + FOLDS * index for index in range(20)]
    pictures = _split(data / "splits" / "coco" / "val" / f"fold{fold}.pkl")
    usable = [one for one in classes if len(set(pictures.get(one, ()))) > 1]
    if not usable:
        raise UsageError(f"{data}/splits/coco/val/fold{fold}.pkl lists no class of fold {fold} with two pictures")
    rng = np.random.default_rng([seed, fold])
    for _ in range(count):
        chosen = usable[int(rng.integers(len(usable)))]
        query, support = rng.choice(sorted(set(pictures[chosen])), 2, replace=False)
        masks = (data / "annotations" / Path(name).with_suffix(".png") for name in (query, support))
        truths = (partial(_class, mask, chosen + 1, None) for mask in masks)
        yield Episode(data / query, chosen, "", next(truths), data / support, next(truths))


def _class(mask: Path, number: int, unknown: int | None) -> Levels:
    """The pixels of one class of an indexed mask; those of the value `unknown` count nowhere."""
    values = read_values(mask)
    found = (values == number).astype(np.uint8)
    return found if unknown is None else np.where(values == unknown, UNKNOWN, found).astype(np.uint8)


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts; a pickle that names anything to run is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only plain lists of names are read")


def _split(path: Path) -> dict[int, list[str]]:
    """The pictures of each class in one of HSNet's split files. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return {int(one): [str(name) for name in names] for one, names in _Plain(file).load().items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UsageError(f"{path}: not a split file of HSNet (data/splits of its repository): {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _size(image: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's head. Raises UsageError."""
    try:
        with PIL.Image.open(image) as file:
            return file.height, file.width
    except OSError as error:
        raise UsageError(f"the picture {image} cannot be read: {error}") from error
