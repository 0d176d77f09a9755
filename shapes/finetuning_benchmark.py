"""Fine-tunes the decoder on an object that is in no scene: `python -m shapes.finetuning_benchmark OUT` prints scores.

OUT/train and OUT/held-out have images/ and masks/<label>/. The new object is a teal bolt; the masks of some known
labels are only in OUT/held-out. OUT/replay.txt: known prompts for `clipseg train --replay`. OUT/model-W: the model
fine-tuned with replay weight W; an existing one is not trained again. `--write` puts the table into docs/training.md.

`--few` measures another table: the new object with and without `--augment`, for few images. OUT/few has its data sets
and models; nothing is replayed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
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
from clipseg_cli.settings.training import Augment, Recipe
from clipseg_cli.training.train import train
from shapes import queries
from shapes.markdown import replace_section, table
from shapes.scenes import Scene, SceneOptions, draw_scene
from shapes.vocabulary import COLOURS, SHAPES

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
MARKS = ("<!-- fine-tuning -->", "<!-- end of fine-tuning -->")
TRAIN_SEED, HELD_OUT_SEED = 7_000_003, 8_000_009
NEW_LABEL = "a-teal-bolt"
FEW_MARKS = ("<!-- few images -->", "<!-- end of few images -->")
RECIPE = Recipe(steps=200, batch=16, check=50, augment="off")
COUNTS, SEEDS = (20, 50, 200), (0, 1)  # images of the data sets of --few, and trainings with each
CHOICES: tuple[Augment, ...] = ("off", "on")
TEAL = (18.0, 112.0, 112.0)  # RGB; farther from the known green, blue and cyan than its own shades
BOLT = np.array([(0.1, -0.5), (-0.3, 0.08), (-0.04, 0.08), (-0.14, 0.5), (0.3, -0.12), (0.03, -0.12), (0.28, -0.5)])
KNOWN = (("circle", "red"), ("star", "blue"), ("square", "green"), ("heart", "pink"), ("triangle", "yellow"))
KNOWN_LABELS = tuple(f"a-{colour}-{shape}" for shape, colour in KNOWN)
SUPERSAMPLING = 4  # the bolt is drawn this many times larger and then reduced


def with_bolt(scene: Scene, rng: np.random.Generator) -> tuple[Scene, NDArray[np.bool_]]:
    """Returns the scene with a bolt in front, and the pixels of the bolt, bool (H, W)."""
    height, width = scene.instances.shape
    extent = rng.uniform(0.25, 0.5) * min(height, width)
    angle = rng.uniform(-0.5, 0.5)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    centre = rng.uniform((extent / 2, extent / 2), (width - extent / 2, height - extent / 2))
    points = ((BOLT @ turn.T * extent + centre) * SUPERSAMPLING).round().astype(np.int32)
    large = cv2.fillPoly(np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8), [points], 255)
    alpha = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None].astype(np.float32) / 255
    paint = np.array(TEAL, np.float32) + rng.normal(0, 10, 3).astype(np.float32)
    image = scene.image * (1 - alpha) + paint * alpha
    covered = alpha[..., 0] > 0.5
    instances = np.where(covered, 0, scene.instances).astype(np.uint8)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), instances, scene.objects), covered


def draw_data(folder: Path, count: int, seed: int, known: bool) -> None:
    """Writes `count` images, four of five with a bolt, and their masks; with `known` those of the known labels too."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        first_kind = KNOWN[number % len(KNOWN)] if known else None
        scene = draw_scene(rng, SceneOptions(max_objects=5, first_kind=first_kind))
        bolt = np.zeros(scene.instances.shape, bool)
        if rng.random() < 0.8:
            scene, bolt = with_bolt(scene, rng)
        masks = {NEW_LABEL: bolt}
        for label, (shape, colour) in zip(KNOWN_LABELS, KNOWN, strict=True) if known else ():
            indices = queries.matching(queries.Query(shape=shape, colour=colour), scene)
            masks[label] = queries.ground_truth(indices or [], scene.instances)
        pixels = {"images": scene.image[..., ::-1]} | {f"masks/{label}": mask * 255.0 for label, mask in masks.items()}
        for place, array in pixels.items():
            (folder / place).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / place / f"{number:03}.png"), np.ascontiguousarray(array).astype(np.uint8))


def fine_tune(out: Path, model: str, weight: float) -> float:
    """Trains OUT/model-W unless it exists; returns the seconds of processor time, or NaN if it exists."""
    folder, began = out / f"model-{weight:g}", time.process_time()
    if (folder / "model.safetensors").exists():
        return float("nan")
    replay = (out / "replay.txt").read_text("utf-8").split("\n")[:-1] if weight else []
    recipe = replace(RECIPE, replay_weight=weight)
    for event in train(out / "train", folder, ModelOptions(model), recipe, replay, ("{}",)):
        if event.stage == "check":
            sys.stderr.write(f"replay weight {weight:g}, step {event.at}: held-out mIoU {event.miou:.3f}\n")
    return time.process_time() - began


