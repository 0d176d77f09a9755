"""Reads a checkpoint's config.json into one frozen value. Standard library only.

Missing keys have the defaults of transformers' CLIPSegConfig, which writes only values that differ from them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_cli.errors import ModelError

TEXT: dict[str, Any] = {
    "vocab_size": 49408,  # 512 byte tokens, 48,894 merges, start and end
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,  # tokens, start and end included
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
VISION: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,  # pixels: the grid that the position embeddings were trained on
    "patch_size": 32,  # pixels
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
WHOLE: dict[str, Any] = {
    "projection_dim": 512,
    "extract_layers": (3, 6, 9),
    "reduce_dim": 64,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 2048,
    "conditional_layer": 0,
    "use_complex_transposed_convolution": False,
}


@dataclass(frozen=True, slots=True)
class Tower:
    """The size of a stack of identical transformer layers."""

    depth: int  # layers
    width: int  # channels of the residual stream
    hidden: int  # channels inside the MLP
    heads: int
    eps: float  # of the layer norms
    activation: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a CLIPSeg network. All are positive and consistent with each other."""

    text: Tower
    vision: Tower
    decoder: Tower
    vocabulary: int  # tokens
    positions: int  # maximum tokens of a prompt, start and end included
    end: int  # id of the end token; 2 means "the largest id", as in checkpoints before July 2023
    patch: int  # pixels
    grid: int  # patches per side that the position embeddings were trained on
    dim: int  # channels of an embedding
    extract: tuple[int, ...]  # vision layers that the decoder reads, counted from 0, in the order of the file
    conditional_layer: int  # decoder layer whose input is modulated by the prompt, counted from 0
    refined: bool  # upsampler: a convolution and two transposed ones; if False, a single transposed one


def read_architecture(path: Path) -> Architecture:
    """Returns the architecture in `path`/config.json. Raises ModelError if it is unreadable or invalid."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.get("model_type") != "clipseg":
            raise ValueError(f'"model_type" is {config.get("model_type")!r}, not "clipseg"')
        text, vision = section(config, "text_config", TEXT), section(config, "vision_config", VISION)
        return assemble({**WHOLE, **config}, text, vision)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: not a usable CLIPSeg configuration: {error}") from error


def section(config: dict[str, Any], name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Returns a section of a CLIPSeg's or CLIP's config.json, with defaults for missing keys."""
    return {**defaults, **(config.get(f"{name}_dict") or config.get(name) or {})}


def assemble(whole: dict[str, Any], text: dict[str, Any], vision: dict[str, Any]) -> Architecture:
    """Checks the three sections of a configuration and combines them. Raises ValueError."""
    patch, side = positive(vision, "patch_size"), positive(vision, "image_size")
    extract = tuple(whole["extract_layers"])
    vision_tower = tower(vision)
    conditional_layer, refined = whole["conditional_layer"], bool(whole["use_complex_transposed_convolution"])
    if vision["num_channels"] != 3:
        raise ValueError(f'"num_channels" is {vision["num_channels"]}; it must be 3')
    if not extract or not all(isinstance(layer, int) and 0 <= layer < vision_tower.depth for layer in extract):
        raise ValueError(f'"extract_layers" is {extract}; the vision tower has layers 0 to {vision_tower.depth - 1}')
    if conditional_layer not in range(len(extract)):  # transformers would accept it and ignore every prompt
        raise ValueError(f'"conditional_layer" is {conditional_layer}; the decoder has layers 0 to {len(extract) - 1}')
    if refined and (patch // 4) ** 2 != patch:  # two strides of patch // 4 must restore one patch
        raise ValueError(f'"patch_size" is {patch}; with "use_complex_transposed_convolution" only 16 works')
    decoder = Tower(
        depth=len(extract),
        width=positive(whole, "reduce_dim"),
        hidden=positive(whole, "decoder_intermediate_size"),
        heads=positive(whole, "decoder_num_attention_heads"),
        eps=vision_tower.eps,
        activation="relu",  # transformers ignores "decoder_hidden_act"
    )
    if decoder.width % decoder.heads:
        raise ValueError(f'"reduce_dim" {decoder.width} is not a multiple of {decoder.heads} attention heads')
    return Architecture(
        text=tower(text),
        vision=vision_tower,
        decoder=decoder,
        vocabulary=positive(text, "vocab_size"),
        positions=positive(text, "max_position_embeddings"),
        end=positive(text, "eos_token_id"),
        patch=patch,
        grid=side // patch,
        dim=positive(whole, "projection_dim"),
        extract=extract,
        conditional_layer=conditional_layer,
        refined=refined,
    )


def tower(section: dict[str, Any]) -> Tower:
    """Returns the size of the layers that `text_config` or `vision_config` describes. Raises ValueError."""
    width, heads = positive(section, "hidden_size"), positive(section, "num_attention_heads")
    if width % heads:
        raise ValueError(f'"hidden_size" {width} is not a multiple of {heads} attention heads')
    return Tower(
        depth=positive(section, "num_hidden_layers"),
        width=width,
        hidden=positive(section, "intermediate_size"),
        heads=heads,
        eps=float(section["layer_norm_eps"]),
        activation=str(section["hidden_act"]),
    )


def positive(section: dict[str, Any], key: str) -> int:
    """Returns the value of `key`, an integer above 0. Raises ValueError for anything else."""
    number = section[key]
    if not isinstance(number, int) or number < 1:
        raise ValueError(f'"{key}" is {number!r}; it must be an integer above 0')
    return number
