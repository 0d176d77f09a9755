"""Products in int8: against exact arithmetic, and what becomes of the masks."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from clipseg_cli.evaluation.metrics import peak_histogram, presence_ap
from clipseg_cli.model import int8
from clipseg_cli.model.linear import IDENTITY, Linear
from clipseg_cli.model.speed import layer_seconds
from oracle import PROMPTS, drawings, overlap, photographs

EXTREME = """
import json, sys, torch
sys.path[:] = json.loads(sys.argv[1])
from clipseg_cli.model import int8
x, w = torch.full((5, 768), 9.0), torch.full((8, 768), -1.0)
x[:, 0] = -9.0
weight, scale = int8.quantise_weight(w)
got = int8.multiply(x, weight, scale, weight.sum(1) * scale, torch.zeros(8), int8.levels())
print(int8.levels(), (got - x @ w.T).abs().max().item())
"""


def test_a_product_equals_the_exact_one_of_its_rounded_factors() -> None:
    """float64 multiplies the rounded factors. They are at most half a step from the given ones."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(37, 96, generator=generator) * torch.logspace(-3, 3, 37)[:, None] + 2
    w, bias = torch.randn(50, 96, generator=generator), torch.randn(50, generator=generator)
    weight, scale = int8.quantise_weight(w)
    q, low, step = int8.quantise_rows(x, int8.levels())
    rounded_x = (q.double() + int8.OFFSET) * step.double() + low.double()
    rounded_w = weight.double() * scale.double()[:, None]
    assert ((rounded_x - x).abs() <= step * 0.501).all()
    assert ((rounded_w - w).abs() <= scale[:, None] * 0.501).all()
    got = int8.multiply(x, weight, scale, weight.sum(1) * scale, bias, int8.levels())
    expected = (rounded_x @ rounded_w.T + bias).float()
    limit = 1e-5 * (x.abs().amax(1, keepdim=True) * 96 + 1)
    assert ((got - expected).abs() <= limit).all()


def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    """Also in another order, and beside rows that are a million times larger."""
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(2))
    x[::3] *= 1e6
    linear = Linear(torch.randn(24, 40), torch.randn(24)).to(torch.int8, False)
    together = linear(x, IDENTITY)
    assert torch.equal(torch.cat([linear(row[None]) for row in x]), together)
    assert torch.equal(linear(x.flip(0)).flip(0), together)
    assert torch.equal(linear(x.view(4, 16, 40)), together.view(4, 16, 24))


def test_equal_values_and_zeros_are_exact() -> None:
    """A row of equal values has no range, and a weight of zeros no scale."""
    linear = Linear(torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([0.5, 7.0])).to(torch.int8, False)
    result = linear(torch.tensor([[5.0, 5.0, 5.0], [0.0, 0.0, 0.0]]))
    torch.testing.assert_close(result, torch.tensor([[10.5, 7.0], [0.5, 7.0]]), atol=0.1, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "levels"), [("AVX2", "127"), ("DEFAULT", None)])
def test_the_kernel_never_overflows(limit: str, levels: str | None) -> None:
    """Without VNNI it adds two products in 16 bits. Extreme rows and weights give the exact result there too."""
    code = [sys.executable, "-c", EXTREME, json.dumps(sys.path)]
    done = subprocess.run(
        code, env=os.environ | {"ONEDNN_MAX_CPU_ISA": limit}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    largest, error = done.stdout.split()
    assert largest in {"127", "255"} and (levels is None or largest == levels)
    assert float(error) < 1


@pytest.mark.parametrize("name", ["shapes", pytest.param("full", marks=pytest.mark.slow)])
def test_int8_keeps_the_masks(load: Any, name: str) -> None:
    """Their IoU with float32 masks is at least 0.98."""
    images = drawings() if name == "shapes" else photographs()[:1]
    prompts = ["a red circle", "a blue rectangle"] if name == "shapes" else PROMPTS[:2]
    masks = []
    for dtype in ("fp32", "int8"):
        segmenter = load(name, dtype=dtype)
        masks.append(segmenter.decode(segmenter.encode(images), prompts) > (0.5 if name == "shapes" else 0.3))
    assert 0.01 < masks[0].mean() < 0.99 and not np.array_equal(*masks)
    assert overlap(*masks) >= 0.98


def test_int8_keeps_the_ranking_of_images(load: Any) -> None:
    """The average precision of the images that show a prompt is within 0.01 of that in float32."""
    shown = {"a red circle": (True, False, True), "a blue rectangle": (False, True, True)}
    scores = []
    for dtype in ("fp32", "int8"):
        segmenter = load("shapes", dtype=dtype)
        maps = segmenter.decode(segmenter.encode(drawings()), list(shown))
        bins = [
            peak_histogram(maps[image, index], present[image])
            for index, present in enumerate(shown.values())
            for image in range(3)
        ]
        scores.append(presence_ap(np.sum(bins, 0)))
    assert scores[0] > 0.8 and abs(scores[0] - scores[1]) <= 0.01


def test_a_layer_is_timed_in_every_precision() -> None:
    """The times are those of the same layer."""
    seconds = layer_seconds(["fp32", "int8"])
    assert list(seconds) == ["fp32", "int8"] and all(0 < each < 60 for each in seconds.values())
