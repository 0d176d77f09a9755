"""A model and an exemplar that several tests of runs use."""

from pathlib import Path

import pytest

from clipseg_cli.model.segmenter import Segmenter
from pictures import picture, save


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """The bundled model in exact arithmetic."""
    return Segmenter.load("shapes", device="cpu", dtype="fp32")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """An image of a red disc, without a mask."""
    return save(tmp_path / "ref.png", picture(200, 160, 5))
