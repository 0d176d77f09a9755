"""Drawn data in PhraseCut's layout, and the paper's recipe on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from clipseg_cli.datasets import training_data
from clipseg_cli.settings.flag import fill
from clipseg_cli.settings.training import Recipe
from shapes import phrasecut_data, queries, recipe_benchmark
from shapes.evaluate import MODEL
from shapes.scenes import draw_scene


def test_drawn_phrases_and_their_polygons_are_right(tmp_path: Path) -> None:
    """The polygons give the pixels of the objects that a phrase means, holes included, and boxes that have an area.

    Phrases have no article, and none names a pair of shape and colour that the bundled model never saw.
    """
    data = phrasecut_data.write_phrasecut(tmp_path / "data", {"train": 12, "test": 1})
    rng, found, rings = np.random.default_rng(phrasecut_data.SEEDS["train"]), 0, 0
    examples = {(each.image.stem, each.prompt): each for each in training_data.read(data)}
    for number in range(12):
        scene = draw_scene(rng)
        for phrase, indices in phrasecut_data.phrases(scene, rng):
            expected = queries.ground_truth(indices, scene.instances)
            mask = examples[str(number), phrase].mask(expected.shape)
            assert np.count_nonzero(mask != expected) <= 0.01 * expected.sum() + 2, phrase
            assert not {"a", "an"} & set(phrase.split())
            found, rings = found + 1, rings + any(scene.objects[index].shape == "ring" for index in indices)
    assert found == len(examples) > 30 and rings > 0
    tasks = json.loads((data / "refer_train.json").read_text())
    assert all(width * height > 0 for task in tasks for _, _, width, height in task["instance_boxes"])


def test_the_plain_clip_has_the_bundled_towers(tmp_path: Path) -> None:
    """Its tensors are those of the bundled model, which it has no decoder of."""
    clip = phrasecut_data.write_clip(tmp_path / "clip")
    tensors, bundled = (load_file(folder / "model.safetensors") for folder in (clip, MODEL))
    towers = {name for name in bundled if name.startswith("clip.")}
    assert {f"clip.{name}" for name in tensors} == towers
    assert all((tensors[name.removeprefix("clip.")] == bundled[name].float()).all() for name in towers)


@pytest.mark.slow
def test_the_papers_recipe_learns_scenes(tmp_path: Path) -> None:
    """A short form of the benchmark: in 120 steps of 8, a new decoder learns more of what phrases mean in other scenes
    than before its first step, and it is scored in each row of the table."""
    phrasecut_data.write_phrasecut(tmp_path / "VGPhraseCut_v0", {"train": 60, "test": 3})
    phrasecut_data.write_clip(tmp_path / "clip")
    recipe = fill(Recipe, recipe_benchmark.RECIPE | {"steps": 120, "batch": 8, "check": 60, "hold": 0.2})
    recipe_benchmark.fit(tmp_path, "refined", recipe)
    log = [json.loads(line) for line in (tmp_path / "refined/train.jsonl").read_text().splitlines()]
    assert log[-1]["best"] > log[0]["miou"] + 0.03, log
    scores = recipe_benchmark.score(tmp_path / "refined", tmp_path / "VGPhraseCut_v0", 3)
    assert all(0 <= scores[name] <= 1 for name in recipe_benchmark.ROWS.values()) and scores["phrasecut"] > 0
    assert recipe_benchmark.as_markdown({"new": scores}).count("\n") == 2 + len(recipe_benchmark.ROWS)
