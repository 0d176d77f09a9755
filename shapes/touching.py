"""Scores `--instances` on scenes of objects of one kind that touch, or of one alone: `python -m shapes.touching`.

Prints panoptic quality with objects that touch joined and divided, as docs/masks.md has it.
"""

import argparse
import sys

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets.ground_truth import Objects
from clipseg_cli.evaluation.instances import Quality, quality
from clipseg_cli.masks import peaks, soft_maps
from clipseg_cli.masks.instances import divide, of_numbers, separate
from clipseg_cli.model.segmenter import Segmenter
from shapes import backgrounds, outlines
from shapes.markdown import table
from shapes.scenes import ASPECTS, Canvas, Kind, Scene, camera, coverage
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, SHAPES

TRIES = 12  # places for an object that is to touch another
STEPS = 40  # from the middle of an object outwards
OVERLAP = 0.02  # share of an object's side by which it reaches into its neighbour
EXTENT = (0.16, 0.34)  # of the short side
SEED = 70_000
SHORT = 600  # pixels: the short side of a scene
MOST = 4  # objects of one kind

Points = list[outlines.Contour]


def draw_touching(rng: np.random.Generator, short: int, count: int) -> tuple[Scene, Kind]:
    """Returns a scene with a chain of up to `count` objects of one kind, each touching one before it, and the kind.

    The other objects of the scene are of other shapes and colours.
    """
    kinds = [(shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in HELD_OUT_PAIRS]
    kind = kinds[int(rng.integers(len(kinds)))]
    ratio = ASPECTS[int(rng.integers(len(ASPECTS)))]
    height, width = (short, round(short * ratio)) if ratio >= 1 else (round(short / ratio), short)
    canvas = Canvas(backgrounds.background(height, width, rng), np.zeros((height, width), np.uint8), True, False)
    placed = []
    extent = rng.uniform(*EXTENT) * short
    for _ in range(3 * count):
        contours = [contour * extent * rng.uniform(0.9, 1.1) for contour in outlines.posed(kind[0], rng)]
        moved = _beside(contours, canvas.instances, rng)
        drawn = None if moved is None else canvas.paint(moved, kind, len(placed) + 1, rng)
        placed += [drawn] if drawn is not None else []
        if len(placed) == count:
            break
    others = [each for each in kinds if each[0] != kind[0] and each[1] != kind[1]]
    for _ in range(int(rng.integers(0, 4))):
        other = others[int(rng.integers(len(others)))]
        contours = [contour * extent for contour in outlines.posed(other[0], rng)]
        centre = rng.uniform((0, 0), (width, height))
        if not (_filled([each + centre for each in contours], canvas.instances.shape) & (canvas.instances > 0)).any():
            drawn = canvas.paint([each + centre for each in contours], other, len(placed) + 1, rng)
            placed += [drawn] if drawn is not None else []
    return Scene(camera(canvas.image, rng), canvas.instances, tuple(placed)), kind


def _beside(contours: Points, instances: NDArray[np.uint8], rng: np.random.Generator) -> Points | None:
    """Returns the contours at a place in the image where they touch an object; None if there is none."""
    height, width = instances.shape
    points = np.concatenate(contours)
    half = (points.max(0) - points.min(0)) / 2
    room = np.array((width, height))
    if not instances.any():
        centre = rng.uniform(np.minimum(half, room / 2), np.maximum(room - half, room / 2))
        return [each + centre for each in contours]
    numbers = np.unique(instances[instances > 0])
    y, x = (axis.mean() for axis in np.nonzero(instances == numbers[int(rng.integers(len(numbers)))]))
    for _ in range(TRIES):
        angle = rng.uniform(0, 2 * np.pi)
        way = np.array((np.cos(angle), np.sin(angle)))
        for step in range(STEPS):
            centre = np.array((x, y)) + way * (4 * half.max() * step / STEPS)
            if not ((centre >= half * 0.9) & (centre <= room - half * 0.9)).all():
                break
            own = _filled([each + centre for each in contours], instances.shape)
            if np.count_nonzero(own & (instances > 0)) <= OVERLAP * np.count_nonzero(own):
                return [each + centre for each in contours]
    return None


def _filled(contours: Points, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Returns the pixels of contours, bool (H, W)."""
    fill, _ = coverage(contours, (size[0], size[1]), 0)
    return fill > 127


def measure(segmenter: Segmenter, scenes: int) -> dict[tuple[str, str], Quality]:
    """Returns the counts by kind of scene, "alone" or "touching", and by value of `--touching`."""
    totals: dict[tuple[str, str], Quality] = {}
    for index in range(scenes):
        scene, (shape, colour) = draw_touching(np.random.default_rng(SEED + index), SHORT, 1 + index % MOST)
        size = scene.instances.shape[0], scene.instances.shape[1]
        own = [number for number, each in enumerate(scene.objects, 1) if each.kind == (shape, colour)]
        wanted = np.where(np.isin(scene.instances, own), scene.instances, 0).astype(np.uint8)
        true = Objects(tuple(each for _, each in of_numbers(wanted)), (), size, "")
        embedding = segmenter.embed([f"a {colour} {shape}"])
        soft_map = soft_maps.LogitMap(segmenter.logits(segmenter.encode([scene.image]), embedding)[0, 0], size)
        mask, soft = soft_map.cut(segmenter.threshold), soft_map.soft()
        found = peaks.find(soft, segmenter.threshold)
        for name, division in (("joined", None), ("divided", None if found is None else divide(found, size))):
            key = ("alone" if len(true.instances) == 1 else "touching"), name
            scored = quality(Objects(separate(mask, soft, division), (), size, ""), true)
            totals[key] = totals.get(key, Quality()) + scored
    return totals


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=80)
    totals = measure(Segmenter.load("shapes"), parser.parse_args().scenes)
    rows = [
        [kind, f"`--touching {name}`", f"{each.pq:.3f}", f"{each.sq:.3f}", f"{each.rq:.3f}"]
        for (kind, name), each in sorted(totals.items())
    ]
    sys.stdout.write(table(["objects", "", "PQ", "SQ", "RQ"], rows) + "\n")


if __name__ == "__main__":
    main()
