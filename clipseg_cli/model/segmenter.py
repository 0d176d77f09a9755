"""The Segmenter: prompts and pictures in, logits out. Values in, values out; nothing is remembered between calls.

segmenter = Segmenter.load("rd64-refined")
embeddings = segmenter.embed(["a cat", "a dog"])  # once per run
features = segmenter.encode([image])  # once per picture
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
from clipseg_cli.model.preprocess import Preprocessing, preprocess, read_preprocessing, resize
from clipseg_cli.model.registry import Checkpoint, locate
from clipseg_cli.model.tokenizer import ClipTokenizer, read_tokenizer, refuse_blank, refuse_long
from clipseg_cli.settings.model import Backend, Dtype

Picture = NDArray[np.uint8] | Image.Image
Pictures = Sequence[Picture] | NDArray[np.uint8] | NDArray[np.float32] | Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROMPTS_AT_ONCE = 8  # prompts in one pass of the decoder: bounds its memory


class Network(Protocol):
    """What a backend computes; `fast.Network` and `reference.Reference` are the two."""

    def embed(self, ids: Sequence[int]) -> Tensor:
        """The token ids of one prompt to float32 (1, dim)."""

    def encode(self, pixels: Tensor, *, pooled: bool = False) -> tuple[Tensor, Tensor | None]:
        """float32 (N, 3, S, S) to features (N, ...) and, if `pooled`, image embeddings float32 (N, dim)."""

    def decode(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Features of N pictures and float32 (P, dim) to logits float32 (N, P, S, S)."""


class Processor(Protocol):
    """How a backend makes numbers of words and pictures."""

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt, start and end tokens included, neither cut nor padded."""

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) RGB to uint8 (side, side, 3)."""

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (H, W, 3) RGB to float32 (3, side, side), normalised."""


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """What to look for: raw CLIP embeddings of prompts or exemplars, never normalised, as CLIPSeg was trained."""

    values: NDArray[np.float32]  # (P, dim)

    def __len__(self) -> int:
        """P."""
        return len(self.values)

    def __getitem__(self, index: int | slice) -> Self:
        """One embedding or a range of them; the first axis stays."""
        return type(self)(self.values[as_slice(index, len(self))])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The embeddings of all parts in order."""
        return cls(np.concatenate([part.values for part in parts]))


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """All that the decoder needs of N pictures. They fit the model, the size and the backend that made them."""

    tensor: Tensor  # float32 (N, layers, tokens, reduce_dim); of the other backend (N, layers, tokens, vision width)
    pooled: NDArray[np.float32] | None = None  # (N, dim): raw CLIP image embeddings, where they were asked for

    def __len__(self) -> int:
        """N."""
        return len(self.tensor)

    def __getitem__(self, index: int | slice) -> Self:
        """One picture or a range of them; the first axis stays."""
        part = as_slice(index, len(self))
        return type(self)(self.tensor[part], None if self.pooled is None else self.pooled[part])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The pictures of all parts in order. `pooled` is kept where every part has it."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        tensor = torch.cat([part.tensor for part in parts])
        return cls(tensor, np.concatenate(pooled) if len(pooled) == len(parts) else None)


