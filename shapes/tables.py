"""Measures prompts on held-out scenes, through the program itself: `python -m shapes.tables` prints the tables.

`--write` puts them into docs/prompts.md. Recipes, numbers of exemplars, and blends are scored by mean IoU of one-shot
questions; presence scores by average precision: how well each ranks the pictures that show a thing before the others.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import soft_maps
from clipseg_cli.model.segmenter import Embeddings, Segmenter
from clipseg_cli.prompts import highlight
from clipseg_cli.run.pipeline import cosines
from shapes import phrases
from shapes.evaluate import put
from shapes.lessons import example
from shapes.vocabulary import COLOURS, SHAPES
from shapes.world import Manner, Scene, draw_scene

PAGE = Path(__file__).parent.parent / "docs" / "prompts.md"
QUESTIONS, RANKED = 5_000_011, 6_000_023  # seeds
EXEMPLARS = (1, 3, 5)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)  # of the text in a blend
PAIRS = 30  # phrases of shape and colour that presence is measured with, beside all shapes and all colours


@dataclass(frozen=True)
class Question:
    """A thing to find in a scene by exemplars or words. seen: exemplars, each with the region of its object."""

    scene: Scene
    truth: NDArray[np.bool_]
    text: str
    seen: tuple[tuple[NDArray[np.uint8], NDArray[np.bool_]], ...]


def questions(count: int) -> list[Question]:
    """Each about one shape and colour that its scene shows; exemplars come from scenes of their own."""
    rng = np.random.default_rng(QUESTIONS)
    found: list[Question] = []
    while len(found) < count:
        scene = draw_scene(rng, Manner())
        if not scene.things:
            continue
        thing = scene.things[int(rng.integers(len(scene.things)))]
        query = phrases.Query(shape=thing.shape, colour=thing.colour)
        indices = phrases.denoted(query, scene)
        if not indices or phrases.is_held_out(query):
            continue
        shown = [example(thing.kind, rng, Manner()) for _ in range(max(EXEMPLARS))]
        seen = tuple((one.image, one.owners == 1) for one in shown)
        truth = phrases.truth(indices, scene.owners)
        found.append(Question(scene, truth, phrases.wording(query, rng), seen))
    return found


def one_shot(segmenter: Segmenter, asked: list[Question]) -> dict[str, dict[str, float]]:
    """Mean IoU of each table's rows."""
    marks: dict[str, dict[str, list[float]]] = {"recipe": {}, "exemplars": {}, "text share": {}}
    for question in asked:
        features = segmenter.encode([question.scene.image])
        rows: list[tuple[str, str, NDArray[np.float32]]] = []

        def look(recipe: str, count: int, question: Question = question) -> NDArray[np.float32]:
            shown = [highlight.highlight(*one, recipe, segmenter.side) for one in question.seen[:count]]
            embedded = [segmenter.embed_images(one.transpose(2, 0, 1)[None]).values[0] for one in shown]
            return np.asarray(np.mean(embedded, 0), np.float32)

        default = look("crop-blur-dim", 1)
        rows += [("recipe", name, look(name, 1)) for name in highlight.RECIPES]
        rows += [("exemplars", str(count), look("crop-blur-dim", count)) for count in EXEMPLARS]
        text = segmenter.embed([question.text]).values[0]
        rows += [("text share", str(w), np.float32(w) * text + np.float32(1 - w) * default) for w in SHARES]
        logits = segmenter.logits(features, Embeddings(np.stack([row[2] for row in rows])))[0]
        for (table, name, _), one in zip(rows, logits, strict=True):
            mask = soft_maps.cut(soft_maps.upsample(one, *question.truth.shape), segmenter.threshold) > 0
            iou = (mask & question.truth).sum() / max(1, (mask | question.truth).sum())
            marks[table].setdefault(name, []).append(float(iou))
    return {table: {name: float(np.mean(values)) for name, values in rows.items()} for table, rows in marks.items()}


