"""Images that several tests of commands segment."""

from pathlib import Path

import pytest

from pictures import picture, save


@pytest.fixture
def imgs(tmp_path: Path) -> Path:
    """Four images in a small tree."""
    for index, name in enumerate(("a.jpg", "b.png", "sub/c.jpg", "sub/deep/d.webp")):
        save(tmp_path / "imgs" / name, picture(160 + 16 * index, 120, index))
    return tmp_path / "imgs"
