"""Images that the tests of decoding share."""

import numpy as np
import PIL.Image
import pytest

from image_files import PHOTOS


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A real photo, uint8 (90, 130, 3), neither square nor symmetric."""
    with PIL.Image.open(PHOTOS / "astronaut.png") as image:
        return np.array(image.convert("RGB").resize((130, 130)))[:90]


@pytest.fixture(scope="session")
def grey(photo: np.ndarray) -> np.ndarray:
    """The same photo in grey, uint8 (90, 130)."""
    return np.array(PIL.Image.fromarray(photo).convert("L"))
