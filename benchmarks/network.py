"""Compares the network with the fastest matrix product of a device: `network.py MODEL SECONDS [DEVICE [BATCH]]`.

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

BATCH = 4  # images per batch, as in a run on a CPU
PROMPTS = [f"a cat number {number}" for number in range(8)]
PEAK = ((2048, 2048, 2048), (4096, 1024, 4096), (1940, 768, 3072))  # rows, inputs, outputs; the last is the encoder's
GPU_PEAK = ((8192, 8192, 8192), (16384, 4096, 8192))  # each lasts long beside the start of a call


def operations(path: Path, side: int) -> int:
    """Returns the number of multiplications and additions of the encoder for one image."""
    shape = read_architecture(path)
    tokens, width, hidden = (side // shape.patch) ** 2 + 1, shape.vision.width, shape.vision.hidden
    products = 4 * width * width + 2 * width * hidden
    attention = 2 * tokens * width
    layers = (max(shape.extract) + 1) * tokens * (products + attention)
    return 2 * (layers + (tokens - 1) * width * 3 * shape.patch**2)


def wait(device: str) -> None:
    """Waits until a GPU has done what it was told; a CPU always has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def seconds_per_call(work: Callable[[], object], least: float, device: str = "cpu") -> float:
    """Returns the mean duration of a call to its end, over calls that last at least `least` seconds in total."""
    begun, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < least or not calls:
        work()
        wait(device)
        calls += 1
    return spent / calls


def measure(path: Path, least: float, device: str = "cpu", batch: int = BATCH) -> dict[str, Any]:
    """Returns the measurements of the checkpoint at `path`. least: seconds, see `seconds_per_call`.

    On a CPU, the decoder gets one image; elsewhere a batch.
    """
    segmenter = Segmenter.load(str(path), device=device, batch=batch)
    pixels = segmenter.pixels(
        [np.random.default_rng(i).integers(0, 256, (segmenter.side, segmenter.side, 3), np.uint8) for i in range(batch)]
    )
    embeddings, features = segmenter.embed(PROMPTS), segmenter.encode(pixels[: segmenter.batch])
    on_device = {"dtype": DTYPES[segmenter.dtype], "device": segmenter.device}
    products = [
        (torch.randn(rows, inputs, **on_device), torch.randn(inputs, outputs, **on_device))  # type: ignore[arg-type]
        for rows, inputs, outputs in (PEAK if segmenter.device == "cpu" else GPU_PEAK)
    ]
    spent: dict[str, list[float]] = {"peak": [], "encoder": [], "decoder": []}
    for _ in range(5):
        with torch.inference_mode():
            peaks = [
                2 * a.shape[0] * a.shape[1] * b.shape[1] / seconds_per_call(lambda a=a, b=b: a @ b, least / 3, device)
                for a, b in products
            ]
        spent["peak"].append(max(peaks))
        spent["encoder"].append(seconds_per_call(lambda: segmenter.encode(pixels), least, device) / batch)
        decoding = seconds_per_call(lambda: segmenter.logits(features, embeddings), least, device)
        spent["decoder"].append(decoding / len(PROMPTS) / len(features))
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
    print(json.dumps(measure(Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:5]))))
