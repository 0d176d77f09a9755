"""Keeps the features of images on disk, so that a later run with other prompts runs only the decoder; SAM's too.

An entry's name is a digest of everything that its content depends on: the resized image, the model's files, the size,
dtype, device and backend, the code that computes them and the CPU's instruction set.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.storage import paths
from clipseg_cli.storage.cache import Cache, Place, code_digest, entry_name, user_folder

if TYPE_CHECKING:
    from clipseg_cli.model.registry import Checkpoint
    from clipseg_cli.model.sam import Embedding, Sam
    from clipseg_cli.model.segmenter import Features, Segmenter

KIND, SAM_KIND = "features", "sam"  # extensions of the entries
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
        from clipseg_cli.model import int8

        levels = int8.levels() if segmenter.dtype == "int8" else None
        options = [segmenter.side, segmenter.dtype, segmenter.backend, segmenter.batch, levels]
        return cls(cache, _setup(segmenter.checkpoint, segmenter.device, options))

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
        return _name(self.setup + bytes([pooled]), image, KIND)

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


@dataclass(frozen=True, slots=True)
class EmbeddingStore:
    """The stored embeddings of one SAM with one set of options."""

    cache: Cache
    setup: bytes  # see `FeatureStore`

    @classmethod
    def of(cls, cache: Cache, sam: "Sam") -> "EmbeddingStore":
        """Opens the store of a SAM. Its weights are not read."""
        return cls(cache, _setup(sam.checkpoint, sam.device, [sam.side, sam.dtype]))

    def encode(self, sam: "Sam", images: Sequence[NDArray[np.uint8]]) -> "list[Embedding]":
        """Returns what `sam.encode` does, bit for bit. Reads stored embeddings; computes and stores missing ones."""
        from safetensors.torch import load, save

        names = [_name(self.setup, image, SAM_KIND) for image in images]
        stored = [self.cache.read(name) for name in names]
        missing = [index for index, content in enumerate(stored) if content is None]
        found = dict(zip(missing, sam.encode([images[index] for index in missing]) if missing else (), strict=True))
        for index, embedding in found.items():
            maps = {str(number): each.cpu().contiguous() for number, each in enumerate(embedding)}
            self.cache.write(names[index], save(maps))
        for index, content in enumerate(stored):
            if content is not None:
                maps = load(content)
                found[index] = tuple(maps[str(number)] for number in range(len(maps)))
        return [found[index] for index in range(len(images))]


def _setup(checkpoint: "Checkpoint", device: str, options: list[Any]) -> bytes:
    """Returns a digest of everything except the image that an encoded image depends on."""
    import torch

    kind = device.split(":")[0]
    processor = torch.cuda.get_device_name(device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    weights = checkpoint.revision or paths.fingerprint(str(checkpoint.weights))
    facts = [*options, kind, processor, torch.__version__, version("transformers"), weights, checkpoint.repo]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for file in sorted(checkpoint.path.glob("*config.json")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    digest.update(code_digest(Path(__file__).parent))
    return digest.digest()


def _name(setup: bytes, image: NDArray[np.uint8], kind: str) -> str:
    digest = hashlib.sha256(setup)
    digest.update(np.ascontiguousarray(image).data)
    return entry_name(digest, kind)
