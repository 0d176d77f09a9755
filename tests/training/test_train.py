"""`clipseg train`: the decoder learns, CLIP does not change, a kill costs nothing, transformers reads the result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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
from clipseg_cli.training.fit import Fit, Lessons, split, trainable
from clipseg_cli.training.train import Progress, _array, train
from pictures import Shell

SMALL = Recipe(steps=30, batch=4, check=10, hold=0.25)
Run = tuple[Path, Path]  # the checkpoint it began with, and the data


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny random checkpoint that reads 96 pixels, and sixteen pictures of a disc or a bar with their masks."""
    root = tmp_path_factory.mktemp("train")
    model = write_checkpoint(root / "start")
    settings = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 96, "width": 96}}))
    rng = np.random.default_rng(0)
    for number in range(16):
        image = rng.integers(90, 140, (96, 128, 3), dtype=np.uint8)
        masks = {label: np.zeros((96, 128), np.uint8) for label in ("a-dark-disc", "a_bright_bar")}
        x, y = (int(each) for each in rng.integers(30, 70, 2))
        if number % 2:
            cv2.circle(image, (x, y), 20, (10, 10, 30), -1)
            cv2.circle(masks["a-dark-disc"], (x, y), 20, 255, -1)
        else:
            cv2.rectangle(image, (x - 25, y - 8), (x + 25, y + 8), (240, 250, 240), -1)
            cv2.rectangle(masks["a_bright_bar"], (x - 25, y - 8), (x + 25, y + 8), 255, -1)
        for place, array in (("images", image), *((f"masks/{label}", mask) for label, mask in masks.items())):
            (root / "data" / place).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / "data" / place / f"{number:02}.png"), array)
    return model, root / "data"


def run(start: Run, out: Path, recipe: Recipe = SMALL, replay: tuple[str, ...] = ()) -> list[Progress]:
    """One training on the CPU, to its end."""
    options = ModelOptions(str(start[0]), device="cpu", dtype="fp32")
    return list(train(start[1], out, options, recipe, replay, ("{}", "a photo of a {}.")))


def test_it_learns_and_transformers_reads_the_result(start: Run, tmp_path: Path) -> None:
    """The held-out score rises, every CLIP tensor stays as it was, and transformers' own classes load the directory."""
    said = run(start, tmp_path / "out", Recipe(steps=120, batch=8, check=30, hold=0.25))
    checks = [each for each in said if each.stage == "check"]
    assert said[-1].stage == "done" and said[-1].best > checks[0].miou + 0.05, checks
    before, after = (load_file(folder / "model.safetensors") for folder in (start[0], tmp_path / "out"))
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    model, info = CLIPSegForImageSegmentation.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = CLIPSegProcessor.from_pretrained(tmp_path / "out", backend="pil")
    picture = training_data.pixels(start[1] / "images/01.png")
    inputs = processor(text=["a dark disc"], images=[picture], return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval()(**inputs).logits.numpy()
    segmenter = Segmenter.load(str(tmp_path / "out"), device="cpu", dtype="fp32")
    ours = segmenter.logits(segmenter.encode([picture]), segmenter.embed(["a dark disc"]))
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=0.05)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert segmenter.threshold == config["clipseg_threshold"] == pytest.approx(said[-1].threshold)
    log = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [0, 30, 60, 90, 120] and all("miou" in line for line in log)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "vocab.json", "merges.txt"}
    assert not (tmp_path / "out/.train").exists()


