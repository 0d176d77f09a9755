"""`--recipe paper`: batches of random crops, as in the paper's training."""

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoints import write_clip
from clipseg_cli.datasets import training_data
from clipseg_cli.errors import ModelError, UsageError
from clipseg_cli.model import registry
from clipseg_cli.model.checkpoint_files import CLIP
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.settings.flag import fill
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.training import NewDecoder, Recipe
from clipseg_cli.training import new_decoder
from clipseg_cli.training.crops import SHARE, TEXT, Crops, crop_place, hold_out
from clipseg_cli.training.train import PAPERS, TEMPLATES, Progress, train
from pictures import Program
from shapes.phrasecut_data import write_phrasecut

Start = tuple[Path, Path]  # a plain CLIP and a data set in PhraseCut's layout


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A small random CLIP, and twelve drawn scenes."""
    root = tmp_path_factory.mktemp("paper")
    return write_clip(root / "clip"), write_phrasecut(root / "VGPhraseCut_v0", {"train": 12, "test": 2})


@pytest.fixture(scope="module")
def segmenter(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    """The CLIP with a new decoder, for images of 64 pixels."""
    planned = new_decoder.plan(
        registry.locate(str(start[0]), kinds=(CLIP,)), NewDecoder(from_clip=str(start[0]), side=64)
    )
    made = new_decoder.write(planned, 0, tmp_path_factory.mktemp("made") / "model")
    return Segmenter.load(made, device="cpu", dtype="fp32", backend="transformers")


def paper(**given: object) -> Recipe:
    """Returns the paper's recipe with other values for some options, as the command line does."""
    return fill(Recipe, {"recipe": "paper"} | given)


def run(start: Start, out: Path, recipe: Recipe, data: Path | None = None) -> list[Progress]:
    """Trains a new decoder on the CPU to the end, for images of 64 pixels."""
    new = NewDecoder(from_clip=str(start[0]), side=64)
    return list(train(data or start[1], out, ModelOptions(device="cpu", dtype="fp32"), recipe, (), PAPERS, new))


def test_the_recipe_sets_what_is_not_given() -> None:
    """20,000 steps of 64, every prompt blended if it can be; an option that is given stays, equal to a default or not.

    The sentences are the paper's nine, without the bare prompt.
    """
    assert (paper().steps, paper().batch, paper().blend, paper().absent) == (20_000, 64, 1.0, 0.2)
    assert (paper().rate_of(0), paper().rate_of(20_000)) == (1e-3, pytest.approx(1e-4))
    assert (paper(steps=2000).steps, paper(batch=3).batch, paper(steps=2000).batch) == (2000, 3, 64)
    assert (Recipe().steps, fill(Recipe, {}).steps, fill(Recipe, {"recipe": "short"}).batch) == (2000, 2000, 32)
    assert len(PAPERS) == 9 and {"{}", *PAPERS} == set(TEMPLATES)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (50, 50), (12, 30)])
