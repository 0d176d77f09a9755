"""The samples of the paper's evaluations, from the data sets' own files. Masks are read when they are needed.

    VGPhraseCut_v0/   refer_test.json, image_data_split.json, images/<id>.jpg
    VOC2012/          JPEGImages/, SegmentationClass/ or SegmentationClassAug/, ImageSets/Segmentation/val.txt
    COCO2014/         val2014/*.jpg, annotations/val2014/*.png (HSNet's masks), splits/coco/val/fold<0-3>.pkl (HSNet's)

The support image of a sample is drawn at random, as in the loaders that the paper used, but with a seed.
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

from clipseg_cli.datasets import paper_preprocess
from clipseg_cli.datasets.ground_truth import read_values
from clipseg_cli.errors import UsageError

UNKNOWN = 255  # pixels that are not scored
FOLDS = 4
MIN_AREA = 2 * 32 * 32  # pixels: PFENet ignores smaller objects
COCO_SAMPLES = 1000  # per fold, as in HSNet

VOC = (  # JoEm's names, by pixel value
    "background", "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
UNSEEN = (10, 14, 1, 18, 8, 20, 19, 5, 9, 16)  # indices into VOC: the first n are the paper's unseen-n
SPACED = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}  # for prompts

Levels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """An image, what to find in it (a phrase, or the object in a support image), and the true mask."""

    image: Path
    group: int  # the class that the sample belongs to in the mean IoU
    phrase: str
    true_mask: Callable[[], Levels]  # uint8 (H, W): 1 object, 0 other, 255 not scored; raises UsageError
    support: Path | None = None
    support_mask: Callable[[], Levels] | None = None  # like `true_mask`


def phrasecut(data: Path, split: str) -> Iterator[Sample]:
    """Yields one sample per phrase of a split, each in its own group. Raises UsageError.

    Leaves out phrases whose boxes have no area, and images whose size differs from the annotated size (the paper's code
    has a list of their ids).
    """
    tasks = _read_json(data / f"refer_{split}.json")
    infos = next(iter(sorted(data.glob("image_data_split*.json"))), data / "image_data_split.json")
    by_image: dict[int, list[tuple[str, Any]]] = {}
    try:
        sizes = {info["image_id"]: (info["height"], info["width"]) for info in _read_json(infos)}
        for task in tasks:
            if sum(box[2] * box[3] for box in task["instance_boxes"]) > 0:
                by_image.setdefault(task["image_id"], []).append((task["phrase"], task["Polygons"]))
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"{data}: refer_{split}.json or {infos.name} is not in PhraseCut's layout: {error!r}"
        ) from error
    number = 0
    for image_id, phrases in by_image.items():
        image = data / "images" / f"{image_id}.jpg"
        if _image_size(image) != sizes.get(image_id):
            continue
        for phrase, polygons in phrases:
            yield Sample(image, number, phrase, partial(_fill_instances, polygons, sizes[image_id]))
            number += 1


def _fill_instances(instances: Sequence[Sequence[Any]], size: tuple[int, int]) -> Levels:
    """Returns the union of all polygons of all instances, uint8 of `size`, 0 and 1."""
    mask = np.zeros(size, bool)
    for polygons in instances:
        for points in polygons:
            mask |= paper_preprocess.fill_polygon(np.asarray(points, np.float64), *size)
    return mask.view(np.uint8)


def voc(data: Path) -> Iterator[tuple[Path, Path]]:
    """Yields (image, class mask) for VOC's 1449 validation images. Raises UsageError."""
    masks = next(
        (data / name for name in ("SegmentationClassAug", "SegmentationClass") if (data / name).is_dir()), data
    )
    names = _read_text(data / "ImageSets" / "Segmentation" / "val.txt").split()
    for name in names:
        yield data / "JPEGImages" / f"{name}.jpg", masks / f"{name}.png"


def pascal_5i(data: Path, fold: int, seed: int, by_name: bool = False) -> Iterator[Sample]:
    """Yields PFENet's validation samples of a fold.

    Each image that shows one of the fold's five classes gives one sample. If it shows several, one is drawn at random.
    The support is drawn from the other images that show it. `by_name`: samples have no support. Raises UsageError.
    """
    classes = range(fold * 5 + 1, fold * 5 + 6)
    supports: dict[int, list[tuple[Path, Path]]] = {number: [] for number in classes}
    queries: list[tuple[Path, Path, list[int]]] = []
    for image, mask in voc(data):
        areas = np.bincount(read_values(mask).ravel(), minlength=256)
        large = [number for number in classes if areas[number] >= MIN_AREA]
        for number in large:
            supports[number].append((image, mask))
        if large:
            queries.append((image, mask, [number for number in classes if areas[number]]))
    rng = np.random.default_rng([seed, fold])
    for image, mask, present in queries:
        possible = [number for number in present if any(path != image for path, _ in supports[number])]
        if not possible:
            continue  # the only image of its class
        chosen = possible[int(rng.integers(len(possible)))]
        others = [pair for pair in supports[chosen] if pair[0] != image]
        support, support_mask = others[int(rng.integers(len(others)))]
        name = SPACED.get(VOC[chosen], VOC[chosen])
        true_masks = (partial(_class_mask, path, chosen, UNKNOWN) for path in (mask, support_mask))
        query_mask, support_true_mask = true_masks
        query = Sample(image, chosen, f"a photo of a {name}.", query_mask)
        yield query if by_name else replace(query, support=support, support_mask=support_true_mask)


def coco_20i(data: Path, fold: int, seed: int, count: int = COCO_SAMPLES) -> Iterator[Sample]:
    """Yields HSNet's test samples of a fold: a random class, then two different random images that show it.

    Raises UsageError.
    """
    classes = [fold + FOLDS * index for index in range(20)]
    split = data / "splits" / "coco" / "val" / f"fold{fold}.pkl"
    images = _read_split(split)
    usable = [number for number in classes if len(set(images.get(number, ()))) > 1]
    if not usable:
        raise UsageError(f"{split} lists no class of fold {fold} with two images")
    rng = np.random.default_rng([seed, fold])
    for _ in range(count):
        chosen = usable[int(rng.integers(len(usable)))]
        query, support = rng.choice(sorted(set(images[chosen])), 2, replace=False)
        masks = (data / "annotations" / Path(name).with_suffix(".png") for name in (query, support))
        query_mask, support_mask = (partial(_class_mask, mask, chosen + 1, None) for mask in masks)
        yield Sample(data / query, chosen, "", query_mask, data / support, support_mask)


def _class_mask(mask: Path, number: int, unknown: int | None) -> Levels:
    """Returns uint8 (H, W): 1 for the class `number` of an indexed mask, 255 for the value `unknown`, else 0."""
    values = read_values(mask)
    is_class = (values == number).astype(np.uint8)
    return is_class if unknown is None else np.where(values == unknown, UNKNOWN, is_class).astype(np.uint8)


class _DataUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists and dicts; refuses a pickle that refers to code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only plain lists of names are read")


def _read_split(path: Path) -> dict[int, list[str]]:
    """Returns the images of each class from one of HSNet's split files. Raises UsageError."""
    try:
        with path.open("rb") as file:
            content = _DataUnpickler(file).load()
        return {int(number): [str(name) for name in names] for number, names in content.items()}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UsageError(f"{path}: not a split file of HSNet (data/splits of its repository): {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def _image_size(image: Path) -> tuple[int, int]:
    """Returns height and width in pixels, from the file's header. Raises UsageError."""
    try:
        with PIL.Image.open(image) as file:
            return file.height, file.width
    except OSError as error:
        raise UsageError(f"the image {image} cannot be read: {error}") from error
