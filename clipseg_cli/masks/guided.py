"""The guided filter: in every window, the soft map becomes a linear function of the photo's colours.

He, Sun and Tang 2013; with coefficients from a smaller image, He and Sun 2015.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOWS = 44  # filter windows that fit side by side along the longer side of an image, for CLIPSeg's soft maps
SOFTNESS = 1e-3  # variance of a colour in [0, 1]: a window with a smaller variance counts as flat
SMALL = 1024  # pixels: longer side of the smaller image
STRIP = 64  # rows of the small image per step: bounds the memory


def guided(photo: NDArray[np.uint8], soft: NDArray[np.uint8], windows: float = WINDOWS) -> NDArray[np.float32]:
    """Refines a soft map, uint8 (H, W), with the photo, uint8 (H, W, 3): probability float32 (H, W) in [0, 1].

    windows: filter windows that fit side by side along the longer side.
    """
    height, width = soft.shape
    scale = max(1, max(height, width) // SMALL)  # an integer, so a small pixel is the mean of whole pixels
    small = [shrunk(plane, scale) for plane in (*(photo[..., channel] for channel in range(3)), soft)]
    radius = max(1, round(max(small[3].shape) / windows / 2))
    return applied(photo, coefficients(small[:3], small[3], radius), scale)


def applied(photo: NDArray[np.uint8], small: list[NDArray[np.float32]], scale: int) -> NDArray[np.float32]:
    """Applies the `coefficients` of an image `scale` times smaller to the photo: float32 (H, W) in [0, 1]."""
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
    """Fits `soft` to the colours of `guide`, R, G and B, in windows of 2 radius + 1 pixels. All inputs are in [0, 1].

    Returns three slopes and an offset, float32 (h, w), each averaged over the windows that contain the pixel. The image
    is mirrored at its border.
    """

    def mean(plane: NDArray[np.float64]) -> NDArray[np.float64]:
        averaged: NDArray[np.float64] = cv2.boxFilter(plane, cv2.CV_64F, (2 * radius + 1,) * 2)
        return averaged

    (r, g, b), mean_soft = (mean(plane) for plane in guide), mean(soft)
    rr, gg, bb = (mean(plane * plane) - m * m + SOFTNESS for plane, m in zip(guide, (r, g, b), strict=True))
    rg, rb, gb = (
        mean(guide[i] * guide[j]) - m * n for (i, m), (j, n) in (((0, r), (1, g)), ((0, r), (2, b)), ((1, g), (2, b)))
    )
    with_r, with_g, with_b = (mean(plane * soft) - m * mean_soft for plane, m in zip(guide, (r, g, b), strict=True))
    # inverse of the symmetric covariance matrix, by cofactors
    a, d, e = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    f, h, k = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    inverse = 1 / (rr * a + rg * d + rb * e)
    slopes = [
        (a * with_r + d * with_g + e * with_b) * inverse,
        (d * with_r + f * with_g + h * with_b) * inverse,
        (e * with_r + h * with_g + k * with_b) * inverse,
    ]
    offset = mean_soft - slopes[0] * r - slopes[1] * g - slopes[2] * b
    return [mean(plane).astype(np.float32) for plane in (*slopes, offset)]


def shrunk(plane: NDArray[np.uint8], scale: int) -> NDArray[np.float64]:
    """Averages blocks of scale x scale pixels: float64 in [0, 1]. Repeats the last row and column to fill a block."""
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
    """Enlarges a plane, without its outermost pixels, to the shape: bilinear with half-pixel centres."""
    if scale == 1:
        return plane[1 : 1 + shape[0], 1 : 1 + shape[1]]
    size = (plane.shape[1] * scale, plane.shape[0] * scale)
    large: NDArray[np.float32] = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return large[scale : scale + shape[0], scale : scale + shape[1]]
