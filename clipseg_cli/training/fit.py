"""Optimises and checks a decoder, on features that CLIP computed once or, for random crops, in every step.

Each step depends only on its number and the state before it, so training can stop at any step, resume, and end with
the same weights, bit for bit.
"""

import copy
import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from clipseg_cli.evaluation import metrics
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training.absent import Absent
from clipseg_cli.training.crops import Crops
from clipseg_cli.training.encoded_data import EncodedData, split

CANDIDATES = 4  # replayed prompts that are decoded for each one that is learned
ENTROPY, DICE, PRESENCE = 2.0, 0.5, 0.3  # weights of the terms of a new decoder's loss
MUON = 2.0  # learning rate of Muon, as a multiple of AdamW's
SLACK = 0.01  # of mean IoU: thresholds within this of the best count as equally good


class Fit:
    """A decoder in training.

    `decoder`: transformers' CLIPSegDecoder, changed in place. `threshold`: the model's threshold before training.
    `crops`: the batches to learn from; then all of `data` is held out. None: the batches are made of `data`.
    """

    def __init__(
        self,
        decoder: Any,
        data: EncodedData,
        recipe: Recipe,
        device: str,
        dtype: torch.dtype,
        threshold: float = 0.5,
        crops: Crops | None = None,
    ) -> None:
        self.decoder, self.data, self.recipe, self.threshold = decoder, data, recipe, threshold
        self.device, self.dtype = torch.device(device), dtype
        self.teacher = copy.deepcopy(decoder).eval()  # the decoder before training, for replay
        self.optimizers = create_optimizers(decoder, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.crops = crops
        everything = np.arange(len(data.image))
        self.held_out, self.training = split(data, recipe) if crops is None else (everything, everything[:0])
        self.absent = Absent(data.prompts, data.prompt[self.training].tolist(), near=True)
        self.present: dict[int, set[int]] = defaultdict(set)  # image: prompts of objects in it
        self.exemplars: dict[int, list[int]] = defaultdict(list)  # prompt: examples with an exemplar
        nonempty = data.nonempty()
        for example in self.training:
            if nonempty[example]:
                self.present[int(data.image[example])].add(int(data.prompt[example]))
            if np.isfinite(data.exemplars[example, 0]):
                self.exemplars[int(data.prompt[example])].append(int(example))

    def step(self, number: int) -> float:
        """Takes step `number`, counted from 0, and returns its loss."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, number])
        features, conditions, targets = self.batch(rng) if self.crops is None else self.crops.batch(number)
        self.decoder.train()
        for optimizer, factor in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * recipe.rate_of(number)
            optimizer.zero_grad(set_to_none=True)
        logits = self.logits(self.decoder, features, conditions)
        loss = new_loss(logits, targets) if recipe.is_new else F.binary_cross_entropy_with_logits(logits, targets)
        if len(self.data.replay):
            features, conditions, probabilities = self.replay_batch(rng)
            logits = self.logits(self.decoder, features, conditions)
            loss = loss + recipe.replay_weight * F.binary_cross_entropy_with_logits(logits, probabilities)
        scaled: Any = self.scaler.scale(loss)
        scaled.backward()
        for optimizer, _ in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return float(loss.detach())

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Returns features (B, layers, tokens, width), conditions (B, dim) and targets (B, S, S) of random examples."""
        data, recipe = self.data, self.recipe
        examples = rng.choice(self.training, recipe.batch)
        conditions, targets = [], []
        for example in examples:
            prompt, target = int(data.prompt[example]), data.target(example)
            if rng.random() < recipe.absent:
                other = self.absent.draw(prompt, self.present[int(data.image[example])], rng)
                if other is not None:
                    prompt, target = other, np.zeros_like(target)
            condition = data.texts[prompt, rng.integers(data.texts.shape[1])]
            if self.exemplars[prompt] and rng.random() < recipe.blend:
                share = np.float32(rng.random())
                exemplar = self.exemplars[prompt][rng.integers(len(self.exemplars[prompt]))]
                condition = share * condition + (1 - share) * data.exemplars[exemplar]
            conditions.append(condition)
            targets.append(target)
        return (
            torch.from_numpy(data.features[data.image[examples]]),
            torch.from_numpy(np.stack(conditions)),
            torch.from_numpy(np.stack(targets)).float().to(self.device),
        )

    @torch.no_grad()
    def replay_batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Returns features, conditions and the teacher's probabilities (B, S, S) for replayed prompts on random images.

        Most prompts are absent from a random image, so CANDIDATES times as many pairs are decoded. Half of the batch is
        the pairs with the highest probabilities; the other half is random.
        """
        data, batch = self.data, self.recipe.batch
        features = torch.from_numpy(data.features[rng.integers(len(data.features), size=CANDIDATES * batch)])
        conditions = torch.from_numpy(data.replay[rng.integers(len(data.replay), size=CANDIDATES * batch)])
        probabilities = self.logits(self.teacher, features, conditions).sigmoid()
        order = torch.argsort(probabilities.flatten(1).amax(1), descending=True, stable=True).cpu()
        highest, rest = order[: batch // 2], order[batch // 2 :].sort().values[: batch - batch // 2]
        chosen = torch.cat([highest, rest])
        return features[chosen], conditions[chosen], probabilities[chosen.to(probabilities.device)]

    def logits(self, decoder: Any, features: Tensor, conditions: Tensor) -> Tensor:
        """Returns the decoder's logits, float32 (B, S, S)."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            activations = list(features.to(self.device).float().unbind(1))
            logits: Tensor = decoder(activations, conditions.to(self.device)).logits
        return logits.float()

    @torch.no_grad()
    def maps(self, examples: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the soft maps of examples, float32 (B, S, S) in [0, 1], for their bare prompts."""
        self.decoder.eval()
        features = torch.from_numpy(self.data.features[self.data.image[examples]])
        conditions = torch.from_numpy(self.data.texts[self.data.prompt[examples], 0])
        maps: NDArray[np.float32] = self.logits(self.decoder, features, conditions).sigmoid().cpu().numpy()
        return maps

    def check(self) -> tuple[float, float]:
        """Returns the mean IoU of the held-out examples at the best threshold, and the threshold to use.

        Among thresholds within SLACK of the best, this is the nearest to the old one, which replayed prompts rely on.
        """
        total = metrics.nothing(len(metrics.THRESHOLDS))
        for start in range(0, len(self.held_out), self.recipe.batch):
            examples = self.held_out[start : start + self.recipe.batch]
            for soft, example in zip(self.maps(examples), examples, strict=True):
                target = self.data.target(example)
                if target.any():
                    total += metrics.count(soft, target).as_class()
        scores = metrics.miou(total)
        near = metrics.THRESHOLDS[scores >= scores.max() - SLACK]
        return float(scores.max()), float(near[np.argmin(np.abs(near - self.threshold))])

    def state(self) -> dict[str, Any]:
        """Returns everything that another process needs to resume."""
        return {
            "decoder": {name: tensor.clone() for name, tensor in self.decoder.state_dict().items()},
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores a state that `state` returned."""
        self.decoder.load_state_dict(state["decoder"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])


def create_optimizers(decoder: nn.Module, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, float]]:
    """Returns the optimizers, each with a factor of the learning rate: AdamW, as in the paper.

    For a new decoder, Muon has the matrices, and AdamW the rest.
    """
    if not recipe.is_new:
        return [(torch.optim.AdamW(decoder.parameters()), 1.0)]
    named = [*decoder.named_parameters()]
    matrices, rest = ([each for _, each in named if (each.ndim == 2) == wanted] for wanted in (True, False))
    muon = torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw", ns_steps=4)
    return [(muon, MUON), (torch.optim.AdamW(rest, betas=(0.9, 0.98)), 1.0)]


def new_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the loss of a new decoder, from `loss_terms`. logits, targets: float32 (B, S, S)."""
    entropy, dice, presence = loss_terms(logits.flatten(1), targets.flatten(1) > 0)
    return ENTROPY * entropy + DICE * dice + PRESENCE * presence


def loss_terms(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the cross entropy per pixel, the Dice loss of prompts with a target, and the presence loss.

    logits: float32 (B, n). targets: bool (B, n). Dice weighs small objects like large ones. The presence loss raises
    the highest logit within the target. Without a target it lowers the highest logit of all, so that the mask of an
    absent object is empty.
    """
    labels, present, soft = targets.float(), targets.any(1), logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, labels)
    overlap = (2 * (soft * labels).sum(1) + 1) / (soft.sum(1) + labels.sum(1) + 1)
    peak = torch.where(present[:, None] & ~targets, -math.inf, logits).amax(1)
    presence = F.softplus(torch.where(present, -peak, peak)).mean()
    return entropy, ((1 - overlap) * present).mean(), presence


def trainable(model: Any) -> nn.Module:
    """Returns the decoder of transformers' CLIPSegForImageSegmentation, ready to train, and freezes the rest."""
    model.requires_grad_(False)
    decoder: nn.Module = model.decoder
    return decoder.requires_grad_(True)
