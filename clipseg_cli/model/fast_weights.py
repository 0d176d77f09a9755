"""Builds the network of `--backend fast` from a checkpoint's safetensors file.

The file must hold exactly the tensors that config.json describes. Anything else raises ModelError, which suggests
`--backend transformers`.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipseg_cli.errors import ModelError
from clipseg_cli.model.architecture import Architecture, Tower
from clipseg_cli.model.fast import Decoder, Layer, Network, Norm, TextTower, Upsampler, VisionTower
from clipseg_cli.model.linear import ACTIVATIONS, Linear, add_in_one_order, can_fuse, keep_freed_memory, mlp

OTHER_BACKEND = "try --backend transformers"
UNUSED = ("clip.logit_scale", ".position_ids")  # a factor of CLIP's own loss; position counters in old checkpoints


def load_network(
    weights: Path, shape: Architecture, *, side: int, device: str, dtype: torch.dtype, fused: bool = True
) -> Network:
    """Returns the network in the safetensors file `weights`, for images of `side` x `side` pixels.

    `fused` allows scaled activations and, on a CPU, oneDNN's own weight layout, which are faster, where they work.
    Raises ModelError if the file is damaged or does not hold exactly the tensors that `shape` requires.
    """
    for tower in (shape.text, shape.vision):
        if tower.activation not in ACTIVATIONS:
            raise ModelError(f"{weights.parent}: unknown activation {tower.activation!r}; {OTHER_BACKEND}")
    keep_freed_memory()
    add_in_one_order()
    target = torch.device(device)
    with torch.inference_mode():
        tensors = WeightFile(weights, target, dtype, fused and can_fuse(target, dtype))
        network = Network(
            text=text_tower(tensors, shape),
            vision=vision_tower(tensors, shape, side // shape.patch),
            decoder=decoder(tensors, shape),
            extract=shape.extract[::-1],
            device=tensors.device,
        )
    tensors.refuse_unread()
    return network


class WeightFile:
    """The tensors of one safetensors file. Each can be read once; its shape is checked."""

    def __init__(self, file: Path, device: torch.device, dtype: torch.dtype, fused: bool) -> None:
        """Opens `file`. `dtype` is that of the vision tower's layers. Raises ModelError if it is missing or damaged."""
        self.file, self.device, self.dtype, self.fused = file, device, dtype, fused
        self.floats = dtype.is_floating_point  # only the products of the vision tower's layers are in int8
        try:
            self.unread = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file}: cannot read the weights ({error}); download the model again") from error

    def take(self, name: str, *shape: int) -> Tensor:
        """Returns the tensor `name` as float32. Raises ModelError if it is missing or does not have this shape."""
        tensor = self.unread.pop(name, None)
        if tensor is None or tensor.shape != shape:
            actual = "is missing" if tensor is None else f"is {tuple(tensor.shape)}"
            raise ModelError(f"{self.file}: tensor {name} {actual}, config.json requires {shape}; {OTHER_BACKEND}")
        return tensor.to(self.device, torch.float32)

    def linear(self, name: str, inputs: int, outputs: int, *, bias: bool = True) -> Linear:
        """Returns a float32 product from `inputs` to `outputs` channels."""
        weight = self.take(f"{name}.weight", outputs, inputs)
        return Linear(weight, self.take(f"{name}.bias", outputs) if bias else None)

    def norm(self, name: str, tower: Tower) -> Norm:
        """Returns a layer norm of the tower's width."""
        return Norm(self.take(f"{name}.weight", tower.width), self.take(f"{name}.bias", tower.width), tower.eps)

    def layer_stack(self, name: str, tower: Tower, *, attention: bool = False, mlp: bool = False) -> tuple[Layer, ...]:
        """Returns all layers of a tower. `attention`, `mlp`: whether these products use the chosen dtype or float32."""
        return tuple(self.layer(f"{name}.{index}", tower, attention, mlp) for index in range(tower.depth))

    def layer(self, name: str, tower: Tower, attention_half: bool, mlp_half: bool) -> Layer:
        """Returns one transformer layer. Its query, key and value products are joined into one."""
        width, activation = tower.width, ACTIVATIONS[tower.activation]
        dtype, fused = self.precision(attention_half)
        rounded = dtype if self.floats else torch.float32  # in int8 all are rounded together
        parts = [self.linear(f"{name}.self_attn.{part}_proj", width, width).to(rounded, False) for part in "qkv"]
        biases = [part.bias for part in parts if part.bias is not None]
        joined = Linear(torch.cat([part.weight for part in parts]), torch.cat(biases))
        up = self.linear(f"{name}.mlp.fc1", width, tower.hidden)
        down = self.linear(f"{name}.mlp.fc2", tower.hidden, width)
        up, down = mlp(up, down, activation, *self.precision(mlp_half))
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

    def precision(self, half: bool) -> tuple[torch.dtype, bool]:
        """Returns the dtype of a product, and whether it is `Linear.fused`."""
        return (self.dtype, self.fused) if half else (torch.float32, False)

    def transposed(self, name: str, inputs: int, outputs: int, stride: int) -> Linear:
        """Returns a transposed convolution with kernel = stride, as a product to stride * stride * outputs channels."""
        weight = self.take(f"{name}.weight", inputs, outputs, stride, stride)
        bias = self.take(f"{name}.bias", outputs)
        return Linear(weight.permute(2, 3, 1, 0).reshape(-1, inputs), bias.repeat(stride * stride))

    def refuse_unread(self) -> None:
        """Raises ModelError if the file holds tensors that the network does not use."""
        rest = sorted(name for name in self.unread if not name.endswith(UNUSED))
        if rest:
            names = ", ".join(rest[:3]) + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")
            raise ModelError(f"{self.file}: tensors that config.json does not describe: {names}; {OTHER_BACKEND}")


