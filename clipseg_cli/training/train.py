"""Fits the decoder to a user's data set and writes a CLIPSeg checkpoint in Hugging Face's layout.

During training, OUT/.train holds CLIP's features of the images and the state at the last check. A run that was killed
resumes from there and ends with the same weights. OUT/train.jsonl has one line per check, loss.svg and
miou.svg show them, and OUT/samples/ has the masks of some held-out images.
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipseg_cli.datasets import training_data
from clipseg_cli.errors import ModelError, OutputError, UsageError
from clipseg_cli.model import registry
from clipseg_cli.model.checkpoint_files import CLIP
from clipseg_cli.run.query.terms import check_templates
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.training import NewDecoder, Recipe
from clipseg_cli.storage import paths, store
from clipseg_cli.training import charts, new_decoder, samples
from clipseg_cli.training.encoded_data import encode_images, load_encoded

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

WORK, LOG, STATE, SETTINGS, START = ".train", "train.jsonl", "state.pt", "settings.json", "start"
TEMPLATES = (  # for prompts; all but the first are the paper's
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
PAPERS = TEMPLATES[1:]
KEEP = NewDecoder()  # none: the decoder of `model` learns


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a training."""

    stage: str  # "features", "step", "check", "done"
    at: int  # images encoded in the stage "features", otherwise steps taken
    of: int  # images or steps in total
    loss: float = float("nan")  # of a step; in the stage "check" the mean since the last check
    miou: float = float("nan")  # of the held-out images, at the best threshold
    best: float = float("nan")
    threshold: float = float("nan")
    left: float = float("nan")  # seconds until the last step, at the speed so far


def train(
    data: Path,
    out: Path,
    model: ModelOptions,
    recipe: Recipe,
    replay: Sequence[str] = (),
    templates: Sequence[str] = TEMPLATES,
    new: NewDecoder = KEEP,
) -> Iterator[Progress]:
    """Fits the decoder of `model` to `data`, writes a checkpoint to `out`, and yields its progress.

    `new`: a new decoder for a plain CLIP, in place of the decoder of `model`. `replay`: prompts whose masks should stay
    unchanged. The decoder also learns its own former predictions for them on the training images. The checkpoint has
    the weights of the best check; the first check is before the first step. Repeating the call resumes a run that was
    stopped. Raises UsageError for unusable data and options, OutputError if `out` holds something else, ModelError if
    the model cannot be loaded.
    """
    from clipseg_cli.model.devices import pick_dtype
    from clipseg_cli.model.segmenter import Segmenter

    check_templates(templates)
    if recipe.recipe == "paper" and (replay or recipe.augment == "on"):
        flag = "--replay" if replay else "--augment on"
        raise UsageError(f"{flag} needs the features of all images, and --recipe paper keeps none: leave out one")
    if model.dtype == "int8":
        raise UsageError("--dtype int8 cannot be trained in: use fp32, bf16 or auto, and int8 with the new model")
    examples = training_data.read(data)
    planned = None
    if new.from_clip is not None:
        checkpoint = registry.locate(new.from_clip, offline=model.offline, progress=True, kinds=(CLIP,))
        planned = new_decoder.plan(checkpoint, new)
        _check_new(examples, recipe, replay)
        new_decoder.check(planned)
    elif new != KEEP:
        raise UsageError("--reduce-dim, --extract-layers, --refined and --size describe a new decoder: add --from-clip")
    else:
        checkpoint = registry.locate(model.model, offline=model.offline, progress=True)
    work = out / WORK
    store.check(work)
    _check_output(out, examples, checkpoint, {"recipe": recipe} | ({"new": new} if planned else {}), replay, templates)
    if planned is not None:
        checkpoint = new_decoder.write(planned, recipe.seed, work / START)
    segmenter = Segmenter.load(checkpoint, device=model.device, dtype="fp32", backend="transformers")
    dtype = pick_dtype(model.dtype, segmenter.device)
    sheets = yield from _prepare(segmenter, examples, recipe, work, replay, templates, dtype)
    network: Any = segmenter.network
    best = yield from _run_steps(sheets, work, out)
    network.model.decoder.load_state_dict(best["decoder"])
    sheets.write(out / samples.FOLDER / "best.jpg", best["threshold"])
    _export(network.model, checkpoint.path, work, out, best["threshold"])
    if "failed" in best:
        raise ModelError(
            f"the loss of step {best['failed']} is not a number, so training ended there; {out} has the weights of the "
            f"best check, of step {best['step']}. Try a lower --rate, or --dtype fp32, with another -o"
        )
    yield Progress("done", best["step"], recipe.steps, best=best["score"], threshold=best["threshold"])


