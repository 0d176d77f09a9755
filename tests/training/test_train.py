"""`clipseg train`: the decoder learns, CLIP does not change, a stopped run resumes, transformers reads the result."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from checkpoints import write_checkpoint
from clipseg_cli.datasets import training_data
from clipseg_cli.errors import OutputError, UsageError
from clipseg_cli.evaluation import metrics
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.training import Recipe
from clipseg_cli.training.train import Progress, train
from labelled import training_set
from machine import file_size_limit
from pictures import Program

SMALL = Recipe(steps=30, batch=4, check=10, hold=0.25, augment="off")
TEMPLATES = ("{}", "a photo of a {}.")
Start = tuple[Path, Path]  # a checkpoint and a data set


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A tiny random checkpoint that reads 96 pixels, and sixteen images with a disc or a bar."""
    root = tmp_path_factory.mktemp("train")
    model = write_checkpoint(root / "start")
    settings = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 96, "width": 96}}))
    return model, training_set(root / "data")


def run(start: Start, out: Path, recipe: Recipe = SMALL, replay: tuple[str, ...] = ()) -> list[Progress]:
    """Trains on the CPU to the end."""
    options = ModelOptions(str(start[0]), device="cpu", dtype="fp32")
    return list(train(start[1], out, options, recipe, replay, TEMPLATES))


