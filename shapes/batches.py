"""Builds training batches as tensors: images, prompts about them, exemplars, and the objects that each prompt means."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipseg_cli.prompts import highlight
from shapes import queries
from shapes.scenes import Kind, Scene, SceneOptions, draw_scene, resized_square
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, PATTERNS, SHAPES, UNKNOWN_NOUNS

MAX_INSTANCES = 8  # rows of a batch's per-instance tensors: the background and at most seven objects
KINDS: tuple[Kind, ...] = tuple((s, c) for s in SHAPES for c in COLOURS if (s, c) not in HELD_OUT_PAIRS)


@dataclass(frozen=True)
class Batch:
    """The data of one training step: N images of side S, E exemplars, P prompts.

    images: uint8 (N, S, S, 3) RGB. instances: uint8 (N, S, S), 0 = background, i + 1 = object i.
    classes: int64 (N, 8, 3), shape, colour and pattern of each instance plus one; 0 for the background.
    measures: float32 (N, 8, 3), extent, x and y of each instance, see SceneObject.
    exemplars: float32 (E, S, S, 3), normalised colour. kinds: int64 (E,), index of each exemplar's kind in KINDS.
    kind_texts: a prompt for each of KINDS.
    image_of: int64 (P,), index of each prompt's image. texts: P strings.
    exemplar_of: int64 (P,), index of each prompt's exemplar, -1 for text alone.
    text_weight: float32 (P,), the weight of the text in the blend with the exemplar, in [0, 1].
    targets: bool (P, 8), the instances that each prompt means.
    """

    images: Tensor
    instances: Tensor
    classes: Tensor
    measures: Tensor
    exemplars: Tensor
    kinds: Tensor
    kind_texts: list[str]
    image_of: Tensor
    texts: list[str]
    exemplar_of: Tensor
    text_weight: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch with its tensors on `device`."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class BatchOptions:
    """How batches are built.

    side: pixels. images, exemplars: of a batch. prompts, exemplar_prompts: per image; the latter have an exemplar.
    absent: the share of text prompts that are changed so that they mostly match nothing.
    fresh: the share of new scenes, once there are old ones to use again.
    easy: the share of scenes with one or two large objects without pattern.
    """

    side: int = 224
    images: int = 16
    exemplars: int = 6
    prompts: int = 3
    exemplar_prompts: int = 2
    absent: float = 0.45
    fresh: float = 0.5
    easy: float = 0.0
    seed: int = 0

    @property
    def scene_options(self) -> SceneOptions:
        """Scenes of this side. Objects have the pixel size that they have in full-size images, so fewer fit."""
        scale = self.side / 224
        max_objects = 7 if scale == 1 else max(2, round(6 * scale))
        return SceneOptions(short_side=round(232 * scale), scale=scale, max_objects=max_objects)


def mirrored(scene: Scene, horizontally: bool, vertically: bool) -> Scene:
    """Returns the scene mirrored left to right, top to bottom, or both."""
    rows, columns = slice(None, None, -1 if vertically else 1), slice(None, None, -1 if horizontally else 1)
    image, instances = scene.image[rows, columns], scene.instances[rows, columns]
    objects = tuple(
        replace(each, x=1 - each.x if horizontally else each.x, y=1 - each.y if vertically else each.y)
        for each in scene.objects
    )
    return Scene(np.ascontiguousarray(image), np.ascontiguousarray(instances), objects)


def jittered(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the image with small changes of brightness, contrast, blur and noise. Colours keep their names."""
    draw = rng.random(3)
    if draw[0] < 0.5:
        gain, shift = rng.uniform(0.88, 1.1), rng.uniform(-10, 10)
        image = cv2.convertScaleAbs(image, alpha=gain, beta=max(shift, 0))
    if draw[1] < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.0)), np.uint8)
    if draw[2] < 0.15:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(1, 8))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image


def exemplar_scene(kind: Kind, rng: np.random.Generator, options: SceneOptions) -> Scene:
    """Returns a scene whose first object is of `kind`, with at most two others."""
    options = replace(options, max_objects=3, first_kind=kind)
    scene = draw_scene(rng, options)
    while not scene.objects or scene.objects[0].kind != kind:
        scene = draw_scene(rng, options)
    return scene


