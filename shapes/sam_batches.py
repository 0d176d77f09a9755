"""Builds training batches for a SAM: drawn scenes, questions about their objects, and the masks that are the answers.

Two of five questions are those of `--refine sam`, made from soft maps of the bundled CLIPSeg, whose errors are part of
the lesson. The others point at a single object, preferably at one that touches another.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipseg_cli.masks import answers, questions, soft_maps
from clipseg_cli.model import preprocess
from clipseg_cli.model.segmenter import Embeddings, Segmenter
from shapes import queries
from shapes.scenes import Scene, SceneOptions, draw_scene

FULL = 512  # pixels: side of the images at which objects have their ordinary size
SOFT_SIDE = 224  # of the soft maps of the bundled CLIPSeg
CELL = 4  # pixels of the warped image per cell of masks
FULL_HEIGHT = (500, 900)  # pixels: short sides of scenes at full size; a part of them has LARGE_HEIGHT
LARGE_HEIGHT, LARGE_SHARE = 1200, 0.2
CLOSER_SHARE = 0.4  # of images that show an object closer, as the second look of `--refine-closer` does
POINTS = questions.POSITIVES + questions.NEGATIVES
PADDING = -10  # transformers' label of a point that only fills up
ASKED, OTHER = 0.25, 0.5  # a part is about objects of the query that it covers to this share; about others: to OTHER
DRAWN_SHARE = 0.25  # of soft maps that are blurred ground truth: as sharp as CLIPSeg's on tiles, and sharper
NEAR = 12  # cells: within this distance of the object, all cells weigh alike
FAR_WEIGHT, EDGE_WEIGHT = 0.1, 3.0  # weights of cells far from the object, and added weight of cells at its edge

COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # SAM 2's

Numbers = NDArray[np.uint8]  # (grid, grid): the instance map on the grid of masks


@dataclass(frozen=True)
class Questions:
    """Q questions. Coordinates are pixels of the warped image, from the centre of its first pixel.

    image_of: int64 (Q,), the image of each. boxes: float32 (Q, 4), x0, y0, x1, y1. points: float32 (Q, POINTS, 2).
    labels: int64 (Q, POINTS), 1 on the object, 0 not on it, or PADDING. soft: float32 (Q, G, G), mask prompts.
    targets: float32 (Q, G, G), the share of each cell that the object covers. weights: float32 (Q, G, G), of the cells.
    """

    image_of: Tensor
    boxes: Tensor
    points: Tensor
    labels: Tensor
    soft: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class SamBatch:
    """The data of one training step: images, float32 (N, 3, side, side), normalised, and two kinds of questions.

    parts: those of `--refine sam`. single: about one object each. given: what the network is told of each kind, any of
    "box", "points" and "soft"; with "one", it gives a single answer instead of three candidates.
    """

    images: Tensor
    parts: Questions
    single: Questions
    given: tuple[frozenset[str], frozenset[str]]


@dataclass(frozen=True)
class SamBatchOptions:
    """How batches are built. images, and parts and single questions for each."""

    side: int = FULL
    images: int = 2
    parts: int = 2
    single: int = 3
    seed: int = 0

    @property
    def grid(self) -> int:
        """Cells per side of masks."""
        return self.side // CELL


# what the network is told, and how often; only the first is what `--refine sam` tells
PARTS_GIVEN = (
    ("box points soft", 0.8),
    ("points soft", 0.04),
    ("box soft", 0.04),
    ("box points", 0.08),
    ("soft", 0.04),
)
SINGLE_GIVEN = (
    ("box points soft", 0.35),
    ("points soft", 0.15),
    ("box points", 0.2),
    ("points", 0.25),
    ("box", 0.05),
)
ONE_SHARE = 0.15  # of the steps in which the network gives its single answer instead of three candidates


def batches(options: SamBatchOptions, segmenter: Segmenter, first_step: int = 0) -> Iterator[SamBatch]:
    """Yields a batch for each step. A batch depends on the options and the number of its step only."""
    preprocessing = image_settings(options.side)
    step = first_step
    while True:
        rng = np.random.default_rng((options.seed, step))
        rows: tuple[list[dict[str, NDArray]], list[dict[str, NDArray]]] = ([], [])
        images: list[NDArray[np.float32]] = []
        while len(images) < options.images:
            near = rng.random() < CLOSER_SHARE
            scene = training_scene(rng, options.side, near)
            parts = part_rows(scene, options, None if near else segmenter, rng)
            if not parts:
                continue
            single = [single_row(scene, options.grid, rng) for _ in range(options.single)]
            for into, found in zip(rows, (parts, single), strict=True):
                into += [{**row, "image_of": np.array(len(images))} for row in found]
            images.append(preprocess.preprocess(scene.image, preprocessing))
        one = {"one"} if rng.random() < ONE_SHARE else set()
        parts_given, single_given = (
            frozenset({*chosen(each, rng).split(), *one}) for each in (PARTS_GIVEN, SINGLE_GIVEN)
        )
        given = parts_given, single_given
        yield SamBatch(torch.from_numpy(np.stack(images)), stacked(rows[0]), stacked(rows[1]), given)
        step += 1


def image_settings(side: int) -> preprocess.Preprocessing:
    """Returns how the network sees images: warped to a square, with the mean and deviation of SAM 2."""
    return preprocess.Preprocessing(side, preprocess.BILINEAR, preprocess.grey_levels(preprocess.DEFAULTS | COLOURS))


def chosen(table: tuple[tuple[str, float], ...], rng: np.random.Generator) -> str:
    """Returns a random entry of a table of names and their probabilities."""
    return table[int(rng.choice(len(table), p=[share for _, share in table]))][0]


def stacked(rows: list[dict[str, NDArray]]) -> Questions:
    """Returns rows as tensors."""
    return Questions(**{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})


def training_scene(rng: np.random.Generator, side: int, near: bool = False) -> Scene:
    """Returns a scene for images of this side, in which objects keep the pixel size that they have in full images.

    near: a part of a large scene, around one of its objects.
    """
    scale = side / FULL
    height = LARGE_HEIGHT if near or rng.random() < LARGE_SHARE else int(rng.integers(*FULL_HEIGHT))
    options = SceneOptions(short_side=round(height * scale), scale=scale, max_objects=7 if scale == 1 else 4)
    scene = draw_scene(rng, options)
    if not scene.objects:
        return training_scene(rng, side, near)
    return closer(scene, side, rng) if near else scene


def closer(scene: Scene, side: int, rng: np.random.Generator) -> Scene:
    """Returns the part of a scene around one of its objects. Objects outside of it stay in the list."""
    number = int(rng.integers(len(scene.objects))) + 1
    height, width = scene.instances.shape
    x, y, w, h = cv2.boundingRect((scene.instances == number).view(np.uint8))
    length = max(rng.uniform(0.8, 1.2) * answers.VIEW * max(w, h), answers.LEAST_VIEW * side / CELL)
    wide, high = min(width, int(length)), min(height, int(length))
    left = int(np.clip(x + w / 2 - wide * rng.uniform(0.4, 0.6), 0, width - wide))
    top = int(np.clip(y + h / 2 - high * rng.uniform(0.4, 0.6), 0, height - high))
    image, instances = (each[top : top + high, left : left + wide] for each in (scene.image, scene.instances))
    return Scene(np.ascontiguousarray(image), np.ascontiguousarray(instances), scene.objects)


def part_rows(
    scene: Scene, options: SamBatchOptions, segmenter: Segmenter | None, rng: np.random.Generator
) -> list[dict[str, NDArray]]:
    """Returns up to `options.parts` questions as `--refine sam` asks them, with their answers.

    Without a segmenter, all soft maps are blurred ground truth.
    """
    features, found = None, []
    numbers = on_grid(scene.instances, options.grid)
    for _ in range(2 * options.parts):
        query = queries.query_about(scene.objects[int(rng.integers(len(scene.objects)))], rng)
        asked = queries.matching(query, scene)
        if not asked or queries.is_held_out(query):
            continue
        if segmenter is None or rng.random() < DRAWN_SHARE:
            levels = blurred(queries.ground_truth(asked, scene.instances), SOFT_SIDE, rng)
        else:
            features = segmenter.encode([scene.image]) if features is None else features
            embedding: Embeddings = segmenter.embed([queries.as_prompt(query, rng)])
            levels = soft_maps.soft(segmenter.logits(features, embedding)[0, 0])
        threshold = 0.5  # of an answer, which is the soft map of a closer look
        if segmenter is not None:
            threshold = segmenter.threshold if rng.random() < 0.8 else float(rng.uniform(0.3, 0.7))
        asked_about = list(questions.ask(levels, threshold, 8, options.grid))
        for question in [asked_about[i] for i in rng.permutation(len(asked_about))][: max(1, options.parts - 1)]:
            answer = meant(question.part, numbers, [index + 1 for index in asked])
            if answer:
                scale = np.float32(options.side / SOFT_SIDE)
                points = ((question.points + 0.5) * scale - 0.5, question.positive.astype(np.int64))
                box = (question.box + 0.5) * scale - 0.5
                found.append(row(scene, answer, box, points, question.soft))
        if len(found) >= options.parts:
            break
    return found[: options.parts]


def on_grid(instances: Numbers, grid: int) -> Numbers:
    """Returns the instance at the centre of each cell."""
    return np.asarray(cv2.resize(instances, (grid, grid), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def blurred(mask: NDArray[np.bool_], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns a soft map, uint8 (side, side), of a mask: blurred, and not sure of itself."""
    small = cv2.resize(mask.view(np.uint8) * 255, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.8, 5))
    return np.asarray(np.clip(small * rng.uniform(0.75, 1.2), 0, 255), np.uint8)


