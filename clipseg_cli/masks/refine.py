"""Sharper edges: a soft map is the network's small picture enlarged, and the photo knows better where things end.

numpy in, numpy out. guided: the soft map becomes, in every window, a linear function of the photo's colours
(He, Sun and Tang 2013, with the coefficients found on a smaller picture: He and Sun 2015). grabcut: colours of the
sure inside and the sure outside decide about what lies between (Rother, Kolmogorov and Blake 2004).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOWS = 44  # of the guided filter's windows lie side by side along the longer side of a picture
SOFTNESS = 1e-3  # variance of a colour, of 1, below which a window counts as flat
SMALL = 1024  # pixels: the longer side at which coefficients and colour models are found
SURE = 0.1, 0.85  # probabilities: surely outside, surely inside
STRIP = 64  # rows of the small picture that are worked on at once: bounds the memory
ROUNDS = 3  # of GrabCut


def guided(photo: NDArray[np.uint8], soft: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probability float32 (H, W) in [0, 1]: the soft map with the edges of the photo uint8 (H, W, 3)."""
    height, width = soft.shape
    scale = max(1, max(height, width) // SMALL)  # a whole number, so that a small pixel is the mean of whole pixels
    small = [shrunk(plane, scale) for plane in (*(photo[..., channel] for channel in range(3)), soft)]
    radius = max(1, round(max(small[3].shape) / WINDOWS / 2))
    return applied(photo, coefficients(small[:3], small[3], radius), scale)


def applied(photo: NDArray[np.uint8], small: list[NDArray[np.float32]], scale: int) -> NDArray[np.float32]:
    """float32 (H, W) in [0, 1]: the `coefficients` of a picture `scale` times smaller, on the photo's own colours."""
    height, width = photo.shape[:2]
    planes = [np.pad(plane, 1, mode="edge") for plane in small]
    out = np.empty((height, width), np.float32)
    for top in range(0, height, STRIP * scale):
        window = out[top : top + STRIP * scale]
        *slopes, offset = (
            _grown(plane[top // scale : top // scale + STRIP + 2], scale, window.shape) for plane in planes
        )
        window[:] = offset
        for channel, slope in enumerate(slopes):
            window += slope * (photo[top : top + STRIP * scale, :, channel] * np.float32(1 / 255))
        np.clip(window, 0, 1, out=window)
    return out


def coefficients(guide: list[NDArray[np.float64]], soft: NDArray[np.float64], radius: int) -> list[NDArray[np.float32]]:
    """Three slopes and an offset, float32 (h, w), that fit `soft` to the colours in windows of 2 radius + 1 pixels,
    each the mean over the windows that hold the pixel. All in [0, 1]; beyond the frame the picture is mirrored."""

    def mean(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        averaged: NDArray[np.float64] = cv2.boxFilter(plane, cv2.CV_64F, (2 * radius + 1,) * 2)
        return averaged

    (r, g, b), middle = (mean(plane) for plane in guide), mean(soft)
    rr, gg, bb = (mean(plane * plane) - m * m + SOFTNESS for plane, m in zip(guide, (r, g, b), strict=True))
    rg, rb, gb = (
        mean(guide[i] * guide[j]) - m * n for (i, m), (j, n) in (((0, r), (1, g)), ((0, r), (2, b)), ((1, g), (2, b)))
    )
    with_r, with_g, with_b = (mean(plane * soft) - m * middle for plane, m in zip(guide, (r, g, b), strict=True))
    # the inverse of the symmetric covariance, by its cofactors
    a, d, e = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    f, h, k = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    share = 1 / (rr * a + rg * d + rb * e)
    slopes = [
        (a * with_r + d * with_g + e * with_b) * share,
        (d * with_r + f * with_g + h * with_b) * share,
        (e * with_r + h * with_g + k * with_b) * share,
    ]
    offset = middle - slopes[0] * r - slopes[1] * g - slopes[2] * b
    return [mean(plane).astype(np.float32) for plane in (*slopes, offset)]


def grabcut(photo: NDArray[np.uint8], soft: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask uint8 (H, W), 0 and 255, redrawn by colour where the soft map is not sure; itself where nothing is."""
    height, width = mask.shape
    shrink = min(1.0, SMALL / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    image, levels, inside = (cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (photo, soft, mask))
    seeds = np.where(inside > 127, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[levels < 255 * SURE[0]] = cv2.GC_BGD
    seeds[(levels > 255 * SURE[1]) & (inside > 127)] = cv2.GC_FGD
    if not {cv2.GC_BGD, cv2.GC_FGD} <= {*np.unique(seeds).tolist()}:
        return mask
    cv2.setRNGSeed(0)  # of this thread: its first clusters are drawn by lot
    cv2.grabCut(
        np.ascontiguousarray(image), seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    found = np.where((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
    large: NDArray[np.uint8] = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(large > 127, 255, 0).astype(np.uint8)


def shrunk(plane: NDArray[np.uint8], scale: int) -> NDArray[np.float64]:
    """float64 in [0, 1]: means of scale x scale pixels; the last row and column repeat where the picture ends."""
    height, width = -(-plane.shape[0] // scale), -(-plane.shape[1] // scale)
    small = np.empty((height, width))
    for top in range(0, height, STRIP):
        rows = plane[top * scale : (top + STRIP) * scale]
        count = min(STRIP, height - top)
        bottom, right = count * scale - rows.shape[0], width * scale - rows.shape[1]
        whole = cv2.copyMakeBorder(rows, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        small[top : top + count] = cv2.resize(whole.astype(np.float32), (width, count), interpolation=cv2.INTER_AREA)
    return small / 255


def _grown(plane: NDArray[np.float32], scale: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Enlarged bilinearly, with half-pixel centres, to the shape; of `plane` all but the outermost pixels."""
    if scale == 1:
        return plane[1 : 1 + shape[0], 1 : 1 + shape[1]]
    size = (plane.shape[1] * scale, plane.shape[0] * scale)
    large: NDArray[np.float32] = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return large[scale : scale + shape[0], scale : scale + shape[1]]
