"""Batches as in the paper's training: random crops of images, with prompts that blend text and exemplar.

The crops differ in every step, so no features can be kept: the images and the exemplars of every batch are encoded. The
rules are those of the authors' loader for PhraseCut+ (timojl/clipseg at 77c4e2d, `datasets/phrasecut.py`, with
`training.py` for the blend).
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipseg_cli.datasets import training_data
from clipseg_cli.datasets.training_data import Example
from clipseg_cli.errors import UsageError
from clipseg_cli.model import preprocess
from clipseg_cli.prompts import highlight
from clipseg_cli.run.engines.crew import cores
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training.absent import Absent

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

SHARE = 0.05  # of the image's area: what a crop should show of the object
TRIES = 50  # crops that are drawn for it
HELD_OUT = 250  # images at most for the checks, which decode all their prompts
TEXT = 0.5  # largest weight of the text in a blend with an exemplar


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One example of a batch."""

    image: NDArray[np.uint8]  # (S, S, 3)
    text: str  # the prompt in its sentence
    exemplar: NDArray[np.float32] | None  # (3, S, S): the visual prompt
    weight: float  # of the text
    target: NDArray[np.bool_]  # (S, S)


class Crops:
    """The batches of a training, from examples that are not held out. The same step number gives the same batch."""

    def __init__(
        self,
        segmenter: "Segmenter",
        examples: Sequence[Example],
        recipe: Recipe,
        templates: Sequence[str],
        dtype: torch.dtype,
    ) -> None:
        self.segmenter, self.examples, self.recipe, self.templates = segmenter, examples, recipe, templates
        self.dtype, self.side = dtype, segmenter.side
        # transformers' processor takes several times longer, and loaders that run Python code wait for each other
        self.preprocessing = replace(preprocess.read_preprocessing(segmenter.checkpoint.path), side=segmenter.side)
        self.showing: dict[str, list[Example]] = defaultdict(list)
        for example in examples:
            self.showing[example.prompt].append(example)
        self.prompts = list(self.showing)
        self.absent = Absent(self.prompts, range(len(self.prompts)))  # each prompt alike, as in the authors' loader
        self.number = {prompt: index for index, prompt in enumerate(self.prompts)}
        self.present: dict[Path, set[int]] = defaultdict(set)
        for example in examples:
            self.present[example.image].add(self.number[example.prompt])
        self.levels = torch.from_numpy(self.preprocessing.levels)
        self.loaders = ThreadPoolExecutor(cores())
        self.ahead: tuple[int, list[Future[Row]]] = (-1, [])

    def batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns features (B, layers, tokens, width), conditions (B, dim) and targets (B, S, S) of step `number`.

        The images of the next step are loaded meanwhile. Raises UsageError for files that cannot be read.
        """
        coming = self.ahead[1] if self.ahead[0] == number else self._load(number)
        rows = [each.result() for each in coming]
        self.ahead = (number + 1, self._load(number + 1) if number + 1 < self.recipe.steps else [])
        device = self.segmenter.device
        images = torch.from_numpy(np.stack([row.image for row in rows])).to(device)
        features, _ = self._encode(preprocess.normalise(images, self.levels.to(device)))
        conditions = self._embed([row.text for row in rows])
        shown = [index for index, row in enumerate(rows) if row.exemplar is not None]
        if shown:
            exemplars = np.stack([row.exemplar for row in rows if row.exemplar is not None])
            _, visual = self._encode(torch.from_numpy(exemplars).to(device))
            weight = torch.tensor([rows[index].weight for index in shown], device=device)[:, None]
            conditions[shown] = weight * conditions[shown] + (1 - weight) * visual
        targets = torch.from_numpy(np.stack([row.target for row in rows]))
        return features, conditions, targets.to(device).float()

    def _load(self, number: int) -> "list[Future[Row]]":
        return [self.loaders.submit(self.row, number, index) for index in range(self.recipe.batch)]

    def row(self, number: int, index: int) -> Row:
        """Returns example `index` of the batch of step `number`."""
        rng = np.random.default_rng([self.recipe.seed, 3, number, index])
        example = self.examples[int(rng.integers(len(self.examples)))]
        image, target = self.crop(example, rng)
        prompt = example.prompt
        if rng.random() < self.recipe.absent:
            other = self.absent.draw(self.number[prompt], self.present[example.image], rng)
            if other is not None:
                prompt, target = self.prompts[other], np.zeros_like(target)
        text = self.templates[int(rng.integers(len(self.templates)))].replace("{}", prompt)
        exemplar, weight = None, 1.0
        similar = self.showing[prompt]
        if len(similar) > 1 and rng.random() < self.recipe.blend:  # a single one would be the example itself
            support, mask = self.crop(similar[int(rng.integers(len(similar)))], rng)
            if mask.any():
                visual = highlight.crop_blur_dim(support, mask, self.side)
                exemplar, weight = np.ascontiguousarray(visual.transpose(2, 0, 1)), rng.uniform(0, TEXT)
        return Row(image, text, exemplar, weight, target)

    def crop(self, example: Example, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Returns a random square of an example's image, uint8 (S, S, 3), and of its mask, bool (S, S)."""
        photo = training_data.pixels(example.image)
        mask = example.mask(photo.shape[:2])
        y, x, side = crop_place(mask, rng)
        square = preprocess.resize(np.ascontiguousarray(photo[y : y + side, x : x + side]), self.preprocessing)
        part = mask[y : y + side, x : x + side].view(np.uint8)
        return square, cv2.resize(part, (self.side, self.side), interpolation=cv2.INTER_NEAREST).view(np.bool_)

    @torch.no_grad()
    def _encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features (N, layers, tokens, width) and embeddings (N, dim) of normalised images (N, 3, S, S)."""
        network: Any = self.segmenter.network
        model = network.model
        with self._precision():
            seen = model.clip.vision_model(pixels, output_hidden_states=True)
            features = torch.stack([seen.hidden_states[layer + 1] for layer in model.extract_layers], 1)
            return features, model.clip.visual_projection(seen.pooler_output).float()

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Returns the embeddings (N, dim) of N prompts. Prompts that are too long are cut off."""
        from clipseg_cli.model.reference import vector

        network: Any = self.segmenter.network
        length = self.segmenter.longest
        words = network.processor.tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        with self._precision():
            return vector(network.model.clip.get_text_features(**words.to(self.segmenter.device)))

    def _precision(self) -> Any:
        kind = torch.device(self.segmenter.device).type
        return torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32)


def hold_out(examples: Sequence[Example], recipe: Recipe) -> tuple[list[Example], list[Example]]:
    """Returns the examples of the images held out for checks, and those of all others. Raises UsageError."""
    images = list(dict.fromkeys(each.image for each in examples))
    count = min(max(2, round(recipe.hold * len(images))), HELD_OUT)
    chosen = np.random.default_rng([recipe.seed, 0]).permutation(len(images))[:count]
    held_out = {images[number] for number in chosen}
    checked, training = ([each for each in examples if (each.image in held_out) == wanted] for wanted in (True, False))
    if not training:
        raise UsageError("--recipe paper needs at least three images: two of them are for the checks")
    return checked, training


def crop_place(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[int, int, int]:
    """Returns top, left and side in pixels of a random square as large as fits into an image with this mask.

    Of TRIES squares, the first in which the object has more than SHARE of the image's area; else the one with most.
    """
    height, width = mask.shape
    side = min(height, width)
    most, best = -1, (0, 0, side)
    for _ in range(TRIES):
        y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        area = int(np.count_nonzero(mask[y : y + side, x : x + side]))
        if area > most:
            most, best = area, (y, x, side)
        if area > SHARE * mask.size:
            break
    return best
