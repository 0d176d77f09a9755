"""Stores the features of images on disk, so that a later run with other prompts runs only the decoder.

An entry's name is a digest of everything that its content depends on: the resized image, the model's files, the size,
dtype, device and backend, the torch version and the CPU's instruction set. Each entry contains its own checksum. An
entry that is damaged, truncated or misnamed is ignored and replaced. Several runs may share a folder.
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
DIGEST = 32  # bytes of the SHA-256 checksum that precedes the content


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """The stored features of one model with one set of options."""

    folder: Path
    setup: bytes  # digest of everything except the image that an entry's content depends on

    @classmethod
    def of(cls, folder: Path, segmenter: "Segmenter") -> "FeatureStore":
        """Opens the store of a segmenter. Reads the model's files once, to identify them by content."""
        import torch

        checkpoint = segmenter.checkpoint
        machine = [torch.__version__, torch.backends.cpu.get_cpu_capability()]
        options = [segmenter.side, segmenter.dtype, segmenter.device.split(":")[0], segmenter.backend, *machine]
        digest = hashlib.sha256(json.dumps(options).encode())
        for file in (*sorted(checkpoint.path.glob("*config.json")), checkpoint.weights):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return cls(folder, digest.digest())

    def encode(
        self, segmenter: "Segmenter", images: Sequence[NDArray[np.uint8]], *, pooled: bool = False
    ) -> "Features":
        """Returns the features of images uint8 (S, S, 3), bit-identical to `segmenter.encode`.

        Reads stored features; computes and stores missing ones. Raises OutputError if an entry cannot be written.
        """
        from clipseg_cli.model.segmenter import Features

        names = [self.name(image, pooled) for image in images]
        parts = [self.read(name) for name in names]
        missing = [index for index, part in enumerate(parts) if part is None]
        if missing:
            encoded = segmenter.encode([images[index] for index in missing], pooled=pooled)
            for position, index in enumerate(missing):
                part = encoded[position]
                stored = parts[index] = Features(part.tensor.cpu(), part.pooled)
                self.write(names[index], stored)
        return Features.concatenate([part for part in parts if part is not None])

    def name(self, image: NDArray[np.uint8], pooled: bool) -> str:
        """Returns the path of an image's entry, relative to the folder."""
        digest = hashlib.sha256(self.setup + bytes([pooled]) + np.ascontiguousarray(image).data)
        return f"{digest.hexdigest()[:2]}/{digest.hexdigest()}{SUFFIX}"

    def read(self, name: str) -> "Features | None":
        """Returns the features of an entry, or None if it is missing, damaged or misnamed."""
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
        """Stores the features of one image, unless its path is blocked, for example by a folder."""
        import torch
        from safetensors.torch import save

        tensors = {"features": features.tensor.contiguous()}
        if features.pooled is not None:
            tensors["pooled"] = torch.from_numpy(features.pooled)
        content = save(tensors)
        with contextlib.suppress(ImageError):
            store.write(self.folder / name, _digest(name, content) + content)


def _digest(name: str, content: bytes) -> bytes:
    """Returns the checksum of an entry, which covers its name."""
    return hashlib.sha256(name.encode() + content).digest()
