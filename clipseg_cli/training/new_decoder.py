"""Gives a plain CLIP a new decoder, with random weights, as a CLIPSeg directory that can be trained.

The directory has CLIP's two towers, its tokenizer, and the mean and standard deviation of its images. Images are warped
to a square, bilinear, as for the released CLIPSegs.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_cli.errors import ModelError, UsageError
from clipseg_cli.model.architecture import TEXT, VISION, WHOLE, Architecture, assemble, positive, section
from clipseg_cli.model.checkpoint_files import OTHERS, PREPROCESSORS, read_config
from clipseg_cli.model.registry import Checkpoint, locate
from clipseg_cli.settings.training import NewDecoder
from clipseg_cli.storage import store

SIDE = 352  # pixels: the paper's, 22 patches of 16
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
READS = (0.25, 0.5, 0.75)  # of the vision tower's depth: of 12 layers, CLIPSeg reads 3, 6 and 9


@dataclass(frozen=True, slots=True)
class Plan:
    """A CLIPSeg that is possible: its configuration, checked."""

    clip: Checkpoint
    config: dict[str, Any]  # for transformers' CLIPSegConfig
    shape: Architecture
    side: int  # pixels


def plan(clip: Checkpoint, options: NewDecoder) -> Plan:
    """Returns the CLIPSeg with these options. Reads config.json only. Raises UsageError if there is none."""
    try:
        config = read_config(clip.path)
        text, vision = section(config, "text_config", TEXT), section(config, "vision_config", VISION)
        depth = positive(vision, "num_hidden_layers")
        default = sorted({min(round(depth * share), depth - 1) for share in READS})
        whole = WHOLE | {
            "projection_dim": config.get("projection_dim", WHOLE["projection_dim"]),
            "reduce_dim": options.reduce_dim,
            "decoder_intermediate_size": options.feedforward,
            "extract_layers": list(options.extract_layers or default),
            "use_complex_transposed_convolution": options.refined,
        }
        shape = assemble(whole, text, vision)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"--from-clip {clip.name}: {error}") from error
    side = options.side or round(SIDE / shape.patch) * shape.patch
    if side % shape.patch:
        near = max(round(side / shape.patch), 1) * shape.patch
        raise UsageError(f"--size {side} is not a multiple of this CLIP's patch of {shape.patch} pixels: try {near}")
    for part in (text, vision):
        part.pop("model_type", None)
    return Plan(clip, whole | {"text_config": text, "vision_config": vision}, shape, side)


def check(planned: Plan) -> None:
    """Compares the CLIP's weights with its config.json, by names and shapes. Loads no weights. Raises ModelError."""
    import torch
    from safetensors import safe_open
    from transformers import CLIPSegConfig, CLIPSegModel
    from transformers.activations import ACT2FN

    from clipseg_cli.model.reference import quiet

    weights = planned.clip.weights
    for tower in (planned.shape.text, planned.shape.vision):
        if tower.activation not in ACT2FN:
            raise ModelError(f'{weights.parent}: transformers has no "hidden_act" {tower.activation!r}')
    with torch.device("meta"), quiet():
        wanted = {
            name: list(each.shape) for name, each in CLIPSegModel(CLIPSegConfig(**planned.config)).state_dict().items()
        }
    with safe_open(weights, "numpy") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name) and not name.endswith(".position_ids"):  # counters in old checkpoints
            there, here = (
                " x ".join(map(str, sizes[name])) or "a number" if name in sizes else "absent"
                for sizes in (found, wanted)
            )
            raise ModelError(
                f"{weights} does not fit its config.json: {name} is {there}, and should be {here}: download both again"
            )


def write(planned: Plan, seed: int, out: Path) -> Checkpoint:
    """Writes the CLIPSeg to `out`, unless it is there, and returns it. The same seed gives the same weights.

    `planned` was checked. Raises OutputError if the files cannot be written.
    """
    from safetensors import SafetensorError

    from clipseg_cli.model.reference import quiet

    if not out.exists():
        part = out.with_name(f"{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        with store.failing(out), quiet():
            model = _network(planned, seed)
            try:
                model.save_pretrained(part)
            except SafetensorError as error:
                raise OSError(str(error)) from error
            for name in OTHERS:
                if (file := planned.clip.path / name).is_file() and name not in PREPROCESSORS:
                    shutil.copyfile(file, part / name)
            store.write(part / PREPROCESSORS[0], json.dumps(_image_settings(planned), indent=2).encode())
            os.replace(part, out)
    return locate(str(out))


def _network(planned: Plan, seed: int) -> Any:
    """Returns transformers' CLIPSeg with the towers of the CLIP, and a decoder with torch's own initial weights."""
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPSegForImageSegmentation(CLIPSegConfig(**planned.config))
        # transformers draws a decoder's weights with a standard deviation of 1: its first logits are in the hundreds
        for module in model.decoder.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    model.clip.load_state_dict(load_file(planned.clip.weights), strict=False)  # old ones have position_ids
    return model


def _image_settings(planned: Plan) -> dict[str, Any]:
    """Returns the preprocessor's settings."""
    from clipseg_cli.model.preprocess import BILINEAR, read_settings

    clip = read_settings(planned.clip.path)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": clip.get("image_mean", MEAN),
        "image_std": clip.get("image_std", STD),
        "resample": BILINEAR,
        "rescale_factor": 1 / 255,
        "size": {"height": planned.side, "width": planned.side},
    }
