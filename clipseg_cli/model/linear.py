"""Matrix products with bias and activation, by the fastest method that this torch and processor support.

Products in int8 are those of `int8`.

In half precision on a CPU, the fastest method is oneDNN with weights in its own layout and the activation fused into
the product. It needs private torch operators, so they are tested once when a network is loaded. If they are missing or
wrong, torch's public operators are used instead.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from clipseg_cli.model import int8


def quick_gelu(x: Tensor) -> Tensor:
    """Returns CLIP's sigmoid approximation of GELU, x * sigmoid(1.702 x).

    torch's own sigmoid rounds the last values of each thread's share differently from the others, so that the bits of
    an image would depend on the number of threads. Its exp does not.
    """
    return x / torch.mul(x, -1.702).exp_().add_(1)


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise activation, and its scaled form `plain(x / gain) * gain`, which is faster where it exists."""

    plain: Callable[[Tensor], Tensor]  # may overwrite its argument
    scaled: Callable[[Tensor], Tensor]  # one pass over the memory of a GPU; may overwrite its argument
    fused: str  # oneDNN's name of the scaled form
    gain: float = 1.0


def identity(x: Tensor) -> Tensor:
    """Returns its argument."""
    return x


IDENTITY = Activation(identity, identity, "none")
ACTIVATIONS = {
    "quick_gelu": Activation(quick_gelu, partial(F.silu, inplace=True), "swish", 1.702),
    "gelu": Activation(F.gelu, F.gelu, "gelu"),
    "relu": Activation(torch.relu_, torch.relu_, "relu"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """The product x @ weight.T + bias, in the dtype of `weight`."""

    weight: Tensor  # (outputs, inputs), or the same in oneDNN's layout
    bias: Tensor | None
    fused: bool = False  # whether the activation is scaled, and on a CPU also whether `weight` is in oneDNN's layout

    def __call__(self, x: Tensor, activation: Activation = IDENTITY) -> Tensor:
        """Maps (..., inputs) to (..., outputs) and applies the activation.

        If `fused`, the weights must include the gain of the activation; see `mlp`.
        """
        x = x.to(self.weight.dtype)
        if self.weight.is_mkldnn:
            return multiply(x, self.weight, self.bias, activation.fused)
        activate = activation.scaled if self.fused else activation.plain
        return activate(F.linear(x, self.weight, self.bias))

    def each(self, rows: Tensor) -> Tensor:
        """Maps (N, inputs) to (N, outputs) row by row.

        In a small product, the rounding of a row may depend on the number of rows.
        """
        return torch.stack([self(row) for row in rows.unbind()])

    def to(self, dtype: torch.dtype, fused: bool) -> "Linear":
        """Returns the same product in another dtype. `fused`: see the field.

        In int8, the product is only approximately the same.
        """
        if dtype == torch.int8:
            assert self.bias is not None
            weight, scale = int8.quantise_weight(self.weight)
            return Int8Linear(weight, self.bias, scale=scale, offset=weight.sum(1) * scale)
        weight, bias = self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
        return Linear(pack(weight) if fused and weight.device.type == "cpu" else weight, bias, fused)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Int8Linear(Linear):
    """The product with weights in int8. It takes and returns float32."""

    scale: Tensor  # (outputs): of each row of `weight`
    offset: Tensor  # (outputs): the sum of each row of scale * weight

    def __call__(self, x: Tensor, activation: Activation = IDENTITY) -> Tensor:
        """Maps float32 (..., inputs) to float32 (..., outputs) and applies the activation."""
        assert self.bias is not None
        rows = x.reshape(-1, x.shape[-1])
        result = int8.multiply(rows, self.weight, self.scale, self.offset, self.bias, int8.levels())
        return activation.plain(result).view(*x.shape[:-1], -1)


def mlp(up: Linear, down: Linear, activation: Activation, dtype: torch.dtype, fused: bool) -> tuple[Linear, Linear]:
    """Returns the two float32 products around an activation, converted to `dtype`.

    If `fused`, the gain of the activation is multiplied into the first and divided out of the second.
    """
    if fused and activation.gain != 1:
        assert up.bias is not None
        larger, smaller = (torch.empty_like(linear.weight, dtype=dtype) for linear in (up, down))
        torch.mul(up.weight, activation.gain, out=larger)  # rounds while writing, without a float32 copy
        torch.div(down.weight, activation.gain, out=smaller)
        up, down = Linear(larger, up.bias * activation.gain), Linear(smaller, down.bias)
    return up.to(dtype, fused), down.to(dtype, fused)


def pack(weight: Tensor) -> Tensor:
    """Returns a weight in oneDNN's layout."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """Returns the product with a packed weight, through oneDNN's activation of that name."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, activation, [], "none")
    return result


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Returns whether `Linear.fused` products are faster on this device, and work there."""
    return dtype in (torch.bfloat16, torch.float16) and (device.type != "cpu" or _works(dtype))


@cache
def _works(dtype: torch.dtype) -> bool:
    """Returns whether `pack` and `multiply` exist and agree with the plain operators."""
    ramp = torch.linspace(-1, 1, 32 * 32).view(32, 32).to(dtype)
    try:
        packed = pack(ramp)
        for activation in (IDENTITY, *ACTIVATIONS.values()):
            expected = activation.plain(F.linear(ramp, ramp, ramp[0]) / activation.gain) * activation.gain
            # not torch.testing, whose import takes half as long as torch's
            if not torch.allclose(multiply(ramp, packed, ramp[0], activation.fused), expected, atol=0.1, rtol=0.05):
                return False
    except (AttributeError, RuntimeError):  # NotImplementedError is a RuntimeError
        return False
    return True


MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # parameter numbers in glibc's malloc.h
LARGEST = 32 << 20  # bytes: glibc's upper limit for MMAP_THRESHOLD
KEPT = 256 << 20  # bytes of freed memory that the process keeps


def keep_freed_memory() -> None:
    """Tells glibc to keep up to KEPT bytes of freed memory.

    By default glibc returns every large block to the system and maps it again page by page, which takes as long as the
    arithmetic. Does nothing if the environment configures malloc, or if there is no glibc.
    """
    if sys.platform == "linux" and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        with contextlib.suppress(OSError, AttributeError):  # another libc
            libc = ctypes.CDLL(None)
            libc.mallopt(MMAP_THRESHOLD, LARGEST)
            libc.mallopt(TRIM_THRESHOLD, KEPT)


def add_in_one_order() -> None:
    """Asks MKL, torch's library for float32 products, to add in an order that ignores the number of threads.

    Two workers with one thread each then give the same bytes as one worker with two. MKL reads the variable once, at
    its first product. A value that the user has set stays. The cost in time is not measurable.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
