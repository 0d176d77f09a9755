"""Trains a new decoder for the bundled towers: `python -m shapes.recipe_benchmark OUT`.

OUT/VGPhraseCut_v0 and OUT/clip: drawn data and a plain CLIP, see `phrasecut_data`. OUT/refined, and with `--plain` also
OUT/plain: the new models. A training that was stopped resumes, a finished one is not repeated. The models are scored on
scenes that took part in no training, beside the bundled model, whose decoder learned with its towers. `--write`
puts the table into docs/training.md.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from clipseg_cli.evaluation import metrics, protocols
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.settings.evaluation import ProtocolOptions
from clipseg_cli.settings.flag import fill
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.training import NewDecoder, Recipe
from clipseg_cli.training.train import train
from shapes.evaluate import MODEL, OWN_SEED, TEXT_KINDS, evaluate
from shapes.evaluation_set import build_evaluation_set, predict
from shapes.markdown import replace_section, table
from shapes.phrasecut_data import write_clip, write_phrasecut

PAGE = Path(__file__).parent.parent / "docs" / "training.md"
MARKS = ("<!-- recipe -->", "<!-- end of recipe -->")
SIDE, LAYERS = 224, (1, 4, 7)  # those of the bundled model
FEEDFORWARD = 256  # channels, as in the bundled decoder
RECIPE: dict[str, Any] = {"recipe": "new", "steps": 18_500, "hold": 0.01}
TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}")
ROWS = {
    "text prompts, mean IoU": "text",
    "one exemplar, mean IoU": "one-shot",
    "absent objects, share of empty masks": "absent",
    "text prompts, boundary F": "edges",
    "`clipseg protocol phrasecut`, mean IoU at the best threshold": "phrasecut",
}


def fit(out: Path, name: str, recipe: Recipe) -> None:
    """Trains OUT/`name` unless it is finished; "refined" and "plain" are the kinds of upsampling."""
    if (out / name / "model.safetensors").exists():
        return
    refined = name == "refined"
    new = NewDecoder(str(out / "clip"), extract_layers=LAYERS, feedforward=FEEDFORWARD, refined=refined, side=SIDE)
    began = time.process_time()
    for now in train(out / "VGPhraseCut_v0", out / name, ModelOptions(dtype="fp32"), recipe, (), TEMPLATES, new):
        if now.stage == "check":
            minutes = (time.process_time() - began) / 60
            sys.stderr.write(f"{name}, step {now.at}: mIoU {now.miou:.3f}, {minutes:.1f} minutes of processor time\n")


def score(folder: Path, data: Path, scenes: int) -> dict[str, float]:
    """Returns the values of ROWS, in [0, 1], and the threshold that they were measured at."""
    figures: dict[str, Any] = evaluate(folder, scenes, 0)
    segmenter = Segmenter.load(str(folder))
    phrasecut = protocols.run(segmenter, ProtocolOptions("phrasecut", data))
    result = {name: figures["own"][name] for name in ("text", "one-shot", "absent")}
    result |= {"threshold": figures["threshold"], "phrasecut": phrasecut.scores["miou_best"] or 0.0}
    return result | {"edges": edges(folder, scenes, figures["threshold"])}


def edges(folder: Path, scenes: int, threshold: float) -> float:
    """Returns the mean boundary F of text prompts on the scenes of `score`."""
    model = CLIPSegForImageSegmentation.from_pretrained(folder).float().eval()
    held_out = build_evaluation_set(scenes, OWN_SEED)
    soft_maps = predict(model, CLIPTokenizer.from_pretrained(folder), held_out)
    scores = [
        metrics.boundary_f(soft_map.numpy() > threshold, question.ground_truth)
        for soft_map, question in zip(soft_maps, held_out.questions, strict=True)
        if question.kind in TEXT_KINDS
    ]
    return float(np.mean(scores))


def as_markdown(columns: dict[str, dict[str, float]]) -> str:
    """Returns the table of the page."""
    rows = [[words, *(f"{scores[name]:.3f}" for scores in columns.values())] for words, name in ROWS.items()]
    rows.append(["threshold", *(f"{scores['threshold']:g}" for scores in columns.values())])
    return table(("held-out scenes", *columns), rows)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.recipe_benchmark", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=4000, help="for training (default: 4000)")
    parser.add_argument("--steps", type=int, default=RECIPE["steps"], help=f"(default: {RECIPE['steps']})")
    parser.add_argument("--scenes", type=int, default=400, help="for the scores (default: 400)")
    parser.add_argument("--plain", action="store_true", help="also train a decoder with plain upsampling")
    parser.add_argument("--write", action="store_true", help="put the table into docs/training.md")
    given = parser.parse_args()
    data = given.out / "VGPhraseCut_v0"
    if not data.exists():
        write_phrasecut(data, {"train": given.images, "test": max(2, given.images // 20)})
        write_clip(given.out / "clip")
    recipe = fill(Recipe, RECIPE | {"steps": given.steps, "check": max(1, given.steps // 10)})
    columns = {"bundled decoder": score(MODEL, data, given.scenes)}
    for name in ("refined", "plain") if given.plain else ("refined",):
        fit(given.out, name, recipe)
        columns[f"new decoder, {name}"] = score(given.out / name, data, given.scenes)
    (given.out / "scores.json").write_text(json.dumps(columns, indent=1), "utf-8")
    if given.write:
        replace_section(PAGE, as_markdown(columns), MARKS)
    sys.stdout.write(as_markdown(columns) + "\n")


if __name__ == "__main__":
    main()
