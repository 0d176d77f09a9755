"""CLIPSeg in plain torch over a checkpoint's own safetensors, without transformers: what `--backend fast` runs.

    ids    -> TextTower   -> embedding (dim)                         once per prompt
    pixels -> VisionTower -> features (layers, tokens, reduce_dim)   once per image, only the layers that are read
    features x embedding  -> Decoder -> logits (S, S)                once per pair

The formulas are those of transformers' models/clipseg/modeling_clipseg.py, and the tests hold them to it. The matrix
products of the vision tower and of the decoder's MLPs, nearly all of the work, run in the chosen dtype; everything
else, residual streams and layer norms among it, is float32, which keeps bfloat16 masks faithful at no cost in time.
The embedding of a prompt depends on neither the dtype nor the other prompts.
What this file does not know it refuses with ModelError that names `--backend transformers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipseg_cli.errors import ModelError
from clipseg_cli.model.architecture import Architecture, Tower
from clipseg_cli.model.linear import ACTIVATIONS, Activation, Linear, add_in_one_order, can_fuse, keep_freed_memory, mlp


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """Layer norm over the last axis: float32 in, float32 out."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """The same shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


SCORES = 64 << 20  # bytes of attention scores at once: 1,600 tokens of ViT-B, a picture of 640 x 640 pixels


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """softmax(q kᵀ / √d) v of (N, heads, tokens, d), to the same shape. In half precision on a CPU as two products,
    which takes half the time of torch's kernel and rounds the scores; that kernel where they would take much memory."""
    size = q.element_size() * q[..., 0].numel() * k.shape[2]
    if q.device.type != "cpu" or q.dtype == torch.float32 or causal or size > SCORES:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The parts of one transformer layer. `pre_norm` and `post_norm` map float32 (N, tokens, width) to the same."""

    qkv: Linear  # queries, keys and values in one product
    out: Linear
    up: Linear
    down: Linear
    norm1: Norm
    norm2: Norm
    heads: int
    activation: Activation

    def attend(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Multi-head self-attention; `causal`: no token sees a later one."""
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v, causal)
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))

    def mlp(self, x: Tensor) -> Tensor:
        """Two products around the activation, token by token. The gain of the activation is in their weights."""
        return self.down(self.up(x, self.activation))

    def pre_norm(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """CLIP's order: normalise, transform, add."""
        x = x + self.attend(self.norm1(x), causal=causal)
        return x + self.mlp(self.norm2(x))

    def post_norm(self, x: Tensor) -> Tensor:
        """The decoder's order: transform, add, normalise."""
        x = self.norm1(x + self.attend(x))
        return self.norm2(x + self.mlp(x))


@dataclass(frozen=True, slots=True, eq=False)
class TextTower:
    """Token ids to a CLIP text embedding."""

    tokens: Tensor  # (vocabulary, width)
    positions: Tensor  # (positions, width)
    layers: tuple[Layer, ...]
    norm: Norm
    projection: Linear
    end: int

    def __call__(self, ids: Tensor) -> Tensor:
        """int64 (1, tokens) to float32 (1, dim): the state of the end token, projected."""
        x = self.tokens[ids] + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer.pre_norm(x, causal=True)
        # transformers PR 24773: a configuration that says 2 is old and wrong, and the largest id is the end token
        last = ids.argmax(1) if self.end == 2 else (ids == self.end).int().argmax(1)
        return self.projection(self.norm(x[:, int(last)]))


@dataclass(frozen=True, slots=True, eq=False)
class VisionTower:
    """Pictures to CLIP's activations."""

    patches: Linear  # the patch convolution as one product over (channel, row, column)
    patch: int  # pixels
    start: Tensor  # (width), the class token
    positions: Tensor  # (1 + patches, width), for the picture size in use
    norm: Norm
    layers: tuple[Layer, ...]
    last_norm: Norm
    projection: Linear

    def activations(self, pixels: Tensor, depth: int) -> list[Tensor]:
        """float32 (N, 3, S, S) to the outputs of the first `depth` layers, each float32 (N, 1 + patches, width)."""
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
        """The last layer's output to CLIP image embeddings, float32 (N, dim)."""
        return self.projection.each(self.last_norm(last[:, 0]))


@dataclass(frozen=True, slots=True, eq=False)
class Upsampler:
    """float32 (N, grid, grid, width) to logits float32 (N, S, S)."""

    smooth: tuple[Tensor, Tensor] | None  # weight and bias of a 3x3 convolution in front; None: the plain upsampler
    steps: tuple[Linear, ...]  # transposed convolutions: one (plain) or two (refined)
    stride: int  # pixels, of each step

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve, then spread each position to a patch."""
        if self.smooth is not None:
            x = F.relu(F.conv2d(x.permute(0, 3, 1, 2), *self.smooth, padding=1)).permute(0, 2, 3, 1)
        for step in self.steps[:-1]:
            x = F.relu(self.spread(step(x)))
        return self.spread(self.steps[-1](x)).squeeze(-1)

    def spread(self, tiles: Tensor) -> Tensor:
        """(N, g, g, stride * stride * C) to (N, g * stride, g * stride, C). A transposed convolution whose stride is
        its kernel writes every output once: it is one product per input position, and this reordering."""
        n, g, s = len(tiles), tiles.shape[1], self.stride
        return tiles.reshape(n, g, g, s, s, -1).transpose(2, 3).reshape(n, g * s, g * s, -1)


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """Reduced activations and embeddings to logits."""

    reduces: tuple[Linear, ...]  # in the order of `layers`: the deepest activation first
    film_mul: Linear
    film_add: Linear
    layers: tuple[Layer, ...]
    conditional_layer: int
    upsampler: Upsampler

    def reduce(self, activations: Sequence[Tensor]) -> Tensor:
        """One activation (N, tokens, width) per layer, deepest first, to (N, layers, tokens, reduce_dim)."""
        return torch.stack([reduce(x) for reduce, x in zip(self.reduces, activations, strict=True)], 1)

    def __call__(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """(N, layers, tokens, reduce_dim) and float32 (P, dim) to logits float32 (N, P, S, S). What comes before the
        prompt is computed once for all prompts."""
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
    """The whole of CLIPSeg on one device."""

    text: TextTower
    vision: VisionTower
    decoder: Decoder
    extract: tuple[int, ...]  # vision layers, deepest first
    device: torch.device

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """The token ids of one prompt to float32 (1, dim)."""
        return self.text(torch.tensor([list(ids)], device=self.device))

    @torch.inference_mode()
    def encode(self, pixels: Tensor, *, pooled: bool = False) -> tuple[Tensor, Tensor | None]:
        """Normalised float32 (N, 3, S, S) to features float32 (N, layers, tokens, reduce_dim) and, if `pooled`, the
        CLIP image embeddings float32 (N, dim), which take the layers above the last one that the decoder reads."""
        depth = len(self.vision.layers) if pooled else max(self.extract) + 1
        outputs = self.vision.activations(pixels.to(self.device), depth)
        features = self.decoder.reduce([outputs[layer] for layer in self.extract])
        return features, self.vision.pool(outputs[-1]) if pooled else None

    @torch.inference_mode()
    def decode(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """Features of N pictures and float32 (P, dim) to logits float32 (N, P, S, S)."""
        return self.decoder(features.to(self.device), embeddings.to(self.device))


def load_network(
    weights: Path, shape: Architecture, *, side: int, device: str, dtype: torch.dtype, fused: bool = True
) -> Network:
    """The network in the safetensors file `weights`, for pictures of `side` x `side` pixels. `fused`: by oneDNN's own
    layout where it can be had, which is faster.

    Raises ModelError where the file is damaged, or does not hold exactly the tensors that `shape` calls for.
    """
    for tower in (shape.text, shape.vision):
        if tower.activation not in ACTIVATIONS:
            raise ModelError(f"{weights.parent}: activation {tower.activation!r} is not known; {OTHER_BACKEND}")
    keep_freed_memory()
    add_in_one_order()
    place = torch.device(device)
    with torch.inference_mode():
        tensors = Tensors(weights, place, dtype, fused and can_fuse(place, dtype))
        network = Network(
            text=text_tower(tensors, shape),
            vision=vision_tower(tensors, shape, side // shape.patch),
            decoder=decoder(tensors, shape),
            extract=shape.extract[::-1],
            device=tensors.device,
        )
    tensors.refuse_rest()
    return network


OTHER_BACKEND = "try --backend transformers"
UNUSED = ("clip.logit_scale", ".position_ids")  # a factor of CLIP's own loss; counters that old checkpoints store


class Tensors:
    """The tensors of one safetensors file, each handed out once, moved and checked against the expected shape."""

    def __init__(self, file: Path, device: torch.device, dtype: torch.dtype, fused: bool) -> None:
        """Opens `file`. Raises ModelError where it is missing or damaged."""
        self.file, self.device, self.dtype, self.fused = file, device, dtype, fused
        try:
            self.left = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: the weights cannot be read ({error}); fetch the model again") from error

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name` of `shape`. Raises ModelError where it is missing or has another shape."""
        tensor = self.left.pop(name, None)
        if tensor is None or tensor.shape != shape:
            found = "is missing" if tensor is None else f"is {tuple(tensor.shape)}"
            raise ModelError(f"{self.file}: tensor {name} {found}, config.json calls for {shape}; {OTHER_BACKEND}")
        return tensor.to(self.device, torch.float32)

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> Linear:
        """A product from `inputs` to `outputs` channels, float32."""
        weight = self.take(f"{name}.weight", outputs, inputs)
        return Linear(weight, self.take(f"{name}.bias", outputs) if bias else None)

    def norm(self, name: str, tower: Tower) -> Norm:
        """A layer norm of the tower's width."""
        return Norm(self.take(f"{name}.weight", tower.width), self.take(f"{name}.bias", tower.width), tower.eps)

    def layers(self, name: str, tower: Tower, *, attention: bool = False, mlp: bool = False) -> tuple[Layer, ...]:
        """All layers of one tower; whether their products are in the chosen dtype or in float32."""
        return tuple(self.layer(f"{name}.{index}", tower, attention, mlp) for index in range(tower.depth))

    def layer(self, name: str, tower: Tower, attention_half: bool, mlp_half: bool) -> Layer:
        """One transformer layer, its queries, keys and values joined."""
        width, activation = tower.width, ACTIVATIONS[tower.activation]
        dtype, fused = self.kind(attention_half)
        parts = [self.linear(f"{name}.self_attn.{part}_proj", width, width).to(dtype, False) for part in "qkv"]
        biases = [part.bias for part in parts if part.bias is not None]
        joined = Linear(torch.cat([part.weight for part in parts]), torch.cat(biases))
        up = self.linear(f"{name}.mlp.fc1", width, tower.hidden)
        down = self.linear(f"{name}.mlp.fc2", tower.hidden, width)
        up, down = mlp(up, down, activation, *self.kind(mlp_half))
        return Layer(
            qkv=joined.to(dtype, fused),
            out=self.linear(f"{name}.self_attn.out_proj", width, width).to(dtype, fused),
            up=up,
            down=down,
            norm1=self.norm(f"{name}.layer_norm1", tower),
            norm2=self.norm(f"{name}.layer_norm2", tower),
            heads=tower.heads,
            activation=activation,
        )

    def kind(self, half: bool) -> tuple[torch.dtype, bool]:
        """Dtype and layout of a product."""
        return (self.dtype, self.fused) if half else (torch.float32, False)

    def transposed(self, name: str, inputs: int, outputs: int, stride: int) -> Linear:
        """A transposed convolution whose kernel is its stride, as a product to stride * stride * outputs channels."""
        weight = self.take(f"{name}.weight", inputs, outputs, stride, stride)
        bias = self.take(f"{name}.bias", outputs)
        return Linear(weight.permute(2, 3, 1, 0).reshape(-1, inputs), bias.repeat(stride * stride))

    def refuse_rest(self) -> None:
        """Raises ModelError where tensors remain that nothing asked for."""
        rest = sorted(name for name in self.left if not name.endswith(UNUSED))
        if rest:
            names = ", ".join(rest[:3]) + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")
            raise ModelError(f"{self.file}: tensors that config.json does not explain: {names}; {OTHER_BACKEND}")


def text_tower(tensors: Tensors, shape: Architecture) -> TextTower:
    """The text tower, float32."""
    name, tower = "clip.text_model", shape.text
    return TextTower(
        tokens=tensors.take(f"{name}.embeddings.token_embedding.weight", shape.vocabulary, tower.width),
        positions=tensors.take(f"{name}.embeddings.position_embedding.weight", shape.positions, tower.width),
        layers=tensors.layers(f"{name}.encoder.layers", tower),
        norm=tensors.norm(f"{name}.final_layer_norm", tower),
        projection=tensors.linear("clip.text_projection", tower.width, shape.dim, bias=False),
        end=shape.end,
    )


def vision_tower(tensors: Tensors, shape: Architecture, grid: int) -> VisionTower:
    """The vision tower for pictures of `grid` x `grid` patches, its products in the chosen dtype."""
    name, tower, patch = "clip.vision_model", shape.vision, shape.patch
    kernel = tensors.take(f"{name}.embeddings.patch_embedding.weight", tower.width, 3, patch, patch)
    trained = tensors.take(f"{name}.embeddings.position_embedding.weight", 1 + shape.grid**2, tower.width)
    return VisionTower(
        patches=Linear(kernel.flatten(1), None).to(*tensors.kind(True)),
        patch=patch,
        start=tensors.take(f"{name}.embeddings.class_embedding", tower.width),
        positions=stretch(trained, shape.grid, grid),
        norm=tensors.norm(f"{name}.pre_layrnorm", tower),  # the name is spelt like this in every checkpoint
        layers=tensors.layers(f"{name}.encoder.layers", tower, attention=True, mlp=True),
        last_norm=tensors.norm(f"{name}.post_layernorm", tower),
        projection=tensors.linear("clip.visual_projection", tower.width, shape.dim, bias=False),
    )


def stretch(positions: Tensor, trained: int, grid: int) -> Tensor:
    """Position embeddings (1 + trained^2, width) to (1 + grid^2, width), bicubic; the class token's is kept."""
    if grid == trained:
        return positions
    square = positions[1:].view(trained, trained, -1).permute(2, 0, 1)[None]
    larger = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], larger[0].flatten(1).T])


