"""Draws synthetic scenes: an image, its instance map and the attributes of each object."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from shapes import backgrounds, colours, outlines
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, PATTERNS, SHAPES

SHIFT = 4  # fractional bits of the polygon filler's coordinates: 1/16 pixel
EXTENT = (0.1, 0.6)  # of the short side
ASPECTS = (1.0, 4 / 3, 4 / 3, 3 / 2, 16 / 9, 3 / 4, 2 / 3)  # width / height
MIN_CONTRAST = 70.0  # RGB distance between an object's colour and the background it covers
MIN_VISIBLE = 0.6  # share of an object's pixels that later objects leave visible
MIN_PIXELS = 30  # of an object


Kind = tuple[str, str]  # shape and colour


@dataclass(frozen=True)
class SceneObject:
    """One drawn object.

    second: name of the pattern's other colour; "" without a pattern, or if that colour is a shade of the main one.
    extent: mean side of the bounding box, as a share of the image's short side, times `SceneOptions.scale`.
    x, y: centre of the bounding box, as shares of the image's width and height.
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
        """Shape and colour."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    """image: uint8 (H, W, 3) RGB. instances: uint8 (H, W), 0 = background, i + 1 = visible pixels of objects[i]."""

    image: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class SceneOptions:
    """What a scene may contain.

    short_side: pixels. scale: short_side as a share of the full-size image's short side.
    held_out: allows the pairs of shape and colour that training never shows. only_held_out: the first object is one.
    first_kind: shape and colour of objects[0], which is then of medium to large size.
    easy: large objects without pattern on a flat or gradient background.
    """

    short_side: int = 232
    scale: float = 1.0
    max_objects: int = 7
    held_out: bool = False
    only_held_out: bool = False
    first_kind: Kind | None = None
    easy: bool = False


DEFAULTS = SceneOptions()


def choose_kind(rng: np.random.Generator, placed: list[SceneObject], options: SceneOptions) -> Kind:
    """Returns a random shape and colour. Half of the time it shares one of them with an object of the scene, so that
    neither alone identifies an object."""
    if options.only_held_out and (not placed or rng.random() < 0.3):
        pairs = sorted(HELD_OUT_PAIRS)
        return pairs[int(rng.integers(len(pairs)))]
    while True:
        shape, colour = SHAPES[int(rng.integers(12))], COLOURS[int(rng.integers(12))]
        draw = rng.random()
        if placed and draw < 0.5:
            other = placed[int(rng.integers(len(placed)))]
            shape = other.shape if draw < 0.3 else shape
            colour = other.colour if draw >= 0.22 else colour
        if options.held_out or (shape, colour) not in HELD_OUT_PAIRS:
            return shape, colour


def pattern_field(pattern: str, size: tuple[int, int], extent: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns the share of the second colour at each pixel: float32 (height, width) = size, in [0, 1]."""
    height, width = size
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


def shading(alpha: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32] | float:
    """Returns a brightness factor around 1 per pixel of an object: float32 (h, w), or 1.0 for flat colour."""
    draw = rng.random()
    if draw < 0.5:
        return 1.0
    if draw < 0.85:
        strength = rng.uniform(0.1, 0.3)
        field = backgrounds.ramp(alpha.shape[0], alpha.shape[1], rng)
        return np.asarray(1 + np.float32(strength) * (1 - 2 * field), np.float32)
    depth = cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    edge = np.clip(depth / np.float32(max(2.0, depth.max() * rng.uniform(0.3, 1.0))), 0, 1)
    return np.asarray(1 + np.float32(rng.uniform(0.1, 0.3)) * (edge - 0.7), np.float32)


def coverage(contours: list[outlines.Contour], size: tuple[int, int], stroke: float) -> tuple[NDArray[np.uint8], ...]:
    """Returns the antialiased coverage of the filled contours and of their stroke: two uint8 (h, w) = size, 0..255."""
    fill = np.zeros(size, np.uint8)
    points = [np.round(contour * (1 << SHIFT)).astype(np.int32) for contour in contours]
    cv2.fillPoly(fill, points, 255, cv2.LINE_AA, SHIFT)
    line = np.zeros(size, np.uint8)
    if stroke > 0:
        cv2.polylines(line, points, True, 255, max(1, round(stroke)), cv2.LINE_AA, SHIFT)
    return fill, line


