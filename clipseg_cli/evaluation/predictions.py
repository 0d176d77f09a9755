"""Predictions, paired with their ground truth: from a run's output folder, a folder of masks, or a COCO file.

Pairs are read one by one, so memory does not grow with their number.
"""

import contextlib
import heapq
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets.ground_truth import (
    GroundTruth,
    Objects,
    TrueMask,
    is_image_file,
    label_folders,
    match_labels,
    numbered_objects,
    open_ground_truth,
    read_coco,
    read_mask,
    read_values,
    walk,
)
from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation import metrics
from clipseg_cli.inputs import names, orientation
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.manifest import MANIFEST, RUN
from clipseg_cli.outputs.record import key_of

T = TypeVar("T")
G = TypeVar("G")
READ_AHEAD = 64  # images


@dataclass(frozen=True, slots=True)
class Prediction:
    """The output files of one label in one image."""

    label: str
    mask: Path | None = None
    soft: Path | None = None
    threshold: float | None = None  # of the mask; None: unknown
    empty: bool = False  # the mask is empty, so it may have no file
    turn: int = 1  # EXIF orientation that makes the files upright, as ground truth is
    drawn: Callable[[], Objects | None] | None = None  # reads the objects; None: they were not kept apart

    def read_soft(self, truth: TrueMask) -> NDArray[np.uint8] | NDArray[np.uint16] | None:
        """Reads the soft map, (H, W); None if the run kept none. Raises UsageError if the sizes differ."""
        return None if self.soft is None else self._upright(read_values(self.soft), truth, self.soft)

    def read_mask(self, truth: TrueMask) -> NDArray[np.bool_]:
        """Reads the mask, bool (H, W), or thresholds the soft map if the run kept no mask. Raises UsageError."""
        if self.mask is not None:
            return self._upright(read_mask(self.mask).mask, truth, self.mask)
        levels = self.read_soft(truth)
        if levels is not None and self.threshold is not None:
            return levels > math.floor(metrics.LARGEST[levels.dtype.name] * self.threshold + 1e-9)
        if self.empty:
            return np.zeros_like(truth.mask)
        raise UsageError(f"there is neither a mask nor a soft map of {self.label!r}: run it again with -f mask")

    def read_objects(self, truth: Objects) -> Objects:
        """Reads the objects. Raises UsageError if the run did not keep them apart, or if the sizes differ."""
        found = None if self.drawn is None else self.drawn()
        if found is None:
            raise UsageError(
                f"the run kept no instances of {self.label!r}: run it again with --instances -f instances, or name its "
                "coco.json"
            )
        _check_size(found.shape, truth.shape, found.source, truth.source)
        return found

    def _upright(self, array: NDArray[Any], truth: TrueMask, path: Path) -> NDArray[Any]:
        return _same_size(np.ascontiguousarray(orientation.upright(array, self.turn)), truth, path)