@dataclass(frozen=True, slots=True, eq=False)
class Segmenter:
    """One CLIPSeg, loaded. Made by `Segmenter.load`."""

    checkpoint: Checkpoint
    device: str  # "cpu", "cuda", "cuda:1", "mps"
    dtype: str  # "fp32", "bf16", "fp16"
    backend: str  # "fast", "transformers"
    side: int  # pixels: pictures are warped to side x side, and logits have this size
    dim: int  # channels of an embedding
    longest: int  # tokens of a prompt at most, start and end included
    threshold: float  # probability above which this checkpoint's masks begin, unless told otherwise
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
    ) -> Self:
        """A model ready to run.

        `model`: an alias, a hub id, a directory, or what `registry.locate` returned. `size`: pixels, instead of the
        checkpoint's own. Raises ModelError for files that are missing, damaged or unknown, UsageError for the rest.
        """
        if backend not in BACKENDS:
            raise UsageError(f"there is no backend {backend!r}; choose from {', '.join(BACKENDS)}")
        place = pick_device(device)
        precision = pick_dtype(dtype, place)
        checkpoint = locate(model, offline=offline) if isinstance(model, str) else model
        how, shape = read_preprocessing(checkpoint.path), read_architecture(checkpoint.path)
        side = size if size is not None else how.side
        if side < shape.patch or side % shape.patch:
            near = max(round(side / shape.patch), 1) * shape.patch
            raise UsageError(f"size {side} is not a multiple of this model's patch of {shape.patch} pixels: try {near}")
        load_backend = BACKENDS[backend]
        network, processor = load_backend(checkpoint, shape, replace(how, side=side), place, DTYPES[precision])
        return cls(
            checkpoint=checkpoint,
            device=place,
            dtype=precision,
            backend=backend,
            side=side,
            dim=shape.dim,
            longest=shape.positions,
            threshold=checkpoint.threshold,
            network=network,
            processor=processor,
        )

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """The embeddings of P prompts. Raises UsageError for a prompt that is empty or longer than the model reads."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        refuse_blank(prompts)
        ids = self.processor.tokenize(prompts)
        refuse_long(prompts, ids, self.longest)
        return Embeddings(as_numpy(torch.cat([self.network.embed(tokens) for tokens in ids])))

    def embed_images(self, images: Pictures) -> Embeddings:
        """The embeddings of N exemplars, which say "such a thing" where a prompt would say it in words."""
        return Embeddings(as_numpy(self.network.encode(self.pixels(images), pooled=True)[1]))

    def encode(self, images: Pictures, *, pooled: bool = False) -> Features:
        """The features of N pictures. `pooled` adds their CLIP image embeddings, at the price of the vision layers
        that the decoder does not read. On a CPU a picture's features have the same bits in any company."""
        pixels = self.pixels(images)
        # on a CPU a batch gains nothing, and the last bits of a product may depend on its number of rows
        step = 1 if self.device == "cpu" else len(pixels)
        parts = (pixels[start : start + step] for start in range(0, len(pixels), step))
        encoded = [self.network.encode(part, pooled=pooled) for part in parts]
        return Features.concatenate(
            [Features(tensor, None if whole is None else as_numpy(whole)) for tensor, whole in encoded]
        )

    def logits(self, features: Features, embeddings: Embeddings) -> NDArray[np.float32]:
        """float32 (N, P, S, S), unbounded: above 0 is more likely than not."""
        n, prompts = len(features), len(embeddings)
        result = torch.empty((n, prompts, self.side, self.side))
        conditional = torch.from_numpy(np.require(embeddings.values, np.float32, ["C", "W"])).to(self.device)
        # one picture at a time: a product's last bits may depend on its number of rows, and a picture's logits must
        # not depend on the pictures that happen to be beside it
        for i in range(n):
            for p in range(0, prompts, PROMPTS_AT_ONCE):
                some = slice(i, i + 1), slice(p, p + PROMPTS_AT_ONCE)
                result[some] = self.network.decode(features.tensor[some[0]], conditional[some[1]])
        return as_numpy(result)

    def decode(self, features: Features, embeddings: Embeddings | Sequence[str]) -> NDArray[np.float32]:
        """Probabilities float32 (N, P, S, S) in [0, 1] of every picture for every embedding or prompt."""
        known = embeddings if isinstance(embeddings, Embeddings) else self.embed(embeddings)
        return as_numpy(torch.from_numpy(self.logits(features, known)).sigmoid())

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) to uint8 (side, side, 3): all that the network sees of a picture, small enough to queue.
        Encoding it gives the features of the picture itself."""
        return self.processor.resize(as_array(image))

    def pixels(self, images: Pictures) -> Tensor:
        """Pictures to float32 (N, 3, S, S), normalised; float32 of that shape is taken as it is."""
        if isinstance(images, Tensor) or (isinstance(images, np.ndarray) and images.dtype != np.uint8):
            ready = torch.as_tensor(images)
            if ready.dtype != torch.float32 or ready.shape[1:] != (3, self.side, self.side):
                raise UsageError(
                    f"got {ready.dtype} {tuple(ready.shape)}; give a list of uint8 (H, W, 3) pictures, "
                    f"or normalised float32 (N, 3, {self.side}, {self.side})"
                )
            return ready
        return torch.from_numpy(np.stack([self.processor.preprocess(as_array(image)) for image in images]))


def as_array(image: Picture) -> NDArray[np.uint8]:
    """A picture as uint8 (H, W, 3) RGB; a PIL image is turned as its EXIF orientation says. Raises UsageError."""
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(f"got {found}; a picture is a PIL image or a uint8 array (H, W, 3)")
    return image


def as_numpy(tensor: Tensor | None) -> NDArray[np.float32]:
    """Any float tensor as float32 on the CPU."""
    assert tensor is not None
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def as_slice(index: int | slice, length: int) -> slice:
    """The range that `index` means in `length` items. Raises IndexError, which also ends a loop over them."""
    if isinstance(index, slice):
        return index
    place = range(length)[index]
    return slice(place, place + 1)


@dataclass(frozen=True, slots=True, eq=False)
class FastProcessor:
    """How the fast backend makes numbers of words and pictures: see `Processor`."""

    tokenizer: ClipTokenizer
    how: Preprocessing

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Neither cut nor padded."""
        return self.tokenizer(prompts)

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A square."""
        return resize(image, self.how)

    def preprocess(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A normalised square."""
        return preprocess(image, self.how)


