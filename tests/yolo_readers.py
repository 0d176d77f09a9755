"""How two readers of YOLO's polygons get pixels from a label file, in their own arithmetic.

supervision 0.31: `dataset/formats/yolo.py`, `yolo_annotations_to_detections` and `_polygons_to_masks`.
Ultralytics 8.4: `data/utils.py`, `verify_image_label` and `polygon2mask`; `data/dataset.py`, `update_labels_info`;
`utils/ops.py`, `resample_segments`. The image is read at its own size, with `mask_ratio=1`.
"""

from collections.abc import Callable

import cv2
import numpy as np

Reader = Callable[[str, int, int], list[np.ndarray]]  # (text, width, height): int32 (K, 2), the polygon of each line
LEAST = 0.99  # IoU of a component that a reader got back with the component


def lines(text: str) -> list[np.ndarray]:
    """The points of each line, float32 (K, 2). Both readers drop polygons of fewer than three points."""
    points = [np.array(line.split()[1:], np.float32).reshape(-1, 2) for line in text.splitlines()]
    assert all(len(each) >= 3 and (each > 0).all() and (each < 1).all() for each in points)
    return points


def supervision(text: str, width: int, height: int) -> list[np.ndarray]:
    """Multiplied by the sides, rounded."""
    return [np.round(points * np.array((width, height), np.float32)).astype(np.int32) for points in lines(text)]


def ultralytics(text: str, width: int, height: int) -> list[np.ndarray]:
    """Points added in even steps around the closed polygon, beside those it has; multiplied by the sides, cut off."""
    polygons = lines(text)
    longest = max(map(len, polygons), default=0)
    count = longest + 1 if longest > 1000 else 1000
    drawn = []
    for points in polygons:
        assert (np.ptp(points, axis=0) > 0).all()  # a mosaic drops empty boxes
        if len(points) != count:
            closed = np.concatenate([points, points[:1]])
            own = np.arange(len(closed))
            if len(closed) < count:
                steps = np.linspace(0, len(closed) - 1, count - len(closed))
                steps = np.insert(steps, np.searchsorted(steps, own), own)
            else:
                steps = np.linspace(0, len(closed) - 1, count)
            points = np.stack([np.interp(steps, own, axis) for axis in closed.T], 1).astype(np.float32)
        drawn.append((points * np.array((width, height), np.float32)).astype(np.int32))
    return drawn


READERS: dict[str, Reader] = {"supervision": supervision, "ultralytics": ultralytics}


def worst(mask: np.ndarray, polygons: list[np.ndarray], least_area: int = 0) -> float:
    """The smallest IoU of a polygon, as drawn, with its component, over those of more than `least_area` pixels.

    Every component must have exactly one polygon.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    owners = [int(labels[polygon[0, 1], polygon[0, 0]]) for polygon in polygons]
    assert sorted(owners) == [*range(1, count)]
    ratios = [1.0]
    for polygon, owner in zip(polygons, owners, strict=True):
        x, y, w, h, area = stats[owner]
        low, high = np.minimum(polygon.min(0), (x, y)), np.maximum(polygon.max(0), (x + w - 1, y + h - 1))
        component = labels[low[1] : high[1] + 1, low[0] : high[0] + 1] == owner
        drawn = cv2.fillPoly(np.zeros(component.shape, np.uint8), [(polygon - low).astype(np.int32)], 1) > 0
        if area > least_area:
            ratios.append(float((drawn & component).sum() / (drawn | component).sum()))
    return min(ratios)
