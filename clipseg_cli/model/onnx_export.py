"""Writes a checkpoint as a folder of ONNX files, which run without torch, and checks them against the Segmenter.

The folder holds the four graphs of `onnx_graphs`, the tokenizer as one tokenizer.json, and preprocess.json, which says
how an image becomes the input. preprocess.json comes last: a folder that has it is complete.
"""

import contextlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_cli.errors import ModelError, OutputError, UsageError
from clipseg_cli.model.fast import Network
from clipseg_cli.model.preprocess import DEFAULTS, read_settings
from clipseg_cli.model.registry import Checkpoint
from clipseg_cli.model.segmenter import Embeddings, Segmenter
from clipseg_cli.model.tokenizer import read_tokenizer
from clipseg_cli.storage import store

WORK, TOKENIZER, SETTINGS = ".export", "tokenizer.json", "preprocess.json"
QUANTIZED = ("image", "text", "exemplar")  # the decoder is 1 % of the size and loses the most, so it stays float32
TOLERANCE = 1e-4  # largest difference of a logit from the Segmenter's
PROMPTS = ("a cat", "a photo of the blue sky.", "red")  # for the check; of several lengths


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far the exported files are from the Segmenter, on two images with three prompts and two exemplars."""

    embedding: float  # the largest difference of a number of an embedding
    logit: float  # the largest difference of a logit
    mean_logit: float  # the mean difference of the logits
    pixels: float  # share of the pixels whose mask differs at the default threshold, 0 to 1


def require() -> None:
    """Raises UsageError if the extra is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        raise UsageError("--onnx needs two more packages: pip install 'clipseg-cli[onnx]'")


