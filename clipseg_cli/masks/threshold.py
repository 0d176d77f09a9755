"""Makes a mask of a soft map, before clean-up: refine, choose the threshold, cut, keep what reaches the peak."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import answers, cleanup, peaks, soft_maps
from clipseg_cli.masks.answers import Photo
from clipseg_cli.masks.instances import Division, divide
from clipseg_cli.masks.refine import REFINEMENTS
from clipseg_cli.prompts.thresholds import Threshold
from clipseg_cli.settings.masks import CleanUp


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A mask before clean-up."""

    mask: NDArray[np.uint8]  # (H, W), 0 and 255
    threshold: float  # a probability
    opacity: NDArray[np.uint8] | None = None  # (H, W), if the refinement has soft edges
    refined: bool = False  # by a refinement
    held_back: str = ""  # why SAM did not refine it, or not all of it
    division: Division | None = None  # which object each pixel is of, if objects that touch are divided


def cut(
    soft_map: soft_maps.Map,
    photo: Photo,
    wanted: Threshold,
    clean: CleanUp,
    present: bool = True,
    sam: answers.Sam | None = None,
    apart: bool = False,
) -> Cut:
    """Returns the mask of a soft map. It is empty if the object is not `present`.

    `photo` is called only if the refinement needs it. `--refine sam` needs `sam`, unless the soft map has no mask.
    `apart`: objects that touch are divided.
    """
    refinement = REFINEMENTS[clean.refine]
    refined = soft_map
    if refinement.sharpen is not None:
        refined = soft_maps.from_probabilities(refinement.sharpen(photo(), soft_map.soft()))
    threshold = choose(wanted, refined)
    mask, opacity = refined.cut(threshold if present else 1.0), None
    worked, held_back = present and clean.refine != "none", ""
    if refinement.redraw is not None:
        redrawn = refinement.redraw(photo(), soft_map.soft(), mask)
        opacity = redrawn if refinement.soft_edges else None
        mask = np.where(redrawn > 127, np.uint8(255), np.uint8(0))
    division = None
    if clean.refine == "sam":
        worked = sam is not None and bool(mask.any())
        if sam is not None and worked:
            levels, most, closer = soft_map.soft(), clean.refine_parts, clean.refine_closer
            mask, held_back, division = answers.refine(levels, mask, photo, threshold, most, sam, apart, closer)
    elif apart and (found := peaks.find(soft_map.soft(), threshold)):
        division = divide(found, (mask.shape[0], mask.shape[1]))
    if clean.peak is not None:
        mask = cleanup.reaching(mask, soft_map.cut(clean.peak))
    return Cut(mask, threshold, opacity, worked and not held_back, held_back, division)


def choose(threshold: Threshold, soft_map: soft_maps.Map) -> float:
    """Returns the probability that a threshold stands for on one soft map; a number is returned unchanged."""
    if not isinstance(threshold, str):
        return threshold
    histogram = np.bincount(soft_map.soft().ravel(), minlength=soft_maps.LEVELS + 1)
    otsu = threshold == "otsu"
    level = cleanup.otsu(histogram) if otsu else cleanup.percentile(histogram, float(threshold[1:]))
    return level / soft_maps.LEVELS