def fits(own: NDArray[np.bool_], region: NDArray[np.uint8], instances: NDArray[np.uint8], overlap: bool) -> bool:
    """Whether an object is large enough and, if `overlap` is allowed at all, leaves enough of the others visible.

    own: its pixels within `region`, which is its window of `instances`.
    """
    below = region[own]
    if below.size < MIN_PIXELS:
        return False
    if not below.any():
        return True
    hidden = np.bincount(below, minlength=256)[1:]
    whole = np.bincount(instances.ravel(), minlength=256)[1:]
    return overlap and not (hidden > (1 - MIN_VISIBLE) * 0.6 * np.maximum(whole, 1)).any()


def contrasting_colour(name: str, ground: NDArray[np.float32], rng: np.random.Generator) -> colours.Colour | None:
    """Returns a colour of that name that contrasts with the RGB colour `ground`; None after four failed attempts."""
    for _ in range(4):
        colour = colours.sample(name, rng)
        if np.linalg.norm(colour - ground) > MIN_CONTRAST:
            return colour
    return None


@dataclass
class Canvas:
    """A scene while it is drawn. `overlap` allows objects to cover each other; `plain` draws them without pattern."""

    image: backgrounds.Image
    instances: NDArray[np.uint8]
    overlap: bool
    plain: bool

    def paint(
        self, contours: list[outlines.Contour], kind: Kind, number: int, rng: np.random.Generator
    ) -> SceneObject | None:
        """Draws an object and gives its pixels the number `number` in the instance map.

        contours: in pixels. Returns None, with nothing drawn, if the object would be too small, hide another one, or
        lack contrast.
        """
        height, width = self.instances.shape
        points = np.concatenate(contours)
        extent = float((points.max(0) - points.min(0)).mean())
        stroke = 0.0 if rng.random() < 0.55 else rng.uniform(1.0, max(1.2, min(6.0, extent * 0.06)))
        pad = int(stroke) + 3
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - pad, 0)
        x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + pad, (width, height))
        if x1 - x0 < 6 or y1 - y0 < 6:
            return None
        fill, line = coverage([c - (x0, y0) for c in contours], (y1 - y0, x1 - x0), stroke)
        alpha = cv2.max(fill, line)
        own = alpha > 127
        region = self.instances[y0:y1, x0:x1]
        if not fits(own, region, self.instances, self.overlap):
            return None
        shape, name = kind
        window = self.image[y0:y1, x0:x1]
        main = contrasting_colour(name, window[own].mean(0), rng)
        if main is None:
            return None
        pattern = "plain"
        if extent > 26 and not self.plain and rng.random() < 0.4:
            pattern = PATTERNS[1 + int(rng.integers(3))]
        body, second = surface(name, main, pattern, own.shape, extent, rng)
        body = finished(body, alpha, line if stroke > 0 else None, main, rng)
        if rng.random() < 0.25:
            cast_shadow(self.image, alpha, (x0, y0), extent, rng)
        weight = alpha[..., None].astype(np.float32) / 255
        self.image[y0:y1, x0:x1] = window * (1 - weight) + np.clip(body, 0, 255) * weight
        region[own] = number
        cx, cy = (points.max(0) + points.min(0)) / 2
        return SceneObject(
            shape, name, pattern, second, extent / min(height, width), float(cx) / width, float(cy) / height
        )


def surface(
    name: str, main: colours.Colour, pattern: str, size: tuple[int, ...], extent: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], str]:
    """Returns an object's colours, float32 (height, width, 3), and the name of its second colour, see SceneObject."""
    height, width = size
    if pattern == "plain":
        return np.broadcast_to(main, (height, width, 3)), ""
    other, second = colours.second(name, main, rng)
    share = pattern_field(pattern, (height, width), extent, rng)[..., None]
    return main * (1 - share) + other * share, second


