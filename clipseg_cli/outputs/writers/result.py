"""What the writers are given of one image."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.outputs import drawing
from clipseg_cli.settings.outputs import ExportOptions

File = tuple[str, int | None, bytes]  # path under the output directory, label index or None, the file's bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one image when its masks are done; every array has the image's own size (H, W)."""

    name: str  # as its record has it
    photo: Callable[[], NDArray[np.uint8]]  # (H, W, 3) RGB; read where a format asks for it
    labels: tuple[str, ...]
    slugs: tuple[str, ...]  # a folder name for each label
    masks: tuple[NDArray[np.uint8], ...]  # 0 and 255, one a label
    scores: tuple[float, ...]  # one a label, in [0, 1]
    thresholds: tuple[float, ...]
    softs: tuple[NDArray[np.uint8], ...]  # levels, one a label; empty where no format asked for them
    fines: tuple[NDArray[np.uint16], ...]  # the same in 16 bits
    alphas: tuple[NDArray[np.uint8], ...]  # opacity, one a label; empty but with --refine matting
    index: NDArray[np.uint8] | None  # i + 1 where label i has the pixel, 0 elsewhere; None where no one asked for it
    skip: tuple[bool, ...]  # labels that get no file: absent, and --empty skip
    feather: float  # pixels: the blur of the edge of masks' files and of cutouts
    export: ExportOptions

    def colour(self, index: int) -> tuple[int, int, int]:
        """RGB of a label, as the overlay has it."""
        return drawing.colour(index)
