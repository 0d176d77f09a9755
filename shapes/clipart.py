"""A second generator: scenes in the flat style of clip art, drawn with Pillow. Never used in training.

It shares only the vocabulary and the types with `scenes`. Outlines, colours, backgrounds and patterns are its own.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from shapes.scenes import DEFAULTS, Scene, SceneObject, SceneOptions
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, PATTERNS, SHAPES

COLOUR_CODES = {
    "red": ("#e53935", "#c62828", "#ff1744"),
    "green": ("#43a047", "#2e7d32", "#00c853"),
    "blue": ("#1e88e5", "#1565c0", "#304ffe"),
    "yellow": ("#fdd835", "#ffeb3b", "#ffd600"),
    "orange": ("#fb8c00", "#f57c00", "#ff9100"),
    "purple": ("#8e24aa", "#6a1b9a", "#7e3ff2"),
    "pink": ("#f48fb1", "#ff80ab", "#f06292"),
    "cyan": ("#26c6da", "#00e5ff", "#00bcd4"),
    "brown": ("#795548", "#6d4c41", "#8d5524"),
    "white": ("#ffffff", "#fafafa"),
    "black": ("#000000", "#212121"),
    "gray": ("#9e9e9e", "#757575"),
}
BACKGROUND_CODES = (
    "#ffffff",
    "#f5f5dc",
    "#e3f2fd",
    "#fff3e0",
    "#263238",
    "#4e342e",
    "#c8e6c9",
    "#d1c4e9",
    "#37474f",
    "#bdbdbd",
)
TILE = 360  # pixels: each object is drawn at this size and then reduced


def star_corners(count: int, inner: float) -> list[tuple[float, float]]:
    """Returns the corners of a star on the tile. inner: the inner radius as a share of the outer one."""
    points = []
    for index in range(2 * count):
        radius = TILE / 2 * (1 if index % 2 == 0 else inner)
        angle = math.pi * index / count - math.pi / 2
        points.append((TILE / 2 + radius * math.cos(angle), TILE / 2 + radius * math.sin(angle)))
    return points


def stencil(shape: str) -> Image.Image:
    """Returns the upright shape in white on a black tile, mode L."""
    tile = Image.new("L", (TILE, TILE))
    pen, s = ImageDraw.Draw(tile), TILE
    if shape == "circle":
        pen.ellipse((0, 0, s - 1, s - 1), 255)
    elif shape == "oval":
        pen.ellipse((0, s * 0.22, s - 1, s * 0.78), 255)
    elif shape == "ring":
        pen.ellipse((0, 0, s - 1, s - 1), outline=255, width=round(s * 0.17))
    elif shape == "crescent":
        pen.ellipse((0, 0, s - 1, s - 1), 255)
        pen.ellipse((s * 0.28, -s * 0.02, s * 1.2, s * 0.9), 0)
    elif shape == "square":
        pen.rectangle((0, 0, s - 1, s - 1), 255)
    elif shape == "heart":
        pen.pieslice((0, s * 0.05, s * 0.52, s * 0.57), 150, 360, 255)
        pen.pieslice((s * 0.48, s * 0.05, s, s * 0.57), 180, 390, 255)
        pen.polygon([(s * 0.012, s * 0.38), (s * 0.5, s * 0.22), (s * 0.988, s * 0.38), (s * 0.5, s * 0.97)], 255)
    elif shape == "cross":
        pen.rectangle((s * 0.34, 0, s * 0.66, s), 255)
        pen.rectangle((0, s * 0.34, s, s * 0.66), 255)
    elif shape == "star":
        pen.polygon(star_corners(5, 0.42), 255)
    elif shape == "hexagon":
        pen.regular_polygon((s / 2, s / 2, s / 2), 6, fill=255)
    elif shape == "triangle":
        pen.polygon([(s / 2, s * 0.06), (s - 1, s * 0.93), (0, s * 0.93)], 255)
    elif shape == "diamond":
        pen.polygon([(s / 2, 0), (s * 0.86, s / 2), (s / 2, s), (s * 0.14, s / 2)], 255)
    else:
        tip = [(s - 1, s / 2), (s * 0.56, s * 0.16), (s * 0.56, s * 0.36), (0, s * 0.36)]
        pen.polygon([*tip, (0, s * 0.64), (s * 0.56, s * 0.64), (s * 0.56, s * 0.84)], 255)
    return tile


def patterned(pattern: str, main: str, second: str) -> Image.Image:
    """Returns a tile of colour `main` with a pattern of colour `second`, mode RGB."""
    tile = Image.new("RGB", (TILE, TILE), main)
    pen, step = ImageDraw.Draw(tile), TILE // 6
    for i in range(0, TILE, step):
        if pattern == "striped":
            pen.rectangle((0, i, TILE, i + step * 0.4), second)
        for j in range(0, TILE, step) if pattern in ("dotted", "checkered") else ():
            if pattern == "dotted":
                pen.ellipse((i + step * 0.25, j + step * 0.25, i + step * 0.75, j + step * 0.75), second)
            elif (i + j) // step % 2:
                pen.rectangle((i, j, i + step - 1, j + step - 1), second)
    return tile


def distance(a: str, b: str) -> float:
    """Returns the distance of two colour codes in RGB."""
    pair = [np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], float) for code in (a, b)]
    return float(np.linalg.norm(pair[0] - pair[1]))


def draw_clipart(rng: np.random.Generator, options: SceneOptions = DEFAULTS) -> Scene:
    """Returns a scene of up to five objects that do not touch, on a flat background, in 4:3, 1:1 or 3:4."""
    width, height = ((480, 360), (400, 400), (360, 480))[int(rng.integers(3))]
    background = BACKGROUND_CODES[int(rng.integers(len(BACKGROUND_CODES)))]
    image = Image.new("RGB", (width, height), background)
    instances: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
    objects: list[SceneObject] = []
    for _ in range(int(rng.integers(2, 9))):
        shape, colour = SHAPES[int(rng.integers(12))], COLOURS[int(rng.integers(12))]
        if objects and rng.random() < 0.4:
            shape, colour = (objects[-1].shape, colour) if rng.random() < 0.5 else (shape, objects[-1].colour)
        if options.only_held_out and not objects:
            shape, colour = sorted(HELD_OUT_PAIRS)[int(rng.integers(len(HELD_OUT_PAIRS)))]
        codes = COLOUR_CODES[colour]
        code = codes[int(rng.integers(len(codes)))]
        if (not options.held_out and (shape, colour) in HELD_OUT_PAIRS) or distance(code, background) < 90:
            continue
        pattern = PATTERNS[int(rng.integers(1, 4))] if rng.random() < 0.25 else "plain"
        second = "white" if colour not in ("white", "yellow", "pink", "cyan") else "black"
        side = int(rng.uniform(0.16, 0.55) * min(width, height) * (1 if len(objects) < 2 else 0.6))
        degrees = 0.0 if shape in ("square", "diamond") or rng.random() < 0.5 else rng.uniform(0, 360)
        mask = stencil(shape).rotate(degrees, Image.Resampling.BILINEAR, expand=True)
        mask = mask.crop(mask.getbbox())
        scale = side / max(mask.size)
        size = (max(8, round(mask.width * scale)), max(8, round(mask.height * scale)))
        mask = mask.resize(size, Image.Resampling.LANCZOS)
        x, y = int(rng.integers(0, width - size[0])), int(rng.integers(0, height - size[1]))
        if instances[y : y + size[1], x : x + size[0]].any():
            continue
        fill = patterned(pattern, code, second).resize(size, Image.Resampling.BILINEAR)
        image.paste(fill, (x, y), mask)
        instances[y : y + size[1], x : x + size[0]][np.asarray(mask) > 127] = len(objects) + 1
        extent, centre = sum(size) / 2 / min(width, height), (x + size[0] / 2, y + size[1] / 2)
        name = second if pattern != "plain" else ""
        objects.append(SceneObject(shape, colour, pattern, name, extent, centre[0] / width, centre[1] / height))
        if len(objects) == 5:
            break
    return Scene(np.asarray(image), instances, tuple(objects))
