"""The ground truth of the synthetic scenes is right, training works, and the bundled model segments such scenes."""

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer

from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts import recipes
from clipseg_cli.settings.training import Recipe as TrainingOptions
from shapes import (
    architecture,
    colours,
    evaluate,
    finetuning_benchmark,
    losses,
    prompt_benchmark,
    queries,
)
from shapes.batches import KINDS, BatchOptions, mirrored, training_batches
from shapes.clipart import draw_clipart
from shapes.evaluate import with_means
from shapes.evaluation_set import build_evaluation_set, predict, score
from shapes.markdown import replace_section, table
from shapes.outlines import posed
from shapes.scenes import DEFAULTS, Scene, SceneObject, SceneOptions, draw_scene, resized_square
from shapes.train import BatchStream, Recipe, data_loader, train
from shapes.training_model import LOSS_WEIGHTS, normalise
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, SHAPES, UNSEEN_NOUNS, all_words

WEIGHTS = Path(__file__).parent.parent / "clipseg_cli" / "model" / "weights" / "shapes"


def scenes(count: int, seed: int = 0, options: SceneOptions = DEFAULTS) -> list[Scene]:
    """Returns some scenes."""
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, options) for _ in range(count)]


def scene_object(**changes: object) -> SceneObject:
    """Returns a large plain red circle in the upper left, with changes."""
    values: dict[str, object] = {"shape": "circle", "colour": "red", "pattern": "plain", "second": ""}
    values |= {"extent": 0.4, "x": 0.2, "y": 0.3} | changes
    return SceneObject(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def new_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPSegForImageSegmentation, Path]:
    """An untrained model and its folder."""
    folder = tmp_path_factory.mktemp("new")
    return architecture.build(folder, seed=0).eval(), folder


@pytest.fixture(scope="module")
def many_scenes() -> list[Scene]:
    """Scenes that several tests look at."""
    return scenes(60, 5)


def test_the_same_seed_draws_the_same_scenes() -> None:
    """Images, instance maps and objects depend on the seed alone."""
    for a, b in zip(scenes(4, 7), scenes(4, 7), strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.instances, b.instances)
        assert a.objects == b.objects


def test_a_seed_draws_the_scene_that_it_always_drew() -> None:
    """The figures in the model card and in docs/ were measured on such scenes: kinds, patterns and pixels stay."""
    scene = scenes(1)[0]
    kinds = [f"{each.pattern} {each.colour} {each.shape}" for each in scene.objects]
    assert kinds == [
        "plain red crescent",
        "plain brown crescent",
        "dotted brown heart",
        "plain gray crescent",
        "striped gray arrow",
    ]
    pixels = [np.count_nonzero(scene.instances == number) for number in range(1, 6)]
    assert pixels == pytest.approx([291, 730, 2354, 253, 809], rel=0.02)


def test_every_object_is_visible_in_the_instance_map(many_scenes: list[Scene]) -> None:
    """The instance map numbers exactly the objects of the scene."""
    for scene in many_scenes:
        assert scene.image.shape[:2] == scene.instances.shape
        assert set(np.unique(scene.instances)) - {0} == set(range(1, len(scene.objects) + 1))


@pytest.mark.parametrize("draw", [draw_scene, draw_clipart])
def test_objects_have_the_colour_of_their_label(draw: object) -> None:
    """Plain objects called red are more red than green or blue on average, in scenes of both generators."""
    rng, count = np.random.default_rng(3), 0
    while count < 6:
        scene = draw(rng)  # type: ignore[operator]
        for index, each in enumerate(scene.objects):
            if each.colour == "red" and each.pattern == "plain":
                red, green, blue = scene.image[scene.instances == index + 1].reshape(-1, 3).mean(0)
                count += 1
                assert red > max(green, blue)


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_have_extent_one(shape: str) -> None:
    """The longer side of every outline is one, and the origin is its centre."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = np.concatenate(posed(shape, rng))
        low, high = points.min(0), points.max(0)
        assert (high - low).max() == pytest.approx(1)
        assert np.allclose(low + high, 0)


def test_a_ring_has_a_hole() -> None:
    """The pixels inside a ring are not the ring's."""
    for scene in scenes(5, 1, SceneOptions(first_kind=("ring", "red"), max_objects=1)):
        rows, columns = np.nonzero(scene.instances == 1)
        assert scene.instances[int(rows.mean()), int(columns.mean())] == 0


