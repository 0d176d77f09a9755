"""Samples RGB colours that match a colour name."""

import colorsys

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float32]

# Lowest and highest hue in degrees, saturation and value in [0, 1]. The ranges of a name have equal weight.
RANGES: dict[str, tuple[tuple[float, float, float, float, float, float], ...]] = {
    "red": ((-9, 8, 0.72, 1.0, 0.6, 1.0), (-6, 6, 0.8, 1.0, 0.45, 0.7)),
    "green": ((92, 150, 0.5, 1.0, 0.4, 0.95), (100, 140, 0.35, 0.8, 0.3, 0.85), (110, 130, 0.8, 1.0, 0.4, 1.0)),
    "blue": ((208, 242, 0.6, 1.0, 0.5, 1.0), (215, 240, 0.7, 1.0, 0.35, 0.6)),
    "yellow": ((48, 62, 0.65, 1.0, 0.85, 1.0), (50, 60, 0.5, 0.9, 0.9, 1.0)),
    "orange": ((22, 38, 0.75, 1.0, 0.88, 1.0), (24, 36, 0.85, 1.0, 0.85, 1.0)),
    "purple": ((266, 294, 0.45, 1.0, 0.4, 0.85), (290, 301, 0.6, 1.0, 0.4, 0.6), (268, 285, 0.5, 0.85, 0.5, 0.95)),
    "pink": ((322, 348, 0.25, 0.6, 0.9, 1.0), (322, 336, 0.55, 0.9, 0.92, 1.0), (340, 352, 0.22, 0.4, 0.95, 1.0)),
    "cyan": ((172, 190, 0.55, 1.0, 0.7, 1.0), (176, 186, 0.8, 1.0, 0.8, 1.0)),
    "brown": ((18, 32, 0.55, 0.95, 0.3, 0.56), (20, 28, 0.65, 0.9, 0.38, 0.58)),
    "white": ((0, 360, 0.0, 0.04, 0.95, 1.0),),
    "black": ((0, 360, 0.0, 0.3, 0.0, 0.12),),
    "gray": ((0, 360, 0.0, 0.07, 0.38, 0.7),),
}
# Standard RGB colours of that name, as drawing programs offer them.
DIGITAL: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((255, 0, 0), (220, 20, 60), (228, 26, 28), (214, 39, 40)),
    "green": ((0, 128, 0), (0, 255, 0), (34, 139, 34), (77, 175, 74), (44, 160, 44)),
    "blue": ((0, 0, 255), (30, 60, 220), (31, 119, 180), (65, 105, 225)),
    "yellow": ((255, 255, 0), (255, 221, 0), (250, 220, 40)),
    "orange": ((255, 165, 0), (255, 140, 0), (255, 127, 14)),
    "purple": ((128, 0, 128), (148, 103, 189), (152, 78, 163), (120, 40, 180)),
    "pink": ((255, 192, 203), (255, 105, 180), (247, 129, 191)),
    "cyan": ((0, 255, 255), (0, 200, 220), (23, 190, 207)),
    "brown": ((139, 69, 19), (150, 75, 0), (120, 72, 40)),
    "white": ((255, 255, 255), (250, 250, 245)),
    "black": ((0, 0, 0), (20, 20, 22)),
    "gray": ((128, 128, 128), (150, 150, 150), (105, 105, 105)),
}
DIGITAL_SHARE = 0.35


def sample(name: str, rng: np.random.Generator) -> Colour:
    """Returns a random colour of that name: float32 (3,), RGB in [0, 255]."""
    if rng.random() < DIGITAL_SHARE:
        choices = DIGITAL[name]
        rgb = np.array(choices[int(rng.integers(len(choices)))], np.float32)
        return np.clip(rgb + rng.normal(0, 4, 3).astype(np.float32), 0, 255)
    boxes = RANGES[name]
    h0, h1, s0, s1, v0, v1 = boxes[int(rng.integers(len(boxes)))]
    hsv = (rng.uniform(h0, h1) % 360 / 360, rng.uniform(s0, s1), rng.uniform(v0, v1))
    return np.array(colorsys.hsv_to_rgb(*hsv), np.float32) * 255


def second(name: str, main: Colour, rng: np.random.Generator) -> tuple[Colour, str]:
    """Returns a second colour that contrasts with `main`, for the pattern of an object, and its name.

    The name is "" if the second colour is a shade of `main`.
    """
    bright = float(main @ np.array((0.299, 0.587, 0.114), np.float32))
    draw = rng.random()
    if draw < 0.5:
        choice = "white" if bright < 150 else "black"
        return sample(choice, rng), choice
    if draw < 0.8 and name not in ("white", "black", "gray"):
        toned = main * 0.45 if bright > 110 else main + (255 - main) * 0.6
        return toned.astype(np.float32), ""
    choice = "black" if bright > 110 else "white"
    return sample(choice, rng), choice
