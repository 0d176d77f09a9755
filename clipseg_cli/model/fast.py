"""The network of `--backend fast`: CLIPSeg in plain torch, without transformers.

    ids    -> TextTower   -> embedding (dim)                         once per prompt
    pixels -> VisionTower -> features (layers, tokens, reduce_dim)   once per image, up to the deepest layer needed
    features x embedding  -> Decoder -> logits (S, S)                once per image and prompt

The formulas are those of transformers' models/clipseg/modeling_clipseg.py, and the tests compare the two. The matrix
products of the vision tower and of the decoder's MLPs, nearly all of the work, run in the chosen dtype. Everything
else, including residual streams and layer norms, runs in float32. This keeps bfloat16 masks accurate and costs no time.
The embedding of a prompt depends neither on the dtype nor on the other prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clipseg_cli.model.linear import Activation, Linear


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A layer norm over the last axis."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Returns float32 of the same shape as `x`."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


SCORES = 64 << 20  # bytes of attention scores at once: 1,600 tokens of ViT-B, an image of 640 x 640 pixels


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Returns softmax(q kᵀ / √d) v. All tensors have the shape (N, heads, tokens, d).

    In half precision on a CPU it uses two products, which round the scores but take half the time of torch's kernel.
    If the scores would need more than SCORES bytes, it uses torch's kernel.
    """
    size = q.element_size() * q[..., 0].numel() * k.shape[2]
    if q.device.type != "cpu" or q.dtype == torch.float32 or causal or size > SCORES:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One transformer layer. `pre_norm` and `post_norm` map float32 (N, tokens, width) to the same shape."""

    qkv: Linear  # queries, keys and values in one product
    out: Linear
    up: Linear
    down: Linear
    norm1: Norm
    norm2: Norm
    heads: int
    activation: Activation

    def attend(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Returns the multi-head self-attention. With `causal`, no token sees a later one."""
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v, causal)
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))

    def mlp(self, x: Tensor) -> Tensor:
        """Applies the MLP to every token. The weights include the gain of the activation."""
        return self.down(self.up(x, self.activation))

    def pre_norm(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Applies the layer in CLIP's order: normalise, transform, add."""
        x = x + self.attend(self.norm1(x), causal=causal)
        return x + self.mlp(self.norm2(x))

    def post_norm(self, x: Tensor) -> Tensor:
        """Applies the layer in the decoder's order: transform, add, normalise."""
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


@dataclass(frozen=True, slots=True, eq=False)
class TextTower:
    """Maps token ids to a CLIP text embedding."""

    tokens: Tensor  # (vocabulary, width)
    positions: Tensor  # (positions, width)
    layers: tuple[Layer, ...]
    norm: Norm
    projection: Linear
    end: int  # id of the end token; 2: see `Architecture.end`

    def __call__(self, ids: Tensor) -> Tensor:
        """Maps int64 (1, tokens) to float32 (1, dim): the projected state of the end token."""
        x = self.tokens[ids] + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer.pre_norm(x, causal=True)
        # transformers PR 24773: old configurations wrongly say 2; there, the end token has the largest id
        last = ids.argmax(1) if self.end == 2 else (ids == self.end).int().argmax(1)
        return self.projection(self.norm(x[:, int(last)]))


@dataclass(frozen=True, slots=True, eq=False)
class VisionTower:
    """Maps images to CLIP's activations."""

    patches: Linear  # the patch convolution as one product over (channel, row, column)
    patch: int  # pixels
    start: Tensor  # (width), the class token
    positions: Tensor  # (1 + patches, width), for the image size in use
    norm: Norm
    layers: tuple[Layer, ...]
    last_norm: Norm
    projection: Linear

    def activations(self, pixels: Tensor, depth: int) -> list[Tensor]:
        """Maps float32 (N, 3, S, S) to the outputs of the first `depth` layers.

        Each output is float32 (N, 1 + patches, width).
        """
        n, channels, side, _ = pixels.shape
        grid, p = side // self.patch, self.patch
        cut = pixels.view(n, channels, grid, p, grid, p).permute(0, 2, 4, 1, 3, 5)
        embedded = self.patches(cut.reshape(n, grid * grid, channels * p * p)).float()
        x = self.norm(torch.cat([self.start.expand(n, 1, -1), embedded], 1) + self.positions)
        outputs = []
        for layer in self.layers[:depth]:
            x = layer.pre_norm(x)
            outputs.append(x)
        return outputs

    def pool(self, last: Tensor) -> Tensor:
        """Maps the last layer's output to CLIP image embeddings, float32 (N, dim)."""
        return self.projection.each(self.last_norm(last[:, 0]))


@dataclass(frozen=True, slots=True, eq=False)
class Upsampler:
    """Maps float32 (N, grid, grid, width) to logits float32 (N, S, S)."""

    smooth: tuple[Tensor, Tensor] | None  # weight and bias of a first 3x3 convolution; None in the plain upsampler
    steps: tuple[Linear, ...]  # transposed convolutions: one (plain) or two (refined)
    stride: int  # pixels, of each step

    def __call__(self, x: Tensor) -> Tensor:
        """Convolves, then spreads each position over a patch."""
        if self.smooth is not None:
            x = F.relu(F.conv2d(x.permute(0, 3, 1, 2), *self.smooth, padding=1)).permute(0, 2, 3, 1)
        for step in self.steps[:-1]:
            x = F.relu(self.spread(step(x)))
        return self.spread(self.steps[-1](x)).squeeze(-1)

    def spread(self, tiles: Tensor) -> Tensor:
        """Reorders (N, g, g, stride * stride * C) to (N, g * stride, g * stride, C).

        A transposed convolution with kernel = stride writes every output once, so it is one product per input
        position, followed by this reordering.
        """
        n, g, s = len(tiles), tiles.shape[1], self.stride
        return tiles.reshape(n, g, g, s, s, -1).transpose(2, 3).reshape(n, g * s, g * s, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Maps reduced activations and embeddings to logits."""

    reduces: tuple[Linear, ...]  # in the order of `layers`: the deepest activation first
    film_mul: Linear
    film_add: Linear
    layers: tuple[Layer, ...]
    conditional_layer: int
    upsampler: Upsampler

    def reduce(self, activations: Sequence[Tensor]) -> Tensor:
        """Maps one activation (N, tokens, width) per layer, deepest first, to (N, layers, tokens, reduce_dim)."""
        return torch.stack([reduce(x) for reduce, x in zip(self.reduces, activations, strict=True)], 1)

    def __call__(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Maps features (N, layers, tokens, reduce_dim) and embeddings float32 (P, dim) to logits float32 (N, P, S, S).

        The layers before `conditional_layer` are computed once for all prompts.
        """
        x = features.new_zeros((), dtype=torch.float32)
        for index, layer in enumerate(self.layers):
            x = features[:, index, None] + x  # (N, 1 or P, tokens, reduce_dim)
            if index == self.conditional_layer:
                x = self.film_mul.each(embeddings)[:, None] * x + self.film_add.each(embeddings)[:, None]
            x = layer.post_norm(x.flatten(0, 1)).view(x.shape)
        n, prompts, tokens, width = x.shape
        grid = round((tokens - 1) ** 0.5)
        maps = x[:, :, 1:].reshape(n * prompts, grid, grid, width)  # without the class token
        logits = self.upsampler(maps)
        return logits.view(n, prompts, *logits.shape[1:])


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The complete CLIPSeg on one device."""

    text: TextTower
    vision: VisionTower
    decoder: Decoder
    extract: tuple[int, ...]  # vision layers that the decoder reads, deepest first
    device: torch.device

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Maps the token ids of one prompt to float32 (1, dim)."""
        return self.text(torch.tensor([list(ids)], device=self.device))

    @torch.inference_mode()
    def encode(self, pixels: Tensor, *, pooled: bool = False) -> tuple[Tensor, Tensor | None]:
        """Maps normalised float32 (N, 3, S, S) to features float32 (N, layers, tokens, reduce_dim).

        `pooled` adds the CLIP image embeddings, float32 (N, dim). They need all vision layers, including those that
        the decoder does not read.
        """
        depth = len(self.vision.layers) if pooled else max(self.extract) + 1
        outputs = self.vision.activations(pixels.to(self.device), depth)
        features = self.decoder.reduce([outputs[layer] for layer in self.extract])
        return features, self.vision.pool(outputs[-1]) if pooled else None

    @torch.inference_mode()
    def decode(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Maps the features of N images and embeddings float32 (P, dim) to logits float32 (N, P, S, S)."""
        return self.decoder(features.to(self.device), embeddings.to(self.device))
