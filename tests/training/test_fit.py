"""Batches, replay and checks of a decoder in training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPSegForImageSegmentation

from checkpoints import write_checkpoint
from clipseg_cli.settings.flag import fill
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training.encoded_data import split
from clipseg_cli.training.fit import DICE, ENTROPY, PRESENCE, Fit, create_optimizers, new_loss, trainable
from labelled import encoded_data


def test_a_batch_follows_the_recipe() -> None:
    """Absent prompts have empty masks and are not among the image's; blends mix a prompt with an exemplar of it; no
    held-out image appears; the shares are those of the recipe."""
    data = encoded_data()
    recipe = Recipe(batch=4000, hold=0.2, absent=0.25, blend=0.5)
    fit = Fit(torch.nn.Linear(1, 1), data, recipe, "cpu", torch.float32)
    held_out, training = split(data, recipe)
    assert not set(data.image[held_out]) & set(data.image[training]) and len(held_out) == 8
    features, conditions, targets = fit.batch(np.random.default_rng(2))
    images = features.numpy()[:, 0, 0, 0].astype(int)
    assert not set(images) & set(data.image[held_out].tolist())
    pure = np.isin(conditions.numpy()[:, 0], np.arange(6) * 100)
    absent = 0
    for image, condition, target in zip(images[pure], conditions.numpy()[pure, 0], targets.numpy()[pure], strict=True):
        example = next((e for e in (2 * image, 2 * image + 1) if data.prompt[e] == condition / 100), None)
        if example is None or not np.array_equal(target > 0, data.target(example)):
            absent += 1
            assert not target.any() and condition / 100 != data.prompt[2 * image + 1]
    assert 0.15 < 1 - pure.mean() < 0.6 and 0.1 < absent / pure.sum() < 0.35


class FunctionDecoder(torch.nn.Module):
    """A decoder whose logits are a given function of image and condition."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.weight = function, torch.nn.Parameter(torch.zeros(1))

    def forward(self, activations: list[torch.Tensor], conditions: torch.Tensor) -> SimpleNamespace:
        """Returns logits (B, 8, 8)."""
        return SimpleNamespace(logits=self.function(activations[0][:, 0, 0].long(), conditions) + 0 * self.weight)


def test_replay_prefers_prompts_that_the_old_decoder_finds() -> None:
    """Where it finds one prompt in ten, far more of a batch are such prompts, but at most half are chosen for it."""
    old = np.full((40, 5), -5, np.float32)
    old[:4] = 5
    fit = Fit(
        FunctionDecoder(lambda _, conditions: conditions[:, :1, None].expand(-1, 8, 8)),
        replace(encoded_data(), replay=old),
        Recipe(batch=16),
        "cpu",
        torch.float32,
    )
    shares = []
    for seed in range(20):
        features, conditions, probabilities = fit.replay_batch(np.random.default_rng(seed))
        assert len(features) == len(conditions) == len(probabilities) == 16
        assert torch.equal(probabilities[:, 0, 0] > 0.5, conditions[:, 0] > 0)
        shares.append((conditions[:, 0] > 0).float().mean().item())
    assert np.mean(shares) > 0.25 and max(shares) <= 0.6


@pytest.mark.parametrize(("before", "after"), [(0.7, 0.7), (0.3, 0.3), (0.96, 0.88), (0.02, 0.12)])
def test_the_threshold_moves_no_further_than_needed(before: float, after: float) -> None:
    """With correct maps of 0.12 and 0.88 any threshold between is equal: the old one stays, or the nearest is taken."""
    data = encoded_data()

    def correct(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.from_numpy(data.target(2 * int(n) + 1)) * 4.0 - 2 for n in images])

    fit = Fit(FunctionDecoder(correct), data, Recipe(batch=4, hold=0.2), "cpu", torch.float32, before)
    score, threshold = fit.check()
    assert score > 0.9 and threshold == pytest.approx(after, abs=0.021)


def test_the_loss_of_a_new_decoder_is_its_three_terms() -> None:
    """By hand, for an object of one pixel and for an absent one."""
    logits, targets = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    logits[0, 0, 0], targets[0, 0, 0], logits[1, 1, 1] = 3.0, 1.0, 2.0

    def softplus(value: float) -> float:
        return float(np.log1p(np.exp(value)))

    entropy = (softplus(-3) + softplus(2) + 6 * softplus(0)) / 8
    inside = 1 / (1 + np.exp(-3))
    dice = (1 - (2 * inside + 1) / (inside + 1.5 + 1 + 1)) / 2  # the absent object has none
    presence = (softplus(-3) + softplus(2)) / 2
    assert new_loss(logits, targets).item() == pytest.approx(ENTROPY * entropy + DICE * dice + PRESENCE * presence)


def test_a_new_decoder_has_two_optimizers_and_a_rate_that_rises_first() -> None:
    """Every tensor is learned by exactly one of them. Other recipes have AdamW and its rate as in the paper."""
    decoder = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    new = fill(Recipe, {"from_clip": "some CLIP"})
    learned = [each for optimizer, _ in create_optimizers(decoder, new) for each in optimizer.param_groups[0]["params"]]
    assert sorted(map(id, learned)) == sorted(map(id, decoder.parameters()))
    assert [type(each).__name__ for each, _ in create_optimizers(decoder, new)] == ["Muon", "AdamW"]
    assert [type(each).__name__ for each, _ in create_optimizers(decoder, Recipe())] == ["AdamW"]
    assert new.rate_of(0) == pytest.approx(new.rate / 100) and new.rate_of(50) < new.rate_of(99) > new.rate_of(2500)
    assert new.rate_of(new.steps) == 0 < new.rate_of(new.steps - 1) < new.rate / 1000
    assert Recipe().rate_of(0) == Recipe().rate and Recipe().rate_of(2000) == pytest.approx(Recipe().rate / 10)


def test_a_new_decoder_gets_the_recipe_for_new_ones() -> None:
    """Unless another one is given; options that are given go before the recipe's."""
    given = {"from_clip": "some CLIP"}
    assert fill(Recipe, given).recipe == "new" and fill(Recipe, given).absent == 0.4
    assert fill(Recipe, given | {"recipe": "short"}) == Recipe() == fill(Recipe, {})
    assert fill(Recipe, given | {"recipe": "paper"}).steps == 20_000
    assert fill(Recipe, {"recipe": "new", "steps": 7}).steps == 7


def test_only_the_decoder_has_gradients(tmp_path: Path) -> None:
    """`trainable` freezes CLIP and no tensor of the decoder."""
    model = CLIPSegForImageSegmentation.from_pretrained(write_checkpoint(tmp_path))
    decoder = trainable(model)
    assert all(each.requires_grad for each in decoder.parameters())
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    assert names and all(name.startswith("decoder.") for name in names)
