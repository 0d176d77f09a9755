"""The contours of the twelve shapes, in a unit frame.

A contour is float64 (n, 2): x to the right, y down, centred near the origin, with an extent of about 1.
A shape is a list of contours that is filled by the even-odd rule; a ring has two of them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Contour = NDArray[np.float64]

CURVE_POINTS = 72  # vertices of a curve: the polygon is within 0.1 % of the extent of the true curve
UPRIGHT = 20.0  # degrees: a square or a diamond that is rotated further might be taken for the other


def _arc(radius: float, start: float, stop: float, points: int = CURVE_POINTS) -> Contour:
    """Returns points of a circle about the origin, from angle `start` to `stop` in radians, both included."""
    t = np.linspace(start, stop, points)
    return np.stack((radius * np.cos(t), radius * np.sin(t)), 1)


def _regular(points: int, radius: float = 0.5, phase: float = -np.pi / 2) -> Contour:
    """Returns the corners of a regular polygon. With the default phase the first one points up."""
    t = phase + 2 * np.pi * np.arange(points) / points
    return np.stack((radius * np.cos(t), radius * np.sin(t)), 1)


def circle(rng: np.random.Generator) -> list[Contour]:
    """A round disc."""
    return [_regular(CURVE_POINTS)]


def square(rng: np.random.Generator) -> list[Contour]:
    """Four equal sides, upright; `posed` rotates it."""
    return [np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])]


def triangle(rng: np.random.Generator) -> list[Contour]:
    """Equilateral in half of the cases, else isosceles with a height of 0.7 to 1.3 bases."""
    height = 0.866 if rng.random() < 0.5 else rng.uniform(0.7, 1.3)
    return [np.array([[0.0, -0.6 * height], [0.5, 0.4 * height], [-0.5, 0.4 * height]])]


def star(rng: np.random.Generator) -> list[Contour]:
    """Mostly five points, else four, six or seven. The inner radius keeps the points sharp."""
    points = int(rng.choice((5, 4, 6, 7), p=(0.7, 0.08, 0.12, 0.1)))
    low, high = {4: (0.28, 0.45), 5: (0.36, 0.56), 6: (0.42, 0.62), 7: (0.45, 0.66)}[points]
    corners = _regular(2 * points)
    corners[1::2] *= rng.uniform(low, high)
    return [corners]


def ring(rng: np.random.Generator) -> list[Contour]:
    """A disc with a round hole of 0.4 to 0.75 of its radius."""
    return [_regular(CURVE_POINTS), _regular(CURVE_POINTS, 0.5 * rng.uniform(0.4, 0.75))]


def cross(rng: np.random.Generator) -> list[Contour]:
    """A plus of four equal arms, 0.2 to 0.42 of the extent wide."""
    a = rng.uniform(0.2, 0.42) / 2
    b = 0.5
    return [
        np.array(
            [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]]
        )
    ]


def hexagon(rng: np.random.Generator) -> list[Contour]:
    """Six equal sides."""
    return [_regular(6, phase=0.0)]


def heart(rng: np.random.Generator) -> list[Contour]:
    """A trigonometric curve, or two discs above a wedge."""
    if rng.random() < 0.6:
        t = np.linspace(0, 2 * np.pi, CURVE_POINTS, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
        contour = np.stack((x, y), 1) / 33
    else:
        radius = rng.uniform(0.25, 0.28)
        lobe = _arc(radius, -np.pi, 0.25 * np.pi, 28) + np.array((0.5 - radius, -0.2))
        right = lobe[np.argmax(lobe[:, 0] > -0.001) :]
        tip = np.array([[0.0, rng.uniform(0.42, 0.55)]])
        left = right[::-1] * (-1, 1)
        contour = np.concatenate((right, tip, left))
    contour[:, 1] *= rng.uniform(0.88, 1.15)
    return [contour]


def crescent(rng: np.random.Generator) -> list[Contour]:
    """A disc minus a second disc on its right side. 0.16 to 0.42 of the diameter remains."""
    thickness = rng.uniform(0.16, 0.42)
    bite = rng.uniform(0.4, 0.54)
    offset = thickness - 0.5 + bite
    x = (offset**2 + 0.25 - bite**2) / (2 * offset)
    if abs(x) > 0.47:  # the horns would touch: use two equal discs, whose horns never do
        bite, offset = 0.5, thickness
        x = offset / 2
    y = np.sqrt(0.25 - x**2)
    outer = np.arctan2(y, x)
    inner = np.arctan2(y, x - offset)
    bitten = _arc(bite, -inner, inner - 2 * np.pi)
    bitten[:, 0] += offset
    return [np.concatenate((_arc(0.5, outer, 2 * np.pi - outer), bitten))]


def diamond(rng: np.random.Generator) -> list[Contour]:
    """A rhombus on one corner, 0.58 to 1 times as wide as high."""
    half = 0.5 * rng.uniform(0.58, 1.0)
    return [np.array([[0.0, -0.5], [half, 0.0], [0.0, 0.5], [-half, 0.0]])]


def arrow(rng: np.random.Generator) -> list[Contour]:
    """A shaft and a wider head, pointing to the right."""
    head, width, shaft = rng.uniform(0.35, 0.55), rng.uniform(0.55, 0.95) / 2, 0.0
    shaft = width * rng.uniform(0.3, 0.5)
    neck = 0.5 - head
    return [
        np.array(
            [[-0.5, -shaft], [neck, -shaft], [neck, -width], [0.5, 0.0], [neck, width], [neck, shaft], [-0.5, shaft]]
        )
    ]


def oval(rng: np.random.Generator) -> list[Contour]:
    """An ellipse, 1.5 to 2.5 times as long as wide."""
    return [_regular(CURVE_POINTS) * (1.0, 1 / rng.uniform(1.5, 2.5))]


OUTLINES: dict[str, Callable[[np.random.Generator], list[Contour]]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "cross": cross,
    "hexagon": hexagon,
    "heart": heart,
    "crescent": crescent,
    "diamond": diamond,
    "arrow": arrow,
    "oval": oval,
}


def rotated(contours: list[Contour], degrees: float) -> list[Contour]:
    """Returns the contours rotated about the origin."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [contour @ matrix for contour in contours]


