"""A thing that the drawn world lacks, to fit the decoder to: `python -m shapes.newcomer OUT` draws 200 pictures of it.

OUT/train and OUT/held, each with images/ and masks/<label>/: a teal bolt among the world's own things, and the masks of
some old phrases in OUT/held alone. OUT/old.txt: the old phrases, for `clipseg train --replay`.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from shapes import phrases
from shapes.vocabulary import COLOURS, SHAPES
from shapes.world import Manner, Scene, draw_scene

LABEL = "a-teal-bolt"
TEAL = (18.0, 112.0, 112.0)  # RGB; the world's green, blue and cyan are farther from it than its own shades
BOLT = np.array([(0.1, -0.5), (-0.3, 0.08), (-0.04, 0.08), (-0.14, 0.5), (0.3, -0.12), (0.03, -0.12), (0.28, -0.5)])
OLD = (("circle", "red"), ("star", "blue"), ("square", "green"), ("heart", "pink"), ("triangle", "yellow"))
SMOOTH = 4  # the bolt is drawn this many times larger and then reduced


def with_bolt(scene: Scene, rng: np.random.Generator) -> tuple[Scene, NDArray[np.bool_]]:
    """The scene with a bolt over it, and the pixels of the bolt, bool (H, W)."""
    height, width = scene.owners.shape
    extent = rng.uniform(0.25, 0.5) * min(height, width)
    angle = rng.uniform(-0.5, 0.5)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    centre = rng.uniform((extent / 2, extent / 2), (width - extent / 2, height - extent / 2))
    points = ((BOLT @ turn.T * extent + centre) * SMOOTH).round().astype(np.int32)
    large = cv2.fillPoly(np.zeros((height * SMOOTH, width * SMOOTH), np.uint8), [points], 255)
    alpha = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None].astype(np.float32) / 255
    paint = np.array(TEAL, np.float32) + rng.normal(0, 10, 3).astype(np.float32)
    image = scene.image * (1 - alpha) + paint * alpha
    covered = alpha[..., 0] > 0.5
    owners = np.where(covered, 0, scene.owners).astype(np.uint8)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), owners, scene.things), covered


def draw(folder: Path, count: int, seed: int, old: bool) -> None:
    """Writes `count` pictures, four of five with a bolt, and their masks; with `old` those of the old phrases too."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        scene = draw_scene(rng, Manner(most=5, first=OLD[number % len(OLD)] if old else None))
        bolt = np.zeros(scene.owners.shape, bool)
        if rng.random() < 0.8:
            scene, bolt = with_bolt(scene, rng)
        masks = {LABEL: bolt}
        for shape, colour in OLD if old else ():
            found = phrases.denoted(phrases.Query(shape=shape, colour=colour), scene)
            masks[f"a-{colour}-{shape}"] = phrases.truth(found or [], scene.owners)
        for place, array in [
            ("images", scene.image[..., ::-1]),
            *((f"masks/{k}", m * 255.0) for k, m in masks.items()),
        ]:
            (folder / place).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / place / f"{number:03}.png"), np.ascontiguousarray(array).astype(np.uint8))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.newcomer", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--held", type=int, default=100)
    given = parser.parse_args()
    draw(given.out / "train", given.images, 7_000_003, old=False)
    draw(given.out / "held", given.held, 8_000_009, old=True)
    told = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    (given.out / "old.txt").write_text("\n".join([*told, *(f"a {shape}" for shape in SHAPES)]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
