"""Scenes of the drawn world: a picture, the map of its things, and what each thing is."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from shapes import backdrops, colours, outlines
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, PATTERNS, SHAPES

SHIFT = 4  # fractional bits of the polygon filler's coordinates: 1/16 pixel
REFERENCE = 224.0  # pixels: the side of the network's picture, the frame in which large and small are meant
EXTENT = (0.1, 0.6)  # of the short side
ASPECTS = (1.0, 4 / 3, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3)  # width / height
LEAST_CONTRAST = 70.0  # RGB distance between a thing's colour and what it covers
LEAST_VISIBLE = 0.6  # of a thing's own pixels, after the ones above it are drawn


Kind = tuple[str, str]  # shape and colour


@dataclass(frozen=True)
class Thing:
    """One drawn thing.

    `second` is the colour name of its pattern's other tone ("" if that is a shade of the main colour or there is none);
    `extent` is the mean of its visible box's sides, each as a share of the picture's short side times `scale`;
    `x`, `y` is the centre of that box in [0, 1] of the picture.
    """

    shape: str
    colour: str
    pattern: str
    second: str
    extent: float
    x: float
    y: float

    @property
    def kind(self) -> Kind:
        """Its shape and colour."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    """image: uint8 (H, W, 3) RGB. owners: uint8 (H, W), 0 = ground, i + 1 = pixels of things[i] that are seen."""

    image: NDArray[np.uint8]
    owners: NDArray[np.uint8]
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Manner:
    """What a scene may hold. `short`: pixels of the short side; `scale`: that side in units of the full picture's.

    `only_held_out` puts at least one pair in that training never shows; `held_out` allows such pairs at all.
    `first` is the shape and colour of things[0], of moderate to large size.
    `easy`: large plain things on a flat ground or a gradient, from which shapes are learned first.
    """

    short: int = 232
    scale: float = 1.0
    most: int = 7
    held_out: bool = False
    only_held_out: bool = False
    first: Kind | None = None
    easy: bool = False


def choose_kind(rng: np.random.Generator, placed: list[Thing], manner: Manner) -> Kind:
    """A shape and a colour, often sharing one of them with a thing that is there already, so that both must be read."""
    if manner.only_held_out and (not placed or rng.random() < 0.3):
        pairs = sorted(HELD_OUT_PAIRS)
        return pairs[int(rng.integers(len(pairs)))]
    while True:
        shape, colour = SHAPES[int(rng.integers(12))], COLOURS[int(rng.integers(12))]
        draw = rng.random()
        if placed and draw < 0.5:
            other = placed[int(rng.integers(len(placed)))]
            shape = other.shape if draw < 0.3 else shape
            colour = other.colour if draw >= 0.22 else colour
        if manner.held_out or (shape, colour) not in HELD_OUT_PAIRS:
            return shape, colour


def pattern_field(pattern: str, box: tuple[int, int], extent: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The share of the second tone at each pixel of a box (height, width): float32 in [0, 1]."""
    height, width = box
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    period = np.float32(max(extent / rng.uniform(3, 8), 5.0))
    u, v = (x * c + y * s) / period + np.float32(rng.random()), (y * c - x * s) / period + np.float32(rng.random())
    if pattern == "striped":
        share = rng.uniform(0.3, 0.5)
        return np.asarray(np.clip((np.abs(u % 1 - 0.5) - 0.5 + share / 2) * period + 0.5, 0, 1), np.float32)
    if pattern == "dotted":
        radius = rng.uniform(0.22, 0.36)
        return np.asarray(np.clip((radius - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) * period + 0.5, 0, 1), np.float32)
    period /= np.float32(1.4)
    return np.asarray(((np.floor(u * 1.4) + np.floor(v * 1.4)) % 2), np.float32)


def shade(alpha: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32] | float:
    """How light falls on a thing, as a factor about 1: float32 (h, w), or 1.0 for flat colour."""
    draw = rng.random()
    if draw < 0.5:
        return 1.0
    if draw < 0.85:
        strength = rng.uniform(0.1, 0.3)
        field = backdrops.ramp(alpha.shape[0], alpha.shape[1], rng)
        return np.asarray(1 + np.float32(strength) * (1 - 2 * field), np.float32)
    depth = cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    edge = np.clip(depth / np.float32(max(2.0, depth.max() * rng.uniform(0.3, 1.0))), 0, 1)
    return np.asarray(1 + np.float32(rng.uniform(0.1, 0.3)) * (edge - 0.7), np.float32)


