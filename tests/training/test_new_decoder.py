"""`clipseg train --from-clip`: a plain CLIP becomes a CLIPSeg that transformers loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from checkpoints import write_checkpoint, write_clip
from clipseg_cli.datasets import training_data
from clipseg_cli.errors import ClipsegError, ModelError, UsageError
from clipseg_cli.model.checkpoint_files import CLIP
from clipseg_cli.model.registry import locate
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.settings.model import ModelOptions
from clipseg_cli.settings.training import NewDecoder, Recipe
from clipseg_cli.training import new_decoder
from clipseg_cli.training.train import TEMPLATES, Progress, train
from labelled import training_set
from oracle import edit
from pictures import Program

Start = tuple[Path, Path]  # a plain CLIP and a data set


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A small random CLIP, and sixteen images with a disc or a bar."""
    root = tmp_path_factory.mktemp("clip")
    return write_clip(root / "clip"), training_set(root / "data")


def run(start: Start, out: Path, recipe: Recipe, **options: Any) -> list[Progress]:
    """Trains a new decoder on the CPU to the end, for images of 96 pixels."""
    new = NewDecoder(from_clip=str(start[0]), side=96, **options)
    return list(train(start[1], out, ModelOptions(device="cpu", dtype="fp32"), recipe, (), TEMPLATES[:2], new))


@pytest.mark.slow
def test_a_new_decoder_learns_and_transformers_reads_the_result(start: Start, tmp_path: Path) -> None:
    """CLIP's tensors are those of the CLIP, and transformers' own classes give the same logits within 1e-4."""
    stages = run(
        start, tmp_path / "out", Recipe("new", steps=60, batch=8, check=15, hold=0.25, rate=3e-3), refined=True
    )
    checks = [each for each in stages if each.stage == "check"]
    assert stages[-1].best > checks[0].miou + 0.2 and checks[-1].loss < 0.5, checks
    towers, result = load_file(start[0] / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert {name.removeprefix("clip.") for name in result if not name.startswith("decoder.")} == towers.keys()
    assert all(torch.equal(result[f"clip.{name}"], tensor) for name, tensor in towers.items())
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["extract_layers"] == [1, 2, 4] and config["use_complex_transposed_convolution"]
    assert not (tmp_path / "out/.train").exists()
    model, info = CLIPSegForImageSegmentation.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    processor = CLIPSegProcessor.from_pretrained(tmp_path / "out", backend="pil")
    image = training_data.pixels(start[1] / "images/01.png")
    inputs = processor(text=["a dark disc", "a bar"], images=[image] * 2, padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs = model.eval()(**inputs).logits.numpy()
    segmenter = Segmenter.load(str(tmp_path / "out"), device="cpu", dtype="fp32")
    pixels = inputs["pixel_values"][:1]
    ours = segmenter.logits(segmenter.encode(pixels), segmenter.embed(["a dark disc", "a bar"]))
    np.testing.assert_allclose(ours[0], theirs, atol=1e-4)
    assert tuple(processor.image_processor.image_mean) == new_decoder.MEAN


@pytest.mark.slow
def test_a_stopped_training_resumes_to_the_same_weights(start: Start, tmp_path: Path) -> None:
    """Also if it was stopped while the first features were made. Another decoder in the same folder is refused."""
    recipe = Recipe("new", steps=8, batch=4, check=4, hold=0.25, patience=99)
    run(start, tmp_path / "whole", recipe)
    new = NewDecoder(from_clip=str(start[0]), side=96)
    for stage, at in (("features", 8), ("step", 6)):
        options = ModelOptions(device="cpu", dtype="fp32")
        stages = train(start[1], tmp_path / "out", options, recipe, (), TEMPLATES[:2], new)
        next(each for each in stages if (each.stage, each.at) == (stage, at))
        stages.close()
    with pytest.raises(ClipsegError, match="another training"):
        run(start, tmp_path / "out", recipe, reduce_dim=32)
    run(start, tmp_path / "out", recipe)
    stopped, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert stopped == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vision", "options", "side", "layers"),
    [
        ({}, {}, 352, (1, 2, 4)),
        ({"patch_size": 32}, {"reduce_dim": 8}, 352, (1, 2, 4)),
        ({"patch_size": 14, "image_size": 56, "num_hidden_layers": 12}, {}, 350, (3, 6, 9)),
        ({"num_hidden_layers": 1, "hidden_act": "gelu"}, {}, 352, (0,)),
        ({}, {"extract_layers": (4, 0), "refined": True, "side": 64}, 64, (4, 0)),
    ],
    ids=["B/16", "B/32", "L/14", "shallow", "chosen"],
)
def test_any_clip_gets_a_decoder(
    tmp_path: Path, vision: dict[str, Any], options: dict[str, Any], side: int, layers: tuple[int, ...]
) -> None:
    """Both backends load the result and agree; the same seed gives the same weights, another gives others."""
    clip = locate(str(write_clip(tmp_path / "clip", **vision)), kinds=(CLIP,))
    planned = new_decoder.plan(clip, NewDecoder(from_clip="clip", **options))
    made = new_decoder.write(planned, 0, tmp_path / "a")
    assert (planned.side, planned.shape.extract) == (side, layers)
    logits = []
    for backend in ("fast", "transformers"):
        segmenter = Segmenter.load(made, device="cpu", dtype="fp32", backend=backend)
        image = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
        logits.append(segmenter.logits(segmenter.encode(image), segmenter.embed(["a cat", "a dog and a cat"])))
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)
    assert np.isfinite(logits[0]).all()
    files = [new_decoder.write(planned, seed, tmp_path / name).weights for name, seed in (("b", 0), ("c", 1))]
    assert made.weights.read_bytes() == files[0].read_bytes() != files[1].read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--from-clip clip --extract-layers 3,6", "the vision tower has layers 0 to 4"),
        ("--from-clip clip --extract-layers three", "counted from 0"),
        ("--from-clip clip --reduce-dim 6", "not a multiple of 4"),
        ("--from-clip patch --refined", "only 16 works"),
        ("--from-clip clip --size 100", "try 96"),
        ("--from-clip shapes", "shapes is a CLIPSeg model; a CLIP model is needed"),
        ("--from-clip nothing", "no model 'nothing'"),
        ("--from-clip clip --replay old.txt", "leave it out"),
        ("-m shapes --refined", "add --from-clip"),
    ],
)
def test_what_cannot_be_built_is_a_usage_error(
    start: Start, clipseg: Program, tmp_path: Path, flags: str, message: str
) -> None:
    """Exit 2 before anything is written."""
    (tmp_path / "clip").symlink_to(start[0])
    (tmp_path / "old.txt").write_text("a cat\n")
    if "patch" in flags:
        write_clip(tmp_path / "patch", patch_size=32)
    assert message in clipseg(f"clipseg train {start[1]} -o out {flags}", expect=2).stderr
    assert not (tmp_path / "out").exists()


