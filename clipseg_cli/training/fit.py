"""A decoder fitted to lessons, CLIP being only its features. Every step is a function of the step's number and the
state before it, so that training can stop anywhere and go on to the same bits.
"""

import copy
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from clipseg_cli.errors import UsageError
from clipseg_cli.evaluation import metrics
from clipseg_cli.settings.training import Recipe

CHOICE = 4  # times as many old phrases are tried as are learned
SLACK = 0.01  # of mean IoU: thresholds that differ by less are as good


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """E examples of N pictures and P phrases, as the network sees them."""

    features: NDArray[np.float16]  # (N, layers, tokens, width): CLIP's activations, on disk
    targets: NDArray[np.uint8]  # (E, ceil(S * S / 8)): packed masks, on disk
    shown: NDArray[np.float32]  # (E, dim): the example as an exemplar; NaN where it has nothing to show
    image: NDArray[np.int64]  # (E,)
    phrase: NDArray[np.int64]  # (E,)
    texts: NDArray[np.float32]  # (P, K, dim): each phrase in K frames, itself the first
    old: NDArray[np.float32]  # (R, dim): phrases whose masks are to stay as they are
    side: int  # pixels, S

    def target(self, example: int) -> NDArray[np.bool_]:
        """bool (S, S)."""
        bits = np.unpackbits(self.targets[example], count=self.side**2)
        return bits.reshape(self.side, self.side).astype(bool)

    def there(self) -> NDArray[np.bool_]:
        """(E,): whether the example's phrase is true of any pixel."""
        return np.array([row.any() for row in self.targets])