def cover(contours: list[outlines.Contour], box: tuple[int, int], stroke: float) -> tuple[NDArray[np.uint8], ...]:
    """Coverage of the filled contours and of their outline: two uint8 (h, w) in 0..255, edges antialiased."""
    fill = np.zeros(box, np.uint8)
    points = [np.round(contour * (1 << SHIFT)).astype(np.int32) for contour in contours]
    cv2.fillPoly(fill, points, 255, cv2.LINE_AA, SHIFT)
    line = np.zeros(box, np.uint8)
    if stroke > 0:
        cv2.polylines(line, points, True, 255, max(1, round(stroke)), cv2.LINE_AA, SHIFT)
    return fill, line


def paint(
    canvas: backdrops.Canvas,
    contours: list[outlines.Contour],
    kind: tuple[str, str],
    owners: NDArray[np.uint8],
    placed: list[Thing],
    crowd: bool,
    rng: np.random.Generator,
    plain: bool = False,
) -> Thing | None:
    """Draws one thing into `canvas` and `owners`, or nothing if it would hide others or not be seen itself.

    contours: in pixels of the canvas. `crowd` allows overlap, `plain` no pattern. `placed`: the things drawn before.
    """
    height, width = owners.shape
    points = np.concatenate(contours)
    extent = float((points.max(0) - points.min(0)).mean())
    stroke = 0.0 if rng.random() < 0.55 else rng.uniform(1.0, max(1.2, min(6.0, extent * 0.06)))
    pad = int(stroke) + 3
    x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - pad, 0)
    x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + pad, (width, height))
    if x1 - x0 < 6 or y1 - y0 < 6:
        return None
    fill, line = cover([c - (x0, y0) for c in contours], (y1 - y0, x1 - x0), stroke)
    alpha = cv2.max(fill, line)
    own = alpha > 127
    region = owners[y0:y1, x0:x1]
    below = region[own]
    if below.size < 30:
        return None
    if below.any():
        hidden = np.bincount(below, minlength=256)[1:]
        whole = np.bincount(owners.ravel(), minlength=256)[1:]
        if not crowd or (hidden > (1 - LEAST_VISIBLE) * 0.6 * np.maximum(whole, 1)).any():
            return None
    shape, name = kind
    window = canvas[y0:y1, x0:x1]
    ground = window[own].mean(0)
    for _ in range(4):
        main = colours.sample(name, rng)
        if np.linalg.norm(main - ground) > LEAST_CONTRAST:
            break
    else:
        return None
    pattern, second_name = "plain", ""
    if extent > 26 and not plain and rng.random() < 0.4:
        pattern = PATTERNS[1 + int(rng.integers(3))]
    body: NDArray[np.float32] = np.broadcast_to(main, (*own.shape, 3))
    if pattern != "plain":
        other, second_name = colours.second(name, main, rng)
        share = pattern_field(pattern, own.shape, extent, rng)[..., None]
        body = main * (1 - share) + other * share
    light = shade(alpha, rng)
    if not isinstance(light, float):
        body = body * light[..., None]
    if rng.random() < 0.15:
        body = body * (1 + backdrops.grain(own.shape[0], own.shape[1], rng, rng.uniform(0.02, 0.08)))
    if stroke > 0:
        ink = main * 0.4 if rng.random() < 0.5 else np.float32(rng.choice((15.0, 240.0)))
        edge = line[..., None].astype(np.float32) / 255
        body = np.asarray(body * (1 - edge) + ink * edge, np.float32)
    if rng.random() < 0.25:
        cast_shadow(canvas, alpha, (x0, y0), extent, rng)
    weight = alpha[..., None].astype(np.float32) / 255
    canvas[y0:y1, x0:x1] = window * (1 - weight) + np.clip(body, 0, 255) * weight
    region[own] = len(placed) + 1
    short = min(height, width)
    cx, cy = (points.max(0) + points.min(0)) / 2
    return Thing(shape, name, pattern, second_name, extent / short, float(cx) / width, float(cy) / height)