def exemplar_image(kind: Kind, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns the visual prompt of an object of `kind`: float32 (side, side, 3), normalised colour.

    Four of five follow the paper's recipe; the others have a different background level or a wider crop.
    """
    options = SceneOptions(short_side=max(120, round(side * 0.8)))
    scene = exemplar_scene(kind, rng, options)
    if rng.random() < 0.2:
        scene = resized_square(scene, options.short_side)
    mask = scene.instances == 1
    if rng.random() < 0.8:
        return highlight.crop_blur_dim(scene.image, mask, side)
    lit = highlight.highlighted(highlight.normalised(scene.image), mask, float(rng.choice((0.0, 0.3, 1.0))))
    x0, y0, x1, y1 = highlight.crop_box(mask, rng.uniform(0.05, 0.5))
    return highlight.resized_nearest(highlight.padded_square(lit[y0:y1, x0:x1]), side)


def text_query(
    scene: Scene, absent: float, rng: np.random.Generator, nouns: tuple[str, ...] = UNKNOWN_NOUNS
) -> tuple[queries.Query, list[int]]:
    """Returns a query that is not ambiguous in the scene, and the indices of the objects that match it."""
    for _ in range(12):
        query = queries.query_about(scene.objects[int(rng.integers(len(scene.objects)))], rng)
        if rng.random() < absent:
            query = queries.near_miss(query, scene, rng, nouns)
        if queries.is_held_out(query):
            continue
        indices = queries.matching(query, scene)
        if indices is not None:
            return query, indices
    return queries.Query(unknown=queries.unknown_noun(rng, nouns)), []


def choose_exemplars(
    scenes: list[Scene], count: int, per_scene: int, rng: np.random.Generator
) -> tuple[list[Kind], list[list[int]]]:
    """Returns the kinds of up to `count` exemplars, and for each scene the indices of up to `per_scene` of them.

    The kinds occur in the scenes. A scene gets exemplars of its own kinds or of kinds that share a shape or a colour
    with them, so that about half of the exemplar prompts match something.
    """
    kinds: list[Kind] = []
    for index in rng.permutation(len(scenes))[:count]:
        own = [each.kind for each in scenes[index].objects]
        kinds.append(own[int(rng.integers(len(own)))])
    chosen: list[list[int]] = []
    for scene in scenes:
        own = [each.kind for each in scene.objects]
        present = [i for i, kind in enumerate(kinds) if kind in own]
        similar = [
            i
            for i, (shape, colour) in enumerate(kinds)
            if (shape, colour) not in own and any(shape == s or colour == c for s, c in own)
        ]
        picked: set[int] = set()
        for _ in range(per_scene):
            pool = present if present and rng.random() < 0.75 else similar or list(range(len(kinds)))
            picked.add(pool[int(rng.integers(len(pool)))])
        chosen.append(sorted(picked))
    return kinds, chosen


def attributes(scenes: list[Scene]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns `classes` and `measures` of a batch."""
    classes = np.zeros((len(scenes), MAX_INSTANCES, 3), np.int64)
    measures = np.zeros((len(scenes), MAX_INSTANCES, 3), np.float32)
    for row, scene in enumerate(scenes):
        for index, each in enumerate(scene.objects, 1):
            numbers = SHAPES.index(each.shape), COLOURS.index(each.colour), PATTERNS.index(each.pattern)
            classes[row, index] = [number + 1 for number in numbers]
            measures[row, index] = each.extent, each.x, each.y
    return classes, measures


def build_batch(scenes: list[Scene], options: BatchOptions, rng: np.random.Generator) -> Batch:
    """Returns a batch about these scenes, which are squares of options.side."""
    if options.exemplars:
        kinds, chosen = choose_exemplars(scenes, options.exemplars, options.exemplar_prompts, rng)
    else:
        kinds, chosen = [], []
    rows: list[tuple[int, str, int, float, list[int]]] = []
    for index, scene in enumerate(scenes if options.exemplars else ()):
        for _ in range(options.prompts):
            query, indices = text_query(scene, options.absent, rng)
            rows.append((index, queries.as_prompt(query, rng), -1, 1.0, indices))
        for exemplar in chosen[index]:
            shape, colour = kinds[exemplar]
            query = queries.Query(shape=shape, colour=colour)
            weight = 0.0 if rng.random() < 0.6 else float(rng.random())
            indices = [i for i, each in enumerate(scene.objects) if each.kind == (shape, colour)]
            if queries.matching(query, scene) is not None:
                rows.append((index, queries.as_prompt(query, rng), exemplar, weight, indices))
    targets = np.zeros((len(rows), MAX_INSTANCES), bool)
    for row, (*_, indices) in enumerate(rows):
        targets[row, [i + 1 for i in indices]] = True
    classes, measures = attributes(scenes)
    return Batch(
        images=torch.from_numpy(np.stack([jittered(scene.image, rng) for scene in scenes])),
        instances=torch.from_numpy(np.stack([scene.instances for scene in scenes])),
        classes=torch.from_numpy(classes),
        measures=torch.from_numpy(measures),
        exemplars=torch.from_numpy(
            np.stack([exemplar_image(kind, options.side, rng) for kind in kinds] or [np.zeros((0, 0, 3), np.float32)])
        ),
        kinds=torch.tensor([KINDS.index(kind) for kind in kinds], dtype=torch.int64),
        kind_texts=[queries.as_prompt(queries.Query(shape=s, colour=c), rng) for s, c in KINDS],
        image_of=torch.tensor([row[0] for row in rows], dtype=torch.int64),
        texts=[row[1] for row in rows],
        exemplar_of=torch.tensor([row[2] for row in rows], dtype=torch.int64),
        text_weight=torch.tensor([row[3] for row in rows], dtype=torch.float32),
        targets=torch.from_numpy(targets),
    )


def training_batches(options: BatchOptions, first_step: int = 0) -> Iterator[Batch]:
    """Yields batches without end. The same options and first step give the same batches.

    A share `options.fresh` of the scenes is new; the others are mirrored copies of recent ones.
    """
    rng = np.random.default_rng((options.seed, options.side, first_step))
    recent: list[Scene] = []
    while True:
        scenes: list[Scene] = []
        while len(scenes) < options.images:
            if recent and len(recent) > 4 * options.images and rng.random() > options.fresh:
                scenes.append(recent[int(rng.integers(len(recent)))])
                continue
            drawn = options.scene_options
            if rng.random() < options.easy:
                drawn = replace(drawn, easy=True, max_objects=2)
            scene = resized_square(draw_scene(rng, drawn), options.side)
            if scene.objects:
                scenes.append(scene)
                recent.append(scene)
        recent = recent[-32 * options.images :]
        scenes = [mirrored(scene, rng.random() < 0.5, rng.random() < 0.3) for scene in scenes]
        yield build_batch(scenes, options, rng)