Score = Callable[[NDArray[np.float32], float], float]  # of a map of logits (S, S) and the model's threshold
SCORES: dict[str, Score] = {
    "peak: the map's highest probability (`score`)": lambda logits, _: float(soft_maps.sigmoid(logits).max()),
    "mass: the map's mean probability (`mean`)": lambda logits, _: float(soft_maps.sigmoid(logits).mean()),
    "area: the share of the map above the threshold": lambda logits, t: float((soft_maps.sigmoid(logits) > t).mean()),
    "**the mean of the surest 0.2 % (`presence`)**": lambda logits, _: soft_maps.presence(logits),
    "the mean of the surest 1 %": lambda logits, _: soft_maps.presence(logits, 0.01),
    "the mean of the surest 5 %": lambda logits, _: soft_maps.presence(logits, 0.05),
}
SIMILARITY = "CLIP's image-prompt cosine (`similarity`)"


def average_precision(scores: NDArray[np.float64], shown: NDArray[np.bool_]) -> float:
    """The mean, over what is shown, of the precision at its rank."""
    ranked = shown[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def presence(segmenter: Segmenter, scenes: int) -> dict[str, tuple[float, float]]:
    """Of each score: the mean over phrases of the average precision within a folder, and that of all pairs at once."""
    rng = np.random.default_rng(RANKED)
    drawn: list[Scene] = []
    while len(drawn) < scenes:
        if (scene := draw_scene(rng, Manner())).things:
            drawn.append(scene)
    kinds = sorted({thing.kind for scene in drawn for thing in scene.things})
    picked = [kinds[index] for index in rng.permutation(len(kinds))[:PAIRS]]
    queries = [phrases.Query(shape=shape) for shape in SHAPES] + [phrases.Query(colour=colour) for colour in COLOURS]
    queries += [phrases.Query(shape=shape, colour=colour) for shape, colour in picked]
    embeddings = segmenter.embed([phrases.wording(query, rng) for query in queries])
    values: dict[str, list[list[float]]] = {name: [] for name in [*SCORES, SIMILARITY]}
    for scene in drawn:
        features = segmenter.encode([scene.image], pooled=True)
        maps = segmenter.logits(features, embeddings)[0]
        for name, score in SCORES.items():
            values[name].append([score(one, segmenter.threshold) for one in maps])
        assert features.pooled is not None
        values[SIMILARITY].append(list(map(float, cosines(embeddings.values, features.pooled[0]))))
    answers = [[phrases.denoted(query, scene) for query in queries] for scene in drawn]
    sure = np.array([[answer is not None for answer in row] for row in answers])
    shown = np.array([[bool(answer) for answer in row] for row in answers])
    result = {}
    for name, table in values.items():
        scores = np.array(table)
        each = [
            average_precision(scores[sure[:, q], q], shown[sure[:, q], q])
            for q in range(len(queries))
            if shown[sure[:, q], q].any()
        ]
        result[name] = float(np.mean(each)), average_precision(scores[sure], shown[sure])
    return result


def as_markdown(asked: int, scenes: int, marks: dict[str, dict[str, float]], ap: dict[str, tuple[float, float]]) -> str:
    """The tables of the page."""
    lines = [f"One-shot figures: mean IoU over {asked} questions. Presence: {scenes} scenes and 54 phrases.", ""]
    for table, rows in marks.items():
        lines += [f"| {table} | mean IoU |", "|---|---|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in rows.items()] + [""]
    lines += ["| presence score | mean AP of a phrase | AP of all pairs |", "|---|---|---|"]
    lines += [f"| {name} | {each:.3f} | {pooled:.3f} |" for name, (each, pooled) in ap.items()]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.tables", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/prompts.md")
    given = parser.parse_args()
    segmenter = Segmenter.load(given.model, dtype="fp32")
    marks, ap = one_shot(segmenter, questions(given.questions)), presence(segmenter, given.scenes)
    text = as_markdown(given.questions, given.scenes, marks, ap)
    if given.write:
        put(PAGE, text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
