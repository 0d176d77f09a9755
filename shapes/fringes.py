"""Scores the colours along the edges of cutouts on drawn scenes of known opacity: `python -m shapes.fringes`.

Prints the table of docs/masks.md. It needs the extra `[matting]`.
"""

import argparse
import sys
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.outputs import drawing
from shapes.markdown import table

SIDE = 200  # pixels of a scene
FINER = 4  # times: the outline is drawn larger and shrunk
SEEDS = range(8)
# How a camera renders an edge: sharpening (unsharp mask of 1 pixel), and blur (sigma in pixels).
EDGES = {
    "sharp": (0.0, 0.6),
    "blurred by 1.5 pixels": (0.0, 1.5),
    "sharpened": (1.0, 0.6),
    "blurred and sharpened": (1.0, 1.5),
}

Floats = NDArray[np.float32]


class Scene(NamedTuple):
    """A lobed object before a ground, both mottled."""

    photo: NDArray[np.uint8]  # (H, W, 3)
    opacity: Floats  # (H, W, 1), 0 to 1
    inner: Floats  # (H, W, 3), 0 to 255: the object's colours, also where it is not


def scene(seed: int, sharpening: float, blur: float) -> Scene:
    """Returns a scene of random colours whose edge is rendered so."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[: FINER * SIDE, : FINER * SIDE] / FINER - SIDE / 2
    outline = 0.3 * SIDE * (1 + 0.2 * np.sin(3 * np.arctan2(down, across) + rng.uniform(0, 6)))
    shape = (np.hypot(down, across) < outline).astype(np.float32)
    small = cv2.resize(shape, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    opacity = np.asarray(cv2.GaussianBlur(small, (0, 0), blur), np.float32)[..., None]
    low = rng.integers(0, 170, (2, 3))  # the darkest level of each channel, of both
    inner, ground = (
        cv2.resize((each + rng.integers(0, 80, (9, 9, 3))).astype(np.float32), (SIDE, SIDE)) for each in low
    )
    mixed = inner * opacity + ground * (1 - opacity)
    sharp = mixed + sharpening * (mixed - cv2.GaussianBlur(mixed, (0, 0), 1))
    return Scene(sharp.clip(0, 255).round().astype(np.uint8), opacity, np.asarray(inner, np.float32))


def by_mask(of: Scene) -> dict[str, float]:
    """Returns how far the colours along the edge of a hard mask are from the object's, as levels of 255.

    Of the photo's own colours, of a cutout without options, and with --decontaminate. The mask is the object where it
    covers more than half of a pixel.
    """
    mask = np.where(of.opacity[..., 0] > 0.5, 255, 0).astype(np.uint8)
    edge = (mask > 0) & (of.opacity[..., 0] < 0.99)
    made = (of.photo, drawing.cutout(of.photo, mask, mask), drawing.cutout(of.photo, mask, mask, estimated=True))
    names = ("photo", "default", "decontaminate")
    errors = (float(np.abs(each[..., :3] - of.inner)[edge].mean()) for each in made)
    return dict(zip(names, errors, strict=True))


def by_opacity(of: Scene) -> dict[str, float]:
    """Returns how far a cutout on any other background is from the object on it along the edge, as levels of 255.

    The cutout has the true opacity, and the photo's own colours or those of --decontaminate.
    """
    alpha = np.rint(255 * of.opacity[..., 0]).astype(np.uint8)
    mask = np.where(alpha > 127, 255, 0).astype(np.uint8)
    edge = (alpha > 0) & (alpha < 255)
    made = {"photo": of.photo, "decontaminate": drawing.cutout(of.photo, mask, alpha, True, True)[..., :3]}
    wrong = {name: of.opacity * np.abs(colours - of.inner) for name, colours in made.items()}
    return {name: float(each[edge].mean()) for name, each in wrong.items()}


def main(argv: list[str]) -> None:
    """Prints the table."""
    argparse.ArgumentParser(prog="python -m shapes.fringes", description=__doc__).parse_args(argv)
    rows = []
    for name, (sharpening, blur) in EDGES.items():
        scenes = [scene(seed, sharpening, blur) for seed in SEEDS]
        found = [{**by_mask(each), **{f"opacity {k}": v for k, v in by_opacity(each).items()}} for each in scenes]
        means = [float(np.mean([each[key] for each in found])) for key in found[0]]
        rows.append([name, *(f"{mean:.1f}" for mean in means)])
    head = ["edge in the photo", "photo's colours", "default", "`--decontaminate`"]
    sys.stdout.write(table([*head, "opacity known: photo's colours", "`--decontaminate`"], rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
