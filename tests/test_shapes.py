"""The drawn world tells the truth about its scenes, and the bundled model knows that world."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer

from shapes import architecture, colours, losses, phrases
from shapes.clipart import draw_clipart
from shapes.evaluate import summary
from shapes.exam import draw_exam, scored, soft_maps
from shapes.lessons import KINDS, Plan, flipped, lessons
from shapes.train import WEIGHTS as LOSSES
from shapes.train import Lessons, pixels, reading
from shapes.vocabulary import COLOURS, HELD_OUT_PAIRS, SHAPES, UNHEARD_STRANGERS, all_words
from shapes.world import Manner, Scene, Thing, draw_scene, squared

WEIGHTS = Path(__file__).parent.parent / "clipseg_cli" / "model" / "weights" / "shapes"


def scenes(count: int, seed: int = 0, manner: Manner = Manner()) -> list[Scene]:  # noqa: B008
    """Some scenes of the world."""
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, manner) for _ in range(count)]


def thing(**changes: object) -> Thing:
    """A large plain red circle in the upper left, with changes."""
    facts: dict[str, object] = {"shape": "circle", "colour": "red", "pattern": "plain", "second": ""}
    facts |= {"extent": 0.4, "x": 0.2, "y": 0.3} | changes
    return Thing(**facts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def new_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPSegForImageSegmentation, Path]:
    """An untrained model and its folder."""
    folder = tmp_path_factory.mktemp("new")
    return architecture.build(folder, seed=0).eval(), folder


def test_the_same_seed_draws_the_same_scenes() -> None:
    """Pictures, owners and things are a function of the seed."""
    for a, b in zip(scenes(4, 7), scenes(4, 7), strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.owners, b.owners)
        assert a.things == b.things


def test_every_thing_is_seen_and_owns_pixels_of_its_own() -> None:
    """The owners' map numbers exactly the things of the scene."""
    for scene in scenes(30):
        assert scene.image.shape[:2] == scene.owners.shape
        assert set(np.unique(scene.owners)) - {0} == set(range(1, len(scene.things) + 1))


@pytest.mark.parametrize("draw", [draw_scene, draw_clipart])
def test_the_truth_of_a_colour_has_that_colour(draw: object) -> None:
    """Pixels of plain things called red are redder than green or blue, in the mean, by both hands."""
    rng, seen = np.random.default_rng(3), 0
    for _ in range(150):
        scene = draw(rng)  # type: ignore[operator]
        for index, one in enumerate(scene.things):
            if one.colour == "red" and one.pattern == "plain":
                red, green, blue = scene.image[scene.owners == index + 1].reshape(-1, 3).mean(0)
                seen += 1
                assert red > max(green, blue)
    assert seen > 5


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_have_the_extent_that_is_asked_for(shape: str) -> None:
    """The longer side of every posed outline is one, about the origin."""
    from shapes.outlines import posed

    rng = np.random.default_rng(0)
    for _ in range(20):
        points = np.concatenate(posed(shape, rng))
        low, high = points.min(0), points.max(0)
        assert (high - low).max() == pytest.approx(1)
        assert np.allclose(low + high, 0)


def test_a_ring_has_a_hole() -> None:
    """The pixels inside a ring are not the ring's."""
    rng = np.random.default_rng(1)
    for _ in range(5):
        scene = draw_scene(rng, Manner(first=("ring", "red"), most=1))
        rows, columns = np.nonzero(scene.owners == 1)
        assert scene.owners[int(rows.mean()), int(columns.mean())] == 0


@pytest.mark.parametrize(
    ("query", "changes", "answer"),
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
        ({"stranger": "cat"}, {}, False),
        ({}, {}, True),
    ],
)
def test_what_a_phrase_means(query: dict[str, str], changes: dict[str, object], answer: bool | None) -> None:
    """True, false, or in doubt where a person would hesitate."""
    assert phrases.matches(phrases.Query(**query), thing(**changes)) is answer


def test_a_phrase_in_doubt_is_not_asked() -> None:
    """One middling thing is enough to leave a phrase about sizes without a truth."""
    scene = Scene(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), (thing(), thing(extent=0.25)))
    assert phrases.denoted(phrases.Query(size="large"), scene) is None
    assert phrases.denoted(phrases.Query(colour="red"), scene) == [0, 1]