def test_a_clipseg_is_refused(start: Start, tmp_path: Path) -> None:
    """It has a decoder."""
    with pytest.raises(ModelError, match="describes a 'clipseg' model, not 'clip'"):
        run((write_checkpoint(tmp_path / "clipseg"), start[1]), tmp_path / "out", Recipe())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("projection_dim", 16, "text_projection.weight is 24 x 32, and should be 16 x 32"),
        ("vision_config", {"num_hidden_layers": 9}, r"layers\.5\.\S+ is absent, and should be 48"),
        ("vision_config", {"num_hidden_layers": 3}, r"layers\.3\.\S+ is 48, and should be absent"),
        ("vision_config", {"num_hidden_layers": "many"}, "must be an integer"),
        ("text_config", {"hidden_act": "silly"}, "no .hidden_act. 'silly'"),
        ("model_type", "siglip", "describes a 'siglip' model"),
        ("", None, "visual_projection.weight is 20 x 48, and should be 24 x 48"),
    ],
)
def test_a_clip_that_does_not_fit_is_refused_before_anything_is_written(
    start: Start, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    """Its config.json contradicts its weights, or text and vision do not meet in the same dimensions. The output folder
    is free for the right CLIP."""
    clip = write_clip(tmp_path / "clip")
    if key:
        config = json.loads((clip / "config.json").read_text())
        edit(clip / "config.json", **{key: config[key] | value if isinstance(value, dict) else value})
    else:
        tensors = load_file(clip / "model.safetensors")
        tensors["visual_projection.weight"] = tensors["visual_projection.weight"][:20].clone()
        save_file(tensors, clip / "model.safetensors", {"format": "pt"})
    with pytest.raises(ClipsegError, match=message):
        run((clip, start[1]), tmp_path / "out", Recipe())
    assert not (tmp_path / "out").exists()


def test_data_without_negatives_is_refused(start: Start, tmp_path: Path) -> None:
    """If every image shows the object of every prompt, nothing teaches the decoder to read the prompt."""
    disc = (start[1] / f"images/{number:02}.png" for number in range(1, 16, 2))
    rows = [
        {"image": str(file), "mask": str(start[1] / f"masks/a-dark-disc/{file.name}"), "prompt": "x"} for file in disc
    ]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    new, options = NewDecoder(from_clip=str(start[0]), side=96), ModelOptions(device="cpu", dtype="fp32")
    with pytest.raises(UsageError, match="every image shows"):
        next(train(tmp_path / "all.jsonl", tmp_path / "out", options, Recipe(), new=new))
    assert not (tmp_path / "out").exists()
    recipe = Recipe(absent=0, steps=1, check=1, batch=2, augment="off")
    assert list(train(tmp_path / "all.jsonl", tmp_path / "out", options, recipe, new=new))[-1].stage == "done"
