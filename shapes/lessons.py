"""Lessons: what one training step is taught, as tensors. Pictures, questions about them, and the answers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipseg_cli.prompts import highlight
from shapes import phrases
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, PATTERNS, SHAPES, STRANGERS
from shapes.world import Kind, Manner, Scene, draw_scene, squared

MOST_THINGS = 8  # rows of a lesson's tables: the ground and at most seven things
KINDS: tuple[Kind, ...] = tuple((s, c) for s in SHAPES for c in COLOURS if (s, c) not in HELD_OUT_PAIRS)


@dataclass(frozen=True)
class Lesson:
    """One step's pictures and questions; N pictures of side S, E exemplars, P prompts.

    images: uint8 (N, S, S, 3) RGB. owners: uint8 (N, S, S), 0 = ground, i + 1 = thing i.
    labels: int64 (N, 8, 3), shape, colour and pattern of each owner plus one, 0 for the ground.
    measures: float32 (N, 8, 3), extent, x and y of each owner.
    exemplars: float32 (E, S, S, 3), normalised colour. kinds: int64 (E,), which of KINDS each one shows.
    kind_texts: words for each of KINDS.
    picture: int64 (P,), the picture that each prompt is about. texts: P strings.
    shown: int64 (P,), the exemplar of each prompt, -1 for text alone. weight: float32 (P,), the text's share in [0, 1].
    meant: bool (P, 8), the owners that each prompt denotes.
    """

    images: Tensor
    owners: Tensor
    labels: Tensor
    measures: Tensor
    exemplars: Tensor
    kinds: Tensor
    kind_texts: list[str]
    picture: Tensor
    texts: list[str]
    shown: Tensor
    weight: Tensor
    meant: Tensor

    def to(self, device: torch.device) -> "Lesson":
        """The lesson with its tensors on `device`."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Plan:
    """How lessons are made.

    prompts, shown: phrases and exemplars about each picture. absent: the share of phrases that are meant to denote
    nothing. easy: of the scenes, those with one or two large plain things.
    """

    side: int = 224
    pictures: int = 16
    exemplars: int = 6
    prompts: int = 3
    shown: int = 2
    absent: float = 0.45
    fresh: float = 0.5
    easy: float = 0.0
    seed: int = 0

    @property
    def manner(self) -> Manner:
        """Scenes of this side at the full picture's pixel scale."""
        scale = self.side / 224
        return Manner(short=round(232 * scale), scale=scale, most=7 if scale == 1 else max(2, round(6 * scale)))


def flipped(scene: Scene, across: bool, down: bool) -> Scene:
    """The scene mirrored, its things' places with it."""
    image, owners = scene.image[:: -1 if down else 1, :: -1 if across else 1], scene.owners
    owners = owners[:: -1 if down else 1, :: -1 if across else 1]
    things = tuple(replace(t, x=1 - t.x if across else t.x, y=1 - t.y if down else t.y) for t in scene.things)
    return Scene(np.ascontiguousarray(image), np.ascontiguousarray(owners), things)


