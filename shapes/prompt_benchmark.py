"""Compares prompts and presence scores on held-out scenes: `python -m shapes.prompt_benchmark` prints the tables.

`--write` puts them into docs/prompts.md. Exemplar recipes, numbers of exemplars and blends with text are scored by mean
IoU. Presence scores are scored by average precision: how well each ranks the images that show an object first.
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
from clipseg_cli.prompts import highlight, recipes
from clipseg_cli.run.network import cosines
from shapes import queries
from shapes.batches import exemplar_scene
from shapes.markdown import replace_section, table
from shapes.scenes import Scene, SceneOptions, draw_scene
from shapes.vocabulary import COLOURS, SHAPES

PAGE = Path(__file__).parent.parent / "docs" / "prompts.md"
ONE_SHOT_SEED, PRESENCE_SEED = 5_000_011, 6_000_023
EXEMPLARS = (1, 3, 5)
TEXT_SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)  # weight of the text in a blend
PAIRS = 30  # prompts with shape and colour for the presence scores; each shape and each colour alone comes on top


@dataclass(frozen=True)
class OneShotQuestion:
    """An object to segment by exemplars or text. exemplars: images, each with the mask of its object."""

    scene: Scene
    ground_truth: NDArray[np.bool_]
    text: str
    exemplars: tuple[tuple[NDArray[np.uint8], NDArray[np.bool_]], ...]


def one_shot_questions(count: int) -> list[OneShotQuestion]:
    """Returns questions about one shape and colour in a scene each, with exemplars from other scenes."""
    rng = np.random.default_rng(ONE_SHOT_SEED)
    questions: list[OneShotQuestion] = []
    while len(questions) < count:
        scene = draw_scene(rng)
        if not scene.objects:
            continue
        target = scene.objects[int(rng.integers(len(scene.objects)))]
        query = queries.Query(shape=target.shape, colour=target.colour)
        indices = queries.matching(query, scene)
        if not indices or queries.is_held_out(query):
            continue
        scenes = [exemplar_scene(target.kind, rng, SceneOptions()) for _ in range(max(EXEMPLARS))]
        exemplars = tuple((each.image, each.instances == 1) for each in scenes)
        mask = queries.ground_truth(indices, scene.instances)
        questions.append(OneShotQuestion(scene, mask, queries.as_prompt(query, rng), exemplars))
    return questions


def conditional_embeddings(
    segmenter: Segmenter, question: OneShotQuestion
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Returns the conditional embedding for each row of each table, keyed by (table, row)."""

    def mean_embedding(recipe: str, count: int) -> NDArray[np.float32]:
        images = [highlight.highlight(*each, recipe, segmenter.side) for each in question.exemplars[:count]]
        embeddings = [segmenter.embed_images(image.transpose(2, 0, 1)[None]).values[0] for image in images]
        return np.asarray(np.mean(embeddings, 0), np.float32)

    default, text = mean_embedding("crop-blur-dim", 1), segmenter.embed([question.text]).values[0]
    rows = {("recipe", name): mean_embedding(name, 1) for name in recipes.RECIPES}
    rows |= {("exemplars", str(count)): mean_embedding("crop-blur-dim", count) for count in EXEMPLARS}
    blends = {share: np.float32(share) * text + np.float32(1 - share) * default for share in TEXT_SHARES}
    return rows | {("text share", str(share)): blend for share, blend in blends.items()}


def one_shot(segmenter: Segmenter, questions: list[OneShotQuestion]) -> dict[str, dict[str, float]]:
    """Returns the mean IoU of each row of each table."""
    scores: dict[str, dict[str, list[float]]] = {}
    for question in questions:
        rows = conditional_embeddings(segmenter, question)
        features = segmenter.encode([question.scene.image])
        logits = segmenter.logits(features, Embeddings(np.stack([*rows.values()])))[0]
        for (name, row), row_logits in zip(rows, logits, strict=True):
            expected = question.ground_truth
            mask = soft_maps.cut(soft_maps.upsample(row_logits, *expected.shape), segmenter.threshold) > 0
            iou = (mask & expected).sum() / max(1, (mask | expected).sum())
            scores.setdefault(name, {}).setdefault(row, []).append(float(iou))
    return {name: {row: float(np.mean(values)) for row, values in rows.items()} for name, rows in scores.items()}


