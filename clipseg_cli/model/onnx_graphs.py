"""Writes a network of the fast backend as four ONNX graphs, which meet as the Segmenter's methods do.

    image     pixels (N, 3, S, S)                                -> features (N, layers, tokens, reduce_dim)
    text      ids (P, T)                                         -> embeddings (P, dim)
    exemplar  pixels (P, 3, S, S)                                -> embeddings (P, dim)
    decoder   features of N images, embeddings of P prompts      -> logits (N, P, S, S)

The formulas are those of `fast`, written with operators that every runtime of opset 17 has, so that no tracer and no
further package is needed. N, P and T (tokens) are free; all other sizes are the checkpoint's. Everything is float32,
but the token ids are int64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from clipseg_cli import __version__
from clipseg_cli.errors import ModelError
from clipseg_cli.model.fast import Decoder, Layer, Network, Norm, TextTower, Upsampler, VisionTower
from clipseg_cli.model.linear import ACTIVATIONS, IDENTITY, Activation, Linear

OPSET = 17  # the first with LayerNormalization
IR_VERSION = 8  # the file format of that opset's time, which older runtimes read
LARGEST = 2**31 - 2**20  # bytes of weights: a protobuf file ends at 2 GiB
NEVER = -1e9  # added to an attention score: its weight becomes 0

Shape = Sequence[int | str]
Inputs = dict[str, tuple[int, Shape]]  # by name: element type, shape; a string is a free size


@dataclass(slots=True)
class Graph:
    """An ONNX graph under construction. A value inside it is known by its name."""

    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)

    def __call__(self, operator: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or a list of the names of several.

        An input is the name of a value, or a constant: a tensor, an array, or a list of integers.
        """
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        made = [f"{operator}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, made, name=f"{operator}_{len(self.nodes)}", **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, value: Any) -> str:
        """Stores a constant and returns its name."""
        array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def size(self, value: str, axis: int) -> str:
        """Returns the length of one axis, int64 (1)."""
        name: str = self("Shape", value, start=axis, end=axis + 1)
        return name


def build(network: Network, side: int) -> Iterator[tuple[str, Any]]:
    """Yields the name and the ONNX model of each of the four graphs.

    `network` is float32 on the CPU, for images of this side. Raises ModelError for a graph that no file can hold.
    """
    vision, decoder = network.vision, network.decoder
    tokens, width, dim = len(vision.positions), len(decoder.film_mul.weight), len(network.text.projection.weight)
    features: Shape = ("N", len(decoder.layers), tokens, width)
    embeddings: Shape = ("P", dim)

    def image(graph: Graph) -> str:
        outputs = activations(graph, vision, "pixels", max(network.extract) + 1)
        parts = [
            linear(graph, outputs[at], reduce) for at, reduce in zip(network.extract, decoder.reduces, strict=True)
        ]
        name: str = graph("Concat", *(graph("Unsqueeze", part, [1]) for part in parts), axis=1)
        return name

    def exemplar(graph: Graph) -> str:
        last = activations(graph, vision, "pixels", len(vision.layers))[-1]
        start = graph("Gather", last, np.int64(0), axis=1)
        return linear(graph, norm(graph, start, vision.last_norm), vision.projection)

    yield model("image", image, {"pixels": (TensorProto.FLOAT, ("N", 3, side, side))}, "features", features)
    ids: Inputs = {"ids": (TensorProto.INT64, ("P", "T"))}
    yield model("text", lambda graph: text(graph, network.text), ids, "embeddings", embeddings)
    yield model("exemplar", exemplar, {"pixels": (TensorProto.FLOAT, ("P", 3, side, side))}, "embeddings", embeddings)
    pair: Inputs = {"features": (TensorProto.FLOAT, features), "embeddings": (TensorProto.FLOAT, embeddings)}
    logits: Shape = ("N", "P", side, side)
    yield model("decoder", lambda graph: decode(graph, decoder, tokens), pair, "logits", logits)


def model(name: str, write: Callable[[Graph], str], inputs: Inputs, output: str, shape: Shape) -> tuple[str, Any]:
    """Returns the name and the ONNX model of the nodes that `write` adds. Raises ModelError if it is too large."""
    graph = Graph()
    with torch.inference_mode():  # as the network's own tensors
        last = write(graph)
    graph.nodes.append(helper.make_node("Identity", [last], [output], name=output))
    if sum(len(each.raw_data) for each in graph.weights) > LARGEST:
        raise ModelError(f"the {name} graph has more than 2 GiB of weights, which one ONNX file cannot hold")
    made = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info(key, kind, free) for key, (kind, free) in inputs.items()],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        graph.weights,
    )
    whole = helper.make_model(
        made,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="clipseg",
        producer_version=__version__,
    )
    helper.set_model_props(whole, {"onnx.quant.pre_process": "onnxruntime.quant"})  # a quantizer has nothing to fuse
    return name, whole


