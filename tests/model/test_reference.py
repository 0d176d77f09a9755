"""The backend "transformers"."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from skimage import data

from clipseg_cli.errors import ModelError
from clipseg_cli.model.segmenter import Segmenter
from oracle import PROMPTS, assert_close, documented, variant


def test_transformers_reads_models_that_the_fast_backend_refuses(tmp_path: Path) -> None:
    """The fast backend does not know every activation. Neither backend fills in a missing tensor."""
    known = variant(tmp_path, text_config={"hidden_act": "mish"})
    with pytest.raises(ModelError, match=r"unknown activation 'mish'; try --backend transformers"):
        Segmenter.load(known, device="cpu")
    pixels, expected = documented(known, data.coffee(), PROMPTS[:1])
    segmenter = Segmenter.load(known, device="cpu", dtype="fp32", backend="transformers")
    assert_close(segmenter.logits(segmenter.encode(pixels), segmenter.embed(PROMPTS[:1]))[0], expected)
    save_file({key: value for key, value in load_file(known.weights).items() if "film" not in key}, known.weights)
    with pytest.raises(ModelError, match="4 tensors are missing"):
        Segmenter.load(known, device="cpu", backend="transformers")