def test_the_score_of_a_check_is_the_papers(start: Run, tmp_path: Path) -> None:
    """The held-out pictures are no training pictures, and their score is a plain count on the network's own maps."""
    options = ModelOptions(str(start[0]), device="cpu", dtype="fp32")
    stages = train(start[1], tmp_path / "out", options, SMALL, (), ("{}",))
    first = next(each for each in stages if each.stage == "check")
    stages.close()
    examples = training_data.read(start[1])
    images = list(dict.fromkeys(each.image for each in examples))
    segmenter = Segmenter.load(str(start[0]), device="cpu", dtype="fp32", backend="transformers")
    order = np.random.default_rng([0, 0]).permutation(len(images))[:4]
    scores = []
    for number in sorted(order):
        picture = training_data.pixels(images[number])
        for each in examples:
            mask = each.mask(picture.shape[:2])
            if each.image == images[number] and mask.any():
                soft = segmenter.decode(segmenter.encode([picture]), [each.phrase])[0, 0]
                small = cv2.resize(mask.astype(np.uint8), soft.shape, interpolation=cv2.INTER_NEAREST) > 0
                scores.append(metrics.iou_fg(metrics.count(soft, small)))
    assert first.miou == pytest.approx(np.mean(scores, 0).max(), abs=2e-3)  # features are kept in half precision


