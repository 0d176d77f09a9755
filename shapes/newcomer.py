"""A thing that the drawn world lacks, and a decoder fitted to it: `python -m shapes.newcomer OUT` prints the scores.

OUT/train and OUT/held, each with images/ and masks/<label>/: a teal bolt among the world's own things, and the masks of
some old phrases in OUT/held alone. OUT/old.txt: the old phrases, for `clipseg train --replay`. OUT/model-W: the decoder
fitted with replay weight W; one that is there already is not fitted again. `--write` puts the table into
docs/training.md.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.datasets import training_data
from clipseg_cli.datasets.ground_truth import read_mask
from clipseg_cli.evaluation import metrics
from clipseg_cli.masks import soft_maps
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training.train import train
from shapes import phrases
from shapes.evaluate import put
from shapes.vocabulary import COLOURS, SHAPES
from shapes.world import Manner, Scene, draw_scene

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
FENCE = ("<!-- newcomer -->", "<!-- end of newcomer -->")
LABEL = "a-teal-bolt"
RECIPE = Recipe(steps=200, batch=16, check=50)
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
            *((f"masks/{k}", m * 255.0) for k, m in soft_maps.items()),
        ]:
            (folder / place).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / place / f"{number:03}.png"), np.ascontiguousarray(array).astype(np.uint8))


def fit(out: Path, model: str, weight: float) -> float:
    """Fits OUT/model-W, unless it is there; returns the seconds of processor time that it took."""
    made, began = out / f"model-{weight:g}", time.process_time()
    if (made / "model.safetensors").exists():
        return float("nan")
    kept = (out / "old.txt").read_text("utf-8").split("\n")[:-1] if weight else []
    recipe = Recipe(steps=RECIPE.steps, batch=RECIPE.batch, check=RECIPE.check, replay_weight=weight)
    for now in train(out / "train", made, ModelOptions(model), recipe, kept, ("{}",)):
        if now.stage == "check":
            sys.stderr.write(f"replay weight {weight:g}, step {now.at}: held-out mIoU {now.miou:.3f}\n")
    return time.process_time() - began


def score(segmenter: Segmenter, folder: Path) -> dict[str, tuple[float, float]]:
    """Per label of a drawn folder the mean IoU at its best threshold and at the model's own."""
    labels = sorted(each.name for each in (folder / "masks").iterdir())
    own = int(np.argmin(np.abs(metrics.THRESHOLDS - segmenter.threshold)))
    embeddings = segmenter.embed([label.replace("-", " ") for label in labels])
    totals = {label: metrics.nothing(len(metrics.THRESHOLDS)) for label in labels}
    for image in sorted((folder / "images").iterdir()):
        maps = segmenter.logits(segmenter.encode([training_data.pixels(image)]), embeddings)[0]
        for label, logits in zip(labels, maps, strict=True):
            truth = read_mask(folder / "masks" / label / image.name).mask
            if truth.any():
                totals[label] += metrics.count(
                    soft_maps.soft(soft_maps.upsample(logits, *truth.shape)), truth
                ).as_class()
    curves = {label: metrics.miou(total) for label, total in totals.items()}
    return {label: (float(curve.max()), float(curve[own])) for label, curve in curves.items()}


def as_markdown(columns: dict[str, dict[str, tuple[float, float]]]) -> str:
    """The table of the page: a row for the new label, and one for the mean of the old ones."""
    rows = {
        "a teal bolt (new)": [LABEL],
        f"{len(OLD)} old labels, mean": [f"a-{colour}-{shape}" for shape, colour in OLD],
    }
    lines = ["| label | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, labels in rows.items():
        means = (np.mean([scores[label] for label in labels], 0) for scores in columns.values())
        lines.append(f"| {name} | " + " | ".join(f"{best:.3f} ({own:.3f})" for best, own in means) + " |")
    return "\n".join(lines)


def measure(out: Path, model: str, weights: Sequence[float]) -> str:
    """Fits and scores; the text of the page."""
    columns = {"before": score(Segmenter.load(model), out / "held")}
    spent = []
    for weight in weights:
        spent.append(fit(out, model, weight))
        name = f"`--replay-weight {weight:g}`" if weight else "without `--replay`"
        columns[name] = score(Segmenter.load(str(out / f"model-{weight:g}")), out / "held")
    took = f"{np.nanmean(spent):.0f} seconds of processor time each" if np.isfinite(spent).any() else "fitted before"
    learned, judged = (len([*(out / part / "images").iterdir()]) for part in ("train", "held"))
    return (
        f"{learned} pictures, {RECIPE.steps} steps of {RECIPE.batch}, {took}. Mean IoU on {judged} other pictures, at "
        f"each label's best threshold and, in brackets, at the model's own:\n\n{as_markdown(columns)}"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.newcomer", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--held", type=int, default=100)
    parser.add_argument("--model", default="shapes")
    parser.add_argument(
        "--weights", type=float, nargs="*", default=[Recipe().replay_weight], help="of the replay; 0: none"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/training.md")
    given = parser.parse_args()
    if not (given.out / "old.txt").exists():
        draw(given.out / "train", given.images, 7_000_003, old=False)
        draw(given.out / "held", given.held, 8_000_009, old=True)
        told = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
        (given.out / "old.txt").write_text("\n".join([*told, *(f"a {shape}" for shape in SHAPES)]) + "\n", "utf-8")
    text = measure(given.out, given.model, given.weights)
    if given.write:
        put(PAGE, text, FENCE)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
