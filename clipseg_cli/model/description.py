"""Says what a checkpoint is, from its small files and the header of its weights. Loads no weights, asks no hub."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from clipseg_cli.errors import ModelError
from clipseg_cli.model import hub
from clipseg_cli.model.architecture import TEXT, VISION, WHOLE, Tower, positive, read_architecture, section, tower
from clipseg_cli.model.checkpoint_files import CARD, CONFIG, default_threshold, first_missing, kind_of, read_config
from clipseg_cli.model.preprocess import read_preprocessing
from clipseg_cli.model.registry import ALIASES, resolve

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True, slots=True)
class Clip:
    """The two towers of a CLIP, and what they read."""

    vision: Tower
    text: Tower
    patch: int  # pixels
    trained_side: int  # pixels: the image size that its position embeddings were trained on
    vocabulary: int  # tokens
    positions: int  # maximum tokens of a prompt, start and end included
    dim: int  # channels of an embedding


@dataclass(frozen=True, slots=True)
class Decoder:
    """A CLIPSeg's decoder."""

    extract: tuple[int, ...]  # vision layers that it reads, counted from 0
    reduce_dim: int  # channels
    hidden: int  # channels inside the MLPs
    heads: int
    refined: bool  # upsampling by a convolution and two transposed ones; if False, by a single transposed one
    parameters: int  # 0 if the weights are a pickle
    side: int  # pixels: images are warped to side x side
    threshold: float  # default, a probability


@dataclass(frozen=True, slots=True)
class Description:
    """A checkpoint that is on this machine."""

    model: str  # as the user wrote it
    kind: str  # "clipseg", "clip", or any other "model_type" of its config.json
    path: Path
    repo: str | None  # hub id; None for a directory and a bundled model
    commit: str | None  # 40 hex digits; None for a directory and a bundled model
    size: int  # bytes of its files
    parameters: int  # 0 if the weights are a pickle
    dtype: str  # of the weights; several are joined by a comma; "" if the weights are a pickle
    licence: str  # the field of its card; "" if it has no card, or its card no such field
    terms: str  # what this program knows about the licence of an alias; "" for other models
    missing: str | None  # the first file that a model of its kind needs and this one lacks
    clip: Clip | None  # None for a model that is neither CLIPSeg nor CLIP
    decoder: Decoder | None  # None for a model that is not CLIPSeg


def describe(model: str) -> Description:
    """Returns the description of a model: an alias, a hub id, or a directory.

    Raises UsageError for an invalid name, ModelError if the model is not on this machine or cannot be read.
    """
    path, repo, _ = resolve(model)
    if path is None:
        raise ModelError(f"{model} is not in {hub.cache()}: run `clipseg models pull {model}` with a network")
    config = read_config(path)
    if not config:
        raise ModelError(f"{path} has no readable {CONFIG}: it is not a checkpoint in Hugging Face's layout")
    kind = str(config.get("model_type"))
    missing = first_missing(path) if kind_of(config) is not None else None
    weights = _weights(path)
    name = model.partition("@")[0]
    return Description(
        model=model,
        kind=kind,
        path=path,
        repo=repo,
        commit=path.name if repo else None,
        size=sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        parameters=sum(weights.values()),
        dtype=", ".join(sorted({DTYPES.get(kind, kind) for _, kind in weights})),
        licence=_licence(path / CARD),
        terms=ALIASES[name].licence if name in ALIASES else "",
        missing=missing,
        clip=_clip(path, config) if kind in ("clip", "clipseg") else None,
        decoder=None if kind != "clipseg" or missing else _decoder(path, config, weights),
    )


def _weights(path: Path) -> dict[tuple[str, str], int]:
    """Returns the numbers of parameters by tensor name and dtype, of all safetensors files. Raises ModelError."""
    counts: dict[tuple[str, str], int] = {}
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, "numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                    if not name.endswith(".position_ids"):  # counters in old checkpoints
                        part, count = tensors.get_slice(name), 1
                        for length in part.get_shape():
                            count *= length
                        counts[name, part.get_dtype()] = count
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: cannot read the weights ({error}); download the model again") from error
    return counts


def _licence(card: Path) -> str:
    """Returns the licence in the YAML block at the start of a model card, or an empty text."""
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    block = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    named = dict(re.findall(r"^(license\w*):[ ]*(\S.*?)[ ]*$", block[1], re.MULTILINE)) if block else {}
    licence: str = named.get("license", "")
    return " ".join(filter(None, (licence, named.get("license_name"), named.get("license_link")))).strip("\"'")


def _clip(path: Path, config: dict[str, Any]) -> Clip:
    """Returns the towers that a config.json describes. Raises ModelError."""
    try:
        text, vision = section(config, "text_config", TEXT), section(config, "vision_config", VISION)
        return Clip(
            vision=tower(vision),
            text=tower(text),
            patch=positive(vision, "patch_size"),
            trained_side=positive(vision, "image_size"),
            vocabulary=positive(text, "vocab_size"),
            positions=positive(text, "max_position_embeddings"),
            dim=positive({**WHOLE, **config}, "projection_dim"),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path / CONFIG}: not a usable configuration: {error}") from error


def _decoder(path: Path, config: dict[str, Any], weights: dict[tuple[str, str], int]) -> Decoder:
    """Returns the decoder of a complete CLIPSeg. Raises ModelError."""
    shape = read_architecture(path)
    return Decoder(
        extract=shape.extract,
        reduce_dim=shape.decoder.width,
        hidden=shape.decoder.hidden,
        heads=shape.decoder.heads,
        refined=shape.refined,
        parameters=sum(count for (name, _), count in weights.items() if name.startswith("decoder.")),
        side=read_preprocessing(path).side,
        threshold=default_threshold(config),
    )
