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
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training.encoded_data import split
from clipseg_cli.training.fit import Fit, trainable
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


def test_only_the_decoder_has_gradients(tmp_path: Path) -> None:
    """`trainable` freezes CLIP and no tensor of the decoder."""
    model = CLIPSegForImageSegmentation.from_pretrained(write_checkpoint(tmp_path))
    decoder = trainable(model)
    assert all(each.requires_grad for each in decoder.parameters())
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    assert names and all(name.startswith("decoder.") for name in names)
