"""The files of a checkpoint directory: their names, and checks that they are complete and undamaged. Imports no torch.

Checks read file names, config.json and the safetensors header, never the tensors themselves.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_cli.errors import ModelError

DEFAULT_THRESHOLD = 0.3  # probability: the paper's choice for PhraseCut, table 3

CONFIG, SAFETENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")  # transformers up to 4; transformers 5
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either group is enough
OTHERS = (*PREPROCESSORS, *sum(TOKENIZERS, ()), "tokenizer_config.json", "special_tokens_map.json")
CARD = "README.md"  # says how the model was made, and its licence


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of network that this program runs."""

    name: str
    types: tuple[str, ...]  # values of "model_type" in its config.json; messages name the first
    instead: str  # what to use without its weights
    tokenizer: bool = True  # whether it needs the tokenizer's files


CLIPSEG = Kind("CLIPSeg", ("clipseg",), "use `--model shapes`")
# the released SAM 2.1 and EdgeTAM are stored as their video models, which contain the image model
SAM = Kind("SAM 2", ("sam2", "sam2_video", "edgetam", "edgetam_video"), "use `--refine guided`", tokenizer=False)
CLIP = Kind("CLIP", ("clip",), "give the directory of a CLIP")  # only to train a decoder for it
KINDS = (CLIPSEG, SAM, CLIP)

LONGEST_HEADER = 100_000_000  # bytes: the safetensors library's own limit


def read_config(path: Path) -> dict[str, Any]:
    """Returns the content of `path`/config.json, or an empty dict if it is missing or not a JSON object."""
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def default_threshold(config: dict[str, Any]) -> float:
    """Returns the checkpoint's own default threshold, a probability, or the paper's if config.json has none."""
    value = config.get("clipseg_threshold")
    return float(value) if isinstance(value, int | float) and 0 < value < 1 else DEFAULT_THRESHOLD


def kind_of(config: dict[str, Any]) -> Kind | None:
    """Returns the kind of network that a config.json describes; None if it is none of this program's."""
    return next((kind for kind in KINDS if config.get("model_type") in kind.types), None)


def check_config(path: Path, kinds: tuple[Kind, ...] = (CLIPSEG,)) -> dict[str, Any]:
    """Returns the content of `path`/config.json. Raises ModelError if it does not describe one of these kinds."""
    config = read_config(path)
    if not config:
        raise ModelError(f"{path / CONFIG} cannot be read: download the model again")
    if kind_of(config) not in kinds:
        wanted = kinds[0]
        bare = "; a plain CLIP needs a decoder: `clipseg train --from-clip`" if kind_of(config) is CLIP else ""
        raise ModelError(
            f"{path / CONFIG} describes a {config.get('model_type')!r} model, not {wanted.types[0]!r}: "
            f"choose a {wanted.name} checkpoint{bare}"
        )
    return config


def first_missing(path: Path) -> str | None:
    """Returns the name of the first required file that the directory lacks, or None if it is complete."""
    present = {file.name for file in path.glob("*") if file.is_file()}
    groups = ((),) if kind_of(read_config(path)) is SAM else TOKENIZERS
    required = {
        CONFIG: CONFIG in present,
        PREPROCESSORS[0]: not present.isdisjoint(PREPROCESSORS),
        "tokenizer.json, nor vocab.json with merges.txt": any(present.issuperset(group) for group in groups),
        f"{SAFETENSORS} or {PICKLE}": not present.isdisjoint((SAFETENSORS, PICKLE)),
    }
    return next((name for name, met in required.items() if not met), None)


def check_safetensors(path: Path, remedy: str) -> None:
    """Checks that the header parses and that the file has exactly the size that the header implies.

    Raises ModelError, which tells the user to remove the file and then to follow `remedy`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 2 <= length <= LONGEST_HEADER else b""
    try:
        entries = json.loads(header) if len(header) == length else {}
        end = 8 + length + max((e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        header = b""
    if header[:1] != b"{":
        raise ModelError(f"{path} is not a safetensors file: remove it and {remedy}")
    if size != end or not entries:
        state = "truncated" if size < end else "damaged"
        raise ModelError(f"{path} is {state}: it has {size} bytes, expected {end}; remove it and {remedy}")
