"""The network alone, against the matrix products that this machine can do: `kernels.py MODEL SECONDS`.

Prints one JSON object: `peak` and `encoder`, in floating point operations a second, the medians of parts taken in
turn; `share` of the one in the other; `encoder_ms` an image and `decoder_ms` a prompt.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clipseg_cli import Segmenter
from clipseg_cli.model.architecture import read_architecture
from clipseg_cli.model.devices import DTYPES

BATCH = 4  # images encoded at once, as a run does
PROMPTS = [f"a cat number {number}" for number in range(8)]
PEAK = ((2048, 2048, 2048), (4096, 1024, 4096), (1940, 768, 3072))  # rows, inputs, outputs; the last is the encoder's


def operations(path: Path, side: int) -> int:
    """Multiplications and additions of the encoder for one image."""
    shape = read_architecture(path)
    tokens, width, hidden = (side // shape.patch) ** 2 + 1, shape.vision.width, shape.vision.hidden
    products = 4 * width * width + 2 * width * hidden
    attention = 2 * tokens * width
    layers = (max(shape.extract) + 1) * tokens * (products + attention)
    return 2 * (layers + (tokens - 1) * width * 3 * shape.patch**2)


def seconds(work: Callable[[], object], least: float) -> float:
    """Of one call of `work`, by calls that together last `least` seconds."""
    begun, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < least or not calls:
        work()
        calls += 1
    return spent / calls


def main(path: Path, least: float) -> None:
    """Measures and prints."""
    segmenter = Segmenter.load(str(path), device="cpu")
    pixels = segmenter.pixels(
        [np.random.default_rng(i).integers(0, 256, (352, 352, 3), np.uint8) for i in range(BATCH)]
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
                2 * a.shape[0] * a.shape[1] * b.shape[1] / seconds(lambda a=a, b=b: a @ b, least / 3)
                for a, b in products
            ]
        spent["peak"].append(max(peaks))
        spent["encoder"].append(seconds(lambda: segmenter.encode(pixels), least) / BATCH)
        spent["decoder"].append(seconds(lambda: segmenter.logits(features, embeddings), least) / len(PROMPTS))
    middle = {name: statistics.median(values) for name, values in spent.items()}
    work = operations(path, segmenter.side)
    found = {
        "dtype": segmenter.dtype,
        "threads": torch.get_num_threads(),
        "peak": middle["peak"],
        "encoder": work / middle["encoder"],
        "share": work / middle["encoder"] / middle["peak"],
        "operations": work,
        "encoder_ms": middle["encoder"] * 1000,
        "decoder_ms": middle["decoder"] * 1000,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
