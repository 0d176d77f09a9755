"""Evaluates the bundled model on held-out scenes: `python -m shapes.evaluate` prints all figures as JSON.

`--card` also writes them to the model card, and the threshold to config.json, from which `clipseg` reads it.
The threshold is chosen on a validation set of its own.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from shapes.clipart import draw_clipart
from shapes.evaluation_set import EvaluationSet, build_evaluation_set, predict, score
from shapes.markdown import replace_section, table

MODEL = Path(__file__).parent.parent / "clipseg_cli" / "model" / "weights" / "shapes"
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
VALIDATION_SEED, OWN_SEED, CLIPART_SEED = 2_000_003, 3_000_017, 4_000_037
TEXT_KINDS = ("colour+shape", "shape", "colour", "pattern", "size", "place", "anything")


def with_means(scores: dict[str, float], evaluation_set: EvaluationSet) -> dict[str, float]:
    """Returns the scores with their means over all questions with a text prompt (`text`) and all absent ones."""
    counts = {kind: sum(q.kind == kind for q in evaluation_set.questions) for kind in scores}
    absent = tuple(kind for kind in scores if kind.startswith("absent"))
    result = dict(scores)
    for name, kinds in (("text", TEXT_KINDS), ("absent", absent)):
        scored = [kind for kind in kinds if kind in scores]
        total = sum(counts[kind] for kind in scored)
        result[name] = round(sum(scores[kind] * counts[kind] for kind in scored) / max(1, total), 3)
    return result


def choose_threshold(by_threshold: dict[float, dict[str, float]]) -> float:
    """Returns the threshold with the highest mean of the text, one-shot and absent scores."""

    def mean(threshold: float) -> float:
        scores = by_threshold[threshold]
        return float(np.mean([scores["text"], scores["one-shot"], scores["absent"]]))

    return max(by_threshold, key=mean)


def evaluate(folder: Path, scenes: int, clipart: int) -> dict[str, Any]:
    """Returns the model's scores on `scenes` scenes in the training style and `clipart` ones in the clip-art style.

    Also the threshold, and the scores at each threshold of the validation set that it was chosen on.
    """
    model = CLIPSegForImageSegmentation.from_pretrained(folder).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    validation = build_evaluation_set(max(40, scenes // 3), VALIDATION_SEED)
    soft_maps = predict(model, tokenizer, validation)
    by_threshold = {t: with_means(score(soft_maps, validation, t), validation) for t in THRESHOLDS}
    threshold = choose_threshold(by_threshold)
    figures: dict[str, Any] = {"threshold": threshold, "validation": {str(t): row for t, row in by_threshold.items()}}
    evaluation_sets = {
        "own": build_evaluation_set(scenes, OWN_SEED),
        "clipart": build_evaluation_set(clipart, CLIPART_SEED, draw_clipart),
    }
    for name, evaluation_set in evaluation_sets.items():
        soft_maps = predict(model, tokenizer, evaluation_set)
        figures[name] = {"scenes": len(evaluation_set.images), "questions": len(evaluation_set.questions)}
        figures[name] |= with_means(score(soft_maps, evaluation_set, threshold), evaluation_set)
    return figures


def as_markdown(figures: dict[str, Any]) -> str:
    """Returns the figures section of the model card."""
    own, clipart = figures["own"], figures["clipart"]
    words = (
        f"Threshold {figures['threshold']}. Training style: {own['scenes']} scenes and {own['questions']} questions by"
        f" the generator of the training scenes, with other seeds. Clip-art style: {clipart['scenes']} scenes and"
        f" {clipart['questions']} questions by a second generator. Neither took part in training."
    )
    rows = []
    for kind in sorted(set(own) - {"scenes", "questions"}):
        measure = "share of empty masks" if kind.startswith("absent") else "mean IoU"
        rows.append((kind, measure, f"{own[kind]:.2f}", f"{clipart.get(kind, float('nan')):.2f}"))
    return f"{words}\n\n{table(('question', 'measure', 'training style', 'clip-art style'), rows)}"


def write_card(folder: Path, figures: dict[str, Any]) -> None:
    """Writes the figures to the model card and the threshold to config.json."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["clipseg_threshold"] = figures["threshold"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    replace_section(folder / "README.md", as_markdown(figures))


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model (default: the bundled one)")
    parser.add_argument("--scenes", type=int, default=1000, help="scenes in the training style (default: 1000)")
    parser.add_argument("--clipart", type=int, default=400, help="scenes in the clip-art style (default: 400)")
    parser.add_argument("--card", action="store_true", help="write the figures to the model card")
    arguments = parser.parse_args()
    figures = evaluate(arguments.model, arguments.scenes, arguments.clipart)
    if arguments.card:
        write_card(arguments.model, figures)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
