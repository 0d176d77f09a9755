"""Steadies the soft maps of a video in time, without lag: each frame's is a mean over the frames around it.

A frame counts less the further away it is in time and, pixel by pixel, the more its image differs there. So objects
that move leave no trail. docs/videos.md has the figures, also of other ways to average.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

BLUR = 1 / 112  # of the image's side: standard deviation of the blur that removes noise before images are compared
BRIGHTNESS = 128  # mean of a guide: flicker of the light is no difference
ALIKE = 20.0  # levels: colours that differ this much in RGB distance weigh exp(-1/2)
CUT = 15.0  # levels: between noisy frames of fast scenes up to 12, at cuts 19 and more (docs/videos.md)


def guide(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns what of a small image, uint8 (S, S, 3) RGB, is compared: float32 (S, S, 3), blurred, of mean 128."""
    blurred = cv2.GaussianBlur(image.astype(np.float32), (0, 0), max(0.5, image.shape[0] * BLUR))
    return np.asarray(blurred * (BRIGHTNESS / max(1.0, float(blurred.mean()))), np.float32)


def is_cut(before: NDArray[np.float32], after: NDArray[np.float32]) -> bool:
    """Returns whether the scene changes between the guides of two successive frames."""
    return float(np.abs(before - after).mean()) > CUT


def smoothed(
    logits: Sequence[NDArray[np.float32]],
    guides: Sequence[NDArray[np.float32]],
    times: Sequence[float],
    at: int,
    seconds: float,
) -> NDArray[np.float32]:
    """Returns the steadied logits of frame number `at`: float32 (T, h, w).

    `logits`, each (T, h, w), `guides`, each (S, S, 3), and `times` are those of successive frames. Only frames within
    `seconds` and without a scene change in between count. The result depends on them alone, the same bit for bit.
    """
    first = last = at
    while first > 0 and not is_cut(guides[first - 1], guides[first]):
        first -= 1
    while last + 1 < len(guides) and not is_cut(guides[last], guides[last + 1]):
        last += 1
    height, width = logits[at].shape[1:]
    total, weights = np.zeros_like(logits[at]), np.zeros((height, width), np.float32)
    for number in range(first, last + 1):
        near = 1 - abs(times[number] - times[at]) / seconds
        if number == at or (near > 0 and logits[number].shape == logits[at].shape):
            distance = np.square(guides[number] - guides[at]).sum(-1)
            weight = np.float32(max(near, 0.0)) * np.exp(distance / np.float32(-2 * ALIKE**2))
            if weight.shape != (height, width):
                weight = cv2.resize(weight, (width, height), interpolation=cv2.INTER_LINEAR)
            total += weight * logits[number]
            weights += weight
    return np.asarray(total / weights, np.float32)
