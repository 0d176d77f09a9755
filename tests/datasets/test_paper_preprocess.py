"""Images and masks become squares exactly as in the paper's code, compared with torch and scikit-image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.draw import polygon2mask

from clipseg_cli.datasets import paper_preprocess

MEAN, STD = (np.array(each, np.float32) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def tensor(image: np.ndarray) -> torch.Tensor:
    """Returns an image as float32 (1, 3, H, W), 0 to 255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()


def normal(pixels: torch.Tensor) -> torch.Tensor:
    """Normalises as torchvision does."""
    return (pixels / 255 - torch.from_numpy(MEAN)[:, None, None]) / torch.from_numpy(STD)[:, None, None]


@pytest.mark.parametrize("size", [(97, 61), (40, 200), (1, 5), (352, 352)])
def test_squares_equal_those_of_the_reference_code(size: tuple[int, int]) -> None:
    """Each way to stretch an image or a mask to a square gives torch's (or Pillow's) result."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = rng.integers(0, 256, size, dtype=np.uint8)
    aligned = F.interpolate(tensor(image), (64, 64), mode="bilinear", align_corners=True)
    plain = F.interpolate(normal(tensor(image)), (64, 64), mode="bilinear", align_corners=False)
    pillow = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)
    for ours, theirs in (
        (paper_preprocess.stretch_align_corners(image, 64), normal(aligned)),
        (paper_preprocess.stretch_bilinear(image, 64), plain),
        (paper_preprocess.stretch_antialiased(image, 64), normal(tensor(np.asarray(pillow)))),
    ):
        np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).numpy(), atol=2e-4)
    near = F.interpolate(torch.from_numpy(mask)[None, None], (64, 64), mode="nearest")[0, 0].numpy()
    assert np.array_equal(paper_preprocess.resize_nearest(mask, 64), near)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((500, 375), (352, 264)), ((333, 500), (232, 352)), ((300, 352), (300, 352)), ((9, 999), (8, 352))],
)
def test_pascals_images_keep_their_aspect_ratio(size: tuple[int, int], padded: tuple[int, int]) -> None:
    """PFENet's rule: the longer side is at most 352; a shrunk image has multiples of 8 as sides; black and unknown
    pixels around it."""
    assert paper_preprocess.padded_size(*size, 352) == padded
    image, mask = np.full((*size, 3), 200, np.uint8), np.ones(size, np.uint8)
    square, square_mask = paper_preprocess.pad_image(image, 352), paper_preprocess.pad_mask(mask, 352)
    inside = np.zeros((352, 352), bool)
    inside[: padded[0], : padded[1]] = True
    assert np.array_equal(square_mask == 1, inside) and set(np.unique(square_mask[~inside])) <= {255}
    np.testing.assert_allclose(square[~inside], np.broadcast_to(-MEAN / STD, square[~inside].shape), atol=1e-6)
    np.testing.assert_allclose(square[inside][0], (200 / 255 - MEAN) / STD, atol=1e-5)


def test_polygons_equal_those_of_scikit_image() -> None:
    """Holds for self-intersecting polygons, inside the image and beyond it.

    With whole-number corners one pixel on an edge may differ, where scikit-image's rounding misses it.
    """
    rng = np.random.default_rng(0)
    for trial in range(300):
        points = rng.uniform(-8, 40, (int(rng.integers(3, 9)), 2))
        points = points.round() if trial % 2 else points
        differ = paper_preprocess.fill_polygon(points, 30, 34) != polygon2mask((30, 34), points[:, ::-1])
        assert np.count_nonzero(differ) <= trial % 2, points
