"""Makes a mask of a soft map, before clean-up: refine, choose the threshold, cut, keep what reaches the peak."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import cleanup, soft_maps
from clipseg_cli.masks.refine import REFINEMENTS
from clipseg_cli.prompts.thresholds import Threshold
from clipseg_cli.settings.masks import CleanUp

Photo = Callable[[], NDArray[np.uint8]]  # loads the image, uint8 (H, W, 3) RGB; raises ImageError


def cut(
    soft_map: soft_maps.Map, photo: Photo, wanted: Threshold, clean: CleanUp, present: bool = True
) -> tuple[NDArray[np.uint8], float, NDArray[np.uint8] | None]:
    """Returns the mask of a soft map before clean-up, the threshold as a probability, and the opacity.

    The mask is uint8 (H, W), 0 and 255. The opacity is uint8 (H, W) if the refinement has soft edges, otherwise None.
    If the object is not `present`, the mask is empty. `photo` is called only if the refinement needs it.
    """
    refinement = REFINEMENTS[clean.refine]
    refined = soft_map
    if refinement.sharpen is not None:
        refined = soft_maps.from_probabilities(refinement.sharpen(photo(), soft_map.soft()))
    threshold = choose(wanted, refined)
    mask, opacity = refined.cut(threshold if present else 1.0), None
    if refinement.redraw is not None:
        redrawn = refinement.redraw(photo(), soft_map.soft(), mask)
        opacity = redrawn if refinement.soft_edges else None
        mask = np.where(redrawn > 127, np.uint8(255), np.uint8(0))
    if clean.peak is not None:
        mask = cleanup.reaching(mask, soft_map.cut(clean.peak))
    return mask, threshold, opacity


def choose(threshold: Threshold, soft_map: soft_maps.Map) -> float:
    """Returns the probability that a threshold stands for on one soft map; a number is returned unchanged."""
    if not isinstance(threshold, str):
        return threshold
    histogram = np.bincount(soft_map.soft().ravel(), minlength=soft_maps.LEVELS + 1)
    otsu = threshold == "otsu"
    level = cleanup.otsu(histogram) if otsu else cleanup.percentile(histogram, float(threshold[1:]))
    return level / soft_maps.LEVELS
