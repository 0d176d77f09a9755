"""Keeps the features of images on disk, so that a later run with other prompts runs only the decoder.

An entry's name is a digest of everything that its content depends on: the resized image, the model's files, the size,
dtype, device and backend, the code that computes them and the CPU's instruction set.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.storage import paths
from clipseg_cli.storage.cache import Cache, Place, code_digest, entry_name, user_folder

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Features, Segmenter

KIND = "features"  # extension of the entries
LIMIT = 2_000_000_000  # bytes that the user's cache may take of the disk, unless told otherwise


def user_place(limit: int | None = None) -> Place | None:
    """Returns the place in the user's cache for the features of images; None if the user has no home."""
    folder = user_folder()
    return None if folder is None else Place(folder / "features", LIMIT if limit is None else limit)


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """The stored features of one model with one set of options."""

    cache: Cache
    setup: bytes  # digest of everything except the image that an entry's content depends on

    @classmethod
    def of(cls, cache: Cache, segmenter: "Segmenter") -> "FeatureStore":
        """Opens the store of a segmenter. The weights are not read: their revision, or path, size and times, count."""
        import torch

        from clipseg_cli.model import int8

        checkpoint, device = segmenter.checkpoint, segmenter.device.split(":")[0]
        cpu = torch.backends.cpu.get_cpu_capability()
        processor = torch.cuda.get_device_name(segmenter.device) if device == "cuda" else cpu
        levels = int8.levels() if segmenter.dtype == "int8" else None
        options = [segmenter.side, segmenter.dtype, device, segmenter.backend, segmenter.batch, processor, levels]
        libraries = [torch.__version__, version("transformers")]
        weights = checkpoint.revision or paths.fingerprint(str(checkpoint.weights))
        digest = hashlib.sha256(json.dumps([options, libraries, weights, checkpoint.repo]).encode())
        for file in sorted(checkpoint.path.glob("*config.json")):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        digest.update(code_digest(Path(__file__).parent))
        return cls(cache, digest.digest())

    def encode(
        self, segmenter: "Segmenter", views: "Sequence[NDArray[np.uint8] | Features]", *, pooled: bool = False
    ) -> "tuple[Features, list[str]]":
        """Returns the features of images, and the names of their entries.

        An image is uint8 (S, S, 3), or its features that have been read before, which have no name here. The features
        are bit-identical to those of `segmenter.encode`. Reads stored features; computes and stores missing ones.
        """
        from clipseg_cli.model.devices import to_host
        from clipseg_cli.model.segmenter import Features

        names = ["" if isinstance(view, Features) else self.name(view, pooled) for view in views]
        parts = [
            view if isinstance(view, Features) else self.read(name) for view, name in zip(views, names, strict=True)
        ]
        missing = {index: view for index, (view, part) in enumerate(zip(views, parts, strict=True)) if part is None}
        if missing:
            encoded = segmenter.encode(
                [each for each in missing.values() if isinstance(each, np.ndarray)], pooled=pooled
            )
            encoded = Features(to_host(encoded.tensor), encoded.pooled)
            for position, index in enumerate(missing):
                part = parts[index] = encoded[position]
                self.write(names[index], part)
        return Features.concatenate([part for part in parts if part is not None]), names

    def name(self, image: NDArray[np.uint8], pooled: bool) -> str:
        """Returns the name of an image's entry."""
        digest = hashlib.sha256(self.setup + bytes([pooled]))
        digest.update(np.ascontiguousarray(image).data)
        return entry_name(digest, KIND)

    def read(self, name: str) -> "Features | None":
        """Returns the features of an entry, or None if there is none."""
        from safetensors.torch import load

        from clipseg_cli.model.segmenter import Features

        content = self.cache.read(name)
        if content is None:
            return None
        tensors = load(content)
        pooled = tensors.get("pooled")
        return Features(tensors["features"], None if pooled is None else pooled.numpy())

    def write(self, name: str, features: "Features") -> None:
        """Stores the features of one image, if there is room."""
        import torch
        from safetensors.torch import save

        tensors = {"features": features.tensor.contiguous()}
        if features.pooled is not None:
            tensors["pooled"] = torch.from_numpy(features.pooled)
        self.cache.write(name, save(tensors))
