"""Measures how fast the precisions are on this CPU, to advise one."""

import time
from collections.abc import Sequence

import torch

from clipseg_cli.model.devices import DTYPES
from clipseg_cli.model.fast import Layer, Norm
from clipseg_cli.model.linear import ACTIVATIONS, Linear, can_fuse, mlp

WIDTH, HEADS, HIDDEN, TOKENS = 768, 12, 3072, 485  # of ViT-B/16, and of an image of 352 x 352 pixels
ROUNDS = 5


def layer_seconds(dtypes: Sequence[str]) -> dict[str, float]:
    """Returns the seconds that one layer of the published models' vision tower takes for an image, by dtype.

    The dtypes take turns; each gets its fastest of ROUNDS. The vision tower is nearly all of a run's work on a CPU.
    """
    with torch.inference_mode():
        layers = {dtype: _layer(DTYPES[dtype]) for dtype in dtypes}
        tokens = torch.randn(1, TOKENS, WIDTH)
        seconds = dict.fromkeys(dtypes, float("inf"))
        for _ in range(ROUNDS + 1):  # the first warms up, and is not the fastest
            for dtype, layer in layers.items():
                begun = time.perf_counter()
                layer.pre_norm(tokens)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - begun)
    return seconds


def _layer(dtype: torch.dtype) -> Layer:
    fused = can_fuse(torch.device("cpu"), dtype)

    def product(inputs: int, outputs: int) -> Linear:
        return Linear(torch.randn(outputs, inputs) * inputs**-0.5, torch.zeros(outputs))

    activation, norm = ACTIVATIONS["quick_gelu"], Norm(torch.ones(WIDTH), torch.zeros(WIDTH), 1e-5)
    up, down = mlp(product(WIDTH, HIDDEN), product(HIDDEN, WIDTH), activation, dtype, fused)
    qkv, out = product(WIDTH, 3 * WIDTH).to(dtype, fused), product(WIDTH, WIDTH).to(dtype, fused)
    return Layer(qkv, out, up, down, norm, norm, HEADS, activation)