def linear(graph: Graph, x: str, product: Linear, activation: Activation = IDENTITY) -> str:
    """Adds a product with bias and activation."""
    x = graph("MatMul", x, product.weight.T)
    if product.bias is not None:
        x = graph("Add", x, product.bias)
    return ACTIVATE[activation.fused](graph, x)


def swish(graph: Graph, x: str) -> str:
    """Adds CLIP's approximation of GELU: x * sigmoid(1.702 * x)."""
    gain = np.float32(ACTIVATIONS["quick_gelu"].gain)
    name: str = graph("Mul", x, graph("Sigmoid", graph("Mul", x, gain)))
    return name


def gelu(graph: Graph, x: str) -> str:
    """Adds GELU by its definition: x / 2 * (1 + erf(x / sqrt(2)))."""
    grown = graph("Add", graph("Erf", graph("Mul", x, np.float32(0.5**0.5))), np.float32(1))
    name: str = graph("Mul", graph("Mul", x, np.float32(0.5)), grown)
    return name


ACTIVATE: dict[str, Callable[[Graph, str], str]] = {
    "none": lambda graph, x: x,
    "relu": lambda graph, x: graph("Relu", x),
    "swish": swish,
    "gelu": gelu,
}


def norm(graph: Graph, x: str, how: Norm) -> str:
    """Adds a layer norm over the last axis."""
    name: str = graph("LayerNormalization", x, how.weight, how.bias, axis=-1, epsilon=how.eps)
    return name