def meant(part: questions.Cells, numbers: Numbers, asked: list[int]) -> list[int]:
    """Returns the instances that a question about a part means: those of the query that it covers, if any.

    Otherwise the soft map is wrong, and the question means whatever objects the part covers: SAM finds edges; what is
    asked for is CLIPSeg's to know.
    """
    inside = np.bincount(numbers[part], minlength=256)
    whole = np.maximum(np.bincount(numbers.ravel(), minlength=256), 1)
    covered = inside / whole
    found = [number for number in asked if covered[number] > ASKED]
    return found or [number for number in range(1, int(numbers.max()) + 1) if covered[number] > OTHER]


def single_row(scene: Scene, grid: int, rng: np.random.Generator) -> dict[str, NDArray]:
    """Returns a question about one object, preferably one that touches another, with its answer.

    Negative points lie on objects that touch it, otherwise beside it. The soft map covers all of them, without saying
    where one ends; in half of the questions it is cut between their centres, as for `--instances`.
    """
    numbers = on_grid(scene.instances, grid)
    present = [int(number) for number in np.unique(numbers) if number]
    beside = {number: neighbours(numbers, number) for number in present}
    candidates = [number for number in present if beside[number]] if rng.random() < 0.7 else present
    number = int(rng.choice(candidates or present))
    group = np.isin(numbers, [number, *beside[number]])
    positive = random_points(numbers == number, int(rng.integers(1, questions.POSITIVES + 1)), rng)
    rest = group & (numbers != number) if beside[number] else ~group
    negative = random_points(rest, int(rng.integers(0, questions.NEGATIVES + 1)), rng)
    soft = soft_maps.logit(blurred(group, grid, rng).astype(np.float32) / 255) * questions.SCALE
    own = numbers == number
    if rng.random() < 0.5:
        nearest = nearest_centre([own, *(numbers == other for other in beside[number])])
        soft = np.where(nearest == 0, soft, -questions.LIMIT)
        own = group & (nearest == 0)
    box = box_of(own if own.any() else group)
    box = box + rng.normal(0, 0.03, 4) * np.tile(box[2:] - box[:2], 2)
    points = np.concatenate([positive, negative]) * CELL + (CELL - 1) / 2
    labels = np.array([1] * len(positive) + [0] * len(negative), np.int64)
    box = np.clip(box * CELL - 0.5, 0, grid * CELL - 1)
    return row(scene, [number], box, (points, labels), np.clip(soft, -questions.LIMIT, questions.LIMIT))


