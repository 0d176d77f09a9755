"""config.json: every architecture that is accepted gives the results of transformers; the others are refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from clipseg_cli.errors import ModelError
from clipseg_cli.model.segmenter import Segmenter
from oracle import PROMPTS, as_checkpoint, assert_close, documented, edit, variant


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
    """The fast backend and transformers give the same logits for it."""
    known, prompts = variant(tmp_path, **changes), PROMPTS[:2]
    pixels, expected = documented(known, data.coffee(), prompts)
    segmenter = Segmenter.load(known, device="cpu", dtype="fp32")
    logits = segmenter.logits(segmenter.encode(pixels), segmenter.embed(prompts))
    assert_close(logits[0], expected)
    assert np.ptp(expected, axis=0).max() > 0.1, "the prompts matter"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "clip"}, "\"model_type\" is 'clip'"),
        ({"conditional_layer": 3}, '"conditional_layer" is 3'),
        ({"extract_layers": [1, 9]}, "layers 0 to 3"),
        ({"reduce_dim": 18}, "not a multiple of 4"),
        ({"projection_dim": "wide"}, "must be an integer above 0"),
        ({"vision_config": {"patch_size": 32}}, "only 16 works"),
        ({"vision_config": {"num_channels": 4}}, '"num_channels" is 4; it must be 3'),
        ({"vision_config": 5}, "not a usable CLIPSeg configuration"),
    ],
)
def test_an_invalid_configuration_is_refused(
    tmp_path: Path, released: Path, changes: dict[str, Any], message: str
) -> None:
    """The message names the entry. The weights are not read: here there are none."""
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(released / name, tmp_path)
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        Segmenter.load(as_checkpoint(tmp_path), device="cpu")