def attend(graph: Graph, x: str, layer: Layer, mask: str | None) -> str:
    """Adds multi-head self-attention over (N, tokens, width). `mask` (tokens, tokens) is added to the scores."""
    width = len(layer.out.weight)
    size = width // layer.heads
    split = graph("Reshape", linear(graph, x, layer.qkv), [0, 0, 3 * layer.heads, size])
    q, k, v = graph("Split", graph("Transpose", split, perm=[0, 2, 1, 3]), outputs=3, axis=1)
    turned = graph("Transpose", k, perm=[0, 1, 3, 2])
    scores = graph("MatMul", graph("Mul", q, np.float32(size**-0.5)), turned)
    if mask is not None:
        scores = graph("Add", scores, mask)
    mixed = graph("MatMul", graph("Softmax", scores, axis=-1), v)
    return linear(graph, graph("Reshape", graph("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, width]), layer.out)


def mlp(graph: Graph, x: str, layer: Layer) -> str:
    """Adds the MLP of a layer."""
    return linear(graph, linear(graph, x, layer.up, layer.activation), layer.down)


def pre_norm(graph: Graph, x: str, layer: Layer, mask: str | None = None) -> str:
    """Adds a layer in CLIP's order: normalise, transform, add."""
    x = graph("Add", x, attend(graph, norm(graph, x, layer.norm1), layer, mask))
    name: str = graph("Add", x, mlp(graph, norm(graph, x, layer.norm2), layer))
    return name


def post_norm(graph: Graph, x: str, layer: Layer) -> str:
    """Adds a layer in the decoder's order: transform, add, normalise."""
    x = norm(graph, graph("Add", x, attend(graph, x, layer, None)), layer.norm1)
    return norm(graph, graph("Add", x, mlp(graph, x, layer)), layer.norm2)


def text(graph: Graph, tower: TextTower) -> str:
    """Adds the text tower: ids (P, T) to embeddings (P, dim). Tokens after the end token have no effect."""
    count = graph.size("ids", 1)
    later = torch.full((len(tower.positions), len(tower.positions)), NEVER).triu(1)  # no token sees a later one
    mask = graph("Slice", later, [0, 0], graph("Concat", count, count, axis=0))
    x = graph("Add", graph("Gather", tower.tokens, "ids"), graph("Slice", tower.positions, [0], count))
    for layer in tower.layers:
        x = pre_norm(graph, x, layer, mask)
    marked = (
        "ids" if tower.end == 2 else graph("Cast", graph("Equal", "ids", np.int64(tower.end)), to=TensorProto.INT32)
    )
    last = graph("GatherND", x, graph("ArgMax", marked, axis=1, keepdims=1), batch_dims=1)  # the first end token
    return linear(graph, norm(graph, last, tower.norm), tower.projection)


def activations(graph: Graph, tower: VisionTower, pixels: str, depth: int) -> list[str]:
    """Adds the first `depth` vision layers: pixels (N, 3, S, S) to their outputs (N, 1 + patches, width)."""
    width, patch = len(tower.start), tower.patch
    kernel = tower.patches.weight.view(width, 3, patch, patch)
    grid = graph("Conv", pixels, kernel, strides=[patch, patch])
    rows = graph("Transpose", graph("Reshape", grid, [0, width, -1]), perm=[0, 2, 1])
    positions = tower.positions.clone()
    positions[0] += tower.start  # the class token is a row of zeros before the patches, and this
    x = norm(graph, graph("Add", graph("Pad", rows, [0, 1, 0, 0, 0, 0]), positions), tower.norm)
    outputs = []
    for layer in tower.layers[:depth]:
        x = pre_norm(graph, x, layer)
        outputs.append(x)
    return outputs


def decode(graph: Graph, decoder: Decoder, tokens: int) -> str:
    """Adds the decoder: features of N images and embeddings of P prompts to logits (N, P, S, S)."""
    width = len(decoder.film_mul.weight)
    images = graph.size("features", 0)
    mul, add = (
        graph("Unsqueeze", linear(graph, "embeddings", film), [1]) for film in (decoder.film_mul, decoder.film_add)
    )
    x = ""
    for index, layer in enumerate(decoder.layers):
        part = graph("Unsqueeze", graph("Gather", "features", np.int64(index), axis=1), [1])  # (N, 1, tokens, width)
        x = graph("Add", part, x) if x else part
        if index == decoder.conditional_layer:
            x = graph("Add", graph("Mul", mul, x), add)  # (N, P, tokens, width)
        rows = post_norm(graph, graph("Reshape", x, [-1, tokens, width]), layer)
        x = graph("Reshape", rows, graph("Concat", images, [-1, tokens, width], axis=0))
    side = round((tokens - 1) ** 0.5)
    patches = graph("Slice", rows, [1], [tokens], [1])  # without the class token
    maps = graph("Reshape", graph("Transpose", patches, perm=[0, 2, 1]), [0, width, side, side])
    last = upsample(graph, maps, decoder.upsampler)
    pixels = side * decoder.upsampler.stride ** len(decoder.upsampler.steps)
    name: str = graph("Reshape", last, graph("Concat", images, [-1, pixels, pixels], axis=0))
    return name


def upsample(graph: Graph, x: str, upsampler: Upsampler) -> str:
    """Adds the upsampler: (N, width, grid, grid) to (N, 1, S, S)."""
    if upsampler.smooth is not None:
        x = graph("Relu", graph("Conv", x, *upsampler.smooth, pads=[1, 1, 1, 1]))
    for index, step in enumerate(upsampler.steps):
        if index:
            x = graph("Relu", x)
        stride = upsampler.stride
        kernel = step.weight.view(stride, stride, -1, step.weight.shape[1]).permute(3, 2, 0, 1)
        assert step.bias is not None
        bias = step.bias[: kernel.shape[1]]  # the same for every pixel of a patch
        x = graph("ConvTranspose", x, kernel, bias, strides=[stride, stride])
    return x