def cast_shadow(
    canvas: backdrops.Canvas, alpha: NDArray[np.uint8], at: tuple[int, int], extent: float, rng: np.random.Generator
) -> None:
    """Darkens the ground beside a thing whose coverage `alpha` lies at `at` (x, y)."""
    height, width = canvas.shape[:2]
    soft = rng.uniform(1.0, max(1.5, extent * 0.06))
    dx, dy = rng.uniform(-0.1, 0.1, 2) * extent
    pad = int(3 * soft) + 1
    shadow = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    shadow = cv2.GaussianBlur(shadow, (0, 0), soft)
    x, y = int(at[0] + dx) - pad, int(at[1] + dy) - pad
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + shadow.shape[1], width), min(y + shadow.shape[0], height)
    if x1 > x0 and y1 > y0:
        part = shadow[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.float32) / 255
        canvas[y0:y1, x0:x1] *= 1 - np.float32(rng.uniform(0.25, 0.6)) * part


def camera(canvas: backdrops.Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light, blur, sensor noise, compression, each in some cases; uint8 (H, W, 3) RGB."""
    height, width = canvas.shape[:2]
    if rng.random() < 0.3:
        canvas = (
            canvas * (1 + np.float32(rng.uniform(0.05, 0.25)) * (1 - 2 * backdrops.ramp(height, width, rng)))[..., None]
        )
    if rng.random() < 0.3:
        canvas = canvas * rng.uniform(0.94, 1.06, 3).astype(np.float32) + np.float32(rng.uniform(-10, 10))
    if rng.random() < 0.35:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.35:
        canvas = canvas + backdrops.grain(height, width * 3, rng, rng.uniform(1, 11)).reshape(height, width, 3)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(40, 100))
        _, packed = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
        image = np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1])
    return image


def draw_scene(rng: np.random.Generator, manner: Manner = Manner(), aspect: float | None = None) -> Scene:
    """One scene of 1 to `manner.most` things, in its own aspect (width / height)."""
    ratio = ASPECTS[int(rng.integers(len(ASPECTS)))] if aspect is None else aspect
    height = manner.short if ratio >= 1 else round(manner.short / ratio)
    width = round(manner.short * ratio) if ratio >= 1 else manner.short
    easy_ground = backdrops.flat if rng.random() < 0.6 else backdrops.gradient
    canvas = easy_ground(height, width, rng) if manner.easy else backdrops.backdrop(height, width, rng)
    owners = np.zeros((height, width), np.uint8)
    placed: list[Thing] = []
    wanted, crowd = int(rng.integers(1, manner.most + 1)), rng.random() < 0.25
    low, high = EXTENT[0] / manner.scale, min(EXTENT[1] / manner.scale, 0.85)
    high = min(high, 1.5 / np.sqrt(wanted))
    low = max(low, 0.36) if manner.easy else low
    for _ in range(wanted * 3 + (4 if manner.first else 0)):
        kind = choose_kind(rng, placed, manner)
        extent = np.exp(rng.uniform(np.log(low), np.log(high))) * manner.short
        if manner.first and not placed:
            kind, extent = manner.first, rng.uniform(0.3, 0.7) * manner.short
        contours = [contour * extent for contour in outlines.posed(kind[0], rng)]
        points = np.concatenate(contours)
        half = (points.max(0) - points.min(0)) * (0.5 if rng.random() < 0.9 else 0.3)
        room = np.array((width, height))
        centre = rng.uniform(np.minimum(half, room / 2), np.maximum(room - half, room / 2))
        thing = paint(canvas, [c + centre for c in contours], kind, owners, placed, crowd, rng, manner.easy)
        if thing is not None:
            placed.append(replace(thing, extent=thing.extent * manner.scale))
        if len(placed) == wanted:
            break
    return Scene(camera(canvas, rng), owners, tuple(placed))


def squared(scene: Scene, side: int) -> Scene:
    """The scene as the network sees it, warped to a square of `side` pixels; a thing's numbers keep their meaning."""
    size = (side, side)
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA)
    owners = cv2.resize(scene.owners, size, interpolation=cv2.INTER_NEAREST)
    return Scene(np.asarray(image, np.uint8), np.asarray(owners, np.uint8), scene.things)
