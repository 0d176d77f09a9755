"""Trains the bundled model: `python -m shapes.train --out runs/shapes`.

Two stages: small pictures at the full pixel scale (112 px, four times cheaper), then full ones (224 px).
The learning rate rises, holds, and falls to zero. Two processes share each step, one thread each, which on two cores
is faster than one process with two; on a GPU one process trains and `--readers` processes draw. Seeded; a checkpoint
every few minutes; `--resume` goes on from the last one, and `--start` begins a new run with the weights of an exported
model, which may have fewer vision layers, and with the heads of the run that it lies in.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
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

from shapes import architecture, losses
from shapes.exam import draw_exam, marks
from shapes.lessons import Lesson, Plan, lessons

WEIGHTS = {"entropy": 4.0, "dice": 1.4, "presence": 0.7, "contrast": 0.2, "patch": 0.1, "loudness": 0.02}
HEADS_RATE = 1.5e-3
USUAL = 0.1  # root mean square of a new matrix of the decoder
APART = 300  # steps in which new heads learn what a trained tower tells, before the tower learns from them


@dataclass(frozen=True)
class Recipe:
    """Numbers of a run.

    minutes: its length, at which the rate is zero; 0 counts `steps` instead. pictures: of a step, per process.
    readers: processes that draw lessons for each of them; 0: it draws its own, between steps.
    small: the share of the run on small pictures. fall: the share of it, at the end, over which the rate falls.
    """

    minutes: float = 0.0
    steps: int = 4000
    processes: int = 2
    pictures: int = 12
    readers: int = 0
    rate: float = 1.5e-3
    muon_rate: float = 2.5e-3
    small: float = 0.6
    fall: float = 0.5
    warm: int = 100
    average: float = 0.995
    seed: int = 0


class Lessons(IterableDataset[Lesson]):
    """`lessons` for a DataLoader, each of whose processes draws others."""

    def __init__(self, plan: Plan, first: int) -> None:
        self.plan, self.first = plan, first

    def __iter__(self) -> Iterator[Lesson]:
        cv2.setNumThreads(1)
        reader = get_worker_info()
        return lessons(replace(self.plan, seed=self.plan.seed + (reader.id if reader else 0)), self.first)


def reading(source: Lessons, readers: int) -> DataLoader[Lesson]:
    """Lessons drawn ahead by as many processes; by none, when they are asked for.

    A spawned reader that ends takes its interpreter down with a lesson half sent, and may abort; the children of a
    fork server simply exit.
    """
    ways = get_all_start_methods()
    way = "forkserver" if "forkserver" in ways else "spawn"
    return DataLoader(source, batch_size=None, num_workers=readers, multiprocessing_context=way if readers else None)


def pixels(images: Tensor) -> Tensor:
    """uint8 (N, S, S, 3) to normalised float32 (N, 3, S, S)."""
    return (images.permute(0, 3, 1, 2).float() / 255 - losses.MEAN.to(images.device)) / losses.STD.to(images.device)


class Pupil(nn.Module):
    """The model and its training-only heads; `forward` is one lesson's loss terms."""

    def __init__(self, model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.apart = False  # whether the heads read without teaching
        width = model.config.vision_config.hidden_size
        self.heads = nn.ModuleList(losses.PatchHeads(width) for _ in range(2))

    def say(self, texts: list[str], device: torch.device) -> Tensor:
        """Text embeddings (T, projection); each distinct text is embedded once."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        ids = self.tokenizer(list(distinct), padding=True, return_tensors="pt").input_ids.to(device)
        embedded = self.model.clip.get_text_features(ids).pooler_output
        return torch.as_tensor(embedded)[[distinct[text] for text in texts]]

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        """The loss terms of a lesson by name, unweighted."""
        device = self.model.device
        lesson = lesson.to(device)
        count, shown, picture = len(lesson.images), lesson.shown, lesson.picture
        examples = lesson.exemplars.permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16):
            states, visual = architecture.encode(self.model, torch.cat((pixels(lesson.images), examples)))
            text = self.say(lesson.texts + lesson.kind_texts, device)
            prompts, names = text[: len(lesson.texts)], text[len(lesson.texts) :]
            weight = lesson.weight[:, None]
            blend = weight * prompts + (1 - weight) * visual[count:][shown.clamp(min=0)]
            condition = torch.where((shown >= 0)[:, None], blend, prompts)
            depth = len(self.model.extract_layers)
            with torch.autocast(device.type, enabled=False):  # a decoder's backward pass in bfloat16 may be mere noise
                reduced = [state.float() for state in states[:depth]]
                logits, inputs = architecture.decode(self.model, reduced, picture, condition.float())
            folded = architecture.unfold(lesson.owners)
            belongs = losses.patch_owner(folded)
            read = [state[:count].detach() if self.apart else state[:count] for state in states[depth:]]
            told = [head(state) for head, state in zip(self.heads, read, strict=True)]
            patch = torch.stack(
                [losses.patch_loss(guess, belongs, lesson.labels, lesson.measures) for guess in told]
            ).sum()
        target = torch.gather(lesson.meant, 1, folded[picture].flatten(1).long())
        entropy, dice, presence = losses.mask_loss(logits.flatten(1), target)
        contrast = losses.contrast(visual[count:], names, lesson.kinds, self.model.clip.logit_scale)
        return {
            "entropy": entropy,
            "dice": dice,
            "presence": presence,
            "contrast": contrast,
            "patch": patch,
            "loudness": losses.loudness(inputs),
        }


def optimisers(pupil: Pupil, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformers, AdamW for all else of the model and for the heads.

    The parts of the decoder that bring activations and prompts to size one may be small, and then learn as slowly.
    """
    matrices: list[dict[str, Any]] = [{"params": [], "share": 1.0}]  # then a group for each part that may be small
    rest: list[dict[str, Any]] = [{"params": [], "share": 1.0}]
    for name, parameter in pupil.model.named_parameters():
        inside = ".layers." in name or "reduces" in name or "_projection" in name
        groups = matrices if inside and parameter.ndim == 2 else rest
        if "reduces" in name or "film" in name:
            size = float(parameter.detach().square().mean().sqrt())
            groups.append({"params": [parameter], "share": min(1.0, size / USUAL)})
        else:
            groups[0]["params"].append(parameter)
    muon = torch.optim.Muon(
        matrices, lr=recipe.muon_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw", ns_steps=4
    )
    adam = partial(torch.optim.AdamW, weight_decay=0.01, betas=(0.9, 0.98), eps=1e-7)
    return [
        muon,
        adam(rest, lr=recipe.rate),
        adam([{"params": list(pupil.heads.parameters()), "share": 1.0}], lr=HEADS_RATE),
    ]


def rate_at(step: int, progress: float, recipe: Recipe) -> float:
    """The learning rate's factor: up over the first steps, level, down to zero at the end."""
    return max(0.0, min(1.0, (step + 1) / recipe.warm, (1 - progress) / recipe.fall))


def agree(parameters: list[nn.Parameter], progress: float) -> float:
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


def save(out: Path, pupil: Pupil, mean: nn.Module, tools: list[torch.optim.Optimizer], done: tuple[int, float]) -> None:
    """Writes the checkpoint of (step, progress), whole or not at all."""
    state = {"pupil": pupil.state_dict(), "mean": mean.state_dict(), "done": done}
    state["tools"] = [tool.state_dict() for tool in tools]
    torch.save(state, out / "checkpoint.tmp")
    os.replace(out / "checkpoint.tmp", out / "checkpoint.pt")


def export(mean: CLIPSegForImageSegmentation, folder: Path) -> None:
    """Writes config.json and the half-precision weights beside the tokenizer files in `folder`."""
    copy.deepcopy(mean).half().save_pretrained(folder)


def run(rank: int, out: Path, recipe: Recipe, resume: bool, start: Path | None, device: str, exam: int) -> None:
    """One process's part of a run; the first one leaves out/model, out/checkpoint.pt and out/log.jsonl."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    meeting = f"file://{(out / 'meeting').absolute()}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=recipe.processes)
    folder = out / "model" if rank == 0 else out / f"model-{rank}"
    model = architecture.build(folder, recipe.seed)
    if start is not None:
        architecture.adopt(model, CLIPSegForImageSegmentation.from_pretrained(start, dtype=torch.float32))
    model.set_attn_implementation("eager")  # its backward pass is twice as fast as the fused one on a processor
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    pupil = Pupil(model, tokenizer).to(device).train()
    strange = start is not None and not (start.parent / "checkpoint.pt").exists()
    if start is not None and not strange:
        state = torch.load(start.parent / "checkpoint.pt", map_location=device, weights_only=True)["pupil"]
        pupil.heads.load_state_dict({k.removeprefix("heads."): v for k, v in state.items() if k.startswith("heads.")})
    mean = copy.deepcopy(model).eval()
    tools = optimisers(pupil, recipe)
    asked = draw_exam(exam, seed=1_000_003) if rank == 0 and exam else None
    step, progress = 0, 0.0
    if resume:
        state: dict[str, Any] = torch.load(out / "checkpoint.pt", map_location=device, weights_only=True)
        pupil.load_state_dict(state["pupil"])
        mean.load_state_dict(state["mean"])
        for tool, kept in zip(tools, state["tools"], strict=True):
            tool.load_state_dict(kept)
        step, progress = state["done"]
    dist.barrier()
    parameters = list(pupil.parameters())
    bases = [recipe.muon_rate, recipe.rate, HEADS_RATE]
    source: Iterator[Lesson] | None = None
    side = count = 0
    totals: dict[str, Tensor | int] = {}  # of the `count` steps since the last line of the log
    saved = tested = told = time.monotonic()
    began = saved - progress * recipe.minutes * 60
    while progress < 1:
        wanted = 112 if progress < recipe.small else 224
        if wanted != side or source is None:
            side = wanted
            plan = Plan(
                side=side, pictures=recipe.pictures, exemplars=recipe.pictures * 3 // 8, seed=recipe.seed + 1000 * rank
            )
            source = iter(reading(Lessons(plan, step), recipe.readers))
        pupil.apart = strange and step < APART
        terms = pupil(next(source))
        loss = sum(WEIGHTS[name] * term for name, term in terms.items())
        torch.autograd.backward(torch.as_tensor(loss))
        passed = (time.monotonic() - began) / (recipe.minutes * 60) if recipe.minutes else (step + 1) / recipe.steps
        progress = agree(parameters, passed)
        sound = bool(nn.utils.clip_grad_norm_(parameters, 1.0).isfinite())  # else the step is left out
        factor = rate_at(step, progress, recipe)
        for tool, base in zip(tools, bases, strict=True):
            for group in tool.param_groups:
                group["lr"] = base * factor * group["share"]
            if sound:
                tool.step()
            tool.zero_grad(set_to_none=True)
        step += 1
        if rank:
            continue
        with torch.no_grad():
            keep = min(recipe.average, step / (step + 20))
            torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), 1 - keep)
        count += 1
        for name, term in terms.items():
            totals[name] = totals.get(name, 0) + term.detach()
        now = time.monotonic()
        if step % 50 == 0 or progress >= 1:
            report: dict[str, Any] = {
                "step": step,
                "progress": round(progress, 4),
                "side": side,
                "rate": round(factor, 3),
            }
            report |= {"seconds_a_step": round((now - told) / count, 3)}
            report |= {name: round(float(total) / count, 4) for name, total in totals.items()}
            totals, told, count = {}, now, 0
            if asked is not None and (now - tested > 420 or progress >= 1):
                report["marks"] = marks(mean, tokenizer, asked)
                tested = told = time.monotonic()
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(report) + "\n")
        if now - saved > 180 or progress >= 1:
            save(out, pupil, mean, tools, (step, progress))
            export(mean, folder)
            saved = now
    dist.destroy_process_group()


def main() -> None:
    """The command line."""
    default = Recipe()
    parser = argparse.ArgumentParser(prog="python -m shapes.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    parser.add_argument(
        "--start", type=Path, help="folder of a model (runs/NAME/model) to begin with; none: new weights"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--exam", type=int, default=60, help="scenes of the check during the run; 0: none")
    for name, value in vars(default).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    given = vars(parser.parse_args())
    recipe = Recipe(**{name: given[name] for name in vars(default)})
    out: Path = given["out"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "meeting").unlink(missing_ok=True)
    spawn(run, (out, recipe, given["resume"], given["start"], given["device"], given["exam"]), nprocs=recipe.processes)


if __name__ == "__main__":
    main()
