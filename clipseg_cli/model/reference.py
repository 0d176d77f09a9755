"""The network of `--backend transformers`: transformers' own CLIPSeg, the reference for the fast backend's tests.

The processor, the vision model, the text model and the decoder are used unchanged. Unlike in the example of the
transformers documentation, an image is encoded once for all prompts, and a prompt is embedded once for all images.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor
from transformers.utils import logging

from clipseg_cli.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """transformers' processor and model of one checkpoint, for images of `side` x `side` pixels."""

    processor: Any
    model: Any
    side: int
    device: torch.device

    def tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each prompt, with start and end tokens, neither truncated nor padded."""
        with quiet():
            ids: list[list[int]] = self.processor.tokenizer(list(prompts)).input_ids
        return ids

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes uint8 (H, W, 3) RGB to uint8 (side, side, 3)."""
        return np.moveaxis(self.process(image, do_rescale=False, do_normalize=False).numpy(), 0, -1)

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps uint8 (H, W, 3) RGB to normalised float32 (3, side, side)."""
        prepared: NDArray[np.float32] = self.process(image).numpy()
        return prepared

    def normalise(self, prepared: Tensor) -> Tensor:
        """Returns the prepared images, which are normalised."""
        return prepared

    def process(self, image: NDArray[np.uint8], **steps: bool) -> Tensor:
        """Runs one image through the processor. Returns (3, side, side)."""
        size = {"height": self.side, "width": self.side}
        batch = self.processor(images=Image.fromarray(image), size=size, return_tensors="pt", **steps)
        pixels: Tensor = batch.pixel_values[0]
        return pixels

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Maps the token ids of one prompt to float32 (1, dim)."""
        return vector(self.model.clip.get_text_features(torch.tensor([list(ids)], device=self.device)))

    @torch.inference_mode()
    def encode(self, pixels: Tensor, *, pooled: bool = False) -> tuple[Tensor, Tensor | None]:
        """Maps normalised float32 (N, 3, S, S) to the hidden states that the decoder reads.

        They are (N, layers, tokens, width), in the model's dtype and the order of `extract_layers`. `pooled` adds
        CLIP's image embeddings, float32 (N, dim).
        """
        clip = self.model.clip
        output = clip.vision_model(pixels.to(self.device), output_hidden_states=True)
        # the first hidden state is the input of layer 0
        features = torch.stack([output.hidden_states[layer + 1] for layer in self.model.extract_layers], 1)
        return features, clip.visual_projection(output.pooler_output).float() if pooled else None

    @torch.inference_mode()
    def decode(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Maps the features of N images and embeddings float32 (P, dim) to logits float32 (N, P, S, S)."""
        n, prompts = len(features), len(embeddings)
        repeated = features.to(self.device).repeat_interleave(prompts, 0)
        conditional = embeddings.to(self.device, self.model.dtype).repeat(n, 1)
        logits: Tensor = self.model.decoder(list(repeated.unbind(1)), conditional).logits
        return logits.float().view(n, prompts, *logits.shape[1:])


def load_reference(path: Path, weights: Path, *, side: int, device: str, dtype: torch.dtype) -> Reference:
    """Loads transformers' processor from `path` and its model from `weights`. Runs no code of the checkpoint.

    Raises ModelError if transformers cannot read them, or would fill a missing tensor with random numbers.
    """
    untyped: Any = CLIPSegForImageSegmentation
    with quiet():
        try:
            processor = CLIPSegProcessor.from_pretrained(path, backend="pil", local_files_only=True)
            config = CLIPSegConfig.from_pretrained(path, local_files_only=True)
            model, info = untyped.from_pretrained(
                None, config=config, state_dict=load_file(weights), dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{path}: transformers cannot read this model: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{weights}: {len(missing)} tensors are missing, including {missing[0]}")
    return Reference(processor, model.to(device).eval(), side, torch.device(device))


def vector(features: Any) -> Tensor:
    """Returns the projected embedding: `pooler_output` in transformers 5, the tensor itself in older versions."""
    embedding: Tensor = getattr(features, "pooler_output", features)
    return embedding.float()


@contextmanager
def quiet() -> Iterator[None]:
    """Turns off transformers' warnings and progress bars, and restores the settings at the end."""
    untyped: Any = logging
    level, bars = untyped.get_verbosity(), untyped.is_progress_bar_enabled()
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()
    try:
        yield
    finally:
        untyped.set_verbosity(level)
        if bars:
            untyped.enable_progress_bar()
