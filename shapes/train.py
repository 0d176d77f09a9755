"""Trains the bundled model: `python -m shapes.train --out runs/shapes`.

Training has two stages: images of 112 pixels, in which objects keep their pixel size and a step is four times cheaper,
then images of 224 pixels. The learning rate rises, stays constant and falls to zero. Each step is shared by two
processes of one thread, which on two cores is faster than one process with two threads. On a GPU use one process and
several `--workers` that draw the batches. Runs are seeded and write a checkpoint every few minutes. `--resume`
continues from the last one. `--start` begins a new run with the weights of an exported model, which may have fewer
vision layers, and with the heads of the checkpoint in its run folder, if there is one.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from shapes import architecture
from shapes.batches import Batch, BatchOptions, training_batches
from shapes.evaluation_set import EvaluationSet, build_evaluation_set, predict, score
from shapes.optimisers import HEADS_RATE, create_optimisers
from shapes.training_model import LOSS_WEIGHTS, TrainingModel

SMALL, FULL = 112, 224  # pixels: the sides of the two stages
DETACHED_STEPS = 300  # of new heads on a trained vision tower, before their gradients reach it
LOG_STEPS = 50  # steps between two lines of the log
CHECKPOINT_SECONDS = 180
EVALUATION_SECONDS = 420
EVALUATION_SEED = 1_000_003


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    minutes: its duration; 0 for `steps` steps. images: of a batch, per process.
    workers: processes that draw batches for each training process; 0: it draws them itself, between steps.
    small: the share of the run in the small stage. fall: the share, at the end, in which the learning rate falls.
    warm: steps in which it rises. average: decay of the moving average of the weights, which is the result.
    """

    minutes: float = 0.0
    steps: int = 4000
    processes: int = 2
    images: int = 12
    workers: int = 0
    rate: float = 1.5e-3
    muon_rate: float = 2.5e-3
    small: float = 0.6
    fall: float = 0.5
    warm: int = 100
    average: float = 0.995
    seed: int = 0


class BatchStream(IterableDataset[Batch]):
    """Training batches for a DataLoader. Each worker process draws its own."""

    def __init__(self, options: BatchOptions, first_step: int) -> None:
        self.options, self.first_step = options, first_step

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        seed = self.options.seed + (worker.id if worker else 0)
        return training_batches(replace(self.options, seed=seed), self.first_step)


def data_loader(stream: BatchStream, workers: int) -> DataLoader[Batch]:
    """Returns a loader whose worker processes draw batches ahead; with 0 workers they are drawn on demand.

    Workers are forked by a server where that exists: a spawned worker that ends with a half-sent batch may abort.
    """
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = method if workers else None
    return DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=context)


def rate_factor(step: int, progress: float, recipe: Recipe) -> float:
    """Returns the factor of the learning rate: rising over the first steps, then 1, falling to zero at the end."""
    return max(0.0, min(1.0, (step + 1) / recipe.warm, (1 - progress) / recipe.fall))


def average_gradients(parameters: list[nn.Parameter], progress: float) -> float:
    """Averages the gradients over all processes, in place; returns the first process's `progress`."""
    if dist.get_world_size() == 1:
        return progress
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    dist.all_reduce(flat)
    at = 0
    for parameter in parameters:
        parameter.grad = flat[at : at + parameter.numel()].view_as(parameter) / dist.get_world_size()
        at += parameter.numel()
    shared = torch.tensor([progress], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)


