"""The Segmenter maps images and prompts to logits. It keeps no state between calls.

segmenter = Segmenter.load("rd64-refined")
embeddings = segmenter.embed(["a cat", "a dog"])  # once per run
features = segmenter.encode([image])  # once per image
logits = segmenter.logits(features, embeddings)  # float32 (1, 2, S, S)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from clipseg_cli.errors import UsageError
from clipseg_cli.model.architecture import Architecture, read_architecture
from clipseg_cli.model.devices import DTYPES, pick_device, pick_dtype, to_device, to_host
from clipseg_cli.model.preprocess import Preprocessing, normalise, read_preprocessing, resize
from clipseg_cli.model.registry import Checkpoint, locate
from clipseg_cli.model.threads import side_by_side
from clipseg_cli.model.tokenizer import ClipTokenizer, read_tokenizer, refuse_blank, refuse_long
from clipseg_cli.settings.model import GPU_BATCH, Backend, Dtype

ImageLike = NDArray[np.uint8] | Image.Image
ImageBatch = Sequence[ImageLike] | NDArray[np.uint8] | NDArray[np.float32] | Tensor

PROMPTS_AT_ONCE = 8  # prompts in one pass of the decoder: limits its memory


class Network(Protocol):
    """The network of a backend: `fast.Network` or `reference.Reference`."""

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Maps the token ids of one prompt to float32 (1, dim)."""

    def encode(self, pixels: Tensor, *, pooled: bool = False) -> tuple[Tensor, Tensor | None]:
        """Maps float32 (N, 3, S, S) to features (N, ...) and, if `pooled`, image embeddings float32 (N, dim)."""

    def decode(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Maps the features of N images and embeddings float32 (P, dim) to logits float32 (N, P, S, S)."""


class Processor(Protocol):
    """Converts prompts and images to the input of a backend's network."""

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each prompt, with start and end tokens, neither truncated nor padded."""

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes uint8 (H, W, 3) RGB to uint8 (side, side, 3)."""

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Returns what is sent to the device of uint8 (H, W, 3) RGB: uint8 (side, side, 3), or normalised float32."""

    def normalise(self, prepared: Tensor) -> Tensor:
        """Maps N prepared images to normalised float32 (N, 3, side, side). Normalised ones stay as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """CLIP embeddings of P prompts or exemplars. They are not normalised, because CLIPSeg was trained that way."""

    values: NDArray[np.float32]  # (P, dim)

    def __len__(self) -> int:
        """Returns P."""
        return len(self.values)

    def __getitem__(self, index: int | slice) -> Self:
        """Returns one embedding or a range of them. The first axis is kept."""
        return type(self)(self.values[as_slice(index, len(self))])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Joins the embeddings of all parts in order."""
        return cls(np.concatenate([part.values for part in parts]))


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The encoded form of N images. It is valid only for the model, size and backend that produced it."""

    tensor: Tensor  # float32 (N, layers, tokens, reduce_dim); backend "transformers": (N, layers, tokens, vision width)
    pooled: NDArray[np.float32] | None = None  # (N, dim): CLIP image embeddings, not normalised, if requested

    def __len__(self) -> int:
        """Returns N."""
        return len(self.tensor)

    def __getitem__(self, index: int | slice) -> Self:
        """Returns the features of one image or of a range of them. The first axis is kept."""
        part = as_slice(index, len(self))
        return type(self)(self.tensor[part], None if self.pooled is None else self.pooled[part])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Joins the features of all parts in order. `pooled` is kept if every part has it."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        tensor = torch.cat([part.tensor for part in parts])
        return cls(tensor, np.concatenate(pooled) if len(pooled) == len(parts) else None)


@dataclass(frozen=True, slots=True, eq=False)
class Segmenter:
    """A loaded CLIPSeg model. Create it with `Segmenter.load`."""

    checkpoint: Checkpoint
    device: str  # "cpu", "cuda", "cuda:1", "mps"
    dtype: str  # "fp32", "bf16", "fp16", "int8"
    backend: str  # "fast", "transformers"
    side: int  # pixels: images are warped to side x side, and logits have this size
    dim: int  # channels of an embedding
    longest: int  # maximum tokens of a prompt, start and end included
    threshold: float  # the checkpoint's default threshold, a probability
    threads: int  # of a CPU, that the images of a batch share; elsewhere 1
    # Images in each pass of the network, which blank ones fill up: the last bits of a product may depend on its number
    # of rows, but the results of an image must not depend on the other images. On a CPU 1: a batch is not faster there.
    batch: int
    network: Network = field(repr=False)
    processor: Processor = field(repr=False)

    @classmethod
    def load(
        cls,
        model: str | Checkpoint = "rd64-refined",
        *,
        device: str = "auto",
        dtype: Dtype = "auto",
        backend: Backend = "fast",
        offline: bool = False,
        size: int | None = None,
        batch: int | None = None,
    ) -> Self:
        """Loads a model.

        `model` is an alias, a hub id, a directory, or a result of `registry.locate`. `size` in pixels replaces the
        checkpoint's own image size. `batch` is the number of images in a pass on a GPU. Raises ModelError for files
        that are missing, damaged or not supported, and UsageError for invalid arguments.
        """
        if backend not in BACKENDS:
            raise UsageError(f"there is no backend {backend!r}; choose from {', '.join(BACKENDS)}")
        device = pick_device(device)
        precision = pick_dtype(dtype, device)
        if precision == "int8" and backend != "fast":
            raise UsageError(f"backend {backend} has no int8: use --backend fast, or --dtype auto")
        checkpoint = locate(model, offline=offline) if isinstance(model, str) else model
        preprocessing, shape = read_preprocessing(checkpoint.path), read_architecture(checkpoint.path)
        side = size if size is not None else preprocessing.side
        if side < shape.patch or side % shape.patch:
            near = max(round(side / shape.patch), 1) * shape.patch
            raise UsageError(f"size {side} is not a multiple of this model's patch of {shape.patch} pixels: try {near}")
        load_backend = BACKENDS[backend]
        preprocessing = replace(preprocessing, side=side)
        network, processor = load_backend(checkpoint, shape, preprocessing, device, DTYPES[precision])
        return cls(
            checkpoint=checkpoint,
            device=device,
            dtype=precision,
            backend=backend,
            side=side,
            dim=shape.dim,
            longest=shape.positions,
            threshold=checkpoint.threshold,
            threads=torch.get_num_threads() if device == "cpu" else 1,
            batch=1 if device == "cpu" else batch or GPU_BATCH,
            network=network,
            processor=processor,
        )

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Returns the embeddings of P prompts. Raises UsageError for an empty prompt or one with too many tokens."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        refuse_blank(prompts)
        ids = self.processor.tokenize(prompts)
        refuse_long(prompts, ids, self.longest)
        return Embeddings(as_numpy(torch.cat([self.network.embed(tokens) for tokens in ids])))

    def embed_images(self, images: ImageBatch) -> Embeddings:
        """Returns the embeddings of N exemplars. They condition the decoder like those of prompts."""
        pooled = self.encode(images, pooled=True).pooled
        assert pooled is not None
        return Embeddings(pooled)

    def encode(self, images: ImageBatch, *, pooled: bool = False) -> Features:
        """Returns the features of N images, on the device. Those of an image are bit-identical among any others.

        `pooled` adds their CLIP image embeddings, which need more vision layers than the decoder reads.
        """
        prepared = self._prepared(images)
        n = len(prepared)

        def encode(start: int) -> tuple[Tensor, Tensor | None]:
            return self.network.encode(self.processor.normalise(self._filled(prepared, start)), pooled=pooled)

        tensors, embeddings = zip(*side_by_side(encode, range(0, n, self.batch), self.threads), strict=True)
        return Features(torch.cat(tensors)[:n], as_numpy(torch.cat(embeddings)[:n]) if pooled else None)

    def logits(self, features: Features, embeddings: Embeddings) -> NDArray[np.float32]:
        """Returns float32 (N, P, S, S), unbounded. A value above 0 is a probability above 0.5."""
        n, prompts = len(features), len(embeddings)
        tensor = to_device(features.tensor, self.device)
        conditional = to_device(torch.from_numpy(np.require(embeddings.values, np.float32, ["C", "W"])), self.device)
        result = torch.empty((n, prompts, self.side, self.side), device=self.device)

        def decode(start: int) -> None:
            filled = self._filled(tensor, start)
            for p in range(0, prompts, PROMPTS_AT_ONCE):
                group = slice(p, p + PROMPTS_AT_ONCE)
                result[start : start + self.batch, group] = self.network.decode(filled, conditional[group])[: n - start]

        side_by_side(decode, range(0, n, self.batch), self.threads)
        return as_numpy(result)

    def _filled(self, rows: Tensor, start: int) -> Tensor:
        """Returns the rows of the pass that begins at `start`, (batch, ...). Zeros take the place of missing ones."""
        part = rows[start : start + self.batch]
        missing = self.batch - len(part)
        return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part

    def decode(self, features: Features, embeddings: Embeddings | Sequence[str]) -> NDArray[np.float32]:
        """Returns probabilities float32 (N, P, S, S) in [0, 1] for every image and every embedding or prompt."""
        if not isinstance(embeddings, Embeddings):
            embeddings = self.embed(embeddings)
        return as_numpy(torch.from_numpy(self.logits(features, embeddings)).sigmoid())

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes uint8 (H, W, 3) to uint8 (side, side, 3), the resolution that the network sees.

        The resized image has the same features as the original.
        """
        return self.processor.resize(as_array(image))

    def pixels(self, images: ImageBatch) -> Tensor:
        """Converts images to normalised float32 (N, 3, S, S) on the device; leaves the values of such an array.

        Raises UsageError.
        """
        return self.processor.normalise(self._prepared(images))

    def _prepared(self, images: ImageBatch) -> Tensor:
        """Sends N images to the device, as the processor prepares them or normalised already. Raises UsageError."""
        if isinstance(images, Tensor) or (isinstance(images, np.ndarray) and images.dtype != np.uint8):
            ready = torch.as_tensor(images)
            if ready.dtype != torch.float32 or ready.shape[1:] != (3, self.side, self.side):
                raise UsageError(
                    f"got {ready.dtype} {tuple(ready.shape)}; give a list of uint8 (H, W, 3) images, "
                    f"or normalised float32 (N, 3, {self.side}, {self.side})"
                )
            return to_device(ready, self.device)
        prepared = np.stack([self.processor.prepare(as_array(image)) for image in images])
        return to_device(torch.from_numpy(prepared), self.device)


def as_array(image: ImageLike) -> NDArray[np.uint8]:
    """Converts an image to uint8 (H, W, 3) RGB, applying a PIL image's EXIF orientation. Raises UsageError."""
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(f"got {given}; an image is a PIL image or a uint8 array (H, W, 3)")
    return image


def as_numpy(tensor: Tensor) -> NDArray[np.float32]:
    """Converts a float tensor to float32 on the CPU."""
    array: NDArray[np.float32] = to_host(tensor.float()).numpy()
    return array


def as_slice(index: int | slice, length: int) -> slice:
    """Converts an index into `length` items to a slice. Raises IndexError, which also ends a `for` loop over them."""
    if isinstance(index, slice):
        return index
    position = range(length)[index]
    return slice(position, position + 1)


@dataclass(frozen=True, slots=True, eq=False)
class FastProcessor:
    """The processor of the fast backend. For its methods see `Processor`."""

    tokenizer: ClipTokenizer
    preprocessing: Preprocessing
    levels: Tensor  # those of `preprocessing`, on the device

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each prompt."""
        return self.tokenizer(prompts)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes an image to uint8 (side, side, 3)."""
        return resize(image, self.preprocessing)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes an image. A quarter of the bytes of a normalised one are sent to the device."""
        return self.resize(image)

    def normalise(self, prepared: Tensor) -> Tensor:
        """Maps uint8 (N, side, side, 3) to normalised float32 (N, 3, side, side)."""
        return normalise(prepared, self.levels) if prepared.dtype == torch.uint8 else prepared


def load_fast(
    checkpoint: Checkpoint, shape: Architecture, preprocessing: Preprocessing, device: str, dtype: torch.dtype
) -> tuple[Network, Processor]:
    """Loads the network and the processor of this package."""
    from clipseg_cli.model.fast_weights import load_network

    levels = torch.from_numpy(preprocessing.levels).to(device)
    processor = FastProcessor(read_tokenizer(checkpoint.path), preprocessing, levels)
    return load_network(checkpoint.weights, shape, side=preprocessing.side, device=device, dtype=dtype), processor


def load_transformers(
    checkpoint: Checkpoint, shape: Architecture, preprocessing: Preprocessing, device: str, dtype: torch.dtype
) -> tuple[Network, Processor]:
    """Loads the network and the processor of transformers."""
    from clipseg_cli.model.reference import load_reference

    side = preprocessing.side
    reference = load_reference(checkpoint.path, checkpoint.weights, side=side, device=device, dtype=dtype)
    return reference, reference


BACKENDS = {"fast": load_fast, "transformers": load_transformers}
