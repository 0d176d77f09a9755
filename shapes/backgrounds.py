"""Draws the backgrounds of scenes: flat colour, gradients, noise, paper, wood, grids, clutter.

Each background is float32 (H, W, 3), RGB in [0, 255].
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]


def tone(rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns a background colour: mostly pale, dark or muted, sometimes vivid; float32 (3,), RGB in [0, 255]."""
    draw = rng.random()
    if draw < 0.35:
        return (255 - rng.uniform(0, 60) * rng.uniform(0.3, 1, 3)).astype(np.float32)
    if draw < 0.55:
        return (rng.uniform(10, 90) * rng.uniform(0.4, 1, 3)).astype(np.float32)
    if draw < 0.9:
        return np.clip(rng.uniform(70, 220) + rng.normal(0, 22, 3), 0, 255).astype(np.float32)
    return rng.uniform(20, 240, 3).astype(np.float32)


def ramp(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns a linear or radial ramp: float32 (H, W) in [0, 1]."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    if rng.random() < 0.6:
        angle = rng.uniform(0, 2 * np.pi)
        field = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    else:
        cx, cy = rng.uniform(-0.8, 0.8, 2).astype(np.float32)
        field = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
    low, high = float(field.min()), float(field.max())
    return np.asarray((field - low) / (high - low + 1e-6), np.float32)


def clouds(height: int, width: int, rng: np.random.Generator, channels: int = 1, finest: int = 48) -> Image:
    """Returns noise with a 1/f spectrum, zero mean and unit deviation: float32 (H, W, channels)."""
    field = np.zeros((height, width, channels), np.float32)
    cells, weight = int(rng.integers(2, 5)), 1.0
    while cells <= finest:
        grid = rng.standard_normal((cells, cells, channels)).astype(np.float32)
        layer = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, channels)
        field += np.float32(weight) * layer
        cells, weight = cells * 2, weight * rng.uniform(0.5, 0.75)
    return np.asarray(field / np.float32(field.std() + 1e-6), np.float32)


def grain(height: int, width: int, rng: np.random.Generator, sigma: float) -> Image:
    """Returns grey pixel noise with a deviation of `sigma` levels: float32 (H, W, 1)."""
    return rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(sigma)


def flat(height: int, width: int, rng: np.random.Generator) -> Image:
    """One colour."""
    return np.broadcast_to(tone(rng), (height, width, 3)).astype(np.float32)


def gradient(height: int, width: int, rng: np.random.Generator) -> Image:
    """A ramp from one colour to another."""
    t = ramp(height, width, rng)[..., None]
    return np.asarray(tone(rng) * (1 - t) + tone(rng) * t, np.float32)


def marbled(height: int, width: int, rng: np.random.Generator) -> Image:
    """Two colours blended by 1/f noise."""
    t = 1 / (1 + np.exp(-clouds(height, width, rng) * np.float32(rng.uniform(0.6, 3))))
    return np.asarray(tone(rng) * (1 - t) + tone(rng) * t, np.float32)


def photo(height: int, width: int, rng: np.random.Generator) -> Image:
    """Coloured 1/f noise, like an out-of-focus photograph."""
    common = clouds(height, width, rng, finest=96) * np.float32(rng.uniform(15, 45))
    tint = clouds(height, width, rng, channels=3) * np.float32(rng.uniform(4, 22))
    return np.asarray(np.clip(tone(rng) + common + tint, 0, 255), np.float32)


def paper(height: int, width: int, rng: np.random.Generator) -> Image:
    """Pale paper, with ruled lines or squares in a third of the cases."""
    base = np.float32(255) - rng.uniform(0, 40, 3).astype(np.float32) * np.float32(rng.uniform(0.2, 1))
    sheet = base + clouds(height, width, rng, finest=96) * np.float32(rng.uniform(1, 6))
    sheet = sheet + grain(height, width, rng, rng.uniform(0.5, 5))
    if rng.random() < 0.35:
        ink = np.array((150, 175, 210), np.float32) + rng.normal(0, 20, 3).astype(np.float32)
        step = int(rng.integers(10, 34))
        sheet[int(rng.integers(step)) :: step] = ink
        if rng.random() < 0.5:
            sheet[:, int(rng.integers(step)) :: step] = ink
    return np.asarray(np.clip(sheet, 0, 255), np.float32)


