"""The fast backend against transformers' own CLIPSeg: the same logits, and the same masks in half precision."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from clipseg_cli.model.architecture import read_architecture
from clipseg_cli.model.fast_weights import load_network
from clipseg_cli.model.linear import can_fuse
from clipseg_cli.model.registry import Checkpoint
from clipseg_cli.model.segmenter import Embeddings
from oracle import PROMPTS, assert_close, documented, drawings, oracle, overlap, photographs

Find = Callable[[str], Checkpoint]
SMALL = ["tiny", "shapes"]
CHECKPOINTS = [*SMALL, pytest.param("full", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def example(find: Find) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Returns pixels and logits of the documentation's example, for one image and several prompts, computed once."""
    return cache(lambda name: documented(find(name), data.astronaut(), PROMPTS[: 2 if name == "full" else 5]))


@pytest.mark.parametrize("backend", ["fast", "transformers"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_equal_those_of_transformers(example: Any, load: Any, name: str, count: int, backend: str) -> None:
    """For one prompt and for several, float32 logits are within 1e-4 of the documentation's example."""
    pixels, expected = example(name)
    segmenter, count = load(name, backend=backend), min(count, len(expected))
    logits = segmenter.logits(segmenter.encode(pixels), segmenter.embed(PROMPTS[:count]))
    assert logits.shape == (1, count, segmenter.side, segmenter.side) and logits.dtype == np.float32
    assert_close(logits[0], expected[:count])


@pytest.mark.parametrize("name", SMALL)
def test_a_prompt_alone_has_the_logits_of_transformers(find: Find, load: Any, name: str) -> None:
    """transformers does not pad a single prompt."""
    pixels, expected = documented(find(name), data.astronaut(), PROMPTS[2:3])
    logits = load(name).logits(load(name).encode(pixels), load(name).embed(PROMPTS[2:3]))
    assert_close(logits[0], expected)


@pytest.mark.parametrize("side", [224, 480])
def test_another_size_equals_that_of_transformers(find: Find, load: Any, side: int) -> None:
    """`size` interpolates the position embeddings as transformers does."""
    prompts = PROMPTS[:2]
    pixels, expected = documented(find("tiny"), data.chelsea(), prompts, size={"height": side, "width": side})
    segmenter = load("tiny", size=side)
    assert_close(segmenter.logits(segmenter.encode(pixels), segmenter.embed(prompts))[0], expected)


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_condition_like_those_of_transformers(find: Find, load: Any, name: str) -> None:
    """Any embedding may be used, like transformers' `conditional_embeddings`."""
    segmenter, (processor, model) = load(name), oracle(find(name))
    pixels = processor(images=Image.fromarray(data.rocket()), return_tensors="pt").pixel_values
    mixed = segmenter.embed(PROMPTS).values.mean(0, keepdims=True) * 1.5
    with torch.inference_mode():
        expected = model(pixel_values=pixels.double(), conditional_embeddings=torch.from_numpy(mixed).double())
    assert_close(segmenter.logits(segmenter.encode(pixels), Embeddings(mixed))[0], expected.logits.numpy())


@pytest.mark.parametrize("backend", ["fast", "transformers"])
@pytest.mark.parametrize("name", SMALL)
def test_exemplars_condition_like_those_of_transformers(find: Find, load: Any, name: str, backend: str) -> None:
    """An exemplar has the effect of `conditional_pixel_values`. Its embedding is the pooled feature."""
    processor, model = oracle(find(name))
    query, exemplar = (
        processor(images=Image.fromarray(image), return_tensors="pt").pixel_values
        for image in (data.rocket(), data.coffee())
    )
    with torch.inference_mode():
        expected = model(pixel_values=query.double(), conditional_pixel_values=exemplar.double()).logits.numpy()
    segmenter = load(name, backend=backend)
    embeddings = segmenter.embed_images(exemplar)
    assert embeddings.values.shape == (1, segmenter.dim) and embeddings.values.dtype == np.float32
    assert_close(segmenter.logits(segmenter.encode(query), embeddings)[0], expected)
    np.testing.assert_array_equal(segmenter.encode(exemplar, pooled=True).pooled, embeddings.values)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bfloat16_keeps_the_masks(load: Any, name: str) -> None:
    """Their IoU with transformers' float32 masks is at least 0.98 with random weights, 0.99 with trained ones."""
    images = drawings() if name == "shapes" else photographs()[: 2 if name == "full" else 4]
    prompts = ["a red circle", "a blue rectangle"] if name == "shapes" else PROMPTS
    exact, half = load(name, backend="transformers"), load(name, dtype="bf16")
    probabilities = [segmenter.decode(segmenter.encode(images), prompts) for segmenter in (exact, half)]
    for threshold in (0.5, 0.3):
        masks = [values > threshold for values in probabilities]
        assert 0.01 < masks[0].mean() < 0.99
        assert overlap(*masks) >= (0.99 if name == "shapes" else 0.98)


@pytest.mark.parametrize("name", SMALL)
def test_both_backends_give_the_same_probabilities_for_photographs(load: Any, name: str) -> None:
    """From pixels to probabilities they differ by at most 0.01, the effect of one grey level."""
    probabilities = []
    for backend in ("fast", "transformers"):
        segmenter = load(name, backend=backend)
        probabilities.append(segmenter.decode(segmenter.encode(photographs()), PROMPTS[:2]))
    np.testing.assert_allclose(*probabilities, atol=0.01, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_plain_operators_give_the_masks_of_fused_ones(find: Find, load: Any, name: str) -> None:
    """Fused ones need private operators of torch. Without these, bfloat16 masks are the same."""
    known, segmenter = find(name), load(name, dtype="bf16")
    images, prompt = (drawings(), "a red circle") if name == "shapes" else (photographs(), PROMPTS[0])
    pixels, ids = segmenter.pixels(images), segmenter.processor.tokenize([prompt])[0]
    shape, masks = read_architecture(known.path), []
    for fused in (True, False):
        network = load_network(
            known.weights, shape, side=segmenter.side, device="cpu", dtype=torch.bfloat16, fused=fused
        )
        assert network.vision.layers[0].up.fused == (fused and can_fuse(torch.device("cpu"), torch.bfloat16))
        masks.append(network.decode(network.encode(pixels)[0], network.embed(ids)).numpy() > -0.85)
    assert 0.01 < masks[0].mean() < 0.99
    assert overlap(*masks) > (0.99 if name == "shapes" else 0.98)
