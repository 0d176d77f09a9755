"""The decoder fitted to a user's data: a data set in, a CLIPSeg directory of Hugging Face's layout out.

While it trains, OUT/.train holds CLIP's features of the pictures, made once, and the state of the last check; a process
that was killed goes on from there to the same final weights. OUT/train.jsonl has a line a check.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from clipseg_cli.datasets import training_data
from clipseg_cli.errors import OutputError, UsageError
from clipseg_cli.model import registry
from clipseg_cli.prompts import highlight
from clipseg_cli.run.query import check_templates
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.training import Recipe
from clipseg_cli.storage import paths, store

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter
    from clipseg_cli.training.fit import Fit, Lessons

WORK, LOG, STATE, SETTINGS = ".train", "train.jsonl", "state.pt", "settings.json"
AT_ONCE = 8  # pictures encoded together
FRAMES = (  # around a phrase; all but the first are the paper's
    "{}",
    "a photo of a {}.",
    "a photograph of a {}.",
    "an image of a {}.",
    "{}.",
    "a cropped photo of a {}.",
    "a good photo of a {}.",
    "a photo of one {}.",
    "a bad photo of a {}.",
    "a photo of the {}.",
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is."""

    stage: str  # "features", "step", "check", "done"
    at: int
    of: int
    loss: float = float("nan")  # mean since the last check
    miou: float = float("nan")  # of the held-out pictures, at the best threshold
    best: float = float("nan")
    threshold: float = float("nan")


def train(
    data: Path,
    out: Path,
    model: ModelOptions,
    recipe: Recipe,
    replay: Sequence[str] = (),
    frames: Sequence[str] = FRAMES,
) -> Iterator[Progress]:
    """Fits the decoder of `model` to `data` and leaves a checkpoint in `out`; yields its progress.

    `replay`: phrases whose masks are to stay what they were; the old decoder's own answers on the training pictures
    are learned beside the new ones. The weights kept are those of the best check, the start among them.
    The same call again goes on where the last one stopped. Raises UsageError for data that cannot be used, OutputError
    for an `out` that holds something else, ModelError.
    """
    from clipseg_cli.model.devices import DTYPES, pick_dtype
    from clipseg_cli.model.segmenter import Segmenter
    from clipseg_cli.training.fit import Fit, trainable

    check_templates(frames)
    examples = training_data.read(data)
    checkpoint = registry.locate(model.model, offline=model.offline, progress=True)
    work = out / WORK
    store.check(work)
    _admit(out, examples, checkpoint, recipe, replay, frames)
    segmenter = Segmenter.load(checkpoint, device=model.device, dtype="fp32", backend="transformers")
    lessons = yield from _lessons(segmenter, examples, work, recipe, replay, frames)
    network: Any = segmenter.network
    dtype = DTYPES[pick_dtype(model.dtype, segmenter.device)]
    fit = Fit(trainable(network.model), lessons, recipe, segmenter.device, dtype, segmenter.threshold)
    best = yield from _fit(fit, recipe, work, out)
    network.model.decoder.load_state_dict(best["decoder"])
    _export(network.model, checkpoint.path, work, out, best["threshold"])
    yield Progress("done", best["step"], recipe.steps, best=best["score"], threshold=best["threshold"])


def _admit(
    out: Path,
    examples: Sequence[training_data.Example],
    checkpoint: registry.Checkpoint,
    recipe: Recipe,
    replay: Sequence[str],
    frames: Sequence[str],
) -> None:
    """Lets in a folder that is new or holds this very training. Raises OutputError."""
    known = functools.cache(_identity)
    rows = [[str(each.image), each.phrase, *map(known, (each.image, *each.files))] for each in examples]
    told = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    weights = checkpoint.revision or checkpoint.weights.stat().st_size
    settings: dict[str, Any] = {"data": told, "model": str(checkpoint.path), "weights": weights}
    settings |= {"recipe": asdict(recipe), "replay": list(replay), "frames": list(frames)}
    begun = out / WORK / SETTINGS
    if begun.exists():
        if json.loads(begun.read_text("utf-8")) != settings:
            raise OutputError(
                f"{out} holds the beginning of another training, or its data has changed since: choose another -o, "
                f"or remove {out / WORK}"
            )
    elif (out / "model.safetensors").exists():
        raise OutputError(f"{out} holds a finished model: choose another -o")
    store.write(begun, json.dumps(settings, indent=1).encode())


def _identity(path: Path) -> list[int | str] | None:
    """By which an edited file is known; None for one that is not there, of which its reader will tell."""
    try:
        return paths.identity(str(path))
    except OSError:
        return None


