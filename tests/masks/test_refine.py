"""Refinement, against an independent computation in float64."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from clipseg_cli.masks import guided
from clipseg_cli.masks.grabcut import grabcut
from pictures import iou, picture


def independent(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Computes the guided filter by its definition in float64: numpy's solver, scipy's windows, torch's resize."""
    height, width = soft.shape
    scale = max(1, max(height, width) // guided.SMALL)
    full = np.dstack([photo, soft]).astype(float) / 255
    full = np.pad(full, ((0, -height % scale), (0, -width % scale), (0, 0)), mode="edge")
    small = full.reshape(full.shape[0] // scale, scale, full.shape[1] // scale, scale, 4).mean((1, 3))
    window = 2 * max(1, round(max(small.shape) / guided.WINDOWS / 2)) + 1

    def mean(array: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(array, (window, window, *([1] * (array.ndim - 2))), mode="mirror")

    guide, p = small[..., :3], small[..., 3]
    mu, q = mean(guide), mean(p)
    covariance = mean(guide[..., :, None] * guide[..., None, :]) - mu[..., :, None] * mu[..., None, :]
    a = np.linalg.solve(
        covariance + guided.SOFTNESS * np.eye(3), (mean(guide * p[..., None]) - mu * q[..., None])[..., None]
    )[..., 0]
    b = q - (a * mu).sum(-1)
    planes = torch.from_numpy(np.moveaxis(mean(np.dstack([a, b])), -1, 0))[None]
    grown = torch.nn.functional.interpolate(planes, scale_factor=scale, mode="bilinear")[0].numpy()
    return ((grown[:3] * np.moveaxis(full[..., :3], -1, 0)).sum(0) + grown[3])[:height, :width].clip(0, 1)


def scene(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a photo of a disc, the disc's mask, and a soft map of it as coarse as the network's."""
    photo = picture(width, height, 5)
    disc = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), min(width, height) // 4, 255, -1)
    coarse = cv2.resize(cv2.resize(disc, (40, 30), interpolation=cv2.INTER_AREA), (width, height))
    return photo, disc, coarse


@pytest.mark.parametrize(
    "size", [(160, 120), (1, 1), (7, 300), (2050, 33), pytest.param((2500, 1301), marks=pytest.mark.slow)]
)
def test_the_guided_filter_equals_its_definition(size: tuple[int, int]) -> None:
    """Within 1e-3 of float64 at every size, also where the last block of pixels is incomplete."""
    photo, _, soft = scene(*size)
    noise = np.random.default_rng(0).integers(0, 40, photo.shape, dtype=np.uint8)
    np.testing.assert_allclose(
        guided.guided(photo - noise // 2, soft), independent(photo - noise // 2, soft), atol=1e-3
    )


def test_a_grey_photo_is_a_valid_guide() -> None:
    """Three equal channels cause no division by zero."""
    photo, _, soft = scene(300, 200)
    grey = np.repeat(photo[..., :1], 3, 2)
    np.testing.assert_allclose(guided.guided(grey, soft), independent(grey, soft), atol=1e-3)


@pytest.mark.parametrize("size", [(640, 480), pytest.param((1600, 1200), marks=pytest.mark.slow)])
def test_both_refinements_move_the_edge_to_the_object(size: tuple[int, int]) -> None:
    """The refined mask of a disc matches the disc better than the mask of the coarse map."""
    photo, disc, soft = scene(*size)
    plain = np.where(soft > 127, 255, 0).astype(np.uint8)
    sharp = np.where(guided.guided(photo, soft) > 0.5, 255, 0)
    cut = grabcut(photo, soft, plain)
    assert iou(sharp, disc) > 0.99 > iou(plain, disc)
    assert iou(cut, disc) > max(0.98, iou(plain, disc)) and set(np.unique(cut)) == {0, 255}
    assert np.array_equal(cut, grabcut(photo, soft, plain)), "the seed is fixed"


def test_grabcut_without_seeds_keeps_the_mask() -> None:
    """The mask does not change if no pixel is certain foreground or none is certain background."""
    photo, disc, soft = scene(100, 80)
    for levels in (soft // 2, 128 + soft // 2):
        assert grabcut(photo, levels, disc) is disc
