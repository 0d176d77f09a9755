"""transformers' CLIPSeg as the reference, and the checkpoints and images on which the Segmenter is compared with it."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from checkpoints import write_checkpoint, write_json
from clipseg_cli.model.registry import Checkpoint

PROMPTS = ["a red circle", "the blue bar on the left", "a cat", "a photo of a cup of coffee.", "rocket"]


def as_checkpoint(path: Path) -> Checkpoint:
    """Returns the checkpoint in the directory `path`, without the registry's checks."""
    return Checkpoint(path.name, path, path / "model.safetensors", None, None, 0.3)


def variant(path: Path, **changes: Any) -> Checkpoint:
    """Writes a tiny checkpoint with `changes` in its config.json. A dict changes some keys of a section."""
    return as_checkpoint(write_checkpoint(path, changes=changes))


def edit(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file."""
    write_json(file, json.loads(file.read_text()) | changes)


def photographs() -> list[np.ndarray]:
    """Returns four photographs, uint8 (H, W, 3)."""
    return [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


def drawings() -> list[np.ndarray]:
    """Returns drawings of a red circle, of a blue bar, and of both: uint8 (240, 320, 3)."""
    y, x = np.mgrid[:240, :320]
    circle, bar = (x - 220) ** 2 + (y - 120) ** 2 < 60**2, (abs(x - 70) < 30) & (abs(y - 120) < 90)
    images = [np.full((240, 320, 3), (200, 205, 210), np.uint8) for _ in range(3)]
    for image, shapes in zip(images, [(circle, None), (None, bar), (circle, bar)], strict=True):
        for shape, colour in zip(shapes, [(214, 40, 40), (40, 60, 200)], strict=True):
            if shape is not None:
                image[shape] = colour
    return images


@lru_cache(maxsize=4)
def oracle(known: Checkpoint) -> tuple[Any, Any]:
    """Returns transformers' processor and model. The model is float64, so its rounding errors do not count."""
    processor = CLIPSegProcessor.from_pretrained(known.path, backend="pil")
    return processor, CLIPSegForImageSegmentation.from_pretrained(known.path, dtype=torch.float64).eval()


@torch.inference_mode()
def documented(known: Checkpoint, image: np.ndarray, prompts: list[str], **size: Any) -> tuple[np.ndarray, np.ndarray]:
    """Runs the example of transformers' documentation, which encodes the image once per prompt.

    Returns pixels (1, 3, S, S) and logits (P, S, S).
    """
    processor, model = oracle(known)
    images = [Image.fromarray(image)] * len(prompts)
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt", **size)
    pixels = inputs.pop("pixel_values")
    return pixels[:1].numpy(), model(pixel_values=pixels.double(), **inputs).logits.numpy()


def assert_close(logits: np.ndarray, expected: np.ndarray) -> None:
    """Asserts that the logits differ by at most 1e-4."""
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the IoU of two stacks of masks, each taken as a whole."""
    return float((a & b).sum() / (a | b).sum())