def _prepare(
    segmenter: "Segmenter",
    examples: Sequence[training_data.Example],
    recipe: Recipe,
    work: Path,
    replay: Sequence[str],
    templates: Sequence[str],
    dtype: str,
) -> Generator[Progress, None, samples.Samples]:
    """Returns the decoder before its first step, with its data. Encodes the images that can be kept encoded."""
    from clipseg_cli.model.devices import DTYPES
    from clipseg_cli.training.crops import Crops, hold_out
    from clipseg_cli.training.fit import Fit, trainable

    network: Any = segmenter.network
    crops, encoding, frames = None, recipe, tuple(templates)
    if recipe.recipe == "paper":
        examples, training = hold_out(examples, recipe)
        crops = Crops(segmenter, training, recipe, templates, DTYPES[dtype])
        # checks use neither exemplars nor views, and prompts without a sentence
        encoding, frames = replace(recipe, blend=0, augment="off"), ("{}",)
    for done, count in encode_images(segmenter, examples, work, encoding):
        yield Progress("features", done, count)
    encoded = load_encoded(segmenter, examples, work, replay, frames)
    if crops is not None and not encoded.nonempty().any():
        raise UsageError(
            "none of the images held out for the checks shows an object: raise --hold, or try another --seed"
        )
    decoder = trainable(network.model)
    fit = Fit(decoder, encoded, recipe, segmenter.device, DTYPES[dtype], segmenter.threshold, crops)
    return samples.Samples(fit, examples)


def _check_new(examples: Sequence[training_data.Example], recipe: Recipe, replay: Sequence[str]) -> None:
    """Checks what a new decoder is trained with. Raises UsageError."""
    if replay:
        raise UsageError("--replay keeps the masks of a trained decoder, and a new one has none: leave it out")
    images, prompts = {each.image for each in examples}, {each.prompt for each in examples}
    if recipe.absent and len(examples) == len(images) * len(prompts):  # else some image was not masked for some prompt
        masks = (each.read() for each in examples)
        if all(each is None or each.mask.any() for each in masks):
            raise UsageError(
                "every image shows the object of every prompt, so a new decoder would learn to ignore the prompt: add "
                "images without an object, with black masks, or other prompts; --absent 0 trains all the same"
            )


def _check_output(
    out: Path,
    examples: Sequence[training_data.Example],
    checkpoint: registry.Checkpoint,
    options: dict[str, Any],
    replay: Sequence[str],
    templates: Sequence[str],
) -> None:
    """Checks that `out` is new, or holds an unfinished run with the same settings and data. Raises OutputError."""
    identity = functools.cache(_identity)
    rows = [[str(each.image), each.prompt, *map(identity, (each.image, *each.files))] for each in examples]
    data = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    weights = checkpoint.revision or checkpoint.weights.stat().st_size
    settings: dict[str, Any] = {"data": data, "model": str(checkpoint.path), "weights": weights}
    settings |= {"replay": list(replay), "templates": list(templates)}
    settings |= {name: asdict(group) for name, group in options.items()}
    saved, content = out / WORK / SETTINGS, json.dumps(settings, indent=1)
    if saved.exists():
        if saved.read_text("utf-8") != content:
            raise OutputError(
                f"{out} holds an unfinished run of another training, or the data has changed since it began: choose "
                f"another -o, or remove {out / WORK}"
            )
    elif (out / "model.safetensors").exists():
        raise OutputError(f"{out} holds a finished model: choose another -o")
    store.write(saved, content.encode())


