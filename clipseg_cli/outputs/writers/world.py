"""World files: where an image lies, in six numbers beside it, and its reference system as text in a `.prj`."""

import os
from collections.abc import Iterator

import numpy as np

from clipseg_cli.inputs import georeference, orientation
from clipseg_cli.inputs.georeference import Georeference
from clipseg_cli.outputs.writers.result import Result


def files(path: str, place: Georeference, result: Result | None = None) -> Iterator[tuple[str, bytes]]:
    """Yields the world file and the `.prj` of an output, as paths and contents, if the image came with them.

    The `result` says how the output is turned from the image's own pixels; None: not at all.
    """
    if place.world:
        root, suffix = os.path.splitext(path)
        yield root + georeference.world_suffix(suffix), place.world if result is None else _turned(place.world, result)
        if place.projection:
            yield f"{root}.prj", place.projection


def _turned(world: bytes, result: Result) -> bytes:
    """Returns the world file for the arrays of a result; the image's own one if they are not turned."""
    if result.turn == 1:
        return world
    centres = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # world files are about the centres of pixels
    corners = georeference.world_transform(world) @ orientation.matrix(result.turn, *result.masks[0].shape)
    (a, b, c), (d, e, f) = (corners @ centres)[:2].tolist()
    return "".join(f"{number!r}\n" for number in (a, d, b, e, c, f)).encode()