@pytest.mark.parametrize(
    ("query", "changes", "expected"),
    [
        ({"shape": "circle", "colour": "red"}, {}, True),
        ({"shape": "circle"}, {"shape": "oval"}, False),
        ({"colour": "white"}, {"second": "white"}, None),
        ({"size": "large"}, {}, True),
        ({"size": "large"}, {"extent": 0.25}, None),
        ({"size": "small"}, {}, False),
        ({"place": "left"}, {}, True),
        ({"place": "right"}, {}, False),
        ({"place": "left"}, {"x": 0.5}, None),
        ({"pattern": "striped"}, {}, False),
        ({"unknown": "cat"}, {}, False),
        ({}, {}, True),
    ],
)
def test_a_query_matches_an_object_or_not(
    query: dict[str, str], changes: dict[str, object], expected: bool | None
) -> None:
    """True, False, or None where a person would hesitate."""
    assert queries.matches(queries.Query(**query), scene_object(**changes)) is expected


def test_an_ambiguous_query_has_no_ground_truth() -> None:
    """One medium object is enough to make a query about sizes ambiguous for the scene."""
    objects = (scene_object(), scene_object(extent=0.25))
    scene = Scene(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), objects)
    assert queries.matching(queries.Query(size="large"), scene) is None
    assert queries.matching(queries.Query(colour="red"), scene) == [0, 1]


def test_mirroring_moves_objects_and_pixels(many_scenes: list[Scene]) -> None:
    """An object on the left is on the right of the mirrored scene, and so are its pixels."""
    scene = next(scene for scene in many_scenes if scene.objects)
    other = mirrored(scene, horizontally=True, vertically=False)
    assert other.objects[0].x == pytest.approx(1 - scene.objects[0].x)
    assert np.array_equal(other.instances[:, ::-1], scene.instances)


def check_held_out(drawn: list[Scene], batch_count: int) -> None:
    """Asserts that no held-out pair is in the scenes, nor in the prompts or the exemplars of training batches."""
    for scene in drawn:
        assert not {each.kind for each in scene.objects} & HELD_OUT_PAIRS
    batches = training_batches(BatchOptions(side=112, images=8, exemplars=3))
    for _ in range(batch_count):
        batch = next(batches)
        assert not {KINDS[kind] for kind in batch.kinds} & HELD_OUT_PAIRS
        for words in map(str.split, batch.texts):
            assert not any(shape in words and colour in words for shape, colour in HELD_OUT_PAIRS)
            assert not any(noun in words for noun in UNSEEN_NOUNS)


def test_held_out_pairs_are_neither_drawn_nor_named(many_scenes: list[Scene]) -> None:
    """Scenes, prompts and exemplars of training contain none of them, and prompts no unseen noun."""
    check_held_out(many_scenes, 2)


@pytest.mark.slow
def test_held_out_pairs_are_neither_drawn_nor_named_in_many_batches() -> None:
    """Scenes, prompts and exemplars of training contain none of them, and prompts no unseen noun."""
    check_held_out(scenes(150, 5), 12)


def test_batches_are_reproducible_and_their_targets_are_objects() -> None:
    """The same options give the same batch; no prompt means the background."""
    options = BatchOptions(side=112, images=6, exemplars=2, seed=4)
    first, again = (next(training_batches(options)) for _ in range(2))
    assert first.texts == again.texts
    assert torch.equal(first.images, again.images)
    assert not first.targets[:, 0].any()
    assert first.targets.any(1).float().mean() > 0.2


def test_a_loader_without_workers_draws_the_batches_itself() -> None:
    """Its batches are those of the options."""
    options = BatchOptions(side=112, images=3, exemplars=1, seed=4)
    loaded = next(iter(data_loader(BatchStream(options, 0), 0)))
    expected = next(training_batches(options))
    assert loaded.texts == expected.texts and torch.equal(loaded.images, expected.images)


