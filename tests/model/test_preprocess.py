"""Images are prepared as transformers' own processor prepares them."""

import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data
from transformers import CLIPSegProcessor

from clipseg_cli.errors import ModelError
from clipseg_cli.model.preprocess import preprocess, read_preprocessing
from oracle import edit, photographs


@lru_cache(maxsize=4)
def processor(path: Path) -> Any:
    """Returns transformers' processor of a checkpoint directory."""
    return CLIPSegProcessor.from_pretrained(path, backend="pil")


def within_one_level(path: Path, image: np.ndarray) -> bool:
    """Tells whether our result is at most one grey level from that of CLIPSegProcessor."""
    settings = read_preprocessing(path)
    expected = processor(path)(images=Image.fromarray(image), return_tensors="pt").pixel_values[0].numpy()
    level = (settings.levels[:, 1] - settings.levels[:, 0])[:, None, None]
    return bool((np.abs(preprocess(image, settings) - expected) <= 1.01 * level).all())


@pytest.mark.parametrize("shape", [(352, 352), (40, 600), (1200, 90), (3, 2), (1, 1), (901, 1203)], ids=str)
def test_preprocessing_equals_the_processor(layout: Path, shape: tuple[int, int]) -> None:
    """Photographs of every size and aspect ratio are within one grey level of CLIPSegProcessor."""
    for photograph in photographs():
        assert within_one_level(layout, np.asarray(Image.fromarray(photograph).resize(shape[::-1])))


@pytest.fixture
def copy(tmp_path: Path, released: Path) -> Path:
    """A copy of a checkpoint directory without weights."""
    return Path(shutil.copytree(released, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors")))


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
def test_settings_have_the_meaning_that_transformers_gives_them(copy: Path, changes: dict[str, Any]) -> None:
    """Size, filter, mean, deviation and switches of preprocessor_config.json."""
    edit(copy / "preprocessor_config.json", **changes)
    assert within_one_level(copy, data.coffee())


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
def test_settings_that_are_not_supported_are_refused(copy: Path, changes: dict[str, Any]) -> None:
    """Only a warp to a square is supported. Anything else is a ModelError."""
    edit(copy / "preprocessor_config.json", **changes)
    with pytest.raises(ModelError, match="not supported"):
        read_preprocessing(copy)