def score(segmenter: Segmenter, folder: Path) -> dict[str, tuple[float, float]]:
    """Returns the mean IoU of each label, at its best threshold and at the model's default one."""
    labels = sorted(each.name for each in (folder / "masks").iterdir())
    default = int(np.argmin(np.abs(metrics.THRESHOLDS - segmenter.threshold)))
    embeddings = segmenter.embed([label.replace("-", " ") for label in labels])
    totals = {label: metrics.nothing(len(metrics.THRESHOLDS)) for label in labels}
    for image in sorted((folder / "images").iterdir()):
        logits = segmenter.logits(segmenter.encode([training_data.pixels(image)]), embeddings)[0]
        for label, label_logits in zip(labels, logits, strict=True):
            expected = read_mask(folder / "masks" / label / image.name).mask
            if expected.any():
                soft_map = soft_maps.soft(soft_maps.upsample(label_logits, *expected.shape))
                totals[label] += metrics.count(soft_map, expected).as_class()
    curves = {label: metrics.miou(total) for label, total in totals.items()}
    return {label: (float(curve.max()), float(curve[default])) for label, curve in curves.items()}


def as_markdown(columns: dict[str, dict[str, tuple[float, float]]]) -> str:
    """Returns the table of the page: a row for the new label, and one for the mean of the known ones."""
    labels = {"a teal bolt (new)": (NEW_LABEL,), f"{len(KNOWN)} known labels, mean": KNOWN_LABELS}
    rows = []
    for name, members in labels.items():
        means = (np.mean([scores[label] for label in members], 0) for scores in columns.values())
        rows.append([name, *(f"{best:.3f} ({default:.3f})" for best, default in means)])
    return table(("label", *columns), rows)


def measure(out: Path, model: str, weights: Sequence[float]) -> str:
    """Fine-tunes and scores a model for each replay weight; returns the section of the page."""
    columns = {"before": score(Segmenter.load(model), out / "held-out")}
    seconds = []
    for weight in weights:
        seconds.append(fine_tune(out, model, weight))
        name = f"`--replay-weight {weight:g}`" if weight else "without `--replay`"
        columns[name] = score(Segmenter.load(str(out / f"model-{weight:g}")), out / "held-out")
    trained = [each for each in seconds if not np.isnan(each)]
    took = f"{np.mean(trained):.0f} seconds of processor time each" if trained else "trained before"
    train_count, held_out_count = (len([*(out / name / "images").iterdir()]) for name in ("train", "held-out"))
    return (
        f"{train_count} images, {RECIPE.steps} steps of {RECIPE.batch}, {took}. Mean IoU on {held_out_count} other "
        f"images, at each label's best threshold and, in brackets, at the model's default:\n\n{as_markdown(columns)}"
    )


def measure_few(out: Path, model: str) -> str:
    """Trains a model for each number of images, choice of `--augment` and seed; returns the section of the page."""
    rows = []
    for count in COUNTS:
        cells = []
        for choice in CHOICES:
            scores = []
            for seed in SEEDS:
                data, folder = out / f"few/{count}-{seed}", out / f"few/model-{count}-{seed}-{choice}"
                if not data.exists():
                    draw_data(data, count, TRAIN_SEED + seed, known=False)
                if not (folder / "model.safetensors").exists():
                    recipe = replace(RECIPE, augment=choice, seed=seed)
                    list(train(data, folder, ModelOptions(model), recipe, (), ("{}",)))
                scores.append(score(Segmenter.load(str(folder)), out / "held-out")[NEW_LABEL][0])
            cells.append(f"{np.mean(scores):.3f} ({', '.join(f'{each:.3f}' for each in scores)})")
        rows.append([count, *cells])
    held_out = len([*(out / "held-out/images").iterdir()])
    return (
        f"{RECIPE.steps} steps of {RECIPE.batch}. Mean IoU of the bolt on {held_out} other images, at its best "
        f"threshold: the mean of {len(SEEDS)} trainings, each with its own images, and the trainings in brackets:\n\n"
        + table(("images", *(f"`--augment {choice}`" for choice in CHOICES)), rows)
    )


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.finetuning_benchmark", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=200, help="for training")
    parser.add_argument("--held-out", type=int, default=100, help="images for evaluation")
    parser.add_argument("--model", default="shapes")
    parser.add_argument(
        "--weights", type=float, nargs="*", default=[Recipe().replay_weight], help="replay weights; 0 for no replay"
    )
    parser.add_argument("--few", action="store_true", help="compare `--augment on` and `off` for few images")
    parser.add_argument("--write", action="store_true", help="put the table into docs/training.md")
    arguments = parser.parse_args()
    replay = arguments.out / "replay.txt"
    if not replay.exists():
        draw_data(arguments.out / "train", arguments.images, TRAIN_SEED, known=False)
        draw_data(arguments.out / "held-out", arguments.held_out, HELD_OUT_SEED, known=True)
        prompts = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES] + [f"a {shape}" for shape in SHAPES]
        replay.write_text("\n".join(prompts) + "\n", "utf-8")
    if arguments.few:
        text = measure_few(arguments.out, arguments.model)
    else:
        text = measure(arguments.out, arguments.model, arguments.weights)
    if arguments.write:
        replace_section(PAGE, text, FEW_MARKS if arguments.few else MARKS)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
