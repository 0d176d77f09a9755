"""YOLO's polygons give readers the mask back, component by component."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from clipseg_cli.masks import outline, yolo_codec
from mask_shapes import every_mask
from yolo_readers import LEAST, READERS, worst

every_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
SIZES = [(40, 40), (641, 479), *(pytest.param(size, marks=pytest.mark.slow) for size in ((1999, 1333), (4000, 3000)))]


def text(mask: np.ndarray, simplified: bool = True) -> str:
    """The lines of a label file."""
    height, width = mask.shape
    components = outline.centres(mask)
    rings = [outline.cut_open(outline.simplified(each) if simplified else each) for each in components]
    polygons = yolo_codec.encoded(rings, width, height)
    return "".join(
        "0 " + " ".join(f"{each:.{yolo_codec.DIGITS}f}" for each in points.flat) + "\n" for points in polygons
    )


def noise(width: int, height: int, seed: int, share: float) -> np.ndarray:
    """Blobs, some with hundreds of holes, whose outlines turn at every pixel."""
    random = np.random.default_rng(seed)
    soft = ndimage.gaussian_filter(random.random((height, width), np.float32), (1 + seed) * max(1, width / 400))
    return np.where(soft > np.quantile(soft, 1 - share), 255, 0).astype(np.uint8)


def thin(width: int, height: int, seed: int) -> np.ndarray:
    """Lines of one to three pixels in all directions, single pixels, and nested rings."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(60):
        start = random.integers(0, (width, height))
        end = start + random.integers(-30, 31, 2)
        cv2.line(mask, start.tolist(), end.tolist(), 255, int(random.integers(1, 4)))
    mask[random.integers(0, height, 40), random.integers(0, width, 40)] = 255
    for radius in range(2, min(width, height) // 3, 5):
        cv2.circle(mask, (width // 2, height // 2), radius, 255, 2)
    return mask


@every_mask
@every_reader
def test_exact_outlines_are_read_exactly(mask: np.ndarray, reader: object) -> None:
    """Without simplification, every component comes back pixel for pixel, with its holes, however small it is."""
    height, width = mask.shape
    assert worst(mask, reader(text(mask, simplified=False), width, height)) == 1.0


@pytest.mark.parametrize("size", SIZES, ids=str)
@every_reader
def test_every_component_is_read_at_every_size(size: tuple[int, int], reader: object) -> None:
    """IoU 0.99 or more, for single pixels too: in mazes, lines, nested rings, and many holes."""
    masks = [noise(*size, seed, share) for seed, share in ((0, 0.1), (1, 0.4), (3, 0.5))]
    for mask in (*masks, *(thin(*size, seed) for seed in range(4))):
        assert worst(mask, reader(text(mask), *size)) >= LEAST


@every_reader
def test_a_long_outline_does_not_spoil_the_small_ones(reader: object) -> None:
    """Ultralytics adds as many points to every polygon as the longest has: thin lines beside a maze stay exact."""
    mask = thin(1200, 900, 1)
    mask[600:] = noise(1200, 300, 2, 0.5)
    lines = text(mask)
    assert max(line.count(" ") for line in lines.splitlines()) > 8000
    assert worst(mask, reader(lines, 1200, 900)) >= LEAST


@pytest.mark.parametrize("width", [7000, pytest.param(60_000, marks=pytest.mark.slow)])
@every_reader
def test_thin_lines_in_a_very_wide_image(width: int, reader: object) -> None:
    """Where float32 has few digits left for the fraction of a pixel."""
    mask = np.zeros((400, width), np.uint8)
    for start in range(0, width - 40, width // 50):
        cv2.line(mask, (start, 390), (start + 25, 365), 255, 1)
        cv2.line(mask, (start + 30, 10), (start, 300), 255, 1)
    assert worst(mask, reader(text(mask), width, 400)) >= LEAST


def test_no_masks_give_no_polygons() -> None:
    """An image without objects has an empty label file."""
    assert text(np.zeros((9, 9), np.uint8)) == ""