def jittered(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Small changes that leave every colour its name: brightness, contrast, blur, noise."""
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


def example(kind: Kind, rng: np.random.Generator, manner: Manner) -> Scene:
    """A scene to cut an exemplar from: its first thing is of `kind`, with at most two others."""
    manner = replace(manner, most=3, first=kind)
    scene = draw_scene(rng, manner)
    while not scene.things or scene.things[0].kind != kind:
        scene = draw_scene(rng, manner)
    return scene


def exemplar_picture(kind: Kind, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A visual prompt of one thing of `kind` from a scene of its own: float32 (side, side, 3), normalised colour.

    Mostly the paper's recipe; in some cases a brighter or darker ground or a wider crop.
    """
    manner = Manner(short=max(120, round(side * 0.8)))
    scene = example(kind, rng, manner)
    if rng.random() < 0.2:
        scene = squared(scene, manner.short)
    mask = scene.owners == 1
    if rng.random() < 0.8:
        return highlight.crop_blur_dim(scene.image, mask, side)
    lit = highlight.highlighted(highlight.normalised(scene.image), mask, float(rng.choice((0.0, 0.3, 1.0))))
    x0, y0, x1, y1 = highlight.crop_box(mask, rng.uniform(0.05, 0.5))
    return highlight.resized_nearest(highlight.padded_square(lit[y0:y1, x0:x1]), side)


def ask(
    scene: Scene, absent: float, rng: np.random.Generator, words: tuple[str, ...] = STRANGERS
) -> tuple[phrases.Query, list[int]]:
    """A question that the scene answers without doubt, and the things that it denotes."""
    for _ in range(12):
        query = phrases.about(scene.things[int(rng.integers(len(scene.things)))], rng)
        if rng.random() < absent:
            query = phrases.against(query, scene, rng, words)
        if phrases.is_held_out(query):
            continue
        indices = phrases.denoted(query, scene)
        if indices is not None:
            return query, indices
    return phrases.Query(stranger=phrases.stranger(rng, words)), []


def kinds_of(scene: Scene) -> list[Kind]:
    """Shape and colour of each thing."""
    return [thing.kind for thing in scene.things]


def pair_up(scenes: list[Scene], count: int, each: int, rng: np.random.Generator) -> tuple[list[Kind], list[list[int]]]:
    """`count` kinds worth an exemplar, and the exemplars, at most `each`, that each picture is asked about.

    Kinds come from the pictures. A picture is asked about some of them that it shows, else some that resemble a thing
    of it, else any: so that about half of the questions have something to find.
    """
    kinds: list[Kind] = []
    for index in rng.permutation(len(scenes))[:count]:
        own = kinds_of(scenes[index])
        kinds.append(own[int(rng.integers(len(own)))])
    chosen: list[list[int]] = []
    for scene in scenes:
        own = kinds_of(scene)
        here = [i for i, kind in enumerate(kinds) if kind in own]
        near = [
            i
            for i, kind in enumerate(kinds)
            if kind not in own and any(kind[0] == o[0] or kind[1] == o[1] for o in own)
        ]
        picked: set[int] = set()
        for _ in range(each):
            pool = here if here and rng.random() < 0.75 else near or list(range(len(kinds)))
            picked.add(pool[int(rng.integers(len(pool)))])
        chosen.append(sorted(picked))
    return kinds, chosen


def tables(scenes: list[Scene]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`labels` and `measures` of a lesson."""
    labels = np.zeros((len(scenes), MOST_THINGS, 3), np.int64)
    measures = np.zeros((len(scenes), MOST_THINGS, 3), np.float32)
    for row, scene in enumerate(scenes):
        for index, t in enumerate(scene.things, 1):
            labels[row, index] = SHAPES.index(t.shape) + 1, COLOURS.index(t.colour) + 1, PATTERNS.index(t.pattern) + 1
            measures[row, index] = t.extent, t.x, t.y
    return labels, measures


def lesson(scenes: list[Scene], plan: Plan, rng: np.random.Generator) -> Lesson:
    """A lesson about the given scenes (square, of side plan.side)."""
    kinds, chosen = pair_up(scenes, plan.exemplars, plan.shown, rng) if plan.exemplars else ([], [])
    rows: list[tuple[int, str, int, float, list[int]]] = []
    for index, scene in enumerate(scenes if plan.exemplars else ()):
        for _ in range(plan.prompts):
            query, indices = ask(scene, plan.absent, rng)
            rows.append((index, phrases.wording(query, rng), -1, 1.0, indices))
        for chose in chosen[index]:
            shape, colour = kinds[chose]
            query = phrases.Query(shape=shape, colour=colour)
            weight = 0.0 if rng.random() < 0.6 else float(rng.random())
            found = [i for i, kind in enumerate(kinds_of(scene)) if kind == (shape, colour)]
            if phrases.denoted(query, scene) is not None:
                rows.append((index, phrases.wording(query, rng), chose, weight, found))
    meant = np.zeros((len(rows), MOST_THINGS), bool)
    for row, (*_, indices) in enumerate(rows):
        meant[row, [i + 1 for i in indices]] = True
    labels, measures = tables(scenes)
    return Lesson(
        images=torch.from_numpy(np.stack([jittered(scene.image, rng) for scene in scenes])),
        owners=torch.from_numpy(np.stack([scene.owners for scene in scenes])),
        labels=torch.from_numpy(labels),
        measures=torch.from_numpy(measures),
        exemplars=torch.from_numpy(
            np.stack([exemplar_picture(kind, plan.side, rng) for kind in kinds] or [np.zeros((0, 0, 3), np.float32)])
        ),
        kinds=torch.tensor([KINDS.index(kind) for kind in kinds], dtype=torch.int64),
        kind_texts=[phrases.wording(phrases.Query(shape=s, colour=c), rng) for s, c in KINDS],
        picture=torch.tensor([row[0] for row in rows], dtype=torch.int64),
        texts=[row[1] for row in rows],
        shown=torch.tensor([row[2] for row in rows], dtype=torch.int64),
        weight=torch.tensor([row[3] for row in rows], dtype=torch.float32),
        meant=torch.from_numpy(meant),
    )


def lessons(plan: Plan, first: int = 0) -> Iterator[Lesson]:
    """Lessons without end. The same plan and first step give the same lessons.

    A part `plan.fresh` of each lesson's scenes is new; the others come back, mirrored, from the last ones.
    """
    rng = np.random.default_rng((plan.seed, plan.side, first))
    store: list[Scene] = []
    while True:
        scenes: list[Scene] = []
        while len(scenes) < plan.pictures:
            if store and len(store) > 4 * plan.pictures and rng.random() > plan.fresh:
                scenes.append(store[int(rng.integers(len(store)))])
                continue
            manner = replace(plan.manner, easy=True, most=2) if rng.random() < plan.easy else plan.manner
            scene = squared(draw_scene(rng, manner), plan.side)
            if scene.things:
                scenes.append(scene)
                store.append(scene)
        store = store[-32 * plan.pictures :]
        scenes = [flipped(scene, rng.random() < 0.5, rng.random() < 0.3) for scene in scenes]
        yield lesson(scenes, plan, rng)