@pytest.mark.slow
def test_each_worker_of_a_loader_draws_its_own_batches() -> None:
    """Two processes take turns. The first draws the batches of the seed, the second those of the next seed."""
    options = BatchOptions(side=112, images=6, exemplars=2, seed=4)
    batches = iter(data_loader(BatchStream(options, 0), 2))
    first, second = next(batches), next(batches)
    assert first.texts == next(training_batches(options)).texts
    assert second.texts == next(training_batches(replace(options, seed=5))).texts != first.texts


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_in_range(name: str) -> None:
    """RGB in 0..255."""
    rng = np.random.default_rng(0)
    drawn = np.stack([colours.sample(name, rng) for _ in range(50)])
    assert drawn.min() >= 0
    assert drawn.max() <= 255


def test_each_word_is_one_token_and_the_end_is_the_last(new_model: tuple[CLIPSegForImageSegmentation, Path]) -> None:
    """Only words outside the vocabulary are encoded in bytes."""
    model, folder = new_model
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for word in all_words():
        assert len(tokenizer(word).input_ids) == 3, word
    assert tokenizer.eos_token_id == model.config.text_config.eos_token_id == len(tokenizer) - 1
    assert len(tokenizer("zyzzyva").input_ids) == 9


def test_the_training_decoder_equals_that_of_transformers(new_model: tuple[CLIPSegForImageSegmentation, Path]) -> None:
    """It reduces activations once per image and gives the same logits, in the order of `patch_order`."""
    model = new_model[0]
    images, condition = torch.randn(2, 3, 224, 224), torch.randn(3, 128)
    image_of = torch.tensor([0, 1, 1])
    with torch.inference_mode():
        states, _ = architecture.encode(model, images)
        logits, _ = architecture.decode(model, states[:3], image_of, condition)
        vision = model.clip.vision_model(images, output_hidden_states=True)
        extracted = [vision.hidden_states[layer + 1][image_of] for layer in model.extract_layers]
        expected = model.decoder(extracted, condition).logits
    assert torch.allclose(logits, architecture.patch_order(expected), atol=1e-5)


def test_a_deeper_model_starts_with_the_outputs_of_a_shallower_one(tmp_path: Path) -> None:
    """Vision layers that the start model lacks change nothing at first, and learn: their gradient is not zero."""
    deep = architecture.build(tmp_path, seed=1).eval()
    config = copy.deepcopy(deep.config)
    config.vision_config.num_hidden_layers, config.extract_layers = 4, [0, 2, 3]
    start = CLIPSegForImageSegmentation(config).eval()
    architecture.copy_weights(deep, start)
    image, ids = torch.randn(1, 3, 224, 224), torch.tensor([[5, config.text_config.eos_token_id]])
    logits = [model(input_ids=ids, pixel_values=image).logits for model in (start, deep)]
    assert torch.equal(*logits)
    states, _ = architecture.encode(deep, image)
    (states[2] ** 2).sum().backward()
    new = deep.clip.vision_model.encoder.layers[1].mlp.fc2.weight
    assert not new.any() and new.grad is not None and new.grad.any()


def test_training_normalises_images_as_the_processor_does(new_model: tuple[CLIPSegForImageSegmentation, Path]) -> None:
    """For an image that is square already, only rounding differs."""
    processor = CLIPSegProcessor.from_pretrained(new_model[1], backend="pil")
    image = resized_square(scenes(1)[0], 224).image
    expected = processor(images=image, return_tensors="pt").pixel_values
    assert torch.allclose(normalise(torch.from_numpy(image)[None]), expected, atol=1e-5)


def test_the_bundled_model_is_small_and_complete() -> None:
    """Under ten megabytes, with a tokenizer, a processor and a model card."""
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 10e6
    config = json.loads((WEIGHTS / "config.json").read_text())
    assert config["architectures"] == ["CLIPSegForImageSegmentation"]
    assert (WEIGHTS / "README.md").read_text().startswith("---\nlicense")
    CLIPSegProcessor.from_pretrained(WEIGHTS, backend="pil")