def fitted(contours: list[Contour]) -> list[Contour]:
    """Returns the contours with their bounding box centred on the origin and its longer side scaled to 1."""
    points = np.concatenate(contours)
    low, high = points.min(0), points.max(0)
    return [(contour - (low + high) / 2) / (high - low).max() for contour in contours]


def rounded(contours: list[Contour], amount: float, rounds: int = 2) -> list[Contour]:
    """Returns the contours with cut corners (Chaikin). amount: share cut from both ends of each edge, in (0, 0.25]."""
    for _ in range(rounds):
        cut = []
        for contour in contours:
            after = np.roll(contour, -1, 0)
            pair = np.stack(((1 - amount) * contour + amount * after, amount * contour + (1 - amount) * after), 1)
            cut.append(pair.reshape(-1, 2))
        contours = cut
    return contours


def wobbled(contours: list[Contour], rng: np.random.Generator, amplitude: float) -> list[Contour]:
    """Returns the contours as if drawn by hand: displaced smoothly by about `amplitude` extents."""
    drawn = []
    for contour in contours:
        closed = np.concatenate((contour, contour[:1]))
        along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))))
        t = np.union1d(np.linspace(0, along[-1], 96, endpoint=False), along[:-1])
        dense = np.stack((np.interp(t, along, closed[:, 0]), np.interp(t, along, closed[:, 1])), 1)
        turns = 2 * np.pi * t[:, None] / along[-1]
        shift = np.zeros_like(dense)
        for frequency in (1, 2, 3, 5, 8):
            phase = rng.uniform(0, 2 * np.pi, 2)
            shift += rng.normal(0, amplitude / np.sqrt(frequency), 2) * np.sin(frequency * turns + phase)
        drawn.append(dense + shift)
    return drawn


def posed(shape: str, rng: np.random.Generator, clean: float = 0.6) -> list[Contour]:
    """Returns a random instance of `shape`, rotated, and sometimes with cut corners or hand-drawn edges.

    clean: the probability of exact edges. The bounding box is centred on the origin; its longer side is 1.
    """
    contours = OUTLINES[shape](rng)
    if rng.random() > clean:
        if rng.random() < 0.5 and shape not in ("circle", "ring", "oval"):
            contours = rounded(contours, rng.uniform(0.06, 0.16))
        if rng.random() < 0.6:
            contours = wobbled(contours, rng, rng.uniform(0.004, 0.014))
    if shape in ("square", "diamond"):
        degrees = 0.0 if rng.random() < 0.3 else rng.uniform(-UPRIGHT, UPRIGHT)
    elif rng.random() < 0.35:
        degrees = rng.uniform(-15, 15) + (45.0 if shape == "cross" and rng.random() < 0.5 else 0.0)
    else:
        degrees = rng.uniform(0, 360)
    return fitted(rotated(contours, degrees))
