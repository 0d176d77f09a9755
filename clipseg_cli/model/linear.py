"""Matrix products with what surrounds them, by the fastest means that this torch and processor have.

In half precision on a CPU that is oneDNN with weights in its own layout and the activation inside the product. torch
reaches it by operators that it does not promise to keep, so each is tried once when a network is loaded, and where it
fails the plain operators do the same work.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's sigmoid approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of every number, and oneDNN's name for `x -> plain(x / gain) * gain`."""

    plain: Callable[[Tensor], Tensor]  # may write into its argument
    fused: str
    gain: float = 1.0


IDENTITY = Activation(lambda x: x, "none")
ACTIVATIONS = {
    "quick_gelu": Activation(quick_gelu, "swish", 1.702),
    "gelu": Activation(F.gelu, "gelu"),
    "relu": Activation(torch.relu_, "relu"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """x @ weight.T + bias in the dtype of `weight`."""

    weight: Tensor  # (outputs, inputs), or oneDNN's layout of it
    bias: Tensor | None
    fused: bool = False  # whether `weight` is in oneDNN's layout

    def __call__(self, x: Tensor, activation: Activation = IDENTITY) -> Tensor:
        """(..., inputs) to (..., outputs), through the activation. Where `fused`, its gain is up to the weights."""
        x = x.to(self.weight.dtype)
        if self.fused:
            return multiply(x, self.weight, self.bias, activation.fused)
        return activation.plain(F.linear(x, self.weight, self.bias))

    def each(self, rows: Tensor) -> Tensor:
        """(N, inputs) to (N, outputs), row by row: one row of a small product may be rounded by how many there are."""
        return torch.stack([self(row) for row in rows.unbind()])

    def to(self, dtype: torch.dtype, fused: bool) -> "Linear":
        """The same product in another dtype and, if `fused`, with its weight in oneDNN's layout."""
        weight, bias = self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        return Linear(pack(weight) if fused else weight, bias, fused)


def mlp(up: Linear, down: Linear, activation: Activation, dtype: torch.dtype, fused: bool) -> tuple[Linear, Linear]:
    """The two products around an activation, float32, made ready in `dtype`."""
    if fused and activation.gain != 1:
        assert up.bias is not None
        larger, smaller = (torch.empty_like(each.weight, dtype=dtype) for each in (up, down))
        torch.mul(up.weight, activation.gain, out=larger)  # rounded as it is written, without a copy in float32
        torch.div(down.weight, activation.gain, out=smaller)
        up, down = Linear(larger, up.bias * activation.gain), Linear(smaller, down.bias)
    return up.to(dtype, fused), down.to(dtype, fused)


def pack(weight: Tensor) -> Tensor:
    """A weight in oneDNN's layout."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """A product with a packed weight and the activation of that name."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], "none")
    return result


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's own layout pays on this device, and works."""
    return device.type == "cpu" and dtype != torch.float32 and _works(dtype)


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether `pack` and `multiply` are here and give what the plain operators give."""
    ramp = torch.linspace(-1, 1, 32 * 32).view(32, 32).to(dtype)
    try:
        packed = pack(ramp)
        for each in (IDENTITY, *ACTIVATIONS.values()):
            expected = each.plain(F.linear(ramp, ramp, ramp[0]) / each.gain) * each.gain
            # torch.testing would say this too, and takes as long to import as half of torch
            if not torch.allclose(multiply(ramp, packed, ramp[0], each.fused), expected, atol=0.1, rtol=0.05):
                return False
    except (AttributeError, RuntimeError):  # NotImplementedError is a RuntimeError
        return False
    return True


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's numbers in malloc.h
LARGEST = 32 << 20  # bytes: the most that glibc takes for the first
KEPT = 256 << 20  # bytes


def keep_freed_memory() -> None:
    """Tells glibc to keep up to KEPT bytes that are freed. By itself it gives every large block back at once and gets
    it anew, page by page, which takes as long as the arithmetic. Does nothing where the user or the system decides."""
    if sys.platform == "linux" and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        with contextlib.suppress(OSError, AttributeError):  # another libc
            libc = ctypes.CDLL(None)
            libc.mallopt(MMAP_THRESHOLD, LARGEST)
            libc.mallopt(TRIM_THRESHOLD, KEPT)


def add_in_one_order() -> None:
    """Asks MKL, torch's library for float32 products, for sums in an order that does not depend on the number of
    threads, so that two workers of one thread give the bytes of one with two. MKL reads this once, at its first
    product, and only where the user has not decided. It takes no measurable time."""
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
