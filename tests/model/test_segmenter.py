"""The Segmenter against transformers' own CLIPSeg: same words, same pixels, same logits."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data
from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

from checkpoints import network, picture, write_checkpoint, write_json
from clipseg_cli.errors import ModelError, UsageError
from clipseg_cli.model.architecture import read_architecture
from clipseg_cli.model.fast import load_network
from clipseg_cli.model.linear import can_fuse
from clipseg_cli.model.registry import BUNDLED, Checkpoint
from clipseg_cli.model.segmenter import Embeddings, Features, Segmenter, pick_dtype

PROMPTS = ["a red circle", "the blue bar on the left", "a cat", "a photo of a cup of coffee.", "rocket"]
BUNDLED_IS_HERE = (BUNDLED / "config.json").is_file()
CHECKPOINTS = [
    "tiny",
    pytest.param("shapes", marks=pytest.mark.skipif(not BUNDLED_IS_HERE, reason="no bundled model in this checkout")),
    pytest.param("full", marks=pytest.mark.slow),
]
SMALL = CHECKPOINTS[:2]
Find = Callable[[str], Checkpoint]


def checkpoint(path: Path) -> Checkpoint:
    """The checkpoint directory `path`, without the registry's checks."""
    return Checkpoint(path.name, path, path / "model.safetensors", None, None, 0.3)