def load_fast(
    checkpoint: Checkpoint, shape: Architecture, how: Preprocessing, device: str, dtype: torch.dtype
) -> tuple[Network, Processor]:
    """This program's own network and processor."""
    from clipseg_cli.model.fast import load_network

    network = load_network(checkpoint.weights, shape, side=how.side, device=device, dtype=dtype)
    return network, FastProcessor(read_tokenizer(checkpoint.path), how)


def load_transformers(
    checkpoint: Checkpoint, shape: Architecture, how: Preprocessing, device: str, dtype: torch.dtype
) -> tuple[Network, Processor]:
    """Those of transformers."""
    from clipseg_cli.model.reference import load_reference

    reference = load_reference(checkpoint.path, checkpoint.weights, side=how.side, device=device, dtype=dtype)
    return reference, reference


BACKENDS = {"fast": load_fast, "transformers": load_transformers}


def devices() -> tuple[str, ...]:
    """The devices of this machine, the fastest first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return (*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu")


def pick_device(wanted: str) -> str:
    """`wanted`, or for "auto" the fastest. Raises UsageError, with what exists, for a device that is not here."""
    there = devices()
    if wanted == "auto":
        return there[0]
    device = "cuda:0" if wanted == "cuda" else wanted
    if device not in there:
        raise UsageError(f"there is no device {wanted!r} here; this machine has {', '.join(there)}")
    return device


def pick_dtype(wanted: str, device: str) -> str:
    """`wanted`, or for "auto" the fastest that keeps masks: half precision where the processor multiplies in it."""
    if wanted != "auto":
        if wanted not in DTYPES:
            raise UsageError(f"there is no dtype {wanted!r}; choose from auto, {', '.join(DTYPES)}")
        return wanted
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device == "cpu" and multiplies_bf16() else "fp32"


def multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16 products that torch uses."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that runs this program
    flags = ask() if ask is not None else {}
    return any(flags.get(flag) for flag in ("amx_bf16", "avx512_bf16"))