def _lessons(
    segmenter: "Segmenter",
    examples: Sequence[training_data.Example],
    work: Path,
    recipe: Recipe,
    replay: Sequence[str],
    frames: Sequence[str],
) -> "Generator[Progress, None, Lessons]":
    """Encodes what is not encoded yet; returns the lessons."""
    from clipseg_cli.training.fit import Lessons

    images = list(dict.fromkeys(each.image for each in examples))
    phrases = list(dict.fromkeys(each.phrase for each in examples))
    if len(images) < 2:
        raise UsageError("training needs at least two pictures: one to learn from and one to check by")
    side = segmenter.side
    layers = segmenter.encode([training_data.pixels(images[0])]).tensor.shape[1:]
    features = _array(work / "features.npy", np.float16, (len(images), *layers))
    targets = _array(work / "targets.npy", np.uint8, (len(examples), -(-side * side // 8)))
    shown = _array(work / "shown.npy", np.float32, (len(examples), segmenter.dim))
    done = int((work / "encoded").read_text()) if (work / "encoded").exists() else 0
    mine: dict[Path, list[int]] = {image: [] for image in images}
    for index, each in enumerate(examples):
        mine[each.image].append(index)
    said = segmenter.embed([frame.replace("{}", phrase) for phrase in phrases for frame in frames]).values
    old = segmenter.embed(list(replay)).values if replay else np.zeros((0, segmenter.dim), np.float32)
    for at in range(done, len(images), AT_ONCE):
        some = images[at : at + AT_ONCE]
        pictures = [training_data.pixels(image) for image in some]
        features[at : at + len(some)] = segmenter.encode(pictures).tensor.cpu().numpy()
        for image, pixels in zip(some, pictures, strict=True):
            for index in mine[image]:
                mask = examples[index].mask(pixels.shape[:2])
                small = cv2.resize(mask.view(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
                targets[index] = np.packbits(small)
                shown[index] = np.nan
                if recipe.blend and mask.any():
                    seen = highlight.highlight(pixels, mask, "crop-blur-dim", side).transpose(2, 0, 1)
                    shown[index] = segmenter.embed_images(np.ascontiguousarray(seen)[None]).values[0]
        for array in (features, targets, shown):
            array.flush()
        store.write(work / "encoded", str(at + len(some)).encode())
        yield Progress("features", at + len(some), len(images))
    numbers = {phrase: number for number, phrase in enumerate(phrases)}
    places = {image: number for number, image in enumerate(images)}
    return Lessons(
        features,
        targets,
        np.array(shown),
        np.array([places[each.image] for each in examples]),
        np.array([numbers[each.phrase] for each in examples]),
        said.reshape(len(phrases), len(frames), -1),
        old,
        side,
    )


def _array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """An array on disk, kept where it is there already. Raises OutputError.

    Its room is taken at once where the system can: a disk that fills up under a memory map would kill the process.
    """
    if not path.exists():
        with store.failing(path):
            part = path.with_suffix(".part")
            np.lib.format.open_memmap(part, "w+", dtype, shape).flush()
            if hasattr(os, "posix_fallocate"):
                with part.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
            os.replace(part, path)
    return np.lib.format.open_memmap(path, "r+")


def _fit(fit: "Fit", recipe: Recipe, work: Path, out: Path) -> "Generator[Progress, None, dict[str, Any]]":
    """Takes all steps that are left; returns the best check: decoder, score, threshold, step."""
    import torch

    step, stale = 0, 0
    best: dict[str, Any] | None = None
    losses: list[float] = []
    if (work / STATE).exists():
        kept = torch.load(work / STATE, map_location=fit.device, weights_only=True)
        fit.restore(kept["fit"])
        step, stale, best = kept["step"], kept["stale"], kept["best"]
        _shorten(out / LOG, step)
    began = time.monotonic()
    while True:
        if step % recipe.check == 0 or step == recipe.steps:
            if best is None or step > best["seen"]:
                score, threshold = fit.check()
                if best is None or score > best["score"]:
                    stale = 0
                    best = {"decoder": fit.state()["decoder"], "score": score, "threshold": threshold, "step": step}
                else:
                    stale += 1
                best["seen"] = step
                line = {"step": step, "loss": float(np.mean(losses)) if losses else None, "miou": round(score, 5)}
                line |= {"threshold": round(threshold, 2), "best": round(best["score"], 5)}
                line |= {"rate": fit.tool.param_groups[0]["lr"], "seconds": round(time.monotonic() - began, 2)}
                with (out / LOG).open("a", encoding="utf-8") as log:
                    log.write(json.dumps(line) + "\n")
                torch.save({"fit": fit.state(), "step": step, "stale": stale, "best": best}, work / f"{STATE}.tmp")
                os.replace(work / f"{STATE}.tmp", work / STATE)
                mean = line["loss"] or float("nan")
                yield Progress("check", step, recipe.steps, mean, score, best["score"], threshold)
                losses = []
            if step >= recipe.steps or stale >= recipe.patience:
                assert best is not None
                return best
        losses.append(fit.step(step))
        step += 1
        yield Progress("step", step, recipe.steps, losses[-1])


def _shorten(log: Path, step: int) -> None:
    """Drops the lines after the state's step, which are about to be written again, and a torn one."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for line in log.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
    store.write(log, "".join(kept).encode())


def _export(model: Any, source: Path, work: Path, out: Path, threshold: float) -> None:
    """The checkpoint: the tokenizer and picture settings of the old one, and the fitted weights last."""
    from clipseg_cli.model.reference import quiet

    made = work / "export"
    with quiet():
        model.save_pretrained(made)
    config = json.loads((made / "config.json").read_text("utf-8"))
    config["clipseg_threshold"] = round(threshold, 2)
    (made / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    for file in sorted(source.iterdir()):
        if file.suffix in (".json", ".txt") and file.name != "config.json" and ".index." not in file.name:
            shutil.copyfile(file, made / file.name)
    for file in sorted(made.iterdir(), key=lambda each: each.suffix == ".safetensors"):
        os.replace(file, out / file.name)
    shutil.rmtree(work)
