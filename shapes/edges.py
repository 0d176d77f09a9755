"""Measures edges on held-out scenes of 1600 x 1200 pixels: `python -m shapes.edges` prints the table.

`--write` puts it into docs/masks.md. Each way from a map to a mask is scored by the mean IoU and by the boundary
F-score at a tolerance of 4 pixels, over questions about what a scene shows.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.evaluation import metrics
from clipseg_cli.masks import matting, refine, soft_maps, tiles
from clipseg_cli.model.segmenter import Embeddings, Segmenter
from shapes import phrases
from shapes.evaluate import put
from shapes.world import Manner, Scene, draw_scene

PAGE = Path(__file__).parent.parent / "docs" / "masks.md"
FENCE = ("<!-- edges -->", "<!-- end of edges -->")
SEED = 7_000_003
HEIGHT, ASPECT = 1200, 4 / 3  # pixels; width / height
REACH = 4  # pixels
Look = Callable[[Segmenter, Embeddings, Scene], NDArray[np.uint8]]


def logits(segmenter: Segmenter, embedding: Embeddings, scene: Scene, count: int, flip: bool) -> NDArray[np.float32]:
    """The map of one phrase at the scene's size, as the program makes it."""
    seen = tiles.views(*scene.image.shape[:2], count, flip)
    maps = [segmenter.logits(segmenter.encode([view.of(scene.image)]), embedding)[0] for view in seen]
    return soft_maps.upsample(tiles.joined(seen, maps)[0], *scene.image.shape[:2])


def look(count: int = 1, flip: bool = False, sharpen: str = "none") -> Look:
    """A way from a scene to a mask."""

    def mask(segmenter: Segmenter, embedding: Embeddings, scene: Scene) -> NDArray[np.uint8]:
        large = soft_maps.LogitMap(logits(segmenter, embedding, scene, count, flip))
        if sharpen == "guided":
            return soft_maps.from_probabilities(refine.guided(scene.image, large.soft())).cut(segmenter.threshold)
        plain = large.cut(segmenter.threshold)
        if sharpen == "matting":
            return np.where(matting.alpha(scene.image, large.soft(), plain) > 127, np.uint8(255), np.uint8(0))
        return refine.grabcut(scene.image, large.soft(), plain) if sharpen == "grabcut" else plain

    return mask


WAYS: dict[str, Look] = {
    "plain": look(),
    "`--refine guided`": look(sharpen="guided"),
    "`--refine grabcut`": look(sharpen="grabcut"),
    "`--refine matting`": look(sharpen="matting"),
    "`--flip`": look(flip=True),
    "`--tile 2`": look(2),
    "`--tile 3`": look(3),
    "`--tile 2 --refine guided`": look(2, sharpen="guided"),
}


def measure(segmenter: Segmenter, scenes: int) -> tuple[dict[str, tuple[float, float]], int]:
    """Per way mean IoU and boundary F; and the number of questions."""
    rng, scores = np.random.default_rng(SEED), {way: [] for way in WAYS}
    count = 0
    while count < scenes:
        scene = draw_scene(rng, Manner(short=HEIGHT), ASPECT)
        things = [phrases.Query(shape=thing.shape, colour=thing.colour) for thing in scene.things]
        query = next((one for one in things if phrases.denoted(one, scene) and not phrases.is_held_out(one)), None)
        if query is None:
            continue
        count += 1
        truth = phrases.truth(phrases.denoted(query, scene) or [], scene.owners)
        embedding = segmenter.embed([phrases.wording(query, rng)])
        for way, make in WAYS.items():
            mask = make(segmenter, embedding, scene) > 0
            iou = np.count_nonzero(mask & truth) / max(1, np.count_nonzero(mask | truth))
            scores[way].append((iou, metrics.boundary_f(mask, truth, REACH / np.hypot(*mask.shape))))
    return {way: tuple(np.mean(rows, 0).tolist()) for way, rows in scores.items()}, count


def as_markdown(scores: dict[str, tuple[float, float]], count: int, model: str) -> str:
    """The table of the page."""
    plain = scores["plain"]
    lines = [
        f"{count} held-out scenes of 1600 x 1200 pixels, a phrase each, model `{model}`; boundary F at {REACH} pixels:",
        "",
        "| | mean IoU | boundary F | against plain |",
        "|---|---|---|---|",
        *(
            f"| {way} | {iou:.3f} | {edge:.3f} | {iou - plain[0]:+.3f}, {edge - plain[1]:+.3f} |"
            for way, (iou, edge) in scores.items()
        ),
    ]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.edges", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="put the table into docs/masks.md")
    given = parser.parse_args()
    text = as_markdown(*measure(Segmenter.load(given.model), given.scenes), given.model)
    if given.write:
        put(PAGE, text, FENCE)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