def _identity(path: Path) -> list[int | str] | None:
    """Returns a value that changes if the file is edited; None for a missing file, which fails when it is read."""
    try:
        return paths.identity(str(path))
    except OSError:
        return None


def _run_steps(sheets: samples.Samples, work: Path, out: Path) -> Generator[Progress, None, dict[str, Any]]:
    """Takes the remaining steps. Returns the best check: its decoder, score, threshold and step."""
    import torch

    fit, recipe = sheets.fit, sheets.fit.recipe
    step, stale = 0, 0  # stale: checks since the best one
    best: dict[str, Any] | None = None
    losses: list[float] = []
    if (work / STATE).exists():
        saved = torch.load(work / STATE, map_location=fit.device, weights_only=True)
        fit.restore(saved["fit"])
        step, stale, best = saved["step"], saved["stale"], saved["best"]
        _truncate_log(out / LOG, step)
    began, first = time.monotonic(), step
    while True:
        due = step % recipe.check == 0 or step == recipe.steps
        if due and (best is None or step > best["seen"]):
            score, threshold = fit.check()
            if best is None or score > best["score"]:
                stale = 0
                best = {"decoder": fit.state()["decoder"], "score": score, "threshold": threshold, "step": step}
            else:
                stale += 1
            best["seen"] = step
            line = {"step": step, "loss": float(np.mean(losses)) if losses else None, "miou": round(score, 5)}
            line |= {"threshold": round(threshold, 2), "best": round(best["score"], 5)}
            line |= {"rate": recipe.rate_of(max(step - 1, 0)), "seconds": round(time.monotonic() - began, 2)}
            with store.failing(out / LOG), (out / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            charts.write(out / LOG, recipe.steps)
            if samples.due(step // recipe.check):
                sheets.write(out / samples.FOLDER / f"{step:0{len(str(recipe.steps))}}.jpg", threshold)
            state = io.BytesIO()  # torch itself reports a full disk as an internal error
            torch.save({"fit": fit.state(), "step": step, "stale": stale, "best": best}, state)
            store.write(work / STATE, state.getvalue())
            loss, left = line["loss"] or float("nan"), _left(began, step - first, recipe.steps - step)
            yield Progress("check", step, recipe.steps, loss, score, best["score"], threshold, left)
            losses = []
        assert best is not None  # step 0 is checked
        if step >= recipe.steps or stale >= recipe.patience:
            return best
        losses.append(fit.step(step))
        if not math.isfinite(losses[-1]):
            return best | {"failed": step + 1}
        step += 1
        yield Progress("step", step, recipe.steps, losses[-1], left=_left(began, step - first, recipe.steps - step))


def _left(began: float, done: int, steps: int) -> float:
    """Returns the seconds that `steps` more steps take at the speed of those done since `began`; NaN before any."""
    return (time.monotonic() - began) / done * steps if done else float("nan")


def _truncate_log(log: Path, step: int) -> None:
    """Drops an incomplete line, and lines after the saved step, which the resumed run writes again."""
    kept = []
    with contextlib.suppress(FileNotFoundError):
        for line in log.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
    store.write(log, "".join(kept).encode())


def _export(model: Any, source: Path, work: Path, out: Path, threshold: float) -> None:
    """Writes the checkpoint: the tokenizer and preprocessor files of `source`, and the new weights last.

    Raises OutputError.
    """
    from safetensors import SafetensorError

    from clipseg_cli.model.reference import quiet

    export = work / "export"
    with store.failing(out):
        try:
            with quiet():
                model.save_pretrained(export)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        config = json.loads((export / "config.json").read_text("utf-8"))
        config["clipseg_threshold"] = round(threshold, 2)
        (export / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
        for file in sorted(source.iterdir()):
            if file.suffix in (".json", ".txt") and file.name != "config.json" and ".index." not in file.name:
                shutil.copyfile(file, export / file.name)
        for file in sorted(export.iterdir(), key=lambda each: each.suffix == ".safetensors"):
            os.replace(file, out / file.name)
        shutil.rmtree(work)
