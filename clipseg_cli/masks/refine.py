"""Refinements, one per value of `--refine`: they move the edges of a mask to the edges in the photo."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import matting
from clipseg_cli.masks.grabcut import grabcut
from clipseg_cli.masks.guided import guided
from clipseg_cli.settings.masks import Refine

Pixels = NDArray[np.uint8]


def _needs_nothing() -> None:
    """Accepts every installation."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """A step before the threshold, a step after it, or both.

    `sharpen` takes the photo, uint8 (H, W, 3), and the soft map, uint8 (H, W), and returns probabilities, float32
    (H, W) in [0, 1]. `redraw` also takes the mask, uint8 (H, W), 0 and 255. It returns a mask or, if `soft_edges`, an
    opacity, uint8 (H, W).
    """

    sharpen: Callable[[Pixels, Pixels], NDArray[np.float32]] | None = None
    redraw: Callable[[Pixels, Pixels, Pixels], Pixels] | None = None
    soft_edges: bool = False
    check: Callable[[], None] = _needs_nothing  # raises UsageError if a package is missing


REFINEMENTS: dict[Refine, Refinement] = {
    "none": Refinement(),
    "guided": Refinement(sharpen=guided),
    "grabcut": Refinement(redraw=grabcut),
    "matting": Refinement(redraw=matting.alpha, soft_edges=True, check=matting.check),
    "sam": Refinement(sharpen=guided),  # then `answers.refine`; where that is held back, the guided mask stays
}