def export(checkpoint: Checkpoint, out: Path, int8: bool = False) -> tuple[Deviation, Deviation | None]:
    """Writes the files to the folder `out` and returns their deviation, and that of the int8 files if these are chosen.

    With `int8`, the weights of both towers are stored as 8-bit integers by ONNX Runtime's own quantizer. Raises
    OutputError if `out` holds an export or cannot be written, ModelError if the float32 files deviate by more than
    TOLERANCE. After an error, or a kill, `out` holds no preprocess.json.
    """
    if (out / SETTINGS).exists():
        raise OutputError(f"{out} holds an export: choose another -o")
    new = not out.exists()
    store.check(out)
    work = out / WORK
    shutil.rmtree(work, ignore_errors=True)
    try:
        with store.failing(out):
            work.mkdir()
            results = _write(checkpoint, work, int8)
            for file in sorted(work.iterdir(), key=lambda each: each.name == SETTINGS):
                os.replace(file, out / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty
            if new:
                out.rmdir()
    return results


def _write(checkpoint: Checkpoint, work: Path, int8: bool) -> tuple[Deviation, Deviation | None]:
    """Writes and checks all files in the folder `work`."""
    from clipseg_cli.model import onnx_graphs

    segmenter = Segmenter.load(checkpoint, device="cpu", dtype="fp32")
    assert isinstance(segmenter.network, Network)
    tokenizer = read_tokenizer(checkpoint.path).backend
    end = tokenizer.encode("a").ids[-1]
    tokenizer.enable_padding(pad_id=end, pad_token=tokenizer.id_to_token(end))  # text.onnx ignores a second end token
    store.write(work / TOKENIZER, tokenizer.to_str(pretty=True).encode())
    tokenizer.no_padding()  # others may use it too
    files: dict[str, Any] = {}
    for name, model in onnx_graphs.build(segmenter.network, segmenter.side):
        files[f"{name}.onnx"] = {
            "inputs": {each.name: _shape(each) for each in model.graph.input},
            "outputs": {each.name: _shape(each) for each in model.graph.output},
        }
        store.write(work / f"{name}.onnx", model.SerializeToString())
    exact = _compare(segmenter, work)
    if not exact.logit <= TOLERANCE:  # not for NaN
        raise ModelError(
            f"ONNX Runtime's logits for {checkpoint.name} differ from this program's by {exact.logit:.2g}, more than "
            f"{TOLERANCE:g}: nothing was written; try another version of onnxruntime"
        )
    rough = None
    if int8:
        for name in QUANTIZED:
            _quantize(work / f"{name}.onnx")
        rough = _compare(segmenter, work)
    settings = {
        "model": checkpoint.name,
        "commit": checkpoint.revision or "",
        "opset": onnx_graphs.OPSET,
        "weights": "int8" if int8 else "float32",
        "image": _image_settings(checkpoint.path, segmenter.side),
        "text": {"tokenizer": TOKENIZER, "longest": segmenter.longest, "end": end},
        "threshold": segmenter.threshold,
        "files": files,
        "deviation": asdict(rough or exact),
    }
    store.write(work / SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())
    return exact, rough


def _shape(value: Any) -> list[int | str]:
    """Returns the shape of a graph's input or output. A free size is its letter."""
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def _image_settings(path: Path, side: int) -> dict[str, Any]:
    """Returns how an image becomes the input: warp to side x side, then (pixel * `scale` - `mean`) / `std`."""
    settings = {**DEFAULTS, **read_settings(path)}
    plain = not settings["do_normalize"]
    return {
        "side": side,
        "filter": Image.Resampling(settings["resample"]).name.lower(),
        "scale": settings["rescale_factor"] if settings["do_rescale"] else 1,
        "mean": [0, 0, 0] if plain else settings["image_mean"],
        "std": [1, 1, 1] if plain else settings["image_std"],
    }


def _compare(segmenter: Segmenter, work: Path) -> Deviation:
    """Runs the files in `work` by ONNX Runtime, and the Segmenter, on the same images, prompts and exemplars."""
    from tokenizers import Tokenizer

    run = {name: _session(work / f"{name}.onnx") for name in ("image", "text", "exemplar", "decoder")}
    images = [_drawing(segmenter.side, seed) for seed in range(2)]
    encoded = segmenter.encode(images, pooled=True)
    assert encoded.pooled is not None
    pixels = segmenter.pixels(images).numpy()
    embeddings = np.concatenate([segmenter.embed(PROMPTS).values, encoded.pooled])
    ids = [each.ids for each in Tokenizer.from_file(str(work / TOKENIZER)).encode_batch(list(PROMPTS))]
    found = np.concatenate([run["text"](ids=np.array(ids)), run["exemplar"](pixels=pixels)])
    expected = segmenter.logits(encoded, Embeddings(embeddings))
    logits = run["decoder"](features=run["image"](pixels=pixels), embeddings=found)
    level = np.log(segmenter.threshold / (1 - segmenter.threshold))
    apart = np.abs(logits - expected)
    return Deviation(
        embedding=float(np.abs(found - embeddings).max()),
        logit=float(apart.max()),
        mean_logit=float(apart.mean()),
        pixels=float(np.mean((logits > level) != (expected > level))),
    )


def _session(file: Path) -> Callable[..., NDArray[np.float32]]:
    """Returns a function from the named inputs of an ONNX file to its output, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(**inputs: NDArray[Any]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run(None, inputs)[0]
        return output

    return run


def _drawing(side: int, seed: int) -> NDArray[np.uint8]:
    """Returns a disc on a shaded, grainy background, uint8 (side, side, 3): it has edges, planes and texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    shades = np.stack([0.5 + 0.4 * x, 0.5 + 0.4 * y, 0.5 - 0.4 * x * y], -1)
    shades[(x - rng.uniform(-0.5, 0.5)) ** 2 + (y - rng.uniform(-0.5, 0.5)) ** 2 < 0.15] = rng.random(3)
    return ((shades + rng.normal(0, 0.05, shades.shape)).clip(0, 1) * 255).astype(np.uint8)


def _quantize(file: Path) -> None:
    """Replaces an ONNX file by one whose products and token table have int8 weights."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    smaller = file.with_suffix(".int8")
    try:
        quantize_dynamic(
            file,
            smaller,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            reduce_range=True,  # 7 bits: on processors without VNNI, sums of 8-bit products overflow
            weight_type=QuantType.QInt8,
        )
    except Exception as error:  # on a full disk it cannot read its own files
        raise OutputError(
            f"ONNX Runtime cannot make int8 files ({error}): free some space, or choose no --int8"
        ) from error
    os.replace(smaller, file)
