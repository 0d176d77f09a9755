"""GrabCut: assigns the uncertain pixels by the colours of the certain foreground and background.

Rother, Kolmogorov and Blake 2004.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks.guided import SMALL

CERTAIN = 0.1, 0.85  # probabilities: certain background below the first, certain foreground above the second
ROUNDS = 3  # iterations


def grabcut(photo: NDArray[np.uint8], soft: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Redraws a mask, uint8 (H, W), 0 and 255, by colour where the soft map, uint8 (H, W), is uncertain.

    Returns the mask itself if no pixel is certain foreground or none is certain background.
    """
    height, width = mask.shape
    shrink = min(1.0, SMALL / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    image, levels, inside = (cv2.resize(array, size, interpolation=cv2.INTER_AREA) for array in (photo, soft, mask))
    seeds = np.where(inside > 127, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[levels < 255 * CERTAIN[0]] = cv2.GC_BGD
    seeds[(levels > 255 * CERTAIN[1]) & (inside > 127)] = cv2.GC_FGD
    if not {cv2.GC_BGD, cv2.GC_FGD} <= {*np.unique(seeds).tolist()}:
        return mask
    cv2.setRNGSeed(0)  # for this thread: GrabCut chooses its first clusters at random
    cv2.grabCut(
        np.ascontiguousarray(image), seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    small = np.where((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD), 255, 0).astype(np.uint8)
    large: NDArray[np.uint8] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(large > 127, 255, 0).astype(np.uint8)