def text_tower(tensors: WeightFile, shape: Architecture) -> TextTower:
    """Returns the text tower, float32."""
    name, tower = "clip.text_model", shape.text
    return TextTower(
        tokens=tensors.take(f"{name}.embeddings.token_embedding.weight", shape.vocabulary, tower.width),
        positions=tensors.take(f"{name}.embeddings.position_embedding.weight", shape.positions, tower.width),
        layers=tensors.layer_stack(f"{name}.encoder.layers", tower),
        norm=tensors.norm(f"{name}.final_layer_norm", tower),
        projection=tensors.linear("clip.text_projection", tower.width, shape.dim, bias=False),
        end=shape.end,
    )


def vision_tower(tensors: WeightFile, shape: Architecture, grid: int) -> VisionTower:
    """Returns the vision tower for images of `grid` x `grid` patches. Its products use the chosen dtype."""
    name, tower, patch = "clip.vision_model", shape.vision, shape.patch
    kernel = tensors.take(f"{name}.embeddings.patch_embedding.weight", tower.width, 3, patch, patch)
    trained = tensors.take(f"{name}.embeddings.position_embedding.weight", 1 + shape.grid**2, tower.width)
    return VisionTower(
        patches=Linear(kernel.flatten(1), None).to(*tensors.precision(tensors.floats)),
        patch=patch,
        start=tensors.take(f"{name}.embeddings.class_embedding", tower.width),
        positions=stretch(trained, shape.grid, grid),
        norm=tensors.norm(f"{name}.pre_layrnorm", tower),  # every checkpoint spells it this way
        layers=tensors.layer_stack(f"{name}.encoder.layers", tower, attention=True, mlp=True),
        last_norm=tensors.norm(f"{name}.post_layernorm", tower),
        projection=tensors.linear("clip.visual_projection", tower.width, shape.dim, bias=False),
    )


def stretch(positions: Tensor, trained: int, grid: int) -> Tensor:
    """Resizes position embeddings (1 + trained^2, width) to (1 + grid^2, width), bicubic.

    The embedding of the class token does not change.
    """
    if grid == trained:
        return positions
    square = positions[1:].view(trained, trained, -1).permute(2, 0, 1)[None]
    larger = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], larger[0].flatten(1).T])


def decoder(tensors: WeightFile, shape: Architecture) -> Decoder:
    """Returns the decoder. Only its MLPs, four fifths of its work, use the chosen dtype, unless that is int8; the rest
    is float32."""
    tower, width = shape.decoder, shape.decoder.width
    names = [f"decoder.reduces.{index}" for index in range(tower.depth)]
    return Decoder(
        reduces=tuple(tensors.linear(name, shape.vision.width, width) for name in names),
        film_mul=tensors.linear("decoder.film_mul", shape.dim, width),
        film_add=tensors.linear("decoder.film_add", shape.dim, width),
        layers=tensors.layer_stack("decoder.layers", tower, mlp=tensors.floats),
        conditional_layer=shape.conditional_layer,
        upsampler=upsampler(tensors, width, shape.patch, shape.refined),
    )


def upsampler(tensors: WeightFile, width: int, patch: int, refined: bool) -> Upsampler:
    """Returns the decoder's last step, float32."""
    name = "decoder.transposed_convolution"
    if not refined:
        return Upsampler(None, (tensors.transposed(name, width, 1, patch),), patch)
    smooth = tensors.take(f"{name}.0.weight", width, width, 3, 3), tensors.take(f"{name}.0.bias", width)
    half, stride = width // 2, patch // 4
    first = tensors.transposed(f"{name}.2", width, half, stride)
    second = tensors.transposed(f"{name}.4", half, 1, stride)
    return Upsampler(smooth, (first, second), stride)