def check_training(out: Path, steps: int) -> dict[str, object]:
    """Asserts that a training from the bundled weights left a log and a model; returns the last line of the log.

    Every loss term is finite, the decoder's inputs have kept their scale, the weights have changed, and transformers
    reads them.
    """
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert line["step"] == steps and line["rate"] == 0
    assert all(np.isfinite(line[name]) for name in LOSS_WEIGHTS) and line["scale"] < 0.05
    before, after = (CLIPSegForImageSegmentation.from_pretrained(folder) for folder in (WEIGHTS, out / "model"))
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    return line  # type: ignore[no-any-return]


def test_a_short_training_leaves_a_model_and_a_log(tmp_path: Path) -> None:
    """Two steps on full-size images, in this process, with scores on an evaluation set."""
    recipe = Recipe(steps=2, processes=1, images=3, small=0, warm=1)
    threads = torch.get_num_threads()
    try:
        train(0, tmp_path, recipe, resume=False, start=WEIGHTS, device="cpu", scenes=1)
    finally:
        torch.set_num_threads(threads)
    line = check_training(tmp_path, 2)
    assert line["side"] == 224 and "shape" in line["scores"]  # type: ignore[operator]


@pytest.mark.slow
def test_the_training_command_leaves_a_model_and_a_log(tmp_path: Path) -> None:
    """The documented command: three steps of both stages from the bundled weights, shared by two processes."""
    command = f"-m shapes.train --out {tmp_path} --start {WEIGHTS} --device cpu"
    command += " --steps 3 --processes 2 --images 4 --small 0.3 --scenes 0 --warm 1"
    subprocess.run([sys.executable, *command.split()], check=True, capture_output=True)
    assert check_training(tmp_path, 3)["side"] == 224


def test_the_scale_loss_is_zero_at_scale_one_and_grows_either_way() -> None:
    """A root mean square of e or of 1 / e costs the same: the squared logarithm of the mean square, 4."""
    even = torch.ones(2, 3, 4)
    states = [even, even * torch.e, -even / torch.e]
    assert torch.allclose(torch.stack([losses.scale_loss([each]) for each in states]), torch.tensor([0.0, 4.0, 4.0]))
    assert float(losses.scale_loss(states)) == pytest.approx(8 / 3)


def test_the_bundled_models_decoder_attends_to_several_tokens() -> None:
    """The inputs of its layers have a scale of about one, so their attention is not saturated."""
    model = CLIPSegForImageSegmentation.from_pretrained(WEIGHTS, attn_implementation="eager").float().eval()
    highest: list[float] = []
    for layer in model.decoder.layers:
        layer.self_attn.register_forward_hook(
            lambda _module, _given, output: highest.append(float(output[1].amax(-1).median()))
        )
    images = normalise(torch.from_numpy(np.stack([resized_square(scene, 224).image for scene in scenes(4)])))
    ids = CLIPTokenizer.from_pretrained(WEIGHTS)(["a red circle"], return_tensors="pt").input_ids
    with torch.inference_mode():
        states, _ = architecture.encode(model, images)
        condition = model.clip.get_text_features(ids).pooler_output.expand(4, -1)
        _, inputs = architecture.decode(model, states[:3], torch.arange(4), condition)
    assert all(0.5 < float(each.square().mean().sqrt()) < 2 for each in inputs)
    assert len(highest) == 3 and max(highest) < 0.5, highest


FLOORS = {
    "text": 0.75,
    "shape": 0.7,
    "unseen colour+shape": 0.7,
    "one-shot": 0.75,
    "absent": 0.85,
    "absent unknown noun": 0.95,
}