def neighbours(numbers: Numbers, number: int) -> list[int]:
    """Returns the instances that touch one."""
    around = cv2.dilate((numbers == number).view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return [int(other) for other in np.unique(numbers[around]) if other not in (0, number)]


def nearest_centre(objects: list[questions.Cells]) -> NDArray[np.intp]:
    """Returns which of the objects' centres, the cells farthest from their edges, is nearest to each cell."""
    centres = [np.unravel_index(np.argmax(from_edge(each)), each.shape) for each in objects]
    rows, columns = np.indices(objects[0].shape)
    return np.argmin([np.hypot(rows - y, columns - x) for y, x in centres], 0)


def from_edge(cells: questions.Cells) -> NDArray[np.float32]:
    """Returns the distance of each cell to the next one outside `cells`."""
    return np.asarray(cv2.distanceTransform(np.pad(cells.view(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1])


def random_points(cells: questions.Cells, count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns up to `count` of the cells, x and y: float32 (N, 2)."""
    y, x = np.nonzero(cells)
    picked = rng.permutation(len(y))[:count]
    return np.stack((x[picked], y[picked]), 1).astype(np.float32)


def box_of(cells: questions.Cells) -> NDArray[np.float64]:
    """Returns x0, y0, x1, y1 around cells."""
    columns, rows = np.flatnonzero(cells.any(0)), np.flatnonzero(cells.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def row(
    scene: Scene,
    answer: list[int],
    box: NDArray[np.floating],
    points: tuple[NDArray[np.floating], NDArray[np.int64]],
    soft: questions.Grid,
) -> dict[str, NDArray]:
    """Returns a row of Questions, without its image. answer: the instances that are its answer."""
    grid = len(soft)
    mask = queries.ground_truth([number - 1 for number in answer], scene.instances)
    target = cv2.resize(mask.view(np.uint8) * 255, (grid, grid), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    some, whole = (target > 0.02).view(np.uint8), (target > 0.98).view(np.uint8)
    near = cv2.dilate(some, np.ones((2 * NEAR + 1,) * 2, np.uint8)) | (soft > 0).view(np.uint8)
    edge = cv2.dilate(some, np.ones((3, 3), np.uint8)) - cv2.erode(whole, np.ones((3, 3), np.uint8))
    missing = POINTS - len(points[0])
    return {
        "boxes": box.astype(np.float32),
        "points": np.pad(points[0].astype(np.float32), ((0, missing), (0, 0))),
        "labels": np.pad(points[1], (0, missing), constant_values=PADDING),
        "soft": soft.astype(np.float32),
        "targets": target,
        "weights": np.where(near, 1, FAR_WEIGHT).astype(np.float32) + np.float32(EDGE_WEIGHT) * edge,
    }
