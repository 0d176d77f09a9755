"""Examines the bundled model on held-out scenes: `python -m shapes.evaluate` prints every figure as JSON.

`--card` also writes them into the model card, and the threshold into config.json, where the program reads it.
The threshold is chosen on scenes that serve for nothing else.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from shapes.clipart import draw_clipart
from shapes.exam import Exam, draw_exam, scored, soft_maps

MODEL = Path(__file__).parent.parent / "clipseg_cli" / "model" / "weights" / "shapes"
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
VALIDATION, OWN, OTHER = 2_000_003, 3_000_017, 4_000_037  # seeds
TEXT_KINDS = ("colour+shape", "shape", "colour", "pattern", "size", "place", "anything")
FENCE = ("<!-- figures -->", "<!-- end of figures -->")


def summary(row: dict[str, float], exam: Exam) -> dict[str, float]:
    """Means over questions: of all text kinds (`text`), and of all phrases for what is not there (`absent`)."""
    counts = {kind: sum(q.kind == kind for q in exam.questions) for kind in row}
    absent = tuple(kind for kind in row if kind.startswith("absent"))
    out = dict(row)
    for name, kinds in (("text", TEXT_KINDS), ("absent", absent)):
        held = [kind for kind in kinds if kind in row]
        total = sum(counts[kind] for kind in held)
        out[name] = round(sum(row[kind] * counts[kind] for kind in held) / max(1, total), 3)
    return out


def choose_threshold(table: dict[float, dict[str, float]]) -> float:
    """The threshold with the highest mean of text, one-shot and absent marks."""
    return max(table, key=lambda t: np.mean([table[t]["text"], table[t]["one-shot"], table[t]["absent"]]))


def examine(folder: Path, scenes: int, others: int) -> dict[str, Any]:
    """All figures of the model in `folder`: threshold, both exams, and the validation table it was chosen on."""
    model = CLIPSegForImageSegmentation.from_pretrained(folder).float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    check = draw_exam(max(40, scenes // 3), VALIDATION)
    maps = soft_maps(model, tokenizer, check)
    table = {t: summary(scored(maps, check, t), check) for t in THRESHOLDS}
    threshold = choose_threshold(table)
    figures: dict[str, Any] = {"threshold": threshold, "validation": {str(t): row for t, row in table.items()}}
    for name, exam in (("own", draw_exam(scenes, OWN)), ("clipart", draw_exam(others, OTHER, draw_clipart))):
        maps = soft_maps(model, tokenizer, exam)
        figures[name] = {"scenes": len(exam.images), "questions": len(exam.questions)}
        figures[name] |= summary(scored(maps, exam, threshold), exam)
    return figures


def as_markdown(figures: dict[str, Any]) -> str:
    """The table of the model card."""
    own, other = figures["own"], figures["clipart"]
    lines = [
        f"Threshold {figures['threshold']}. Own manner: {own['scenes']} scenes and {own['questions']} questions drawn"
        f" by the training world with other seeds; other manner: {other['scenes']} scenes and {other['questions']}"
        " questions drawn by a second program, flat as clip art. Neither took part in training.",
        "",
        "| question | measure | own manner | other manner |",
        "|---|---|---|---|",
    ]
    for kind in sorted(set(own) - {"scenes", "questions"}):
        measure = "share of empty masks" if kind.startswith("absent") else "mean IoU"
        lines.append(f"| {kind} | {measure} | {own[kind]:.2f} | {other.get(kind, float('nan')):.2f} |")
    return "\n".join(lines)


def put(page: Path, text: str, fence: tuple[str, str] = FENCE) -> None:
    """Writes measured text between the two marks of a page, in place of what stood there."""
    before, rest = page.read_text("utf-8").split(fence[0])
    page.write_text(f"{before}{fence[0]}\n{text}\n{fence[1]}{rest.split(fence[1])[1]}", "utf-8")


def record(folder: Path, figures: dict[str, Any]) -> None:
    """Puts the figures between the two marks of the model card, and the threshold into config.json."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["clipseg_threshold"] = figures["threshold"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    card = folder / "README.md"
    put(card, as_markdown(figures))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--scenes", type=int, default=1000, help="held-out scenes of the training manner")
    parser.add_argument("--others", type=int, default=400, help="scenes of the other manner")
    parser.add_argument("--card", action="store_true", help="write the figures beside the weights")
    given = parser.parse_args()
    figures = examine(given.model, given.scenes, given.others)
    if given.card:
        record(given.model, figures)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
