"""Draws the sample images, their exemplars and their ground-truth masks: `python samples/draw.py`.

Each run writes the same pixels. The samples share no code with the training scenes of `shapes`: outlines, backgrounds
and colours are different, and the images are two and a half times as large.
"""

import math
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
SUPERSAMPLING = 4  # every object is drawn this many times larger and then reduced
COLOURS = {
    "red": (222, 40, 42),
    "green": (46, 150, 70),
    "blue": (40, 92, 214),
    "yellow": (250, 212, 48),
    "orange": (246, 140, 28),
    "purple": (126, 54, 172),
    "pink": (246, 120, 178),
    "white": (252, 252, 250),
    "black": (22, 22, 26),
}
# name: (width, height, background), then objects as (shape, colour, x, y, size, degrees); x and y are shares of the
# image's width and height, size is a share of its short side.
SCENES: dict[str, tuple[tuple[int, int, str], list[tuple[str, str, float, float, float, float]]]] = {
    "balcony": ((640, 480, "sky"), [
        ("circle", "red", 0.25, 0.32, 0.34, 0),
        ("star", "blue", 0.7, 0.36, 0.4, 8),
        ("square", "green", 0.48, 0.78, 0.28, 6),
    ]),
    "counter": ((800, 450, "wood"), [
        ("circle", "red", 0.72, 0.4, 0.42, 0),
        ("triangle", "blue", 0.24, 0.5, 0.5, 0),
        ("heart", "pink", 0.48, 0.72, 0.3, 0),
    ]),
    "poster": ((600, 800, "cream"), [
        ("circle", "red", 0.5, 0.22, 0.36, 0),
        ("star", "yellow", 0.28, 0.55, 0.34, -12),
        ("circle", "blue", 0.72, 0.62, 0.3, 0),
        ("arrow", "green", 0.5, 0.88, 0.4, 0),
    ]),
    "night": ((640, 480, "night"), [
        ("star", "yellow", 0.3, 0.3, 0.4, 0),
        ("ring", "white", 0.72, 0.4, 0.36, 0),
        ("circle", "red", 0.42, 0.76, 0.3, 0),
    ]),
    "meadow": ((720, 540, "grass"), [
        ("heart", "red", 0.28, 0.4, 0.36, 0),
        ("circle", "yellow", 0.7, 0.34, 0.36, 0),
        ("star", "blue", 0.58, 0.76, 0.34, 16),
    ]),
    "desk": ((640, 640, "paper"), [
        ("square", "red", 0.28, 0.3, 0.3, -8),
        ("circle", "blue", 0.7, 0.32, 0.34, 0),
        ("triangle", "green", 0.36, 0.74, 0.36, 0),
        ("hexagon", "purple", 0.72, 0.74, 0.3, 0),
    ]),
    "twins": ((800, 600, "cream"), [
        ("circle", "red", 0.22, 0.3, 0.3, 0),
        ("circle", "red", 0.74, 0.68, 0.38, 0),
        ("star", "blue", 0.7, 0.24, 0.3, 0),
        ("cross", "black", 0.28, 0.74, 0.32, 0),
    ]),
    "shade": ((640, 480, "sky"), [
        ("square", "green", 0.28, 0.36, 0.34, 10),
        ("diamond", "orange", 0.68, 0.34, 0.4, 0),
        ("heart", "purple", 0.5, 0.76, 0.32, 0),
    ]),
}  # fmt: skip
LABELS = {
    "a-red-circle": ("circle", "red"),
    "a-blue-star": ("star", "blue"),
    "everything-green": (None, "green"),
}


def outline(shape: str) -> list[NDArray[np.float64]]:
    """Returns the contours of a shape: centred on the origin, about 1 wide, to be filled by the even-odd rule."""
    turn = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    disc = np.stack((np.cos(turn), np.sin(turn)), 1) / 2
    corners = {
        "square": [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)],
        "triangle": [(0, -0.5), (0.55, 0.45), (-0.55, 0.45)],
        "diamond": [(0, -0.5), (0.38, 0), (0, 0.5), (-0.38, 0)],
        "arrow": [(-0.5, -0.12), (0.08, -0.12), (0.08, -0.32), (0.5, 0), (0.08, 0.32), (0.08, 0.12), (-0.5, 0.12)],
        "cross": [(-0.15, -0.5), (0.15, -0.5), (0.15, -0.15), (0.5, -0.15), (0.5, 0.15), (0.15, 0.15), (0.15, 0.5),
                  (-0.15, 0.5), (-0.15, 0.15), (-0.5, 0.15), (-0.5, -0.15), (-0.15, -0.15)],
    }  # fmt: skip
    if shape == "circle":
        return [disc]
    if shape == "ring":
        return [disc, disc * 0.58]
    if shape == "star":
        points = disc[np.arange(10) * 18] * np.where(np.arange(10) % 2 == 0, 1.0, 0.46)[:, None]
        return [np.stack((points[:, 1], -points[:, 0]), 1)]
    if shape == "hexagon":
        return [disc[::30]]
    if shape == "heart":
        x, y = (
            16 * np.sin(turn) ** 3,
            13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn),
        )
        return [np.stack((x, -y), 1) / 32]
    return [np.array(corners[shape])]


