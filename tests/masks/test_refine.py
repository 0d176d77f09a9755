"""Edges from the photo, held to an independent computation in float64."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from clipseg_cli.masks import refine
from pictures import iou, picture


def independent(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """The guided filter by its definition, in float64: numpy's solver, scipy's windows, torch's enlargement."""
    height, width = soft.shape
    scale = max(1, max(height, width) // refine.SMALL)
    full = np.dstack([photo, soft]).astype(float) / 255
    full = np.pad(full, ((0, -height % scale), (0, -width % scale), (0, 0)), mode="edge")
    small = full.reshape(full.shape[0] // scale, scale, full.shape[1] // scale, scale, 4).mean((1, 3))
    window = 2 * max(1, round(max(small.shape) / refine.WINDOWS / 2)) + 1

    def mean(array: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(array, (window, window, *([1] * (array.ndim - 2))), mode="mirror")

    guide, p = small[..., :3], small[..., 3]
    mu, q = mean(guide), mean(p)
    covariance = mean(guide[..., :, None] * guide[..., None, :]) - mu[..., :, None] * mu[..., None, :]
    a = np.linalg.solve(
        covariance + refine.SOFTNESS * np.eye(3), (mean(guide * p[..., None]) - mu * q[..., None])[..., None]
    )[..., 0]
    b = q - (a * mu).sum(-1)
    planes = torch.from_numpy(np.moveaxis(mean(np.dstack([a, b])), -1, 0))[None]
    grown = torch.nn.functional.interpolate(planes, scale_factor=scale, mode="bilinear")[0].numpy()
    return ((grown[:3] * np.moveaxis(full[..., :3], -1, 0)).sum(0) + grown[3])[:height, :width].clip(0, 1)


def scene(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo of a disc, its mask, and a soft map of it as coarse as the network's."""
    photo = picture(width, height, 5)
    truth = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), min(width, height) // 4, 255, -1)
    coarse = cv2.resize(cv2.resize(truth, (40, 30), interpolation=cv2.INTER_AREA), (width, height))
    return photo, truth, coarse


@pytest.mark.parametrize("size", [(160, 120), (1, 1), (7, 300), (2050, 33), (2500, 1301)])
def test_the_guided_filter_is_the_one_of_the_paper(size: tuple[int, int]) -> None:
    """Equal to 1e-3 with the computation in float64, at every size, also where the last small pixel is cut."""
    photo, _, soft = scene(*size)
    noise = np.random.default_rng(0).integers(0, 40, photo.shape, dtype=np.uint8)
    np.testing.assert_allclose(
        refine.guided(photo - noise // 2, soft), independent(photo - noise // 2, soft), atol=1e-3
    )


def test_a_grey_photo_guides_too() -> None:
    """Three equal channels make no division by zero."""
    photo, _, soft = scene(300, 200)
    grey = np.repeat(photo[..., :1], 3, 2)
    np.testing.assert_allclose(refine.guided(grey, soft), independent(grey, soft), atol=1e-3)


@pytest.mark.parametrize("size", [(640, 480), (1600, 1200)])
def test_both_refinements_bring_the_edge_to_the_object(size: tuple[int, int]) -> None:
    """A coarse map of a disc becomes the disc; the enlarged map alone does not."""
    photo, truth, soft = scene(*size)
    plain = np.where(soft > 127, 255, 0).astype(np.uint8)
    sharp = np.where(refine.guided(photo, soft) > 0.5, 255, 0)
    cut = refine.grabcut(photo, soft, plain)
    assert iou(sharp, truth) > 0.99 > iou(plain, truth)
    assert iou(cut, truth) > max(0.98, iou(plain, truth)) and set(np.unique(cut)) == {0, 255}
    assert np.array_equal(cut, refine.grabcut(photo, soft, plain)), "the same lots are drawn"


def test_grabcut_leaves_alone_what_has_no_seeds() -> None:
    """Nothing sure inside, or nothing sure outside: the mask stays."""
    photo, truth, soft = scene(100, 80)
    for levels in (soft // 2, 128 + soft // 2):
        assert refine.grabcut(photo, levels, truth) is truth