@pytest.fixture(scope="session")
def find(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """Checkpoints by name, each written once: tiny and full random ones, and the bundled model."""

    @cache
    def find(name: str) -> Checkpoint:
        return checkpoint(BUNDLED if name == "shapes" else write_checkpoint(tmp_path_factory.mktemp(name), size=name))

    return find


def variant(path: Path, **changes: Any) -> Checkpoint:
    """A tiny checkpoint with `changes` in its config.json; a dict changes one part of it."""
    write_checkpoint(path)
    config = json.loads((path / "config.json").read_text())
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    write_json(path / "config.json", config)
    save_file(network(path, seed=1).state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    return checkpoint(path)


def edit(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file."""
    write_json(file, json.loads(file.read_text()) | changes)


def photographs() -> list[np.ndarray]:
    """Four photographs, uint8 (H, W, 3)."""
    return [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]


def drawings() -> list[np.ndarray]:
    """Plain shapes on plain ground, uint8 (240, 320, 3): a red circle, a blue bar, both."""
    y, x = np.mgrid[:240, :320]
    circle, bar = (x - 220) ** 2 + (y - 120) ** 2 < 60**2, (abs(x - 70) < 30) & (abs(y - 120) < 90)
    images = [np.full((240, 320, 3), (200, 205, 210), np.uint8) for _ in range(3)]
    for image, shapes in zip(images, [(circle, None), (None, bar), (circle, bar)], strict=True):
        for shape, colour in zip(shapes, [(214, 40, 40), (40, 60, 200)], strict=True):
            if shape is not None:
                image[shape] = colour
    return images


def oracle(known: Checkpoint, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """transformers' own processor and its model: in float64 what it means, free of the rounding of any one sum."""
    processor = CLIPSegProcessor.from_pretrained(known.path, backend="pil")
    return processor, CLIPSegForImageSegmentation.from_pretrained(known.path, dtype=dtype).eval()


def close(logits: np.ndarray, expected: np.ndarray) -> None:
    """Asserts that logits are within 1e-4."""
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def documented(
    known: Checkpoint, image: np.ndarray, prompts: list[str], dtype: torch.dtype = torch.float64, **size: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1, 3, S, S) and logits (P, S, S) as transformers' documentation makes them: the image once a prompt."""
    processor, model = oracle(known, dtype)
    images = [Image.fromarray(image)] * len(prompts)
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt", **size)
    pixels = inputs.pop("pixel_values")
    return pixels[:1].numpy(), model(pixel_values=pixels.to(dtype), **inputs).logits.numpy()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two stacks of masks, taken together."""
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("backend", ["fast", "transformers"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_equal_those_of_transformers(find: Find, name: str, count: int, backend: Any) -> None:
    """One prompt or five: within 1e-4 of the documented use of the unmodified model, in float32."""
    pixels, expected = documented(find(name), data.astronaut(), PROMPTS[:count])
    segmenter = Segmenter.load(find(name), device="cpu", dtype="fp32", backend=backend)
    logits = segmenter.logits(segmenter.encode(pixels), segmenter.embed(PROMPTS[:count]))
    assert logits.shape == (1, count, segmenter.side, segmenter.side) and logits.dtype == np.float32
    close(logits[0], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"conditional_layer": 1},
        {"conditional_layer": 2},
        {"use_complex_transposed_convolution": False, "reduce_dim": 64},
        {"use_complex_transposed_convolution": False, "vision_config": {"patch_size": 32}},
        {"extract_layers": [0, 2]},
        {"extract_layers": [3, 1, 2]},
        {"text_config": {"eos_token_id": 813}},
        {"vision_config": {"hidden_act": "gelu", "layer_norm_eps": 1e-3}},
        {"vision_config": {"image_size": 352}},
    ],
    ids=str,
)
def test_every_architecture_equals_that_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Whatever config.json asks for and this program accepts is what transformers makes of it."""
    known = variant(tmp_path, **changes)
    pixels, expected = documented(known, data.coffee(), PROMPTS)
    segmenter = Segmenter.load(known, device="cpu", dtype="fp32")
    logits = segmenter.logits(segmenter.encode(pixels), segmenter.embed(PROMPTS))
    close(logits[0], expected)
    assert np.ptp(expected, axis=0).max() > 0.1, "the prompts matter"


@pytest.mark.parametrize("side", [224, 480])
def test_another_size_equals_that_of_transformers(find: Find, side: int) -> None:
    """`size` stretches the position embeddings as transformers does."""
    pixels, expected = documented(find("tiny"), data.chelsea(), PROMPTS, size={"height": side, "width": side})
    segmenter = Segmenter.load(find("tiny"), device="cpu", dtype="fp32", size=side)
    logits = segmenter.logits(segmenter.encode(pixels), segmenter.embed(PROMPTS))
    close(logits[0], expected)


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_condition_like_those_of_transformers(find: Find, name: str) -> None:
    """Any embedding may be given: the same as `conditional_embeddings`."""
    pixels, _ = documented(find(name), data.rocket(), ["a"])
    segmenter = Segmenter.load(find(name), device="cpu", dtype="fp32")
    mixed = segmenter.embed(PROMPTS).values.mean(0, keepdims=True) * 1.5
    with torch.inference_mode():
        expected = oracle(find(name))[1](
            pixel_values=torch.from_numpy(pixels).double(), conditional_embeddings=torch.from_numpy(mixed).double()
        ).logits.numpy()
    logits = segmenter.logits(segmenter.encode(pixels), Embeddings(mixed))
    close(logits[0], expected)


@pytest.mark.parametrize("backend", ["fast", "transformers"])
@pytest.mark.parametrize("name", SMALL)
def test_exemplars_condition_like_those_of_transformers(find: Find, name: str, backend: Any) -> None:
    """An exemplar picture conditions as `conditional_pixel_values` does, and its embedding is the pooled feature."""
    processor, model = oracle(find(name))
    query, exemplar = (
        processor(images=Image.fromarray(image), return_tensors="pt").pixel_values
        for image in (data.rocket(), data.coffee())
    )
    with torch.inference_mode():
        expected = model(pixel_values=query.double(), conditional_pixel_values=exemplar.double()).logits.numpy()
    segmenter = Segmenter.load(find(name), device="cpu", dtype="fp32", backend=backend)
    embeddings = segmenter.embed_images(exemplar)
    assert embeddings.values.shape == (1, segmenter.dim) and embeddings.values.dtype == np.float32
    close(segmenter.logits(segmenter.encode(query), embeddings)[0], expected)
    np.testing.assert_array_equal(segmenter.encode(exemplar, pooled=True).pooled, embeddings.values)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bfloat16_keeps_the_masks(find: Find, name: str, threshold: float) -> None:
    """Masks in bfloat16 and in transformers' float32 overlap: 0.98 for random weights, 0.99 for trained ones."""
    images = drawings() if name == "shapes" else photographs()
    prompts = ["a red circle", "a blue rectangle"] if name == "shapes" else PROMPTS
    exact = Segmenter.load(find(name), device="cpu", dtype="fp32", backend="transformers")
    half = Segmenter.load(find(name), device="cpu", dtype="bf16")
    masks = [one.decode(one.encode(images), prompts) > threshold for one in (exact, half)]
    assert 0.01 < masks[0].mean() < 0.99
    assert overlap(*masks) >= (0.99 if name == "shapes" else 0.98)


@pytest.mark.parametrize("name", SMALL)
def test_both_backends_find_the_same_in_photographs(find: Find, name: str) -> None:
    """From pixels to probabilities the fast backend and transformers differ by no more than a grey level does."""
    found = []
    for backend in ("fast", "transformers"):
        segmenter = Segmenter.load(find(name), device="cpu", dtype="fp32", backend=backend)
        found.append(segmenter.decode(segmenter.encode(photographs()), PROMPTS[:2]))
    np.testing.assert_allclose(*found, atol=0.01, rtol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_results_do_not_depend_on_the_company(find: Find, name: str, dtype: Any) -> None:
    """A picture alone or in a batch: features and logits bit for bit. A prompt alone or in a list: its embedding bit
    for bit, its logits but for the order in which a matrix library adds, which may follow the number of rows and, in
    bf16, turn a rounding of the decoder's MLPs the other way."""
    segmenter = Segmenter.load(find(name), device="cpu", dtype=dtype)
    pictures = segmenter.pixels([*photographs(), *drawings(), data.coffee()[::-1]])
    embeddings = segmenter.embed(PROMPTS)
    alone = Features.concatenate([segmenter.encode(one[None], pooled=True) for one in pictures])
    for batch in (2, 3, 8):
        parts = [segmenter.encode(pictures[i : i + batch], pooled=True) for i in range(0, len(pictures), batch)]
        together = Features.concatenate(parts)
        assert torch.equal(together.tensor, alone.tensor)
        np.testing.assert_array_equal(together.pooled, alone.pooled)
    logits = segmenter.logits(alone, embeddings)
    np.testing.assert_array_equal(np.concatenate([segmenter.logits(one, embeddings) for one in alone]), logits)
    for index, prompt in enumerate(PROMPTS):
        np.testing.assert_array_equal(segmenter.embed([prompt]).values, embeddings[index].values)
        one = segmenter.logits(alone, embeddings[index])[:, 0]
        np.testing.assert_allclose(one, logits[:, index], atol=1e-4 if dtype == "fp32" else 1e-2, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_plain_operators_do_what_the_fused_ones_do(find: Find, name: str) -> None:
    """Without oneDNN's own layout, which torch reaches by private operators, the masks in bfloat16 are the same."""
    known = find(name)
    shape = read_architecture(known.path)
    segmenter = Segmenter.load(known, device="cpu", dtype="bf16")
    shown, prompt = (drawings(), "a red circle") if name == "shapes" else (photographs(), PROMPTS[0])
    pixels, ids = segmenter.pixels(shown), segmenter.processor.tokenize([prompt])[0]
    masks = []
    for fused in (True, False):
        network = load_network(
            known.weights, shape, side=segmenter.side, device="cpu", dtype=torch.bfloat16, fused=fused
        )
        assert network.vision.layers[0].up.fused == (fused and can_fuse(torch.device("cpu"), torch.bfloat16))
        masks.append(network.decode(network.encode(pixels)[0], network.embed(ids)).numpy() > -0.85)
    assert 0.01 < masks[0].mean() < 0.99
    assert overlap(*masks) > (0.99 if name == "shapes" else 0.98)


def test_a_resized_picture_stands_for_the_picture(find: Find) -> None:
    """`resize` keeps all that the network sees, and PIL images, read-only and flipped arrays are pictures too."""
    photograph = data.coffee()
    for backend in ("fast", "transformers"):
        segmenter = Segmenter.load(find("tiny"), device="cpu", dtype="fp32", backend=backend)
        small = segmenter.resize(photograph)
        assert small.shape == (352, 352, 3) and small.dtype == np.uint8
        flipped = np.ascontiguousarray(photograph[::-1])[::-1]
        expected, *others = segmenter.encode([photograph, small, Image.fromarray(photograph), flipped])
        assert all(torch.equal(expected.tensor, other.tensor) for other in others)


@pytest.mark.parametrize("backend", ["fast", "transformers"])
def test_prompts_are_never_cut(find: Find, backend: Any) -> None:
    """77 tokens with start and end are read; the 78th is an error that names the prompt and the count."""
    segmenter = Segmenter.load(find("tiny"), device="cpu", backend=backend)
    segmenter.embed([" ".join("x" * 75)])
    with pytest.raises(UsageError, match=r"'x x .* has 78 tokens .* at most 77"):
        segmenter.embed(["a cat", " ".join("x" * 76)])
    for prompt in ("", " \n", "\ud800"):
        with pytest.raises(UsageError, match="the prompt '"):
            segmenter.embed(["a cat", prompt])


def test_a_fast_run_never_imports_transformers(find: Find) -> None:
    """In a fresh process, from load to probabilities."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from clipseg_cli import Segmenter;"
        "from clipseg_cli.model.registry import Checkpoint; path = Path(sys.argv[1]);"
        "s = Segmenter.load(Checkpoint('', path, path / 'model.safetensors', None, None, 0.3), device='cpu');"
        "p = s.decode(s.encode([np.zeros((5, 7, 3), np.uint8)]), ['a cat']);"
        "assert p.shape == (1, 1, 352, 352) and 'torch' in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(find("tiny").path)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_features_and_embeddings_are_sequences(find: Find) -> None:
    """Slices and concatenation keep order and shape, and probabilities are the logits' sigmoid."""
    segmenter = Segmenter.load(find("tiny"), device="cpu", dtype="fp32")
    features, embeddings = segmenter.encode(photographs(), pooled=True), segmenter.embed(PROMPTS)
    assert len(features) == 4 and len(features[-1]) == 1 and len(features[1:]) == 3 and len(list(features)) == 4
    again = Features.concatenate([features[:1], features[1:]])
    assert torch.equal(again.tensor, features.tensor) and np.array_equal(again.pooled, features.pooled)
    assert Features.concatenate([features[:1], segmenter.encode(photographs()[:1])]).pooled is None
    assert np.array_equal(Embeddings.concatenate(list(embeddings)).values, embeddings.values)
    logits = segmenter.logits(features, embeddings)
    np.testing.assert_allclose(segmenter.decode(features, PROMPTS), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert segmenter.logits(features, embeddings[:0]).shape == (4, 0, 352, 352)


def test_what_is_asked_must_exist(find: Find) -> None:
    """Sizes, devices, dtypes, backends and pictures that cannot be: UsageError that says what can."""
    for wrong, message in [
        ({"size": 350}, "patch of 16 pixels: try 352"),
        ({"size": 0}, "try 16"),
        ({"device": "cuda:99"}, r"no device 'cuda:99' here; this machine has .*cpu"),
        ({"dtype": "int8"}, "choose from auto, fp32, bf16, fp16"),
        ({"backend": "onnx"}, "choose from fast, transformers"),
    ]:
        with pytest.raises(UsageError, match=message):
            Segmenter.load(find("tiny"), **wrong)
    segmenter = Segmenter.load(find("tiny"), device="cpu")
    for picture_ in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), "a.jpg"):
        with pytest.raises(UsageError, match="a picture is a PIL image or a uint8 array"):
            segmenter.encode([picture_])
    with pytest.raises(UsageError, match="normalised float32"):
        segmenter.encode(picture()[..., :100])


def test_the_dtype_follows_the_processor() -> None:
    """bfloat16 exactly where the kernel lists its instructions."""
    flags = Path("/proc/cpuinfo").read_text().split()
    assert pick_dtype("auto", "cpu") == ("bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32")
    assert pick_dtype("fp16", "cpu") == "fp16"


def test_tensors_must_be_the_expected_ones(tmp_path: Path) -> None:
    """Missing, surplus, misshapen or damaged weights are refused; the buffers of old checkpoints are not read."""
    known = checkpoint(write_checkpoint(tmp_path))
    tensors = load_file(known.weights)
    name = "decoder.film_mul.weight"
    old = {"clip.text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(tensors | old, known.weights)
    Segmenter.load(known, device="cpu")
    for wrong, message in [
        ({key: value for key, value in tensors.items() if key != name}, f"{name} is missing"),
        (tensors | {name: tensors[name][:, :5].contiguous()}, r"is \(16, 5\), config.json calls for \(16, 24\)"),
        (tensors | {"decoder.reduce.weight": tensors[name] + 1}, r"does not explain: decoder.reduce.weight"),
    ]:
        save_file(wrong, known.weights)
        with pytest.raises(ModelError, match=message + r".*--backend transformers"):
            Segmenter.load(known, device="cpu")
    known.weights.write_bytes(known.weights.read_bytes()[:1000])
    for backend in ("fast", "transformers"):
        with pytest.raises(ModelError, match="cannot"):
            Segmenter.load(known, device="cpu", backend=backend)


def test_transformers_reads_what_the_fast_backend_refuses(tmp_path: Path) -> None:
    """An activation that only transformers knows; but no tensor may be invented."""
    known = variant(tmp_path, text_config={"hidden_act": "mish"})
    with pytest.raises(ModelError, match=r"'mish' is not known; try --backend transformers"):
        Segmenter.load(known, device="cpu")
    pixels, expected = documented(known, data.coffee(), PROMPTS[:1])
    segmenter = Segmenter.load(known, device="cpu", dtype="fp32", backend="transformers")
    close(segmenter.logits(segmenter.encode(pixels), segmenter.embed(PROMPTS[:1]))[0], expected)
    save_file({key: value for key, value in load_file(known.weights).items() if "film" not in key}, known.weights)
    with pytest.raises(ModelError, match="4 tensors are missing"):
        Segmenter.load(known, device="cpu", backend="transformers")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "clip"}, "\"model_type\" is 'clip'"),
        ({"conditional_layer": 3}, '"conditional_layer" is 3'),
        ({"extract_layers": [1, 9]}, "layers 0 to 3"),
        ({"reduce_dim": 18}, "not a multiple of 4"),
        ({"projection_dim": "wide"}, "a whole number above 0"),
        ({"vision_config": {"patch_size": 32}}, "only 16 works"),
        ({"vision_config": 5}, "not a CLIPSeg configuration"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Before any weight is read, and with the entry's name."""
    edit(write_checkpoint(tmp_path) / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        Segmenter.load(checkpoint(tmp_path), device="cpu")
