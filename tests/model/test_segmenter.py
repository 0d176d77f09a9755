"""The Segmenter: results that do not depend on the batch, and arguments that it refuses."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from checkpoints import drawing
from clipseg_cli.errors import UsageError
from clipseg_cli.model.segmenter import Embeddings, Features, Segmenter
from oracle import PROMPTS, drawings, overlap, photographs


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["tiny", "shapes", pytest.param("wide", marks=pytest.mark.slow)])
def test_results_do_not_depend_on_the_batch(load: Any, name: str, dtype: str) -> None:
    """The features and logits of an image, and the embedding of a prompt, have the same bits alone and in a batch.

    The logits of a prompt may differ a little from those in a list: the order in which a matrix library adds may
    follow the number of rows and, in bf16, change a rounding in the decoder's MLPs.
    """
    segmenter = load(name, dtype)
    images = segmenter.pixels([*photographs()[:2], drawings()[0], data.coffee()[::-1]])[: 3 if name == "wide" else 4]
    embeddings = segmenter.embed(PROMPTS)
    alone = Features.concatenate([segmenter.encode(image[None], pooled=True) for image in images])
    for batch in range(2, len(images) + 1):
        parts = [segmenter.encode(images[i : i + batch], pooled=True) for i in range(0, len(images), batch)]
        together = Features.concatenate(parts)
        assert torch.equal(together.tensor, alone.tensor)
        np.testing.assert_array_equal(together.pooled, alone.pooled)
    logits = segmenter.logits(alone, embeddings)
    np.testing.assert_array_equal(np.concatenate([segmenter.logits(one, embeddings) for one in alone]), logits)
    for index, prompt in enumerate(PROMPTS):
        np.testing.assert_array_equal(segmenter.embed([prompt]).values, embeddings[index].values)
        single = segmenter.logits(alone[:2], embeddings[index])[:, 0]
        np.testing.assert_allclose(single, logits[:2, index], atol=1e-2 if dtype == "bf16" else 1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_passes_of_several_images_give_an_image_the_same_bits(load: Any, dtype: str) -> None:
    """As on a GPU, where a pass always has as many images: alone, in any place and beside any others.

    Blank images fill up a pass that has too few. The results are those of passes of one image, within rounding.
    """
    segmenter = replace(load("shapes", dtype), batch=3, threads=1)
    images = [*photographs()[:2], *drawings()[:2]]
    embeddings = segmenter.embed(PROMPTS[:2])

    def results(*order: int) -> dict[int, list[np.ndarray]]:
        features = segmenter.encode([images[index] for index in order], pooled=True)
        logits = segmenter.logits(features, embeddings)
        assert len(features) == len(logits) == len(order)
        rows = zip(features.tensor.numpy(), features.pooled, logits, strict=True)
        return {index: list(row) for index, row in zip(order, rows, strict=True)}

    together = results(0, 1, 2, 3)
    for others in (results(3, 1, 0), results(1, 2), results(0)):
        for index, found in others.items():
            for a, b in zip(found, together[index], strict=True):
                np.testing.assert_array_equal(a, b)
    usual = load("shapes", dtype).decode(load("shapes", dtype).encode(images), embeddings)
    masks = [segmenter.decode(segmenter.encode(images), embeddings) > 0.3, usual > 0.3]
    assert 0.001 < masks[0].mean() < 0.99 and overlap(*masks) > 0.99


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_results_do_not_depend_on_the_number_of_threads(load: Any, dtype: str) -> None:
    """Features and logits have the same bits with any number, so that worker processes may share the cores."""
    segmenter, usual = load("shapes", dtype), torch.get_num_threads()
    embeddings, images, results = segmenter.embed(PROMPTS), photographs()[:2], []
    try:
        for threads, of_them in ((1, 1), (5, 1), (5, 5)):  # one image after another, or both beside each other
            torch.set_num_threads(threads)
            sharing = replace(segmenter, threads=of_them)
            features = sharing.encode(images, pooled=True)
            results.append([features.tensor.numpy(), features.pooled, sharing.logits(features, embeddings)])
    finally:
        torch.set_num_threads(usual)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["fast", "transformers"])
def test_a_resized_image_has_the_features_of_the_original(load: Any, backend: str) -> None:
    """So do a PIL image, a read-only array and a flipped view of the same pixels."""
    photograph, segmenter = data.coffee(), load("tiny", backend=backend)
    small = segmenter.resize(photograph)
    assert small.shape == (352, 352, 3) and small.dtype == np.uint8
    flipped = np.ascontiguousarray(photograph[::-1])[::-1]
    fixed = photograph.copy()
    fixed.setflags(write=False)
    expected, *others = segmenter.encode([photograph, small, Image.fromarray(photograph), flipped, fixed])
    assert all(torch.equal(expected.tensor, other.tensor) for other in others)


@pytest.mark.parametrize("backend", ["fast", "transformers"])
def test_prompts_are_never_truncated(load: Any, backend: str) -> None:
    """77 tokens with start and end are accepted. 78 are an error that names the prompt and the number."""
    segmenter = load("tiny", backend=backend)
    segmenter.embed([" ".join("x" * 75)])
    with pytest.raises(UsageError, match=r"'x x .* has 78 tokens, .* at most 77"):
        segmenter.embed(["a cat", " ".join("x" * 76)])
    for prompt in ("", " \n", "\ud800"):
        with pytest.raises(UsageError, match="the prompt '"):
            segmenter.embed(["a cat", prompt])


def test_a_fast_run_never_imports_transformers(find: Any) -> None:
    """In a new process, from load to probabilities."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from clipseg_cli import Segmenter;"
        "from clipseg_cli.model.registry import Checkpoint; path = Path(sys.argv[1]);"
        "s = Segmenter.load(Checkpoint('', path, path / 'model.safetensors', None, None, 0.3), device='cpu');"
        "p = s.decode(s.encode([np.zeros((5, 7, 3), np.uint8)]), ['a cat']);"
        "assert p.shape == (1, 1, 352, 352) and 'torch' in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(find("tiny").path)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_features_and_embeddings_are_sequences(load: Any) -> None:
    """Slices and concatenation keep order and shape. Probabilities are the sigmoid of the logits."""
    segmenter = load("tiny")
    features, embeddings = segmenter.encode(photographs(), pooled=True), segmenter.embed(PROMPTS)
    assert len(features) == 4 and len(features[-1]) == 1 and len(features[1:]) == 3 and len(list(features)) == 4
    again = Features.concatenate([features[:1], features[1:]])
    assert torch.equal(again.tensor, features.tensor) and np.array_equal(again.pooled, features.pooled)
    assert Features.concatenate([features[:1], segmenter.encode(photographs()[:1])]).pooled is None
    assert np.array_equal(Embeddings.concatenate(list(embeddings)).values, embeddings.values)
    logits = segmenter.logits(features[:2], embeddings)
    np.testing.assert_allclose(segmenter.decode(features[:2], PROMPTS), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert segmenter.logits(features, embeddings[:0]).shape == (4, 0, 352, 352)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 350}, "patch of 16 pixels: try 352"),
        ({"size": 0}, "try 16"),
        ({"device": "cuda:99"}, r"no device 'cuda:99' here; this machine has .*cpu"),
        ({"dtype": "int4"}, "choose from auto, fp32, bf16, fp16, int8"),
        ({"dtype": "int8", "device": "cpu", "backend": "transformers"}, "transformers has no int8: use --backend fast"),
        ({"backend": "onnx"}, "choose from fast, transformers"),
    ],
    ids=str,
)
def test_an_invalid_option_is_a_usage_error(find: Any, wrong: dict[str, Any], message: str) -> None:
    """The message says which values are valid."""
    with pytest.raises(UsageError, match=message):
        Segmenter.load(find("tiny"), **wrong)


def test_an_invalid_image_is_a_usage_error(load: Any) -> None:
    """The message says which types and shapes are valid."""
    segmenter = load("tiny")
    for image in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), "a.jpg"):
        with pytest.raises(UsageError, match="an image is a PIL image or a uint8 array"):
            segmenter.encode([image])
    with pytest.raises(UsageError, match="normalised float32"):
        segmenter.encode(drawing()[..., :100])
