"""The file of `clipseg embed`: a safetensors file of embeddings, with their labels in its metadata.

An embedding works with every checkpoint that has the same CLIP, which is identified by a fingerprint.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import UsageError

CLIP_TENSORS = ("clip.text_projection.weight", "clip.visual_projection.weight")  # equal tensors, equal embeddings
FORMAT = "clipseg-embedding"
LARGEST = 100_000_000  # bytes of an embedding file: about 50,000 labels


@dataclass(frozen=True, slots=True, eq=False)
class SavedEmbedding:
    """One embedding of a file."""

    label: str
    source: str  # the prompt, or a description of the exemplar
    model: str  # the model that made it, for messages
    clip: str  # fingerprint of the CLIP that made it
    values: NDArray[np.float32]  # (dim,)


def fingerprint(weights: Path) -> str:
    """Returns 16 hex digits that identify the CLIP inside a checkpoint: a hash of its projections.

    rd64-refined, rd64, rd16, and models that `clipseg train` makes from them share one CLIP and one fingerprint.
    """
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        digest = hashlib.sha256()
        for name in CLIP_TENSORS:
            begin, end = header[name]["data_offsets"]
            file.seek(8 + length + begin)
            digest.update(file.read(end - begin))
    return digest.hexdigest()[:16]


def check(embeddings: Sequence[SavedEmbedding], weights: Path, model: str) -> None:
    """Raises UsageError if an embedding was made with another CLIP than that of the checkpoint `weights`."""
    own = fingerprint(weights) if embeddings else ""
    for saved in embeddings:
        if saved.clip != own:
            raise UsageError(
                f"the embedding {saved.label!r} was made with the model {saved.model}, but {model} has another CLIP: "
                f"run with --model {saved.model}, or make it again with `clipseg embed --model {model}`"
            )


def pack(rows: NDArray[np.float32], labels: Sequence[str], sources: Sequence[str], model: str, weights: Path) -> bytes:
    """Returns the bytes of an embedding file.

    `rows` becomes its tensor `embeddings`, float32 (P, dim). Its metadata has the labels, their sources, the model and
    the fingerprint of its CLIP.
    """
    from safetensors.numpy import save

    about = {"format": FORMAT, "model": model, "clip": fingerprint(weights), "dim": str(rows.shape[1])}
    about |= {"labels": json.dumps(list(labels)), "sources": json.dumps(list(sources))}
    return save({"embeddings": np.ascontiguousarray(rows)}, about)


def read(path: str, stdin: BinaryIO | None = None) -> tuple[SavedEmbedding, ...]:
    """Returns the embeddings in a file, or on stdin for "-"; None is no stdin, or a terminal. Raises UsageError."""
    if path == "-" and stdin is None:
        raise UsageError("--embedding - reads stdin, which is missing or a terminal: pipe `clipseg embed` into it")
    try:
        with contextlib.nullcontext(stdin) if path == "-" and stdin else open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UsageError(f"--embedding {path}: {error.strerror}") from error
    if len(data) > LARGEST:
        raise UsageError(f"--embedding {path}: too large for a file of `clipseg embed`")
    return unpack(data, path)


def unpack(data: bytes, where: str) -> tuple[SavedEmbedding, ...]:
    """Returns the embeddings in the bytes of a file. Raises UsageError that names the file, `where`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        values = load(data)["embeddings"]
        about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        labels, sources = json.loads(about["labels"]), json.loads(about["sources"])
        model, clip = str(about["model"]), str(about["clip"])
        fits = about["format"] == FORMAT and values.dtype == np.float32 and values.ndim == 2
        if not fits or len(labels) != len(values) or len(sources) != len(values) or not np.isfinite(values).all():
            raise ValueError("its tensors and labels do not match")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--embedding {where} is not a file of `clipseg embed`: {error}") from error
    return tuple(
        SavedEmbedding(str(label), str(source), model, clip, row)
        for label, source, row in zip(labels, sources, values, strict=True)
    )