def finished(
    body: NDArray[np.float32],
    alpha: NDArray[np.uint8],
    line: NDArray[np.uint8] | None,
    main: colours.Colour,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Returns an object's colours with shading, noise and stroke. line: coverage of the stroke; None for no stroke."""
    light = shading(alpha, rng)
    if not isinstance(light, float):
        body = body * light[..., None]
    if rng.random() < 0.15:
        body = body * (1 + backgrounds.grain(alpha.shape[0], alpha.shape[1], rng, rng.uniform(0.02, 0.08)))
    if line is not None:
        ink = main * 0.4 if rng.random() < 0.5 else np.float32(rng.choice((15.0, 240.0)))
        edge = line[..., None].astype(np.float32) / 255
        body = np.asarray(body * (1 - edge) + ink * edge, np.float32)
    return body


def cast_shadow(
    image: backgrounds.Image, alpha: NDArray[np.uint8], at: tuple[int, int], extent: float, rng: np.random.Generator
) -> None:
    """Darkens `image` beside an object, in place. alpha: the object's coverage, with its upper left pixel at (x, y)."""
    height, width = image.shape[:2]
    sigma = rng.uniform(1.0, max(1.5, extent * 0.06))
    dx, dy = rng.uniform(-0.1, 0.1, 2) * extent
    pad = int(3 * sigma) + 1
    shadow = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
    shadow = cv2.GaussianBlur(shadow, (0, 0), sigma)
    x, y = int(at[0] + dx) - pad, int(at[1] + dy) - pad
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + shadow.shape[1], width), min(y + shadow.shape[0], height)
    if x1 > x0 and y1 > y0:
        visible = shadow[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.float32) / 255
        image[y0:y1, x0:x1] *= 1 - np.float32(rng.uniform(0.25, 0.6)) * visible


def camera(image: backgrounds.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Applies uneven light, colour cast, blur, sensor noise and JPEG compression, each at random.

    Returns uint8 (H, W, 3) RGB.
    """
    height, width = image.shape[:2]
    if rng.random() < 0.3:
        strength = np.float32(rng.uniform(0.05, 0.25))
        image = image * (1 + strength * (1 - 2 * backgrounds.ramp(height, width, rng)))[..., None]
    if rng.random() < 0.3:
        image = image * rng.uniform(0.94, 1.06, 3).astype(np.float32) + np.float32(rng.uniform(-10, 10))
    if rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.35:
        image = image + backgrounds.grain(height, width * 3, rng, rng.uniform(1, 11)).reshape(height, width, 3)
    photo = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(40, 100))
        _, packed = cv2.imencode(".jpg", photo[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
        photo = np.ascontiguousarray(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))[..., ::-1])
    return photo


def draw_scene(rng: np.random.Generator, options: SceneOptions = DEFAULTS, aspect: float | None = None) -> Scene:
    """Returns a scene with up to `options.max_objects` objects. aspect: width / height; None for a random one."""
    ratio = ASPECTS[int(rng.integers(len(ASPECTS)))] if aspect is None else aspect
    short = options.short_side
    height = short if ratio >= 1 else round(short / ratio)
    width = round(short * ratio) if ratio >= 1 else short
    easy_background = backgrounds.flat if rng.random() < 0.6 else backgrounds.gradient
    image = easy_background(height, width, rng) if options.easy else backgrounds.background(height, width, rng)
    target, overlap = int(rng.integers(1, options.max_objects + 1)), rng.random() < 0.25
    canvas = Canvas(image, np.zeros((height, width), np.uint8), overlap, options.easy)
    low, high = EXTENT[0] / options.scale, min(EXTENT[1] / options.scale, 0.85)
    high = min(high, 1.5 / np.sqrt(target))
    low = max(low, 0.36) if options.easy else low
    placed: list[SceneObject] = []
    for _ in range(target * 3 + (4 if options.first_kind else 0)):
        kind = choose_kind(rng, placed, options)
        extent = np.exp(rng.uniform(np.log(low), np.log(high))) * short
        if options.first_kind and not placed:
            kind, extent = options.first_kind, rng.uniform(0.3, 0.7) * short
        contours = [contour * extent for contour in outlines.posed(kind[0], rng)]
        points = np.concatenate(contours)
        half = (points.max(0) - points.min(0)) * (0.5 if rng.random() < 0.9 else 0.3)
        room = np.array((width, height))
        centre = rng.uniform(np.minimum(half, room / 2), np.maximum(room - half, room / 2))
        drawn = canvas.paint([c + centre for c in contours], kind, len(placed) + 1, rng)
        if drawn is not None:
            placed.append(replace(drawn, extent=drawn.extent * options.scale))
        if len(placed) == target:
            break
    return Scene(camera(canvas.image, rng), canvas.instances, tuple(placed))


def resized_square(scene: Scene, side: int) -> Scene:
    """Returns the scene warped to a square of `side` pixels, as the network sees it. The objects stay as they are."""
    size = (side, side)
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA)
    instances = cv2.resize(scene.instances, size, interpolation=cv2.INTER_NEAREST)
    return Scene(np.asarray(image, np.uint8), np.asarray(instances, np.uint8), scene.objects)