def test_a_killed_training_goes_on_to_the_same_weights(start: Run, tmp_path: Path) -> None:
    """Killed with SIGKILL while it encodes and while it learns, and started again each time, it ends with the weights
    of one that was never killed, byte for byte, and its log has every check once."""
    command = [sys.executable, "-m", "clipseg_cli", "train", str(start[1]), "-m", str(start[0]), "--device", "cpu"]
    command += ["--steps", "60", "-b", "4", "--check", "10", "--hold", "0.25", "--dtype", "fp32", "--patience", "99"]
    subprocess.run([*command, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "killed"

    def lines() -> int:
        log = out / "train.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    for reached in (lambda: (out / ".train/encoded").exists(), lambda: lines() >= 2, lambda: lines() >= 4):
        process = subprocess.Popen([*command, "-o", str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not reached():
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    logs = [
        [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        for folder in (out, tmp_path / "whole")
    ]
    for log in logs:
        for line in log:
            del line["seconds"]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == list(range(0, 61, 10))


def test_kept_features_have_their_room_before_they_are_written(tmp_path: Path) -> None:
    """An array on disk is not sparse, and is the same one when it is opened again; a disk without room is told."""
    array = _array(tmp_path / "a.npy", np.float32, (1000, 1000))
    if hasattr(os, "posix_fallocate"):
        assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 4_000_000
    array[3] = 7
    array.flush()
    again = _array(tmp_path / "a.npy", np.float32, (1000, 1000))
    assert again.dtype == np.float32 and again.sum() == 7000
    with pytest.raises(OutputError, match="gone"):
        _array(tmp_path / "gone/a.npy", np.float32, (10,))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_same_seed_same_weights_and_it_stops_early(start: Run, tmp_path: Path) -> None:
    """Another seed learns otherwise; a rate of nothing improves nothing and ends after `patience` checks."""
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(start, tmp_path / name, Recipe(steps=10, batch=4, check=10, hold=0.25, seed=seed))
        line = json.loads((tmp_path / name / "train.jsonl").read_text().splitlines()[-1])
        weights.append(((tmp_path / name / "model.safetensors").read_bytes(), line["loss"]))
    assert weights[0] == weights[1] and weights[0][1] != weights[2][1]
    frozen = Recipe(steps=500, batch=2, check=2, hold=0.25, rate=1e-12, last_rate=1e-12, patience=3)
    said = run(start, tmp_path / "frozen", frozen)
    assert max(each.at for each in said if each.stage == "check") <= 10
    assert said[-1].at == 0 or said[-1].best > 0


def test_replay_keeps_the_old_answers(start: Run, tmp_path: Path) -> None:
    """With `--replay` the maps of an old phrase stay nearer to what they were than without."""
    old = "a photo of grey noise"
    pictures = [training_data.pixels(path) for path in sorted((start[1] / "images").iterdir())]

    def maps(folder: Path) -> np.ndarray:
        segmenter = Segmenter.load(str(folder), device="cpu", dtype="fp32")
        return segmenter.decode(segmenter.encode(pictures), [old])

    recipe = Recipe(steps=80, batch=8, check=80, hold=0.25)
    run(start, tmp_path / "without", recipe)
    run(start, tmp_path / "with", recipe, (old,))
    before = maps(start[0])
    drift = {name: np.abs(maps(tmp_path / name) - before).mean() for name in ("without", "with")}
    assert drift["with"] < drift["without"] / 2, drift


def lessons(examples: int = 40) -> Lessons:
    """Lessons without a model: two examples a picture of six phrases, the first of each pair empty."""
    rng = np.random.default_rng(1)
    targets = np.packbits(rng.random((examples, 64)) < 0.5, axis=1)
    targets[::2] = 0
    shown = rng.random((examples, 5), np.float32)
    shown[::2] = np.nan
    phrase = np.arange(examples) % 6
    image = np.arange(examples) // 2
    texts = np.arange(6, dtype=np.float32)[:, None, None] * 100 + np.zeros((6, 2, 5), np.float32)
    features = np.broadcast_to(image[::2].astype(np.float16)[:, None, None, None], (examples // 2, 1, 1, 1))
    return Lessons(np.array(features), targets, shown, image, phrase, texts, np.zeros((0, 5), np.float32), 8)


def test_what_a_batch_holds() -> None:
    """Absent phrases have empty masks and are none that the picture has; blends lie between a phrase and an exemplar
    of it; held-out pictures never come; the shares are those of the recipe."""
    known = lessons()
    recipe = Recipe(batch=4000, hold=0.2, absent=0.25, blend=0.5)
    fit = Fit(torch.nn.Linear(1, 1), known, recipe, "cpu", torch.float32)
    held, kept = split(known, recipe)
    assert not set(known.image[held]) & set(known.image[kept]) and len(held) == 8
    features, conditions, targets = fit.batch(np.random.default_rng(2))
    pictures = features.numpy()[:, 0, 0, 0].astype(int)
    assert not set(pictures) & set(known.image[held].tolist())
    pure = np.isin(conditions.numpy()[:, 0], np.arange(6) * 100)
    wrong = 0
    for picture, condition, target in zip(
        pictures[pure], conditions.numpy()[pure, 0], targets.numpy()[pure], strict=True
    ):
        example = next((e for e in (2 * picture, 2 * picture + 1) if known.phrase[e] == condition / 100), None)
        if example is None or not np.array_equal(target > 0, known.target(example)):
            wrong += 1
            assert not target.any() and condition / 100 != known.phrase[2 * picture + 1]
    assert 0.15 < 1 - pure.mean() < 0.6 and 0.1 < wrong / pure.sum() < 0.35


class Told(torch.nn.Module):
    """In place of a decoder: what it is told of picture and phrase becomes the map."""

    def __init__(self, tell: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.tell, self.weight = tell, torch.nn.Parameter(torch.zeros(1))

    def forward(self, activations: list[torch.Tensor], conditions: torch.Tensor) -> SimpleNamespace:
        """Logits (B, 8, 8)."""
        return SimpleNamespace(logits=self.tell(activations[0][:, 0, 0].long(), conditions) + 0 * self.weight)


def test_pictures_of_nothing_are_held_like_the_others() -> None:
    """Where few pictures show anything, one of them is held to check by and one is left to learn from; where only one
    does, it says so."""
    known = lessons()
    for showing in (1, 2, 5):
        targets = known.targets.copy()
        targets[2 * showing :] = 0
        some = replace(known, targets=targets)
        for seed in range(20):
            recipe = Recipe(hold=0.1, seed=seed)
            if showing == 1:
                with pytest.raises(UsageError, match="not empty"):
                    split(some, recipe)
            else:
                held, kept = split(some, recipe)
                assert targets[held].any() and targets[kept].any()
                assert len(held) + len(kept) == 40 and not set(some.image[held]) & set(some.image[kept])


def test_replay_looks_for_what_the_old_decoder_sees() -> None:
    """Of old phrases of which it sees one in ten, far more are learned, but never more than half by choice."""
    old = np.full((40, 5), -5, np.float32)
    old[:4] = 5
    fit = Fit(
        Told(lambda _, said: said[:, :1, None].expand(-1, 8, 8)),
        replace(lessons(), old=old),
        Recipe(batch=16),
        "cpu",
        torch.float32,
    )
    shares = []
    for seed in range(20):
        seen, said, before = fit.replayed(np.random.default_rng(seed))
        assert len(seen) == len(said) == len(before) == 16
        assert torch.equal(before[:, 0, 0] > 0.5, said[:, 0] > 0), "the answers are those of their phrases"
        shares.append((said[:, 0] > 0).float().mean().item())
    assert np.mean(shares) > 0.25 and max(shares) <= 0.6


@pytest.mark.parametrize(("before", "after"), [(0.7, 0.7), (0.3, 0.3), (0.96, 0.88), (0.02, 0.12)])
def test_a_threshold_moves_only_where_it_must(before: float, after: float) -> None:
    """Maps of 0.12 and 0.88 that are right: any threshold between serves; the old one stays, or the nearest comes."""
    known = lessons()

    def right(pictures: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.from_numpy(known.target(2 * int(n) + 1)) * 4.0 - 2 for n in pictures])

    fit = Fit(Told(right), known, Recipe(batch=4, hold=0.2), "cpu", torch.float32, before)
    score, threshold = fit.check()
    assert score > 0.9 and threshold == pytest.approx(after, abs=0.021)


def test_every_layout_of_data_says_the_same(start: Run, tmp_path: Path) -> None:
    """Folders, CSV, JSON lines and COCO give the same phrases and masks; what is wrong is told with its place."""
    data = start[1]
    folders = training_data.read(data)
    phrases = {"a dark disc": "a-dark-disc", "a bright bar": "a_bright_bar"}
    rows = [
        (f"{data}/images/{n:02}.png", f"{data}/masks/{d}/{n:02}.png", p) for n in range(16) for p, d in phrases.items()
    ]
    (tmp_path / "a.csv").write_text("image,mask,phrase\n" + "".join(",".join(row) + "\n" for row in rows))
    keys = ("image", "mask", "phrase")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    images = [{"id": n, "file_name": f"images/{n:02}.png", "width": 128, "height": 96} for n in range(16)]
    categories = [{"id": 7 + at, "name": phrase} for at, phrase in enumerate(phrases)]
    annotations = []
    for n in range(16):
        for at, label in enumerate(phrases.values()):
            mask = cv2.imread(str(data / f"masks/{label}/{n:02}.png"), 0) > 0
            ends = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]])))
            runs = np.diff(np.concatenate([[0], ends, [mask.size]])).tolist()
            segmentation = {"counts": runs, "size": [96, 128]}
            if mask.any():
                annotations.append({"image_id": n, "category_id": 7 + at, "segmentation": segmentation})
    coco = {"images": images, "categories": categories, "annotations": annotations}
    (data / "coco.json").write_text(json.dumps(coco))

    def content(examples: tuple[training_data.Example, ...]) -> set[tuple[str, str, bytes]]:
        return {(each.image.name, each.phrase, each.mask((96, 128)).tobytes()) for each in examples}

    for path in (tmp_path / "a.csv", tmp_path / "a.jsonl"):
        assert content(training_data.read(path)) == content(folders), path
    assert len(folders) == 32
    there = {each for each in content(folders) if any(each[2])}
    assert content(training_data.read(data / "coco.json")) == there, (
        "of a category that a picture lacks COCO says nothing"
    )
    coco["annotations"] = [each for each in annotations if each["image_id"] != 3]
    (data / "some.json").write_text(json.dumps(coco))
    bare = [each for each in content(training_data.read(data / "some.json")) if each[0] == "03.png"]
    assert len(bare) == 2 and not any(any(each[2]) for each in bare), "a picture of nothing lacks every category"
    for name, content_, told in (
        ("bad.csv", "image,mask,phrase\na.png,,x\n", "row 1"),
        ("empty.csv", "", "no row"),
        ("head.csv", "image,mask,phrase\n", "no row"),
        ("other.csv", "picture,mask\na,b\n", "row 1: it needs image, mask and phrase"),
        ("long.csv", 'image,mask,phrase\na,b,"' + "x" * 200_000, "cannot be read"),
        ("bad.jsonl", "3\n", "row 1"),
        ("deep.json", "[" * 100_000, "not a COCO file"),
    ):
        (tmp_path / name).write_text(content_)
        with pytest.raises(UsageError, match=told):
            training_data.read(tmp_path / name)
    for path, told in ((tmp_path, "no images/"), (tmp_path / "x", "no training data")):
        with pytest.raises(UsageError, match=told):
            training_data.read(path)
    with pytest.raises(UsageError, match="sizes differ"):
        folders[0].mask((5, 5))


def test_several_masks_of_one_phrase_are_one(start: Run, tmp_path: Path) -> None:
    """Rows that say one phrase of one picture are one example, true where any of them is; line ends of any script
    are no ends of a row."""
    data = start[1]
    names = [f"masks/{label}/0{number}.png" for number, label in ((0, "a_bright_bar"), (1, "a-dark-disc"))]
    rows = [{"image": f"{data}/images/00.png", "mask": f"{data}/{name}", "phrase": "a\u2028thing"} for name in names]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (one,) = training_data.read(tmp_path / "two.jsonl")
    both = [cv2.imread(str(data / name), 0) > 0 for name in names]
    assert np.array_equal(one.mask((96, 128)), both[0] | both[1]) and one.phrase == "a\u2028thing"


def test_a_mask_without_a_picture_is_told(start: Run, tmp_path: Path) -> None:
    """A mask of another name ends it with that name; masks may be of any format, and hidden files are none."""
    for folder in ("images", "masks/cat", "masks/.ipynb_checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "images/a.jpg").write_bytes(b"")
    (tmp_path / "masks/cat/._a.png").write_bytes(b"")
    assert cv2.imwrite(str(tmp_path / "masks/cat/a.bmp"), np.full((4, 6), 255, np.uint8))
    (one,) = training_data.read(tmp_path)
    assert one.phrase == "cat" and one.mask((4, 6)).all()
    (tmp_path / "masks/cat/b_mask.png").write_bytes(b"")
    with pytest.raises(UsageError, match="b_mask"):
        training_data.read(tmp_path)


def test_it_refuses_what_is_there_already(start: Run, tmp_path: Path, shell: Shell) -> None:
    """A finished model and the beginning of another training are kept; the command line says what it does."""
    line = f"clipseg train {start[1]} -m {start[0]} -o out --steps 4 --check 2 -b 2 --device cpu"
    done = shell(line)
    assert done.stdout == "out\n" and "held-out mIoU" in done.stderr and "features 16 of 16" in done.stderr
    assert "finished model" in shell(line, expect=1).stderr
    stages = train(start[1], tmp_path / "begun", ModelOptions(str(start[0]), device="cpu"), SMALL)
    next(each for each in stages if each.stage == "check")
    stages.close()
    with pytest.raises(OutputError, match="another training"):
        run(start, tmp_path / "begun", Recipe(steps=31))
    os.utime(start[1] / "masks/a-dark-disc/01.png")
    with pytest.raises(OutputError, match="data has changed"):
        list(train(start[1], tmp_path / "begun", ModelOptions(str(start[0]), device="cpu"), SMALL))
    for template in ("a photo", "{0}", "{} and {}"):
        assert "--template" in shell(f"{line[:-12]} -o other --template '{template}'", expect=2).stderr
    assert "at least two pictures" in str(only_one(start, tmp_path))


def only_one(start: Run, folder: Path) -> UsageError:
    """What is said of a data set of one picture."""
    (folder / "one.csv").write_text(
        f"image,mask,phrase\n{start[1]}/images/01.png,{start[1]}/masks/a-dark-disc/01.png,x\n"
    )
    with pytest.raises(UsageError) as told:
        list(train(folder / "one.csv", folder / "one", ModelOptions(str(start[0]), device="cpu"), SMALL))
    return told.value


def test_only_the_decoder_has_gradients(start: Run) -> None:
    """`trainable` freezes CLIP and leaves nothing of the decoder frozen."""
    model = CLIPSegForImageSegmentation.from_pretrained(start[0])
    decoder = trainable(model)
    assert all(each.requires_grad for each in decoder.parameters())
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    assert names and all(name.startswith("decoder.") for name in names)