class Fit:
    """A decoder in training. `decoder`: transformers' CLIPSegDecoder, changed in place. `threshold`: its own so far."""

    def __init__(
        self, decoder: Any, lessons: Lessons, recipe: Recipe, device: str, dtype: torch.dtype, threshold: float = 0.5
    ) -> None:
        self.decoder, self.lessons, self.recipe, self.threshold = decoder, lessons, recipe, threshold
        self.device, self.dtype = torch.device(device), dtype
        self.teacher = copy.deepcopy(decoder).eval()
        self.tool = torch.optim.AdamW(decoder.parameters(), lr=recipe.rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.held, self.kept = split(lessons, recipe)
        self.known: dict[int, set[int]] = defaultdict(set)  # picture: phrases that it has
        self.exemplars: dict[int, list[int]] = defaultdict(list)  # phrase: examples to show
        there = lessons.there()
        for example in self.kept:
            if there[example]:
                self.known[int(lessons.image[example])].add(int(lessons.phrase[example]))
            if np.isfinite(lessons.shown[example, 0]):
                self.exemplars[int(lessons.phrase[example])].append(int(example))

    def step(self, number: int) -> float:
        """Takes step `number`, from 0; returns its loss."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, number])
        features, conditions, targets = self.batch(rng)
        for group in self.tool.param_groups:
            fall = (1 + math.cos(math.pi * number / recipe.steps)) / 2
            group["lr"] = recipe.last_rate + (recipe.rate - recipe.last_rate) * fall
        self.decoder.train()
        self.tool.zero_grad(set_to_none=True)
        loss = F.binary_cross_entropy_with_logits(self.logits(self.decoder, features, conditions), targets)
        if len(self.lessons.old):
            seen, said, before = self.replayed(rng)
            kept = F.binary_cross_entropy_with_logits(self.logits(self.decoder, seen, said), before)
            loss = loss + recipe.replay_weight * kept
        scaled: Any = self.scaler.scale(loss)
        scaled.backward()
        self.scaler.step(self.tool)
        self.scaler.update()
        return float(loss.detach())

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, layers, tokens, width), conditions (B, dim) and targets (B, S, S) of random examples."""
        lessons, recipe = self.lessons, self.recipe
        examples = rng.choice(self.kept, recipe.batch)
        conditions, targets = [], []
        for example in examples:
            phrase, target = int(lessons.phrase[example]), lessons.target(example)
            lacked = [
                other for other in range(len(lessons.texts)) if other not in self.known[int(lessons.image[example])]
            ]
            if lacked and rng.random() < recipe.absent:
                phrase, target = lacked[rng.integers(len(lacked))], np.zeros_like(target)
            condition = lessons.texts[phrase, rng.integers(lessons.texts.shape[1])]
            if self.exemplars[phrase] and rng.random() < recipe.blend:
                share = np.float32(rng.random())
                peer = self.exemplars[phrase][rng.integers(len(self.exemplars[phrase]))]
                condition = share * condition + (1 - share) * lessons.shown[peer]
            conditions.append(condition)
            targets.append(target)
        return (
            torch.from_numpy(lessons.features[lessons.image[examples]]),
            torch.from_numpy(np.stack(conditions)),
            torch.from_numpy(np.stack(targets)).float().to(self.device),
        )

    @torch.no_grad()
    def replayed(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Features, conditions and the old decoder's probabilities (B, S, S) of old phrases on random pictures.

        Most phrases are of things that a picture lacks, so CHOICE times as many are tried: half of those that are
        learned are the ones that the old decoder is surest to see.
        """
        lessons, batch = self.lessons, self.recipe.batch
        seen = torch.from_numpy(lessons.features[rng.integers(len(lessons.features), size=CHOICE * batch)])
        said = torch.from_numpy(lessons.old[rng.integers(len(lessons.old), size=CHOICE * batch)])
        before = self.logits(self.teacher, seen, said).sigmoid()
        order = torch.argsort(before.flatten(1).amax(1), descending=True, stable=True).cpu()
        surest, rest = order[: batch // 2], order[batch // 2 :].sort().values[: batch - batch // 2]
        some = torch.cat([surest, rest])
        return seen[some], said[some], before[some.to(before.device)]

    def logits(self, decoder: Any, features: Tensor, conditions: Tensor) -> Tensor:
        """float32 (B, S, S)."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            activations = list(features.to(self.device).float().unbind(1))
            logits: Tensor = decoder(activations, conditions.to(self.device)).logits
        return logits.float()

    @torch.no_grad()
    def check(self) -> tuple[float, float]:
        """The mean IoU of the held-out examples at the best threshold; and of all that come within SLACK of it, the
        threshold nearest to the old one, which old phrases are used to."""
        self.decoder.eval()
        total = metrics.nothing(len(metrics.THRESHOLDS))
        for at in range(0, len(self.held), self.recipe.batch):
            some = self.held[at : at + self.recipe.batch]
            features = torch.from_numpy(self.lessons.features[self.lessons.image[some]])
            said = torch.from_numpy(self.lessons.texts[self.lessons.phrase[some], 0])
            maps = self.logits(self.decoder, features, said).sigmoid().cpu().numpy()
            for one, example in zip(maps, some, strict=True):
                truth = self.lessons.target(example)
                if truth.any():
                    total += metrics.count(one, truth).as_class()
        scores = metrics.miou(total)
        near = metrics.THRESHOLDS[scores >= scores.max() - SLACK]
        return float(scores.max()), float(near[np.argmin(np.abs(near - self.threshold))])

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""
        return {
            "decoder": {name: tensor.clone() for name, tensor in self.decoder.state_dict().items()},
            "tool": self.tool.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.decoder.load_state_dict(state["decoder"])
        self.tool.load_state_dict(state["tool"])
        self.scaler.load_state_dict(state["scaler"])


def split(lessons: Lessons, recipe: Recipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The examples for the checks and those to learn from; no picture is in both.

    Of the pictures that show something the same share is held as of the others, since a check is made of the former.
    Raises UsageError where fewer than two show anything.
    """
    shows = np.zeros(len(lessons.features), bool)
    shows[lessons.image[lessons.there()]] = True
    if shows.sum() < 2:
        raise UsageError("training needs at least two pictures whose masks are not empty: one to check by")
    order = np.random.default_rng([recipe.seed, 0]).permutation(len(shows))
    some, others = order[shows[order]], order[~shows[order]]
    least = min(len(some) - 1, max(1, round(recipe.hold * len(some))))
    held = np.isin(lessons.image, [*some[:least], *others[: round(recipe.hold * len(others))]])
    return np.flatnonzero(held), np.flatnonzero(~held)


def trainable(model: Any) -> nn.Module:
    """The decoder of transformers' CLIPSegForImageSegmentation, the rest of which is frozen. Attention in plain
    products, whose backward pass is twice as fast as the fused one on a processor."""
    model.set_attn_implementation("eager")
    model.requires_grad_(False)
    decoder: nn.Module = model.decoder
    return decoder.requires_grad_(True)