@dataclass(frozen=True, slots=True)
class ImagePredictions:
    """The predictions of one image, and the stems that its ground truth may have."""

    stems: tuple[str, ...]
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Predictions and ground truth, with their labels matched."""

    ground_truth: GroundTruth
    label_pairs: dict[str, str]  # predicted label: ground-truth label
    images: Iterator[ImagePredictions]
    notes: tuple[str, ...]  # for the user, shown before the scores

    def each(self, judge: Callable[[Prediction, TrueMask], T]) -> Iterator[tuple[str, str, T]]:
        """Yields (stem, label, result of `judge`) for every pair, in order. Reads ahead in several threads."""
        return self._pairs(judge, self.ground_truth.find)

    def each_with_objects(self, judge: Callable[[Prediction, Objects], T]) -> Iterator[tuple[str, str, T]]:
        """Yields the same for the objects of the ground truth."""
        return self._pairs(judge, self.ground_truth.objects)

    def told(self, pairs: Mapping[str, int], pred: Path, gt: Path) -> tuple[str, ...]:
        """Returns the notes, also on ground truth without predictions. `pairs`: how many were found, by label.

        Raises NoInputError if there are none.
        """
        if not pairs:
            known = next(iter(self.label_pairs.values()))
            example = next(self.ground_truth.stems(known), "<dir>/<stem>")
            raise NoInputError(
                f"no prediction in {pred} has a mask in {gt}: their paths, without extension, must have the same "
                f"ending, like {example}"
            )
        notes = list(self.notes)
        for label, count in pairs.items():
            known_masks = sum(1 for _ in self.ground_truth.stems(self.label_pairs[label]))
            if known_masks > count:
                missing = f"{known_masks - count} of {known_masks} ground-truth masks"
                notes.append(f"{missing} of {label or 'the label'} have no prediction")
        return tuple(notes)

    def _pairs(
        self, judge: Callable[[Prediction, G], T], find: Callable[[str, str], G | None]
    ) -> Iterator[tuple[str, str, T]]:

        def judge_image(image: ImagePredictions) -> list[tuple[str, str, T]]:
            results = []
            for prediction in image.predictions:
                label = self.label_pairs[prediction.label]
                candidates = (find(label, stem) for stem in image.stems)
                truth = next((each for each in candidates if each is not None), None)
                if truth is not None:
                    results.append((image.stems[0], prediction.label, judge(prediction, truth)))
            return results

        with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 1))) as pool:
            while batch := list(itertools.islice(self.images, READ_AHEAD)):
                for results in pool.map(judge_image, batch):
                    yield from results


def compare(pred: Path, gt: Path) -> Comparison:
    """Opens predictions and ground truth, and matches their labels.

    `pred`: a run's output folder, masks as PRED/<label>/<dir>/<stem>.png or PRED/<dir>/<stem>.png, or a COCO file, of
    which only objects are read. Raises UsageError if either has another layout, or if they have no label in common.
    """
    of_kind = _open_coco if pred.is_file() else _open_run if (pred / MANIFEST).is_file() else _open_folder
    labels, images = of_kind(pred)
    ground_truth = open_ground_truth(gt, labels)
    known = ground_truth.labels
    if known == ("",) or (labels == ("",) and len(known) == 1):
        if len(labels) > 1:
            raise UsageError(f"{gt} has masks of one label, but {pred} has {len(labels)} labels: {', '.join(labels)}")
        return Comparison(ground_truth, {labels[0]: known[0]}, images, ())
    pairs = {label: match for label, match in match_labels(labels, known).items() if match is not None}
    if not pairs:
        raise UsageError(
            f"no label in common: {pred} has {', '.join(map(repr, labels))}, "
            f"{gt} has {', '.join(map(repr, known))}. Name them alike: -p label=text sets a prompt's label"
        )
    notes = [f"no ground truth for the label {label!r}" for label in labels if label not in pairs]
    notes += [f"no predictions for the label {name!r}" for name in known if name not in pairs.values()]

    def matched(image: ImagePredictions) -> ImagePredictions:
        return ImagePredictions(image.stems, tuple(each for each in image.predictions if each.label in pairs))

    return Comparison(ground_truth, pairs, map(matched, images), tuple(notes))


def _open_run(out: Path) -> tuple[tuple[str, ...], Iterator[ImagePredictions]]:
    """Returns the labels of a run and, per image, its predictions. Raises NoInputError for a run without images."""

    def images() -> Iterator[ImagePredictions]:
        for record in manifest.documents(out / MANIFEST):
            if record.get("status") != "ok":
                continue
            try:
                image = _from_record(out, record, stored, named.get(key_of(record)))
            except (KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{out / MANIFEST}: the record of {record['image']} is broken ({error!r}); run it again"
                ) from error
            yield image

    settings: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        settings = dict(json.loads((out / RUN).read_bytes())["settings"])
    stored = settings.get("orientation") == "stored"
    named = manifest.outputs(out) if settings.get("name") else {}
    try:
        labels = [prompt["label"] for prompt in settings["prompts"]]
    except (KeyError, TypeError):
        labels = [each.label for each in next(images(), ImagePredictions((), ())).predictions]
    if not labels:
        raise NoInputError(f"the run in {out} segmented no image")
    return tuple(labels), images()


def _from_record(out: Path, record: dict[str, Any], stored: bool, output: str | None) -> ImagePredictions:
    """Returns the predictions of one manifest record. The ground truth of a frame is named like the frame's mask.

    The ground truth may have the image's stem or its full name. If the outputs have its full name, another image has
    the same stem, which is then not looked for. `output` is the image's output path if --name has changed the names of
    files; otherwise they contain it.
    """
    name, stem = record["image"], names.stem(record["image"])
    stems, predictions = [] if output is None else [output], []
    turn, numbers = record["orientation"] if stored else 1, record.get("files", {}).get("instances")
    for mask in record["masks"]:
        soft = mask.get("soft") or mask.get("soft16")
        scores = {each["id"]: each["score"] for each in mask["instances"]} if "instances" in mask else None
        for path in (mask["path"], soft):
            if output is None and path and len(parts := path.split("/", 2)) == 3:
                stems.append(parts[2].rpartition(".")[0])
        predictions.append(
            Prediction(
                mask["label"],
                out / mask["path"] if mask["path"] else None,
                out / soft if soft else None,
                mask["threshold"] if isinstance(mask["threshold"], float | int) else None,
                mask["area"] == 0,
                turn,
                partial(numbered_objects, out / numbers, scores, turn) if numbers and scores is not None else None,
            )
        )
    if record["frame"]:
        stems.append(f"{stem}/{record['frame']:06}")
        return ImagePredictions(tuple(dict.fromkeys(stems)), tuple(predictions))
    shared = stem != name and any(each.rpartition("/")[2] == name.rpartition("/")[2] for each in stems)
    if not shared:
        stems += [stem, *(each + name.removeprefix(stem) for each in stems)]
    return ImagePredictions(tuple(dict.fromkeys([*stems, name])), tuple(predictions))


def _open_folder(path: Path) -> tuple[tuple[str, ...], Iterator[ImagePredictions]]:
    """Returns the labels of a folder of masks and, per image, its predictions. Raises UsageError, NoInputError."""
    if not path.is_dir():
        raise UsageError(f"no predictions at {path}: give the output folder of a run, or a folder of masks")
    with os.scandir(path) as entries:
        single_label = any(is_image_file(entry) for entry in entries)
    labels = ("",) if single_label else tuple(label_folders(path))
    if not labels:
        raise NoInputError(f"{path} has neither a {MANIFEST} nor a mask")

    def of_label(label: str) -> Iterator[tuple[list[str], str, Prediction]]:
        for stem, file in walk(path / label):
            yield stem.split("/"), stem, Prediction(label, file, drawn=partial(numbered_objects, file))

    def images() -> Iterator[ImagePredictions]:
        merged = heapq.merge(*map(of_label, labels), key=lambda item: item[0])
        for stem, items in itertools.groupby(merged, key=lambda item: item[1]):
            yield ImagePredictions((stem,), tuple(item[2] for item in items))

    return labels, images()


def _open_coco(path: Path) -> tuple[tuple[str, ...], Iterator[ImagePredictions]]:
    """Returns the labels of a COCO file and, per image, its predictions, of which only objects can be read."""
    coco = read_coco(path)
    images = (
        ImagePredictions(
            (stem,), tuple(Prediction(each, drawn=partial(coco.objects, each, stem)) for each in coco.labels)
        )
        for stem in coco.images
    )
    return coco.labels, images


def _same_size(array: NDArray[Any], truth: TrueMask, path: Path) -> NDArray[Any]:
    """Returns `array`. Raises UsageError if it does not have the true mask's size."""
    _check_size(array.shape, truth.mask.shape, str(path), truth.source)
    return array


def _check_size(shape: tuple[int, ...], other: tuple[int, ...], *sources: str) -> None:
    if shape != other:
        sizes = " and ".join(f"{width} x {height}" for height, width in (shape, other))
        raise UsageError(
            f"sizes differ: {' and '.join(sources)} are {sizes} pixels; a mask must have the size of its image"
        )
