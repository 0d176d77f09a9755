"""Draws clips: scenes whose objects move and turn, filmed by a noisy, flickering camera, with cuts between scenes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapes import backgrounds, outlines, queries
from shapes.scenes import DEFAULTS, Canvas, Kind, choose_kind
from shapes.vocabulary import HELD_OUT_PAIRS

HEIGHT, WIDTH = 232, 309  # pixels: the scale of the training scenes
RATE = 25.0  # frames per second
LENGTH = 25  # frames of a scene
OBJECTS = (2, 5)  # in a scene, the upper end exclusive
EXTENT = (0.2, 0.45)  # of an object, as a share of the height
SPEED = 0.4  # of the fastest object, in heights per second
TURN = 1.0  # of the fastest object, in radians per second
GRAIN = (4.0, 12.0)  # standard deviation of the sensor noise of a frame, in levels of 255
FLICKER = 0.08  # standard deviation of a frame's brightness, as a share


@dataclass(frozen=True)
class Clip:
    """Frames of several scenes, one after another, and which of their pixels the query describes."""

    frames: NDArray[np.uint8]  # (N, H, W, 3) RGB
    ground_truth: NDArray[np.bool_]  # (N, H, W)
    times: tuple[float, ...]  # seconds
    scenes: tuple[int, ...]  # the number of each frame's scene
    query: queries.Query


@dataclass(frozen=True)
class Mover:
    """An object on its way. Lengths are in pixels, times in frames."""

    kind: Kind
    contours: list[outlines.Contour]  # around the origin
    start: NDArray[np.float64]  # centre in the first frame
    speed: NDArray[np.float64]
    turn: float  # radians
    seed: int  # of its look, equal in all frames

    def at(self, frame: int) -> list[outlines.Contour]:
        """Returns its contours in a frame."""
        cosine, sine = np.cos(self.turn * frame), np.sin(self.turn * frame)
        rotation = np.array([[cosine, sine], [-sine, cosine]])
        return [contour @ rotation + self.start + self.speed * frame for contour in self.contours]


def mover(kind: Kind, rng: np.random.Generator) -> Mover:
    """Returns an object whose centre stays in the frame."""
    contours = [contour * rng.uniform(*EXTENT) * HEIGHT for contour in outlines.posed(kind[0], rng)]
    start, end = rng.uniform(0.2, 0.8, (2, 2)) * (WIDTH, HEIGHT)
    way = end - start
    fastest = SPEED * HEIGHT * LENGTH / RATE
    way *= min(1.0, fastest / max(1e-9, float(np.hypot(*way))))
    turn = rng.uniform(-TURN, TURN) / RATE
    return Mover(kind, contours, start, way / LENGTH, turn, int(rng.integers(1 << 32)))


def draw_scene(kind: Kind, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Returns frames, float32 (N, H, W, 3) in [0, 255], and where an object of this kind is, bool (N, H, W).

    Returns None if an object cannot be drawn in some frame, as one would hide another.
    """
    kinds = [kind]
    while len(kinds) < rng.integers(*OBJECTS):
        other = choose_kind(rng, [], DEFAULTS)
        kinds += [other] if other not in kinds else []
    movers = [mover(each, rng) for each in kinds]
    ground = backgrounds.background(HEIGHT, WIDTH, rng)
    frames, truths = [], []
    for frame in range(LENGTH):
        canvas = Canvas(ground.copy(), np.zeros((HEIGHT, WIDTH), np.uint8), True, True)
        for number, each in enumerate(movers, 1):
            if canvas.paint(each.at(frame), each.kind, number, np.random.default_rng(each.seed)) is None:
                return None
        frames.append(canvas.image)
        truths.append(canvas.instances == 1)
    return np.stack(frames), np.stack(truths)


def filmed(frame: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns a frame as the camera records it: brighter or darker, with noise; uint8 of the same shape."""
    noise = rng.normal(0, rng.uniform(*GRAIN), frame.shape)
    return np.clip(frame * (1 + rng.normal(0, FLICKER)) + noise, 0, 255).astype(np.uint8)


def draw_clip(rng: np.random.Generator, scenes: int = 2) -> Clip:
    """Returns a clip. An object that its query describes is in every scene."""
    kind = choose_kind(rng, [], DEFAULTS)
    while kind in HELD_OUT_PAIRS:
        kind = choose_kind(rng, [], DEFAULTS)
    drawn: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    while len(drawn) < scenes:
        if (scene := draw_scene(kind, rng)) is not None:
            drawn.append(scene)
    frames = [filmed(frame, rng) for images, _ in drawn for frame in images]
    truth = np.concatenate([truths for _, truths in drawn])
    times = tuple(number / RATE for number in range(len(frames)))
    numbers = tuple(number for number in range(scenes) for _ in range(LENGTH))
    return Clip(np.stack(frames), truth, times, numbers, queries.Query(shape=kind[0], colour=kind[1]))
