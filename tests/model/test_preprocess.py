"""Words to token ids and pictures to numbers, as transformers' own processor makes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from transformers import CLIPSegProcessor, CLIPTokenizer

from checkpoints import write_checkpoint, write_json
from clipseg_cli.errors import ModelError
from clipseg_cli.model.preprocess import preprocess, read_preprocessing
from clipseg_cli.model.registry import BUNDLED
from clipseg_cli.model.tokenizer import read_tokenizer

LAYOUTS = ["released", "saved", *([BUNDLED] if (BUNDLED / "config.json").is_file() else [])]


@pytest.fixture(scope="module", params=LAYOUTS, ids=str)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint directories: as released, as transformers 5 saves them, and the bundled one."""
    layout = request.param
    return layout if isinstance(layout, Path) else write_checkpoint(tmp_path_factory.mktemp(layout), layout=layout)


def edit(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file."""
    write_json(file, json.loads(file.read_text()) | changes)


def within_a_level(path: Path, image: np.ndarray) -> bool:
    """Whether `image`, prepared as `path` asks, is at most one grey level from what CLIPSegProcessor makes of it."""
    processor, how = CLIPSegProcessor.from_pretrained(path, backend="pil"), read_preprocessing(path)
    expected = processor(images=Image.fromarray(image), return_tensors="pt").pixel_values[0].numpy()
    level = (how.levels[:, 1] - how.levels[:, 0])[:, None, None]
    return bool((np.abs(preprocess(image, how) - expected) <= 1.01 * level).all())


@pytest.mark.parametrize("shape", [(352, 352), (40, 600), (1200, 90), (3, 2), (1, 1), (901, 1203)], ids=str)
def test_preprocessing_equals_the_processor(path: Path, shape: tuple[int, int]) -> None:
    """Photographs of every size and aspect come within one grey level of CLIPSegProcessor."""
    for photograph in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        assert within_a_level(path, np.asarray(Image.fromarray(photograph).resize(shape[::-1])))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 64},
        {"resample": 3},
        {"resample": 0},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [120, 110, 100], "image_std": [60, 60, 60]},
    ],
    ids=str,
)
def test_preprocessing_honours_the_settings(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Size, filter, mean, deviation and switches of preprocessor_config.json mean what they mean to transformers."""
    edit(write_checkpoint(tmp_path) / "preprocessor_config.json", **changes)
    assert within_a_level(tmp_path, data.coffee())


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 352}},
        {"size": {"height": 352, "width": 224}},
        {"do_center_crop": True},
        {"do_resize": False},
        {"resample": 9},
        {"image_std": [0, 0, 0]},
        {"feature_extractor_type": "CLIPImageProcessor"},
    ],
    ids=str,
)
def test_preprocessing_that_cannot_be_honoured_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Nothing is guessed: what is not a warp to a square ends with ModelError."""
    edit(write_checkpoint(tmp_path) / "preprocessor_config.json", **changes)
    with pytest.raises(ModelError, match="cannot be honoured"):
        read_preprocessing(tmp_path)


WORDS = [
    "a cat", "  A  Cat\n\t", "it's the dog's", "don't we'll I'VE", "café cafe\u0301", "İstanbul ẞ ſ ﬁ", "日本語の猫",
    "🐱👩‍👩‍👧 emoji", "a\u00a0b\u3000c\u200bd", "<|endoftext|> a", "x <|STARTOFTEXT|> <|EndOfText|>y", "½ ٣ 12345",
    "Ωμέγα ПРИВЕТ", "\x00\x01a", "!!!...", "a<|startoftext|>b", "…—“q”", "\u202ertl", "", "  ",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(path: Path) -> tuple[Any, Any]:
    """Ours and transformers' from the same files."""
    return read_tokenizer(path), CLIPTokenizer.from_pretrained(path)


def test_tokens_equal_those_of_transformers(tokenizers: tuple[Any, Any]) -> None:
    """Spaces, case, accents, scripts, emoji, controls and special tokens."""
    ours, theirs = tokenizers
    assert ours(WORDS) == theirs(WORDS).input_ids


@given(text=st.text())
@settings(max_examples=200, deadline=None)
def test_tokens_of_any_text_equal_those_of_transformers(tokenizers: tuple[Any, Any], text: str) -> None:
    """Any Unicode string."""
    ours, theirs = tokenizers
    assert ours([text])[0] == theirs(text).input_ids
