"""Compares the network with the fastest matrix product of this machine: `network.py MODEL SECONDS`.

Prints a JSON object: `peak` and `encoder` in floating-point operations per second, `share` (encoder / peak),
`encoder_ms` per image and `decoder_ms` per prompt. All are medians of five alternating measurements, each of which
lasts about SECONDS.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipseg_cli import Segmenter
from clipseg_cli.model.architecture import read_architecture
from clipseg_cli.model.devices import DTYPES

BATCH = 4  # images per batch, as in a run
PROMPTS = [f"a cat number {number}" for number in range(8)]
PEAK = ((2048, 2048, 2048), (4096, 1024, 4096), (1940, 768, 3072))  # rows, inputs, outputs; the last is the encoder's


def operations(path: Path, side: int) -> int:
    """Returns the number of multiplications and additions of the encoder for one image."""
    shape = read_architecture(path)
    tokens, width, hidden = (side // shape.patch) ** 2 + 1, shape.vision.width, shape.vision.hidden
    products = 4 * width * width + 2 * width * hidden
    attention = 2 * tokens * width
    layers = (max(shape.extract) + 1) * tokens * (products + attention)
    return 2 * (layers + (tokens - 1) * width * 3 * shape.patch**2)


def seconds_per_call(work: Callable[[], object], least: float) -> float:
    """Returns the mean duration of a call, over calls that last at least `least` seconds in total."""
    begun, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < least or not calls:
        work()
        calls += 1
    return spent / calls


def measure(path: Path, least: float) -> dict[str, Any]:
    """Returns the measurements of the checkpoint at `path`. least: seconds, see `seconds_per_call`."""
    segmenter = Segmenter.load(str(path), device="cpu")
    pixels = segmenter.pixels(
        [np.random.default_rng(i).integers(0, 256, (segmenter.side, segmenter.side, 3), np.uint8) for i in range(BATCH)]
    )
    embeddings, features = segmenter.embed(PROMPTS), segmenter.encode(pixels[:1])
    products = [
        (
            torch.randn(rows, inputs, dtype=DTYPES[segmenter.dtype]),
            torch.randn(inputs, outputs, dtype=DTYPES[segmenter.dtype]),
        )
        for rows, inputs, outputs in PEAK
    ]
    spent: dict[str, list[float]] = {"peak": [], "encoder": [], "decoder": []}
    for _ in range(5):
        with torch.inference_mode():
            peaks = [
                2 * a.shape[0] * a.shape[1] * b.shape[1] / seconds_per_call(lambda a=a, b=b: a @ b, least / 3)
                for a, b in products
            ]
        spent["peak"].append(max(peaks))
        spent["encoder"].append(seconds_per_call(lambda: segmenter.encode(pixels), least) / BATCH)
        spent["decoder"].append(seconds_per_call(lambda: segmenter.logits(features, embeddings), least) / len(PROMPTS))
    median = {name: statistics.median(values) for name, values in spent.items()}
    work = operations(path, segmenter.side)
    return {
        "dtype": segmenter.dtype,
        "threads": torch.get_num_threads(),
        "peak": median["peak"],
        "encoder": work / median["encoder"],
        "share": work / median["encoder"] / median["peak"],
        "operations": work,
        "encoder_ms": median["encoder"] * 1000,
        "decoder_ms": median["decoder"] * 1000,
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), float(sys.argv[2]))))
