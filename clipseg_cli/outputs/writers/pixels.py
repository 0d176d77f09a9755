"""The arrays that the formats of pixels hold, from the result of an image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.colour import conversion
from clipseg_cli.masks import cleanup
from clipseg_cli.outputs import colours, drawing
from clipseg_cli.outputs.writers import raster
from clipseg_cli.outputs.writers.result import Result

MOST_INSTANCES = 65535  # numbers of a 16-bit image, beside 0


def mask(result: Result, index: int) -> NDArray[np.uint8]:
    """Returns the mask of a label, uint8 (H, W): 0 or 255, or levels between them along a feathered edge."""
    return cleanup.feather(result.masks[index], result.feather)


def matte(result: Result, index: int) -> NDArray[np.uint16]:
    """Returns the opacity of a label, uint16 (H, W), 0 to 65535: of --refine matting, or its mask with --feather."""
    if result.alphas:
        return result.alphas[index] * np.uint16(257)
    return cleanup.feather(result.masks[index] * np.uint16(257), result.feather)


def joined(result: Result) -> NDArray[np.uint8]:
    """Returns one mask of all labels, uint8 (H, W): 255 where any of them is, or 0 there, as --polarity says."""
    white = np.maximum.reduce([mask(result, index) for index in range(len(result.masks))])
    return np.asarray(255 - white if result.export.polarity == "black" else white, np.uint8)


def alpha(result: Result) -> NDArray[np.uint8]:
    """Returns the photo with the joined mask as its alpha, RGBA, uint8 (H, W, 4). Its colours are unchanged."""
    return np.dstack([result.photo(), joined(result)])


def cutout(result: Result, index: int) -> NDArray[Any]:
    """Returns the object of a label alone: RGBA (H, W, 4), or RGB (H, W, 3) on the backdrop if there is one.

    It has the depth of the photo, uint8 or uint16.
    """
    opacity = result.alphas[index] if result.alphas else None
    alpha = mask(result, index) if opacity is None else opacity
    shaped, estimated = result.masks[index], result.export.decontaminate
    rgba = drawing.cutout(result.photo(), shaped, alpha, opacity is not None, estimated)
    backdrop = result.export.backdrop
    return rgba if backdrop is None else conversion.composited(rgba, ground=backdrop)


def overlay(result: Result) -> NDArray[np.uint8]:
    """Returns the photo with every label drawn on it, RGB, uint8 (H, W, 3)."""
    return drawing.overlay(result.photo(), result.masks, result.labels)


def labels(result: Result) -> NDArray[np.uint8]:
    """Returns the number of each pixel's label, uint8 (H, W): 0 for background, i + 1 for label i."""
    assert result.index is not None
    return result.index


def instances(result: Result) -> NDArray[np.uint16]:
    """Returns the number of each pixel's instance, uint16 (H, W): 0 for none, otherwise its number in the record.

    Where labels overlap, a pixel is of the most probable one, as in `labels`. Raises ImageError for too many instances.
    """
    index, groups = labels(result), result.instances or ()
    count = sum(map(len, groups))
    if count > MOST_INSTANCES:
        raise ImageError(
            "too_large", "write", f"{count} instances, but a 16-bit image has {MOST_INSTANCES} numbers: use --min-area"
        )
    ids = np.zeros(index.shape, np.uint16)
    pairs = ((label, instance) for label, group in enumerate(groups, 1) for instance in group)
    for number, (label, instance) in enumerate(pairs, 1):
        ids[instance.window][(instance.mask > 0) & (index[instance.window] == label)] = number
    return ids


def labels_png(result: Result) -> bytes:
    """Returns the labels as a PNG, 8-bit grey or, with --palette, indexed: 0 is black, a label has its own colour."""
    if result.export.palette:
        return raster.indexed_png(labels(result), [(0, 0, 0), *map(colours.colour, range(255))])
    return raster.mask_png(labels(result))


def npz(result: Result) -> bytes:
    """Returns an npz archive of `masks` (bool), `soft` (uint8), both (labels, H, W), `labels` and `thresholds`."""
    arrays: dict[str, NDArray[Any]] = {
        "masks": np.stack(result.masks) > 0,
        "soft": np.stack(result.softs),
        "labels": np.array(result.labels),
        "thresholds": np.array(result.thresholds),
    }
    return raster.npz(**arrays)