def background(kind: str, width: int, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Returns a background: float32 (H, W, 3), RGB in 0..255."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    ends = {
        "sky": ((188, 214, 236), (236, 240, 240)),
        "wood": ((198, 158, 112), (176, 134, 92)),
        "cream": ((246, 238, 220), (238, 226, 204)),
        "night": ((26, 32, 58), (54, 52, 84)),
        "grass": ((168, 190, 140), (206, 216, 178)),
        "paper": ((244, 244, 240), (232, 232, 230)),
    }[kind]
    t = (y / height)[..., None]
    canvas = np.array(ends[0], np.float32) * (1 - t) + np.array(ends[1], np.float32) * t
    coarse = rng.standard_normal((12, 16)).astype(np.float32)
    canvas += 7 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    if kind == "wood":
        canvas += 9 * np.sin(y * 0.16 + 3 * np.sin(x * 0.008))[..., None]
    if kind == "paper":
        canvas[::32] -= 34
    return np.asarray(canvas + rng.normal(0, 2.5, (height, width, 1)), np.float32)


def coverage(
    shape: str, centre: tuple[float, float], size: float, degrees: float, image_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Returns the share of each pixel that a shape covers: float32 (H, W) = image_size, in [0, 1].

    centre: x, y in pixels. size: in pixels.
    """
    height, width = image_size
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    large = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    points = [
        ((contour @ matrix * size + centre) * SUPERSAMPLING).round().astype(np.int32) for contour in outline(shape)
    ]
    cv2.fillPoly(large, points, 255)
    small = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small.astype(np.float32) / 255, np.float32)


def draw(name: str) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """Returns a scene, uint8 (H, W, 3) RGB, and its ground-truth mask for each label, uint8 (H, W) of 0 and 255."""
    (width, height, kind), objects = SCENES[name]
    rng = np.random.default_rng(sorted(SCENES).index(name))
    canvas = background(kind, width, height, rng)
    short = min(width, height)
    masks = {label: np.zeros((height, width), np.uint8) for label in LABELS}
    for shape, colour, x, y, size, degrees in objects:
        centre = (x * width, y * height)
        alpha = coverage(shape, centre, size * short, degrees, (height, width))
        shadow = cv2.GaussianBlur(np.roll(alpha, (8, 6), (0, 1)), (0, 0), 7)
        canvas *= 1 - 0.3 * shadow[..., None]
        rows = np.mgrid[0:height, 0:width][0]
        light = 1.06 - 0.16 * np.clip((rows - centre[1]) / (size * short) + 0.5, 0, 1)
        paint = np.clip(np.array(COLOURS[colour], np.float32) * light[..., None], 0, 255)
        canvas = canvas * (1 - alpha[..., None]) + paint * alpha[..., None]
        for label, (label_shape, label_colour) in LABELS.items():
            matches = label_shape in (None, shape) and label_colour == colour
            masks[label][alpha >= 0.5] = 255 if matches else 0
    return np.clip(canvas, 0, 255).astype(np.uint8), masks


def write(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Writes RGB, RGBA or grey pixels, in the format of the file extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = {2: None, 3: [2, 1, 0], 4: [2, 1, 0, 3]}[2 if pixels.ndim == 2 else pixels.shape[2]]
    _, packed = cv2.imencode(path.suffix, pixels if order is None else pixels[..., order])
    path.write_bytes(packed.tobytes())


def main(out: Path) -> None:
    """Writes images/, masks/ and exemplars/ to `out`."""
    for index, name in enumerate(SCENES):
        image, masks = draw(name)
        write(out / "images" / f"{name}{'.png' if index == 5 else '.jpg'}", image)
        for label, mask in masks.items():
            write(out / "masks" / label / f"{name}.png", mask)
    rng = np.random.default_rng(99)
    for shape, colour, kind, alpha_channel in (("circle", "red", "cream", True), ("star", "blue", "wood", False)):
        canvas = background(kind, 320, 300, rng)
        alpha = coverage(shape, (165, 150), 190, 4, (300, 320))
        pixels = canvas * (1 - alpha[..., None]) + np.array(COLOURS[colour], np.float32) * alpha[..., None]
        image, mask = np.clip(pixels, 0, 255).astype(np.uint8), ((alpha >= 0.5) * 255).astype(np.uint8)
        name = f"{colour}_{shape}"
        write(out / "exemplars" / f"{name}.png", np.dstack((image, mask)) if alpha_channel else image)
        if not alpha_channel:
            write(out / "exemplars" / f"{name}_mask.png", mask)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