PresenceScore = Callable[[NDArray[np.float32], float], float]  # of logits (S, S) and the model's threshold
PRESENCE_SCORES: dict[str, PresenceScore] = {
    "maximum probability (`score`)": lambda logits, _: float(soft_maps.sigmoid(logits).max()),
    "mean probability (`mean`)": lambda logits, _: float(soft_maps.sigmoid(logits).mean()),
    "share of pixels above the threshold": lambda logits, t: float((soft_maps.sigmoid(logits) > t).mean()),
    "**mean of the highest 0.2 % (`presence`)**": lambda logits, _: soft_maps.presence(logits),
    "mean of the highest 1 %": lambda logits, _: soft_maps.presence(logits, 0.01),
    "mean of the highest 5 %": lambda logits, _: soft_maps.presence(logits, 0.05),
}
SIMILARITY = "CLIP's image-prompt cosine (`similarity`)"


def average_precision(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Returns the mean, over the positives, of the precision at their rank."""
    ranked = positive[np.argsort(-scores, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def presence(segmenter: Segmenter, scenes: int) -> dict[str, tuple[float, float]]:
    """Returns for each presence score the mean of the average precisions per prompt, and that of all pairs of image and
    prompt in one ranking."""
    rng = np.random.default_rng(PRESENCE_SEED)
    drawn: list[Scene] = []
    while len(drawn) < scenes:
        if (scene := draw_scene(rng)).objects:
            drawn.append(scene)
    kinds = sorted({each.kind for scene in drawn for each in scene.objects})
    picked = [kinds[index] for index in rng.permutation(len(kinds))[:PAIRS]]
    scored_queries = [queries.Query(shape=shape) for shape in SHAPES] + [
        queries.Query(colour=colour) for colour in COLOURS
    ]
    scored_queries += [queries.Query(shape=shape, colour=colour) for shape, colour in picked]
    embeddings = segmenter.embed([queries.as_prompt(query, rng) for query in scored_queries])
    answers = [[queries.matching(query, scene) for query in scored_queries] for scene in drawn]
    known = np.array([[answer is not None for answer in row] for row in answers])
    positive = np.array([[bool(answer) for answer in row] for row in answers])
    result = {}
    for name, values in presence_scores(segmenter, drawn, embeddings).items():
        per_prompt = [
            average_precision(values[known[:, column], column], positive[known[:, column], column])
            for column in range(len(scored_queries))
            if positive[known[:, column], column].any()
        ]
        result[name] = float(np.mean(per_prompt)), average_precision(values[known], positive[known])
    return result


def presence_scores(
    segmenter: Segmenter, scenes: list[Scene], embeddings: Embeddings
) -> dict[str, NDArray[np.float64]]:
    """Returns the value of each presence score: float64 (scenes, prompts)."""
    values: dict[str, list[list[float]]] = {name: [] for name in [*PRESENCE_SCORES, SIMILARITY]}
    for scene in scenes:
        features = segmenter.encode([scene.image], pooled=True)
        assert features.pooled is not None
        logits = segmenter.logits(features, embeddings)[0]
        for name, score in PRESENCE_SCORES.items():
            values[name].append([score(each, segmenter.threshold) for each in logits])
        values[SIMILARITY].append(list(map(float, cosines(embeddings.values, features.pooled[0]))))
    return {name: np.array(rows) for name, rows in values.items()}


def as_markdown(
    questions: int, scenes: int, one_shot: dict[str, dict[str, float]], presence: dict[str, tuple[float, float]]
) -> str:
    """Returns the section of the page."""
    prompts = len(SHAPES) + len(COLOURS) + PAIRS
    words = f"One-shot: mean IoU over {questions} questions. Presence scores: {scenes} scenes and {prompts} prompts."
    tables = [
        table((name, "mean IoU"), [(row, f"{value:.3f}") for row, value in rows.items()])
        for name, rows in one_shot.items()
    ]
    rows = [(name, f"{mean:.3f}", f"{pooled:.3f}") for name, (mean, pooled) in presence.items()]
    head = ("presence score", "mean AP per prompt", "AP of all pairs")
    return "\n\n".join([words, *tables, table(head, rows)])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.prompt_benchmark", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/prompts.md")
    arguments = parser.parse_args()
    segmenter = Segmenter.load(arguments.model, dtype="fp32")
    one_shot_scores = one_shot(segmenter, one_shot_questions(arguments.questions))
    presence_results = presence(segmenter, arguments.scenes)
    text = as_markdown(arguments.questions, arguments.scenes, one_shot_scores, presence_results)
    if arguments.write:
        replace_section(PAGE, text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
