"""The refinements: one entry per value of `--refine`. They move the edges of a mask to the edges in the photo."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import matting
from clipseg_cli.masks.grabcut import grabcut
from clipseg_cli.masks.guided import guided
from clipseg_cli.settings.masks import Refine

Pixels = NDArray[np.uint8]


def _nothing() -> None:
    """Is satisfied."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """What a refinement does before the threshold, after it, or both.

    `sharpen` takes the photo, uint8 (H, W, 3), and the soft map, uint8 (H, W), and gives probabilities, float32 (H, W)
    in [0, 1]. `redraw` takes the mask too, uint8 (H, W), 0 and 255, and gives a mask, or an opacity if `soft_edges`.
    """

    sharpen: Callable[[Pixels, Pixels], NDArray[np.float32]] | None = None
    redraw: Callable[[Pixels, Pixels, Pixels], Pixels] | None = None
    soft_edges: bool = False
    check: Callable[[], None] = _nothing  # raises UsageError where a package is missing


REFINEMENTS: dict[Refine, Refinement] = {
    "none": Refinement(),
    "guided": Refinement(sharpen=guided),
    "grabcut": Refinement(redraw=grabcut),
    "matting": Refinement(redraw=matting.alpha, soft_edges=True, check=matting.check),
}