def log_lines(out: Path) -> list[dict[str, object]]:
    """Returns the lines of train.jsonl without their times."""
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_it_learns_and_transformers_reads_the_result(start: Start, tmp_path: Path) -> None:
    """The held-out score rises, no CLIP tensor changes, and transformers' own classes load the checkpoint."""
    stages = run(start, tmp_path / "out", Recipe(steps=60, batch=8, check=15, hold=0.25, rate=3e-3))
    checks = [each for each in stages if each.stage == "check"]
    assert stages[-1].stage == "done" and stages[-1].best > checks[0].miou + 0.05, checks
    before, after = (load_file(folder / "model.safetensors") for folder in (start[0], tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    model, info = CLIPSegForImageSegmentation.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = CLIPSegProcessor.from_pretrained(tmp_path / "out", backend="pil")
    image = training_data.pixels(start[1] / "images/01.png")
    inputs = processor(text=["a dark disc"], images=[image], return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval()(**inputs).logits.numpy()
    segmenter = Segmenter.load(str(tmp_path / "out"), device="cpu", dtype="fp32")
    ours = segmenter.logits(segmenter.encode([image]), segmenter.embed(["a dark disc"]))
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=0.05)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert segmenter.threshold == config["clipseg_threshold"] == pytest.approx(stages[-1].threshold)
    log = log_lines(tmp_path / "out")
    assert [line["step"] for line in log] == [0, 15, 30, 45, 60] and all("miou" in line for line in log)
    files = {"config.json", "vocab.json", "merges.txt", "loss.svg", "miou.svg"}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= files
    sheets = {path.stem for path in (tmp_path / "out/samples").iterdir()}
    assert sheets == {"00", "15", "30", "60", "best"}
    assert not (tmp_path / "out/.train").exists()


def test_the_score_of_a_check_is_the_papers(start: Start, tmp_path: Path) -> None:
    """The score of the held-out images equals a plain count on the network's own soft maps."""
    options = ModelOptions(str(start[0]), device="cpu", dtype="fp32")
    stages = train(start[1], tmp_path / "out", options, SMALL, (), ("{}",))
    first = next(each for each in stages if each.stage == "check")
    stages.close()
    examples = training_data.read(start[1])
    images = list(dict.fromkeys(each.image for each in examples))
    segmenter = Segmenter.load(str(start[0]), device="cpu", dtype="fp32", backend="transformers")
    held_out = np.random.default_rng([0, 0]).permutation(len(images))[:4]
    scores = []
    for number in sorted(held_out):
        image = training_data.pixels(images[number])
        for each in examples:
            mask = each.mask(image.shape[:2])
            if each.image == images[number] and mask.any():
                soft = segmenter.decode(segmenter.encode([image]), [each.prompt])[0, 0]
                small = cv2.resize(mask.astype(np.uint8), soft.shape, interpolation=cv2.INTER_NEAREST) > 0
                scores.append(metrics.iou_fg(metrics.count(soft, small)))
    assert first.miou == pytest.approx(np.mean(scores, 0).max(), abs=2e-3)  # features are kept in half precision


def test_a_stopped_run_resumes_to_the_same_weights(start: Start, tmp_path: Path) -> None:
    """Stopped while encoding, and after a step that was not saved, it ends like a run that was never stopped.

    The weights, the charts and the samples are equal byte for byte, and the log has every check once.
    """
    recipe = Recipe(steps=12, batch=4, check=4, hold=0.25, patience=99)
    run(start, tmp_path / "whole", recipe)
    options = ModelOptions(str(start[0]), device="cpu", dtype="fp32")
    for stage, at in (("features", 8), ("step", 6), ("step", 11)):
        stages = train(start[1], tmp_path / "stopped", options, recipe, (), TEMPLATES)
        next(each for each in stages if (each.stage, each.at) == (stage, at))
        stages.close()
    with (tmp_path / "stopped/train.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')  # as a kill in the middle of a line leaves it
    run(start, tmp_path / "stopped", recipe)
    outputs = ["model.safetensors", "loss.svg", "miou.svg", *(f"samples/{name}.jpg" for name in ("00", "08", "best"))]
    for output in outputs:
        stopped, whole = ((tmp_path / name / output).read_bytes() for name in ("stopped", "whole"))
        assert stopped == whole, output
    assert log_lines(tmp_path / "stopped") == log_lines(tmp_path / "whole")
    assert [line["step"] for line in log_lines(tmp_path / "whole")] == [0, 4, 8, 12]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(start: Start, tmp_path: Path) -> None:
    """The same for processes that SIGKILL ends, while they encode and while they learn."""
    command = [sys.executable, "-m", "clipseg_cli", "train", str(start[1]), "-m", str(start[0]), "--device", "cpu"]
    command += ["--steps", "60", "-b", "4", "--check", "10", "--hold", "0.25", "--dtype", "fp32", "--patience", "99"]
    command += ["--augment", "off"]
    subprocess.run([*command, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "killed"

    def checks() -> int:
        log = out / "train.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    for reached in (lambda: (out / ".train/encoded").exists(), lambda: checks() >= 2, lambda: checks() >= 4):
        process = subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not reached():
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert log_lines(out) == log_lines(tmp_path / "whole")
    assert [line["step"] for line in log_lines(out)] == list(range(0, 61, 10))


def test_the_same_seed_gives_the_same_weights(start: Start, tmp_path: Path) -> None:
    """Another seed gives other losses."""
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(start, tmp_path / name, Recipe(steps=5, batch=4, check=5, hold=0.25, augment="off", seed=seed))
        loss = log_lines(tmp_path / name)[-1]["loss"]
        weights.append(((tmp_path / name / "model.safetensors").read_bytes(), loss))
    assert weights[0] == weights[1] and weights[0][1] != weights[2][1]


def test_training_ends_early_without_improvement(start: Start, tmp_path: Path) -> None:
    """A learning rate near zero improves nothing, so training ends after `patience` checks."""
    frozen = Recipe(steps=500, batch=2, check=2, hold=0.25, rate=1e-12, patience=3, augment="off")
    stages = run(start, tmp_path / "frozen", frozen)
    assert max(each.at for each in stages if each.stage == "check") <= 10
    assert stages[-1].at == 0 or stages[-1].best > 0


@pytest.mark.slow
def test_replay_keeps_the_masks_of_old_prompts(start: Start, tmp_path: Path) -> None:
    """With `--replay` the soft maps of an old prompt change less than half as much as without."""
    old = "a photo of grey noise"
    images = [training_data.pixels(path) for path in sorted((start[1] / "images").iterdir())]

    def maps(folder: Path) -> np.ndarray:
        segmenter = Segmenter.load(str(folder), device="cpu", dtype="fp32")
        return segmenter.decode(segmenter.encode(images), [old])

    recipe = Recipe(steps=120, batch=8, check=120, hold=0.25, rate=2e-3)
    run(start, tmp_path / "without", recipe)
    run(start, tmp_path / "with", recipe, (old,))
    before = maps(start[0])
    drift = {name: np.abs(maps(tmp_path / name) - before).mean() for name in ("without", "with")}
    assert drift["with"] < drift["without"] / 2, drift


def test_an_output_folder_is_never_overwritten(start: Start, tmp_path: Path, clipseg: Program) -> None:
    """A finished model, and an unfinished run of other settings or other data, are kept and are an error.

    The command prints the folder of the new model, and its progress on stderr.
    """
    line = f"clipseg train {start[1]} -m {start[0]} --steps 4 --check 2 -b 2 --device cpu"
    done = clipseg(f"{line} -o out")
    assert done.stdout == "out\n" and "held-out mIoU" in done.stderr and "features 16 of 16" in done.stderr
    assert "finished model" in clipseg(f"{line} -o out", expect=1).stderr
    stages = train(start[1], tmp_path / "begun", ModelOptions(str(start[0]), device="cpu"), SMALL)
    next(each for each in stages if each.stage == "check")
    stages.close()
    with pytest.raises(OutputError, match="another training"):
        run(start, tmp_path / "begun", Recipe(steps=31))
    os.utime(start[1] / "masks/a-dark-disc/01.png")
    with pytest.raises(OutputError, match="data has changed"):
        list(train(start[1], tmp_path / "begun", ModelOptions(str(start[0]), device="cpu"), SMALL))


def test_unusable_options_and_too_few_images_are_an_error(start: Start, tmp_path: Path, clipseg: Program) -> None:
    """A template needs one {}; a data set needs two images. Nothing is trained in int8."""
    assert (
        "cannot be trained in" in clipseg(f"clipseg train {start[1]} -m {start[0]} --dtype int8 -o i", expect=2).stderr
    )
    for template in ("a photo", "{0}", "{} and {}"):
        line = f"clipseg train {start[1]} -m {start[0]} -o out --template '{template}'"
        assert "--template" in clipseg(line, expect=2).stderr
    row = f"{start[1]}/images/01.png,{start[1]}/masks/a-dark-disc/01.png,x"
    (tmp_path / "one.csv").write_text(f"image,mask,prompt\n{row}\n")
    with pytest.raises(UsageError, match="at least two images"):
        list(train(tmp_path / "one.csv", tmp_path / "one", ModelOptions(str(start[0]), device="cpu"), SMALL))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "what"), [(100_000, "features"), (200_000, "state"), (400_000, "")])
def test_a_full_disk_is_told_and_the_training_resumes(start: Start, tmp_path: Path, size: int, what: str) -> None:
    """A limit on the size of files stands for a full disk: at the features, at a check and at the new weights, training
    ends with an error that says so, and leaves no part of a file. With space it resumes."""
    out = tmp_path / "out"
    with file_size_limit(size), pytest.raises(OutputError, match=f"cannot write .*{what}"):
        run(start, out)
    assert not [*out.rglob("*.part"), *out.rglob(".clipseg-tmp-*"), *out.glob("*.safetensors")]
    assert run(start, out)[-1].stage == "done" and (out / "model.safetensors").exists()