def test_mirroring_moves_the_places() -> None:
    """What was on the left is on the right of the mirrored picture, and so are its pixels."""
    scene = next(scene for scene in scenes(20) if scene.things)
    other = flipped(scene, across=True, down=False)
    assert other.things[0].x == pytest.approx(1 - scene.things[0].x)
    assert np.array_equal(other.owners[:, ::-1], scene.owners)


def test_held_out_pairs_are_neither_drawn_nor_named() -> None:
    """Nothing of them in the scenes, the prompts or the exemplars of training."""
    for scene in scenes(150, 5):
        assert not {one.kind for one in scene.things} & HELD_OUT_PAIRS
    stream = lessons(Plan(side=112, pictures=8, exemplars=3))
    forbidden = [(shape, colour) for shape, colour in HELD_OUT_PAIRS]
    for _ in range(12):
        lesson = next(stream)
        pairs = {KINDS[kind] for kind in lesson.kinds}
        assert not pairs & HELD_OUT_PAIRS
        for text in lesson.texts:
            assert not any(shape in text.split() and colour in text.split() for shape, colour in forbidden)
            assert not any(word in text.split() for word in UNHEARD_STRANGERS)


def test_lessons_repeat_and_their_answers_are_things() -> None:
    """The same plan gives the same lesson; no prompt means the ground."""
    first, again = (next(lessons(Plan(side=112, pictures=6, exemplars=2, seed=4))) for _ in range(2))
    assert first.texts == again.texts
    assert torch.equal(first.images, again.images)
    assert not first.meant[:, 0].any()
    assert first.meant.any(1).float().mean() > 0.2


def test_readers_draw_the_plans_lessons_each_its_own() -> None:
    """Two processes give the lessons of two seeds in turn, the first one's those that are drawn without any."""
    plan = Plan(side=112, pictures=6, exemplars=2, seed=4)
    read = iter(reading(Lessons(plan, 0), 2))
    one, other = next(read), next(read)
    assert one.texts == next(iter(Lessons(plan, 0))).texts
    assert other.texts == next(lessons(replace(plan, seed=5))).texts != one.texts


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_in_range(name: str) -> None:
    """RGB in 0..255."""
    rng = np.random.default_rng(0)
    drawn = np.stack([colours.sample(name, rng) for _ in range(50)])
    assert drawn.min() >= 0
    assert drawn.max() <= 255


def test_each_word_is_one_token_and_the_end_is_the_last(new_model: tuple[CLIPSegForImageSegmentation, Path]) -> None:
    """The tokenizer spells strangers in bytes and nothing else."""
    model, folder = new_model
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for word in all_words():
        assert len(tokenizer(word).input_ids) == 3, word
    assert tokenizer.eos_token_id == model.config.text_config.eos_token_id == len(tokenizer) - 1
    assert len(tokenizer("zyzzyva").input_ids) == 9


def test_many_prompts_at_once_are_transformers_decoder(new_model: tuple[CLIPSegForImageSegmentation, Path]) -> None:
    """The training decoder reduces once per picture and gives the same logits, in folded order."""
    model = new_model[0]
    image, condition = torch.randn(2, 3, 224, 224), torch.randn(3, 128)
    owner = torch.tensor([0, 1, 1])
    with torch.inference_mode():
        states, _ = architecture.encode(model, image)
        got, _ = architecture.decode(model, states[:3], owner, condition)
        vision = model.clip.vision_model(image, output_hidden_states=True)
        kept = [vision.hidden_states[layer + 1][owner] for layer in model.extract_layers]
        expected = model.decoder(kept, condition).logits
    assert torch.allclose(got, architecture.unfold(expected), atol=1e-5)


def test_a_deeper_model_begins_with_a_shallower_ones_answers(tmp_path: Path) -> None:
    """Vision layers that the start lacks change nothing at first, and learn: their gradient is not zero."""
    deep = architecture.build(tmp_path, seed=1).eval()
    config = copy.deepcopy(deep.config)
    config.vision_config.num_hidden_layers, config.extract_layers = 4, [0, 2, 3]
    start = CLIPSegForImageSegmentation(config).eval()
    architecture.adopt(deep, start)
    image, ids = torch.randn(1, 3, 224, 224), torch.tensor([[5, config.text_config.eos_token_id]])
    logits = [model(input_ids=ids, pixel_values=image).logits for model in (start, deep)]
    assert torch.equal(*logits)
    states, _ = architecture.encode(deep, image)
    (states[2] ** 2).sum().backward()
    new = deep.clip.vision_model.encoder.layers[1].mlp.fc2.weight
    assert not new.any() and new.grad is not None and new.grad.any()


