"""Trains the bundled SAM: `python -m shapes.train_sam --out runs/sam`.

As in `shapes.train`, whose loop this is, training has two stages: images of 256 pixels, then images of 512 pixels.
`--resume` continues from the last checkpoint. `--start` begins a new run with the weights of an exported model.
"""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import Sam2Model

from clipseg_cli.model.segmenter import Segmenter
from shapes import sam_model
from shapes.sam_batches import FULL, SamBatch, SamBatchOptions, batches
from shapes.train import Recipe, Trainer, join, launch, parser, run

DEFAULT = Recipe(images=1, rate=1e-3, muon_rate=2e-3, small=0.5, fall=0.65, average=0.99)


class SamTrainer(Trainer):
    """The state of a SAM's training in one process."""

    sides = FULL // 2, FULL

    def __init__(self, rank: int, out: Path, recipe: Recipe, start: Path | None) -> None:
        self.rank, self.out, self.recipe, self.device = rank, out, recipe, "cpu"
        self.folder = out / "model" if rank == 0 else out / f"model-{rank}"
        model = sam_model.build(self.folder, recipe.seed)
        if start is not None:
            model.load_state_dict(Sam2Model.from_pretrained(start, dtype=torch.float32).state_dict())
        model.set_attn_implementation("sdpa")
        self.training = sam_model.SamTraining(model).train()
        self.average = copy.deepcopy(model).eval()
        self.segmenter = Segmenter.load("shapes", device="cpu")
        self.optimisers = create_optimisers(model)
        self.rates, self.weights = (recipe.muon_rate, recipe.rate), sam_model.LOSS_WEIGHTS
        self.begin()

    def stream(self, side: int, seed: int) -> Iterator[SamBatch]:
        """Returns batches of images of this side, from the present step on; twice as many of small ones."""
        images = self.recipe.images * (1 if side == FULL else 2)
        return batches(SamBatchOptions(side, images, seed=seed), self.segmenter, self.step)

    def prepare(self) -> None:
        """Prepares the model for images of the present side."""
        sam_model.set_side(self.training.model, self.side)
        for parameter in self.parameters:  # processes ask different questions, but average all gradients
            parameter.grad = torch.zeros_like(parameter)


def create_optimisers(model: Sam2Model) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices inside the transformers, and AdamW for the rest of the model."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inside = ".blocks." in name or ".transformer." in name
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    groups = [[{"params": each, "share": 1.0}] for each in (matrices, rest)]
    muon = partial(torch.optim.Muon, weight_decay=0.02, adjust_lr_fn="match_rms_adamw", ns_steps=4)
    return [muon(groups[0], lr=1.0), torch.optim.AdamW(groups[1], weight_decay=0.01, betas=(0.9, 0.98), eps=1e-7)]


def train(rank: int, out: Path, recipe: Recipe, resume: bool, start: Path | None) -> None:
    """Runs one process of a training. The first one writes out/model, out/checkpoint.pt and out/log.jsonl."""
    join(rank, out, recipe)
    run(SamTrainer(rank, out, recipe, start), resume)


def main() -> None:
    """Runs the command line."""
    launch(train, parser("python -m shapes.train_sam", __doc__, DEFAULT).parse_args())


if __name__ == "__main__":
    main()
