"""COCO run lengths."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from clipseg_cli.masks import coco_codec
from mask_shapes import every_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # by pycocotools


@every_mask
def test_run_lengths_equal_those_of_pycocotools(mask: np.ndarray) -> None:
    """The compressed counts equal those of pycocotools, which reads the same mask from them."""
    counts = coco_codec.packed(mask)
    assert counts == coco_mask.encode(np.asfortranarray(mask // 255))["counts"].decode()
    assert np.array_equal(coco_mask.decode({"size": list(mask.shape), "counts": counts}) * 255, mask)