class Trainer:
    """The state of a run in one process: model, optimisers, step, and progress in [0, 1]."""

    sides = SMALL, FULL

    def __init__(self, rank: int, out: Path, recipe: Recipe, start: Path | None, device: str) -> None:
        self.rank, self.out, self.recipe, self.device = rank, out, recipe, device
        self.folder = out / "model" if rank == 0 else out / f"model-{rank}"
        model = architecture.build(self.folder, recipe.seed)
        if start is not None:
            source = CLIPSegForImageSegmentation.from_pretrained(start, dtype=torch.float32)
            architecture.copy_weights(model, source)
        model.set_attn_implementation("eager")  # on a CPU its backward pass is twice as fast as the fused one
        self.tokenizer = CLIPTokenizer.from_pretrained(self.folder)
        self.training = TrainingModel(model, self.tokenizer).to(device).train()
        self.new_heads = start is not None and not (start.parent / "checkpoint.pt").exists()
        if start is not None and not self.new_heads:
            self.training.heads.load_state_dict(self.heads_of(start.parent))
        self.average = copy.deepcopy(model).eval()
        self.optimisers = create_optimisers(self.training, recipe.muon_rate, recipe.rate)
        self.rates, self.weights = (recipe.muon_rate, recipe.rate, HEADS_RATE), LOSS_WEIGHTS
        self.begin()

    def begin(self) -> None:
        """Sets the run to its first step."""
        self.parameters = list(self.training.parameters())
        self.step, self.progress, self.side = 0, 0.0, 0
        self.batches: Iterator[Any] = iter(())
        self.began = time.monotonic()

    def heads_of(self, run: Path) -> dict[str, Tensor]:
        """Returns the weights of the heads in another run's checkpoint."""
        state = torch.load(run / "checkpoint.pt", map_location=self.device, weights_only=True)["training"]
        return {name.removeprefix("heads."): value for name, value in state.items() if name.startswith("heads.")}

    def save(self) -> None:
        """Writes the checkpoint, atomically, and exports the averaged model in half precision."""
        state = {"training": self.training.state_dict(), "average": self.average.state_dict()}
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        torch.save(state | {"done": (self.step, self.progress)}, self.out / "checkpoint.tmp")
        os.replace(self.out / "checkpoint.tmp", self.out / "checkpoint.pt")
        copy.deepcopy(self.average).half().save_pretrained(self.folder)

    def load(self) -> None:
        """Continues from the run's checkpoint."""
        state: dict[str, Any] = torch.load(self.out / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.training.load_state_dict(state["training"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.progress = state["done"]

    def start_clock(self) -> None:
        """Starts the time of the run; after `load`, the time that is left of it."""
        self.began = time.monotonic() - self.progress * self.recipe.minutes * 60

    def next_batch(self) -> Any:
        """Returns a batch of the present stage."""
        side = self.sides[0] if self.progress < self.recipe.small else self.sides[1]
        if side != self.side:
            self.side = side
            self.batches = self.stream(side, self.recipe.seed + 1000 * self.rank)
        return next(self.batches)

    def stream(self, side: int, seed: int) -> Iterator[Any]:
        """Returns batches of images of this side, from the present step on."""
        recipe = self.recipe
        options = BatchOptions(side, images=recipe.images, exemplars=recipe.images * 3 // 8, seed=seed)
        return iter(data_loader(BatchStream(options, self.step), recipe.workers))

    def advance(self) -> tuple[dict[str, Tensor], float]:
        """Makes one step; returns its loss terms and the factor of the learning rate."""
        recipe = self.recipe
        batch = self.next_batch()
        self.prepare()
        terms = self.training(batch)
        loss = sum(self.weights[name] * term for name, term in terms.items())
        torch.autograd.backward(torch.as_tensor(loss))
        if recipe.minutes:
            progress = (time.monotonic() - self.began) / (recipe.minutes * 60)
        else:
            progress = (self.step + 1) / recipe.steps
        self.progress = average_gradients(self.parameters, progress)
        finite = bool(nn.utils.clip_grad_norm_(self.parameters, 1.0).isfinite())
        factor = rate_factor(self.step, self.progress, recipe)
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor * group["share"]
            if finite:  # otherwise the step is skipped
                optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.rank == 0:
            self.update_average()
        return terms, factor

    def prepare(self) -> None:
        """Prepares the model for the present step."""
        self.training.detach_heads = self.new_heads and self.step < DETACHED_STEPS

    @torch.no_grad()
    def update_average(self) -> None:
        """Moves the averaged weights towards the present ones; faster at first."""
        decay = min(self.recipe.average, self.step / (self.step + 20))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.training.model.parameters()), 1 - decay)


class Log:
    """Writes out/log.jsonl: the mean loss terms since the last line and, at times, scores on an evaluation set."""

    def __init__(self, path: Path, evaluation_set: EvaluationSet | None) -> None:
        self.path, self.evaluation_set = path, evaluation_set
        self.written = self.evaluated = time.monotonic()
        self.totals: dict[str, Tensor | int] = {}
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        """Adds the loss terms of a step."""
        self.count += 1
        for name, term in terms.items():
            self.totals[name] = self.totals.get(name, 0) + term.detach()

    def write(self, trainer: Trainer, factor: float) -> None:
        """Writes a line."""
        now, last = time.monotonic(), trainer.progress >= 1
        line: dict[str, Any] = {"step": trainer.step, "progress": round(trainer.progress, 4), "side": trainer.side}
        line |= {"rate": round(factor, 3), "seconds_per_step": round((now - self.written) / self.count, 3)}
        line |= {name: round(float(total) / self.count, 4) for name, total in self.totals.items()}
        self.totals, self.count, self.written = {}, 0, now
        if self.evaluation_set is not None and (now - self.evaluated > EVALUATION_SECONDS or last):
            soft_maps = predict(trainer.average, trainer.tokenizer, self.evaluation_set)
            line["scores"] = score(soft_maps, self.evaluation_set)
            self.evaluated = self.written = time.monotonic()
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def train(rank: int, out: Path, recipe: Recipe, resume: bool, start: Path | None, device: str, scenes: int) -> None:
    """Runs one process of a training. The first one writes out/model, out/checkpoint.pt and out/log.jsonl.

    scenes: of the evaluation during the run; 0 for none.
    """
    join(rank, out, recipe)
    trainer = Trainer(rank, out, recipe, start, device)
    run(trainer, resume, build_evaluation_set(scenes, EVALUATION_SEED) if rank == 0 and scenes else None)


def join(rank: int, out: Path, recipe: Recipe) -> None:
    """Joins the processes of a training, each with one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rendezvous = f"file://{(out / 'rendezvous').absolute()}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=recipe.processes)


def run(trainer: Trainer, resume: bool, evaluation_set: EvaluationSet | None = None) -> None:
    """Trains to the end, in one of the joined processes."""
    if resume:
        trainer.load()
    dist.barrier()
    trainer.start_clock()
    log, saved = Log(trainer.out / "log.jsonl", evaluation_set), time.monotonic()
    while trainer.progress < 1:
        terms, factor = trainer.advance()
        if trainer.rank:
            continue
        log.add(terms)
        now, last = time.monotonic(), trainer.progress >= 1
        if trainer.step % LOG_STEPS == 0 or last:
            log.write(trainer, factor)
        if now - saved > CHECKPOINT_SECONDS or last:
            trainer.save()
            saved = now
    dist.destroy_process_group()


def parser(program: str, description: str | None, default: Recipe) -> argparse.ArgumentParser:
    """Returns the command line of a training with this recipe: the program's own options may be added."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--out", type=Path, required=True, help="folder of the run")
    made.add_argument("--resume", action="store_true", help="continue from the run's last checkpoint")
    made.add_argument(
        "--start", type=Path, help="folder of a model (runs/NAME/model) to start from (default: random weights)"
    )
    for name, value in vars(default).items():
        made.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    return made


def launch(function: Callable[..., None], given: argparse.Namespace, *others: object) -> None:
    """Calls function(rank, out, recipe, resume, start, *others) in each process of a training."""
    recipe = Recipe(**{name: getattr(given, name) for name in vars(Recipe())})
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "rendezvous").unlink(missing_ok=True)
    spawn(function, (given.out, recipe, given.resume, given.start, *others), nprocs=recipe.processes)


def main() -> None:
    """Runs the command line."""
    line = parser("python -m shapes.train", __doc__, Recipe())
    line.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    line.add_argument("--scenes", type=int, default=60, help="scenes of the evaluation during the run; 0: none")
    given = line.parse_args()
    launch(train, given, given.device, given.scenes)


if __name__ == "__main__":
    main()