def decoder(tensors: Tensors, shape: Architecture) -> Decoder:
    """The decoder. Only its MLPs, where four fifths of its work lie, are worth less than float32."""
    tower, width = shape.decoder, shape.decoder.width
    names = [f"decoder.reduces.{index}" for index in range(tower.depth)]
    return Decoder(
        reduces=tuple(tensors.linear(name, shape.vision.width, width) for name in names),
        film_mul=tensors.linear("decoder.film_mul", shape.dim, width),
        film_add=tensors.linear("decoder.film_add", shape.dim, width),
        layers=tensors.layers("decoder.layers", tower, mlp=True),
        conditional_layer=shape.conditional_layer,
        upsampler=upsampler(tensors, width, shape.patch, shape.refined),
    )


def upsampler(tensors: Tensors, width: int, patch: int, refined: bool) -> Upsampler:
    """The decoder's last step, float32."""
    name = "decoder.transposed_convolution"
    if not refined:
        return Upsampler(None, (tensors.transposed(name, width, 1, patch),), patch)
    smooth = tensors.take(f"{name}.0.weight", width, width, 3, 3), tensors.take(f"{name}.0.bias", width)
    half, stride = width // 2, patch // 4
    first = tensors.transposed(f"{name}.2", width, half, stride)
    second = tensors.transposed(f"{name}.4", half, 1, stride)
    return Upsampler(smooth, (first, second), stride)