def test_training_sees_pixels_as_the_processor_does(new_model: tuple[CLIPSegForImageSegmentation, Path]) -> None:
    """A picture that is square already differs by rounding only."""
    processor = CLIPSegProcessor.from_pretrained(new_model[1], backend="pil")
    image = squared(scenes(1)[0], 224).image
    expected = processor(images=image, return_tensors="pt").pixel_values
    assert torch.allclose(pixels(torch.from_numpy(image)[None]), expected, atol=1e-5)


def test_the_bundled_model_is_small_and_complete() -> None:
    """Half precision, under ten megabytes, with a tokenizer, a processor and a card."""
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 10e6
    config = json.loads((WEIGHTS / "config.json").read_text())
    assert config["architectures"] == ["CLIPSegForImageSegmentation"]
    assert (WEIGHTS / "README.md").read_text().startswith("---\nlicense")
    CLIPSegProcessor.from_pretrained(WEIGHTS, backend="pil")


def test_a_training_leaves_a_model_and_its_log(tmp_path: Path) -> None:
    """The documented command, a few steps of it from the bundled weights: every term is finite, the weights have moved,
    what the decoder reads has kept its size, and transformers reads the result."""
    line = f"-m shapes.train --out {tmp_path} --start {WEIGHTS} --device cpu"
    line += " --steps 4 --processes 1 --pictures 4 --exam 0 --warm 1"
    subprocess.run([sys.executable, *line.split()], check=True, capture_output=True)
    (told,) = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert told["step"] == 4 and told["rate"] == 0
    assert all(np.isfinite(told[name]) for name in LOSSES) and told["loudness"] < 0.05
    before, after = (CLIPSegForImageSegmentation.from_pretrained(folder) for folder in (WEIGHTS, tmp_path / "model"))
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_loudness_is_none_at_size_one_and_grows_either_way() -> None:
    """Root mean square e or 1 / e is as loud as it is quiet: the squared logarithm of the mean square, 4."""
    even = torch.ones(2, 3, 4)
    sizes = [even, even * torch.e, -even / torch.e]
    assert torch.allclose(torch.stack([losses.loudness([each]) for each in sizes]), torch.tensor([0.0, 4.0, 4.0]))
    assert float(losses.loudness(sizes)) == pytest.approx(8 / 3)


def test_the_decoder_of_the_bundled_model_looks_around() -> None:
    """What its layers read has size one, so that their attention is not saturated: most tokens see several others."""
    model = CLIPSegForImageSegmentation.from_pretrained(WEIGHTS, attn_implementation="eager").float().eval()
    seen: list[float] = []
    for layer in model.decoder.layers:
        layer.self_attn.register_forward_hook(lambda _module, _given, out: seen.append(float(out[1].amax(-1).median())))
    image = pixels(torch.from_numpy(np.stack([squared(scene, 224).image for scene in scenes(4)])))
    ids = CLIPTokenizer.from_pretrained(WEIGHTS)(["a red circle"], return_tensors="pt").input_ids
    with torch.inference_mode():
        states, _ = architecture.encode(model, image)
        condition = model.clip.get_text_features(ids).pooler_output.expand(4, -1)
        _, inputs = architecture.decode(model, states[:3], torch.arange(4), condition)
    assert all(0.5 < float(each.square().mean().sqrt()) < 2 for each in inputs)
    assert len(seen) == 3 and max(seen) < 0.5, seen


def test_the_bundled_model_knows_its_world() -> None:
    """Floors under the figures of the model card, on a few held-out scenes."""
    model = CLIPSegForImageSegmentation.from_pretrained(WEIGHTS).float().eval()
    exam = draw_exam(40, seed=77)
    marks = summary(scored(soft_maps(model, CLIPTokenizer.from_pretrained(WEIGHTS), exam), exam, 0.5), exam)
    for kind, floor in FLOORS.items():
        assert marks[kind] >= floor, (kind, marks)


FLOORS = {
    "text": 0.75,
    "shape": 0.7,
    "unseen colour+shape": 0.7,
    "one-shot": 0.75,
    "absent": 0.85,
    "absent stranger": 0.95,
}
