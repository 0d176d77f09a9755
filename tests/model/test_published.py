"""The comparison with published values."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from clipseg_cli.model.published import RELEASED, Comparison, PublishedValues, compare_embedding, compare_photo
from oracle import as_checkpoint
from released import publish


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of the size of the published one."""
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(data.coffee()).resize((640, 480)).save(file)
    return file


@pytest.fixture(scope="module")
def values(released: Path, photo: Path) -> PublishedValues:
    """What transformers computes for a tiny checkpoint."""
    return publish(released, photo, "")


def comparisons(path: Path, values: PublishedValues, photo: Path, backend: Any = "fast") -> list[Comparison]:
    """Compares everything."""
    from clipseg_cli.model.segmenter import Segmenter

    segmenter = Segmenter.load(as_checkpoint(path), device="cpu", dtype="fp32", backend=backend)
    return [compare_embedding(segmenter, values), *compare_photo(segmenter, values, np.asarray(Image.open(photo)))]


@pytest.mark.parametrize("backend", ["fast", "transformers"])
def test_both_backends_equal_the_values_of_transformers(
    released: Path, values: PublishedValues, photo: Path, backend: str
) -> None:
    """Far within the tolerance: what remains is the rounding of the values to four decimals."""
    for found in comparisons(released, values, photo, backend):
        assert found.equal and found.difference < 1e-4, found


def test_values_of_other_weights_are_not_equal(released: Path, values: PublishedValues, photo: Path) -> None:
    """The values of rd64-refined itself, NaN, and more numbers than there are."""
    nan, endless = float("nan"), tuple([0.0] * 1000)
    odd = replace(values, embedding=(nan,), image_embedding=endless)
    assert not any(found.equal for found in comparisons(released, RELEASED, photo))
    assert [found.equal for found in comparisons(released, odd, photo)] == [False, False, True]


def test_the_published_values_are_those_of_transformers_test() -> None:
    """Three numbers of each embedding and a corner of three by three logits, to be met within 0.001."""
    assert np.shape(RELEASED.logits) == (3, 3) and RELEASED.tolerance == 1e-3
    assert RELEASED.prompt == "a cat" and RELEASED.photo.url.endswith("/val2017/000000039769.jpg")
    assert len(RELEASED.embedding) == len(RELEASED.image_embedding) == 3