def wood(height: int, width: int, rng: np.random.Generator) -> Image:
    """Wavy lines of two related colours, like wood grain."""
    x = np.linspace(0, 1, width, dtype=np.float32)[None]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    if rng.random() < 0.5:
        x, y = y, x
    warp = clouds(height, width, rng)[..., 0] * np.float32(rng.uniform(0.01, 0.06))
    t = np.sin((x + 0.1 * y + warp) * np.float32(rng.uniform(30, 140))) * 0.5 + 0.5
    base = np.array((150, 105, 65), np.float32) * np.float32(rng.uniform(0.6, 1.5)) if rng.random() < 0.6 else tone(rng)
    depth = np.float32(rng.uniform(0.08, 0.35))
    return np.asarray(np.clip(base * (1 - depth * t[..., None]), 0, 255), np.float32)


def lattice(height: int, width: int, rng: np.random.Generator) -> Image:
    """A grid, stripes, a chessboard or dots on a flat colour."""
    canvas = flat(height, width, rng)
    step = int(rng.integers(8, 40))
    shift = np.float32(rng.uniform(-45, 45))
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    kind = int(rng.integers(4))
    thick = max(1, step // int(rng.integers(4, 10)))
    if kind == 0:
        on = (x % step < thick) | (y % step < thick)
    elif kind == 1:
        on = np.broadcast_to((x + y * int(rng.integers(-1, 2))) % step < step // 2, (height, width))
    elif kind == 2:
        on = (x // step + y // step) % 2 == 0
    else:
        on = (x % step - step / 2) ** 2 + (y % step - step / 2) ** 2 < (step * 0.16) ** 2
    canvas[on] += shift
    return np.clip(canvas, 0, 255)


def blotches(height: int, width: int, rng: np.random.Generator) -> Image:
    """Large blurred polygons on a gradient."""
    canvas = gradient(height, width, rng)
    for _ in range(int(rng.integers(3, 12))):
        centre = rng.uniform(0, 1, 2) * (width, height)
        points = centre + rng.normal(0, rng.uniform(0.08, 0.3) * height, (int(rng.integers(3, 8)), 2))
        cv2.fillPoly(canvas, [points.astype(np.int32)], tone(rng).tolist())
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(4, 14)), np.float32)


BACKGROUNDS: dict[str, tuple[Callable[[int, int, np.random.Generator], Image], float]] = {
    "flat": (flat, 0.24),
    "gradient": (gradient, 0.14),
    "marbled": (marbled, 0.11),
    "photo": (photo, 0.14),
    "paper": (paper, 0.1),
    "wood": (wood, 0.08),
    "lattice": (lattice, 0.09),
    "blotches": (blotches, 0.1),
}
SHARES = np.array([share for _, share in BACKGROUNDS.values()])


def scribble(canvas: Image, rng: np.random.Generator) -> None:
    """Draws strokes, specks or short text into `canvas`, in place. They are clutter, not objects."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(1, 6))):
        ink = tone(rng).tolist()
        draw = rng.random()
        if draw < 0.6:
            start = rng.uniform(0, 1, 2) * (width, height)
            steps = rng.normal(0, 0.05 * height, (int(rng.integers(3, 14)), 2)) + rng.normal(0, 0.04 * height, 2)
            points = (start + np.cumsum(steps, 0)).astype(np.int32)
            cv2.polylines(canvas, [points], False, ink, int(rng.integers(1, 3)), cv2.LINE_AA)
        elif draw < 0.85:
            for x, y in rng.uniform(0, 1, (int(rng.integers(3, 25)), 2)) * (width, height):
                cv2.circle(canvas, (int(x), int(y)), int(rng.integers(1, 3)), ink, -1, cv2.LINE_AA)
        else:
            text = "".join(rng.choice(list("abdefghkmnrstuwyz2345679"), int(rng.integers(2, 7))))
            at = (int(rng.uniform(0, 0.8) * width), int(rng.uniform(0.1, 1) * height))
            written = np.zeros((height, width), np.uint8)
            cv2.putText(written, text, at, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.3, 0.7), 255, 1, cv2.LINE_AA)
            canvas[written > 90] = ink


def background(height: int, width: int, rng: np.random.Generator) -> Image:
    """Returns a background of a random kind, sometimes with noise and scribbles."""
    kinds = list(BACKGROUNDS.values())
    canvas = np.ascontiguousarray(kinds[int(rng.choice(len(kinds), p=SHARES))][0](height, width, rng), np.float32)
    if rng.random() < 0.2:
        canvas += grain(height, width, rng, rng.uniform(2, 14))
    if rng.random() < 0.22:
        scribble(canvas, rng)
    return np.clip(canvas, 0, 255)
