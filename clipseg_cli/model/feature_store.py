"""Encoded images on disk: a later run with other prompts finds them again and runs the decoder only.

An entry is named by all that decides its bits: what the network sees of the picture, the model's files, the size,
dtype, device and backend, and the torch and processor that compute. It holds its own checksum; one that is damaged,
cut short, or stands under another's name counts as absent and is made anew. Several runs may share a folder.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.storage import store

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Features, Segmenter

SUFFIX = ".features"
DIGEST = 32  # bytes of SHA-256, before the content


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of entries of one model, used as one way of computing."""

    folder: Path
    maker: bytes  # digest of all that decides an entry's bits besides the picture

    @classmethod
    def of(cls, folder: Path, segmenter: "Segmenter") -> "Shelf":
        """The entries that this segmenter can use and make. Reads the model's files once, to know them by content."""
        import torch

        checkpoint = segmenter.checkpoint
        machine = [torch.__version__, torch.backends.cpu.get_cpu_capability()]
        way = [segmenter.side, segmenter.dtype, segmenter.device.split(":")[0], segmenter.backend, *machine]
        digest = hashlib.sha256(json.dumps(way).encode())
        for file in (*sorted(checkpoint.path.glob("*config.json")), checkpoint.weights):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return cls(folder, digest.digest())

    def encode(
        self, segmenter: "Segmenter", pictures: Sequence[NDArray[np.uint8]], *, pooled: bool = False
    ) -> "Features":
        """As `segmenter.encode` of pictures uint8 (S, S, 3), bit for bit; those that are kept are not encoded again.

        Raises OutputError where an entry cannot be written.
        """
        from clipseg_cli.model.segmenter import Features

        names = [self.name(picture, pooled) for picture in pictures]
        parts = [self.read(name) for name in names]
        absent = [index for index, part in enumerate(parts) if part is None]
        if absent:
            made = segmenter.encode([pictures[index] for index in absent], pooled=pooled)
            for place, index in enumerate(absent):
                part = made[place]
                kept = parts[index] = Features(part.tensor.cpu(), part.pooled)
                self.write(names[index], kept)
        return Features.concatenate([part for part in parts if part is not None])

    def name(self, picture: NDArray[np.uint8], pooled: bool) -> str:
        """The entry's path below the folder."""
        digest = hashlib.sha256(self.maker + bytes([pooled]) + np.ascontiguousarray(picture).data)
        return f"{digest.hexdigest()[:2]}/{digest.hexdigest()}{SUFFIX}"

    def read(self, name: str) -> "Features | None":
        """The entry, or None where there is none that is whole and its own."""
        from safetensors.torch import load

        from clipseg_cli.model.segmenter import Features

        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            return None
        if data[:DIGEST] != _digest(name, data[DIGEST:]):
            return None
        tensors = load(data[DIGEST:])
        pooled = tensors.get("pooled")
        return Features(tensors["features"], None if pooled is None else pooled.numpy())

    def write(self, name: str, features: "Features") -> None:
        """Keeps one picture's features; where something is in the way of its path, it is not kept."""
        import torch
        from safetensors.torch import save

        tensors = {"features": features.tensor.contiguous()}
        if features.pooled is not None:
            tensors["pooled"] = torch.from_numpy(features.pooled)
        content = save(tensors)
        with contextlib.suppress(ImageError):
            store.write(self.folder / name, _digest(name, content) + content)


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + content).digest()
