"""Compares refinements and tiles on held-out scenes of 1600 x 1200 pixels: `python -m shapes.refinement_benchmark`.

Prints a table; `--write` puts it into docs/masks.md. Each method makes a mask for one prompt per scene, which is scored
by IoU and by boundary F at a tolerance of 4 pixels.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.evaluation import metrics
from clipseg_cli.masks import soft_maps, threshold, tiles
from clipseg_cli.model.segmenter import Embeddings, Segmenter
from clipseg_cli.settings.masks import CleanUp, Refine
from shapes import queries
from shapes.markdown import replace_section, table
from shapes.scenes import Scene, SceneOptions, draw_scene

PAGE = Path(__file__).parent.parent / "docs" / "masks.md"
MARKS = ("<!-- refinement -->", "<!-- end of refinement -->")
SEED = 7_000_003
HEIGHT, ASPECT = 1200, 4 / 3  # pixels; width / height
TOLERANCE = 4  # pixels
Method = Callable[[Segmenter, Embeddings, Scene], NDArray[np.uint8]]


def full_size_logits(
    segmenter: Segmenter, embedding: Embeddings, image: NDArray[np.uint8], tile: int, flip: bool
) -> NDArray[np.float32]:
    """Returns the logits of one prompt as `clipseg segment --tile --flip` computes them: float32 (H, W)."""
    views = tiles.views(*image.shape[:2], tile, flip)
    logits = [segmenter.logits(segmenter.encode([view.of(image)]), embedding)[0] for view in views]
    return soft_maps.upsample(tiles.joined(views, logits)[0], *image.shape[:2])


def method(tile: int = 1, flip: bool = False, refinement: Refine = "none") -> Method:
    """Returns a function from a scene to a mask, uint8 (H, W) of 0 and 255."""

    def mask(segmenter: Segmenter, embedding: Embeddings, scene: Scene) -> NDArray[np.uint8]:
        logits = soft_maps.LogitMap(full_size_logits(segmenter, embedding, scene.image, tile, flip))
        return threshold.cut(logits, lambda: scene.image, segmenter.threshold, CleanUp(refinement)).mask

    return mask


METHODS: dict[str, Method] = {
    "plain": method(),
    "`--refine guided`": method(refinement="guided"),
    "`--refine grabcut`": method(refinement="grabcut"),
    "`--refine matting`": method(refinement="matting"),
    "`--flip`": method(flip=True),
    "`--tile 2`": method(2),
    "`--tile 3`": method(3),
    "`--tile 2 --refine guided`": method(2, refinement="guided"),
}


def measure(segmenter: Segmenter, scenes: int) -> dict[str, tuple[float, float]]:
    """Returns mean IoU and mean boundary F of each method, over `scenes` scenes with one prompt each."""
    rng, scores = np.random.default_rng(SEED), {name: [] for name in METHODS}
    count = 0
    while count < scenes:
        scene = draw_scene(rng, SceneOptions(short_side=HEIGHT), ASPECT)
        pairs = [queries.Query(shape=each.shape, colour=each.colour) for each in scene.objects]
        query = next((one for one in pairs if queries.matching(one, scene) and not queries.is_held_out(one)), None)
        if query is None:
            continue
        count += 1
        expected = queries.ground_truth(queries.matching(query, scene) or [], scene.instances)
        embedding = segmenter.embed([queries.as_prompt(query, rng)])
        for name, make_mask in METHODS.items():
            mask = make_mask(segmenter, embedding, scene) > 0
            iou = np.count_nonzero(mask & expected) / max(1, np.count_nonzero(mask | expected))
            scores[name].append((iou, metrics.boundary_f(mask, expected, TOLERANCE / np.hypot(*mask.shape))))
    return {name: tuple(np.mean(rows, 0).tolist()) for name, rows in scores.items()}


def as_markdown(scores: dict[str, tuple[float, float]], scenes: int, model: str) -> str:
    """Returns the section of the page."""
    plain = scores["plain"]
    rows = [
        (name, f"{iou:.3f}", f"{boundary:.3f}", f"{iou - plain[0]:+.3f}, {boundary - plain[1]:+.3f}")
        for name, (iou, boundary) in scores.items()
    ]
    return (
        f"{scenes} held-out scenes of 1600 x 1200 pixels, one prompt each, model `{model}`; boundary F at {TOLERANCE} "
        f"pixels:\n\n{table(('', 'mean IoU', 'boundary F', 'against plain'), rows)}"
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.refinement_benchmark", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="put the table into docs/masks.md")
    arguments = parser.parse_args()
    scores = measure(Segmenter.load(arguments.model), arguments.scenes)
    text = as_markdown(scores, arguments.scenes, arguments.model)
    if arguments.write:
        replace_section(PAGE, text, MARKS)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
