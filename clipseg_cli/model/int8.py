"""Matrix products in int8 on a CPU, which take about 0.4 of the time of float32 where there is no fast bfloat16.

    x @ weight.T  =  low * sum(w) * scale  +  step * scale * (q @ w.T),    x = low + step * q,    weight = scale * w

A row of `weight` has one scale, and its values w are -127 to 127. A row of x has its own `low` and `step`, found while
it runs, and its values q are 0 to `levels`. So the result for one row depends on no other row, and the sums of
integers, which are exact, on no order of addition. On processors without VNNI the kernel adds two products in 16 bits,
which q up to 127 never overflow; with q up to 255 it may, silently. `levels` tries which of the two this machine needs.
"""

from functools import cache

import torch
from torch import Tensor

OFFSET = 128  # the kernel takes signed bytes: it gets q - OFFSET, and adds it again before it multiplies
LARGEST = 127  # of a weight
SMALLEST = 1e-30  # of a range of values: equal values would divide by zero
PROBE = 256  # rows and channels of the product that `levels` tries, which has the largest sums


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns int8 (outputs, inputs) and the float32 scale of each row (outputs), for float32 (outputs, inputs)."""
    scale = weight.abs().amax(1).clamp_min_(SMALLEST) / LARGEST
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def quantise_rows(x: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Maps float32 (N, inputs) to int8 q - OFFSET of the same shape, and `low` and `step`, float32 (N, 1)."""
    low = x.amin(1, keepdim=True)
    span = (x.amax(1, keepdim=True) - low).clamp_min_(SMALLEST)
    q = (x - low).mul_(levels / span).sub_(OFFSET).round_().to(torch.int8)
    return q, low, span.div_(levels)


def multiply(x: Tensor, weight: Tensor, scale: Tensor, offset: Tensor, bias: Tensor, levels: int) -> Tensor:
    """Returns x @ (scale * weight).T + bias for float32 (N, inputs): float32 (N, outputs).

    `offset` is the sum of each row of scale * weight, float32 (outputs).
    """
    q, low, step = quantise_rows(x, levels)
    result = torch.addcmul(bias, low + OFFSET * step, offset)
    return result.addcmul_(torch._int_mm(q, weight.T) * scale, step)


@cache
def levels() -> int:
    """Returns the largest q whose products are exact here: 255, or 127; 0 if torch has no such kernel for this CPU."""
    w = torch.full((PROBE, PROBE), LARGEST, dtype=torch.int8)
    w[::2] = -LARGEST
    for largest in (255, 127):
        q = torch.full((PROBE, PROBE), largest - OFFSET, dtype=torch.int8)
        try:
            product = torch._int_mm(q, w.T)
        except (AttributeError, RuntimeError):  # NotImplementedError is a RuntimeError
            return 0
        if torch.equal(product.long(), q.long() @ w.long().T):
            return largest
    return 0