def test_a_crop_is_the_largest_square_and_keeps_the_object(shape: tuple[int, int]) -> None:
    """It has SHARE of the image's area of the object if any square that was drawn has; otherwise the most of all.

    Without an object any square will do.
    """
    rng = np.random.default_rng(0)
    mask = np.zeros(shape, bool)
    mask[: max(shape[0] // 3, 1), : max(shape[1] // 3, 1)] = True
    side, places = min(shape), set()
    for _ in range(60):
        y, x, size = crop_place(mask, rng)
        assert size == side and y + side <= shape[0] and x + side <= shape[1]
        assert mask[y : y + side, x : x + side].sum() > SHARE * mask.size
        places.add((y, x))
    assert len(places) > 5 or shape[0] == shape[1]
    tiny = np.zeros((20, 400), bool)
    tiny[10, 10] = True  # in one square of 35, so that one of 50 mostly shows it
    seen = sum(tiny[y : y + 20, x : x + 20].sum() for y, x, _ in (crop_place(tiny, rng) for _ in range(40)))
    assert seen > 20
    assert crop_place(np.zeros((8, 8), bool), rng) == (0, 0, 8)


def test_a_row_follows_the_papers_recipe(start: Start, segmenter: Segmenter) -> None:
    """Its crop and its mask show the same place. A share of the prompts is absent, with an empty mask, and the data
    does not list them for the image. Exemplars are visual prompts of other examples of the prompt. The text has at
    most half of the weight, and all of it if the prompt has a single example."""
    examples = training_data.read(start[1])
    crops = Crops(segmenter, examples, paper(batch=1, absent=0.3), PAPERS, torch.float32)
    absent, weights = 0, []
    for number in range(120):
        row = crops.row(number, 0)
        again = crops.row(number, 0)
        assert again.text == row.text and np.array_equal(again.image, row.image)
        prompt = next(p for p in crops.showing if any(row.text == sentence.replace("{}", p) for sentence in PAPERS))
        assert row.image.shape == (64, 64, 3) and row.target.shape == (64, 64)
        absent += not row.target.any()
        if row.target.any():
            assert len(crops.showing[prompt]) >= 1
        assert (row.exemplar is None) == (len(crops.showing[prompt]) == 1)
        if row.exemplar is None:
            assert row.weight == 1
        else:
            assert row.exemplar.shape == (3, 64, 64)
            weights.append(row.weight)
    assert 18 <= absent <= 60
    assert 0 <= min(weights) < 0.1 and 0.4 < max(weights) <= TEXT


def test_a_crop_shows_the_image_where_the_mask_is(tmp_path: Path, segmenter: Segmenter) -> None:
    """In an image whose object is white and whose rest is black, crop and mask are the same."""
    image = np.zeros((60, 140, 3), np.uint8)
    cv2.circle(image, (90, 30), 22, (255, 255, 255), -1)
    for folder, array in (("images", image), ("masks/disc", image[..., 0])):
        (tmp_path / folder).mkdir(parents=True)
        assert cv2.imwrite(str(tmp_path / folder / "a.png"), array)
    examples = training_data.read(tmp_path)
    crops = Crops(segmenter, examples, paper(), PAPERS, torch.float32)
    for seed in range(10):
        square, mask = crops.crop(examples[0], np.random.default_rng(seed))
        assert ((square[..., 0] > 127) == mask).mean() > 0.97 and 0.1 < mask.mean() < 0.6


def test_a_batch_is_what_its_rows_say(start: Start, segmenter: Segmenter) -> None:
    """Features and conditions equal those of the Segmenter for one image and prompt at a time."""
    examples = training_data.read(start[1])
    crops = Crops(segmenter, examples, paper(batch=6), PAPERS, torch.float32)
    features, conditions, targets = crops.batch(4)
    assert not np.allclose(features[0].numpy(), crops.batch(5)[0][0].numpy())
    for index in range(6):
        row = crops.row(4, index)
        expected = segmenter.encode([row.image]).tensor[0]
        np.testing.assert_allclose(features[index].numpy(), expected.numpy(), atol=1e-4)
        condition = segmenter.embed([row.text]).values[0] * row.weight
        if row.exemplar is not None:
            condition = condition + (1 - row.weight) * segmenter.embed_images(row.exemplar[None]).values[0]
        np.testing.assert_allclose(conditions[index].numpy(), condition, atol=1e-4)
        assert np.array_equal(targets[index].numpy() > 0, row.target)


def test_no_held_out_image_is_learned_from(start: Start) -> None:
    """At least two are held out, at most 250; a set of two images is too small."""
    examples = training_data.read(start[1])
    for hold in (0.0, 0.5):
        checked, training = hold_out(examples, paper(hold=hold))
        images = [{each.image for each in part} for part in (checked, training)]
        assert len(images[0]) == max(2, round(12 * hold)) and not images[0] & images[1]
        assert len(checked) + len(training) == len(examples)
    few = [each for each in examples if each.image in sorted({each.image for each in examples})[:2]]
    with pytest.raises(UsageError, match="at least three images"):
        hold_out(few, paper())


def test_the_recipe_trains_and_tells_the_time_left(start: Start, tmp_path: Path, clipseg: Program) -> None:
    """From a plain CLIP and PhraseCut's files to a model, in one command. What needs kept features is refused."""
    line = f"clipseg train {start[1]} --from-clip {start[0]} --recipe paper --size 32 --device cpu --hold 0.2"
    (tmp_path / "old.txt").write_text("a cat\n")
    assert "keeps none" in clipseg(f"{line} -o out --replay old.txt", expect=2).stderr
    assert "--augment on needs" in clipseg(f"{line} -o out --augment on", expect=2).stderr
    assert not (tmp_path / "out").exists()
    done = clipseg(f"{line} -o out --steps 4 -b 3 --check 2")
    assert done.stdout == "out\n" and "features 2 of 2 images" in done.stderr
    assert "step 2 of 4: loss" in done.stderr and "1 min left" in done.stderr
    log = [json.loads(row) for row in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [0, 2, 4] and not (tmp_path / "out/.train").exists()
    segmenter = Segmenter.load(str(tmp_path / "out"), device="cpu", dtype="fp32")
    assert segmenter.decode(segmenter.encode([np.zeros((40, 50, 3), np.uint8)]), ["circle"]).shape == (1, 1, 32, 32)


def test_checks_need_an_object(start: Start, tmp_path: Path) -> None:
    """If no held-out image shows one, training is refused before its first step."""
    for name in ("images", "masks/disc"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            assert cv2.imwrite(str(tmp_path / "data" / name / f"{number}.png"), np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(UsageError, match="held out for the checks shows an object"):
        run(start, tmp_path / "out", paper(), tmp_path / "data")


def test_a_loss_that_is_not_a_number_ends_the_training(start: Start, tmp_path: Path) -> None:
    """The error says so, and the new model has the weights of the best check, which are whole."""
    with pytest.raises(ModelError, match=r"step \d+ is not a number.*best check, of step 0"):
        run(start, tmp_path / "out", paper(steps=9, batch=2, check=9, rate=1e30))
    decoder = load_file(tmp_path / "out/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in decoder.values())


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(start: Start, tmp_path: Path) -> None:
    """SIGKILL while it learns, at two places between checks: byte for byte the weights of a training without."""
    command = [
        sys.executable,
        "-m",
        "clipseg_cli",
        "train",
        str(start[1]),
        "--from-clip",
        str(start[0]),
        "--size",
        "64",
    ]
    command += ["--recipe", "paper", "--device", "cpu", "--steps", "40", "-b", "4", "--check", "8", "--dtype", "fp32"]
    subprocess.run([*command, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "killed"
    for checks in (2, 4):
        process = subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        log = out / "train.jsonl"
        while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= checks):
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
    subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