@pytest.mark.parametrize("images", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_the_bundled_model_segments_held_out_scenes(images: int) -> None:
    """Its scores reach these floors, which lie below the figures of the model card."""
    model = CLIPSegForImageSegmentation.from_pretrained(WEIGHTS).float().eval()
    held_out = build_evaluation_set(images, seed=77)
    scores = score(predict(model, CLIPTokenizer.from_pretrained(WEIGHTS), held_out), held_out)
    means = with_means(scores, held_out)
    for kind, floor in FLOORS.items():
        assert means[kind] >= floor, (kind, means)


@pytest.mark.slow
def test_the_evaluation_writes_the_model_card(tmp_path: Path) -> None:
    """A row per kind of question with both styles, and the threshold in config.json, where `clipseg` reads it."""
    shutil.copytree(WEIGHTS, tmp_path / "model")
    figures = evaluate.evaluate(tmp_path / "model", scenes=4, clipart=2)
    evaluate.write_card(tmp_path / "model", figures)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| text | mean IoU |" in card and "| absent | share of empty masks |" in card
    assert json.loads((tmp_path / "model" / "config.json").read_text())["clipseg_threshold"] == figures["threshold"]


def test_a_section_of_a_page_is_replaced(tmp_path: Path) -> None:
    """The text between the marks is new, the rest of the page stays."""
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- figures -->\nold\n<!-- end of figures -->\nend\n")
    replace_section(page, table(("a", "b"), [("1", 2)]))
    expected = "# Title\n<!-- figures -->\n| a | b |\n|---|---|\n| 1 | 2 |\n<!-- end of figures -->\nend\n"
    assert page.read_text() == expected


def test_the_fine_tuning_data_shows_the_new_object(tmp_path: Path) -> None:
    """Images and masks pair up, bolts are teal, and held-out data also has masks of the known labels."""
    finetuning_benchmark.draw_data(tmp_path, 5, seed=8, known=True)
    labels = {path.name for path in (tmp_path / "masks").iterdir()}
    assert labels == {finetuning_benchmark.NEW_LABEL, *finetuning_benchmark.KNOWN_LABELS}
    bolts = 0
    for path in sorted((tmp_path / "images").iterdir()):
        masks = {
            label: cv2.imread(str(tmp_path / "masks" / label / path.name), cv2.IMREAD_GRAYSCALE) for label in labels
        }
        bolt = masks[finetuning_benchmark.NEW_LABEL] > 0
        assert all(set(np.unique(mask)) <= {0, 255} for mask in masks.values())
        if bolt.any():
            bolts += 1
            red, green, blue = cv2.imread(str(path))[bolt].mean(0)[::-1]
            assert max(abs(red - 18), abs(green - 112), abs(blue - 112)) < 30
    assert bolts > 0


@pytest.mark.slow
def test_the_fine_tuning_benchmark_trains_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`shapes.finetuning_benchmark` scores the model before and after, for the new label and for the known ones."""
    monkeypatch.setattr(finetuning_benchmark, "RECIPE", TrainingOptions(steps=2, batch=2, check=1))
    finetuning_benchmark.draw_data(tmp_path / "train", 4, seed=7, known=False)
    finetuning_benchmark.draw_data(tmp_path / "held-out", 4, seed=8, known=True)
    text = finetuning_benchmark.measure(tmp_path, "shapes", [0.0])
    assert "| label | before | without `--replay` |" in text
    assert "| a teal bolt (new) |" in text and "| 5 known labels, mean |" in text
    monkeypatch.setattr(finetuning_benchmark, "COUNTS", (6,))
    text = finetuning_benchmark.measure_few(tmp_path, "shapes")
    assert "| images | `--augment off` | `--augment on` |" in text and "| 6 | 0." in text


def test_every_way_to_use_exemplars_is_scored() -> None:
    """`shapes.prompt_benchmark` scores every recipe, number of exemplars and blend. Its AP equals the definition."""
    segmenter = Segmenter.load("shapes", device="cpu", dtype="fp32")
    marks = prompt_benchmark.one_shot(segmenter, prompt_benchmark.one_shot_questions(2))
    assert list(marks["recipe"]) == list(recipes.RECIPES) and marks["exemplars"]["1"] == marks["text share"]["0.0"]
    assert all(0 <= value <= 1 for rows in marks.values() for value in rows.values())
    rng = np.random.default_rng(5)
    scores, shown = rng.normal(size=40), rng.random(40) < 0.3
    order = sorted(range(40), key=lambda index: -scores[index])
    hits = [sum(shown[order[: rank + 1]]) / (rank + 1) for rank in range(40) if shown[order[rank]]]
    assert prompt_benchmark.average_precision(scores, shown) == pytest.approx(np.mean(hits))
