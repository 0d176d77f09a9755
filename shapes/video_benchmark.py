"""Measures what `--smooth` does to clips of moving objects with noise and flicker: `python -m shapes.video_benchmark`.

Prints a table; `--write` puts it into docs/videos.md. Flicker is how much of a mask changes from one frame to the next
beyond what changes in the ground truth, as a share of the object's area: the mean over all frames and clips.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import smoothing, soft_maps
from clipseg_cli.model.segmenter import Segmenter
from shapes import queries
from shapes.clips import Clip, draw_clip
from shapes.markdown import replace_section, table

PAGE = Path(__file__).parent.parent / "docs" / "videos.md"
MARKS = ("<!-- smoothing -->", "<!-- end of smoothing -->")
SEED = 8_000_009
SECONDS = (0.0, 0.1, 0.2, 0.3, 0.5)
BATCH = 5

Maps = Sequence[NDArray[np.float32]]  # one per frame


def steadied(logits: Maps, guides: Maps, times: Sequence[float], seconds: float) -> list[NDArray[np.float32]]:
    """Returns the logits of each frame as `clipseg segment --smooth` computes them."""
    if not seconds:
        return list(logits)
    around = [[k for k in range(len(times)) if abs(times[k] - now) < seconds] for now in times]
    return [
        smoothing.smoothed(
            [logits[k] for k in near], [guides[k] for k in near], [times[k] for k in near], near.index(i), seconds
        )
        for i, near in enumerate(around)
    ]


def score(clip: Clip, logits: Maps, threshold: float) -> tuple[float, float]:
    """Returns mean IoU and flicker of one clip."""
    size = clip.ground_truth.shape[1:]
    masks = [soft_maps.cut(soft_maps.upsample(each[0], *size), threshold) > 0 for each in logits]
    ious, excess = [], []
    for number, (mask, truth) in enumerate(zip(masks, clip.ground_truth, strict=True)):
        ious.append(np.count_nonzero(mask & truth) / max(1, np.count_nonzero(mask | truth)))
        if number and clip.scenes[number] == clip.scenes[number - 1]:
            changed = np.count_nonzero(mask ^ masks[number - 1])
            moved = np.count_nonzero(truth ^ clip.ground_truth[number - 1])
            excess.append(max(0, changed - moved) / clip.ground_truth.sum((1, 2)).mean())
    return float(np.mean(ious)), float(np.mean(excess))


def measure(segmenter: Segmenter, clips: int) -> dict[float, tuple[float, float]]:
    """Returns mean IoU and flicker for each of SECONDS."""
    rng, scores = np.random.default_rng(SEED), {seconds: [] for seconds in SECONDS}
    for _ in range(clips):
        clip = draw_clip(rng)
        embedding = segmenter.embed([queries.as_prompt(clip.query, rng)])
        views = [segmenter.resize(frame) for frame in clip.frames]
        guides = [smoothing.guide(view) for view in views]
        batches = [segmenter.encode(views[at : at + BATCH]) for at in range(0, len(views), BATCH)]
        logits = np.concatenate([segmenter.logits(each, embedding) for each in batches])
        for seconds, rows in scores.items():
            rows.append(score(clip, steadied(logits, guides, clip.times, seconds), segmenter.threshold))
    return {seconds: tuple(np.mean(rows, 0).tolist()) for seconds, rows in scores.items()}


def as_markdown(scores: dict[float, tuple[float, float]], clips: int, model: str) -> str:
    """Returns the section of the page."""
    _, before = scores[0.0]
    rows = [
        (f"`--smooth {seconds}`" if seconds else "plain", f"{iou:.3f}", f"{flicker:.2%}", f"{flicker / before:.2f}")
        for seconds, (iou, flicker) in scores.items()
    ]
    return (
        f"{clips} clips of two scenes, 25 frames each, model `{model}`:\n\n"
        f"{table(('', 'mean IoU', 'flicker', 'against plain'), rows)}"
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.video_benchmark", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="put the table into docs/videos.md")
    arguments = parser.parse_args()
    scores = measure(Segmenter.load(arguments.model), arguments.clips)
    text = as_markdown(scores, arguments.clips, arguments.model)
    if arguments.write:
        replace_section(PAGE, text, MARKS)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
