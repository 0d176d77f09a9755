"""Matting: the object's opacity along its edge, and its colours there. Needs the extra `[matting]`.

Both are computed from the photo's colours, in a band around the mask's edge: first the opacity of each pixel
(closed-form matting: Levin, Lischinski and Weiss 2008), then the object's own colour (Germer, Uelwer, Conrad and
Harmeling 2020). pymatting implements both methods.
"""

import importlib.util
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import UsageError
from clipseg_cli.masks import cleanup, guided
from clipseg_cli.masks.grabcut import CERTAIN

BAND = 100  # bands per longer side: opacity is unknown within one band of the edge
FAR = 4  # bands from the edge: up to here, opacity is also unknown where the soft map is uncertain
TOLERANCE = 1e-5  # relative residual of the solver: keeps the error of the opacity under one level of 255
FILL = 20  # nonzeros of the preconditioner per nonzero of the matrix; pymatting would reserve 4 GB
TRANSFER_RADIUS = 2  # pixels of the small image: windows that transfer opacity to the photo's size
LEAST_CONTRAST = 0.08  # of 1: the distance of two colours whose mixture can be told
Pixels = NDArray[Any]  # uint8 or uint16
_ALONE = threading.Lock()  # two threads of this program must not use numba's threads at once


def check(option: str = "--refine matting") -> None:
    """Raises UsageError if the extra is not installed, which an option needs."""
    if importlib.util.find_spec("pymatting") is None:
        raise UsageError(f"{option} needs another package: pip install 'clipseg-cli[matting]'")


def alpha(photo: NDArray[np.uint8], soft: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the opacity of a mask's object in a photo: uint8 (H, W), 0 to 255.

    mask: uint8 (H, W), 0 and 255. soft: the soft map, uint8 (H, W). Returns the mask itself if its trimap lacks known
    foreground, known background or unknown pixels.
    """
    height, width = mask.shape
    scale = max(1, max(height, width) // guided.SMALL)
    small = [guided.shrunk(plane, scale) for plane in (*(photo[..., channel] for channel in range(3)), soft, mask)]
    regions = trimap(np.rint(255 * small[3]).astype(np.uint8), np.where(small[4] > 0.5, 255, 0).astype(np.uint8))
    if {*np.unique(regions).tolist()} != {0.0, 0.5, 1.0}:
        return mask
    opacity = _solved(np.dstack(small[:3]), regions)
    if scale > 1:
        planes = guided.coefficients(small[:3], opacity, TRANSFER_RADIUS)
        large = guided.applied(photo, planes, scale)
        regions = np.repeat(np.repeat(regions, scale, 0), scale, 1)[:height, :width]
        opacity = np.where(regions == 0.5, large, regions)
    return np.rint(255 * opacity).astype(np.uint8)


def trimap(levels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the trimap of a soft map and its mask: float64 (H, W), 1 foreground, 0 background, 0.5 unknown."""
    band = _band(mask)
    wide, narrow = cleanup.dilate(mask, band), cleanup.erode(mask, band)
    uncertain = (levels >= 255 * CERTAIN[0]) & (levels <= 255 * CERTAIN[1])
    uncertain &= (cleanup.dilate(mask, FAR * band) > 0) & (cleanup.erode(mask, FAR * band) == 0)
    return np.where((wide > 0) & (narrow == 0) | uncertain, 0.5, np.where(mask > 0, 1.0, 0.0))


def limited(opacity: NDArray[np.uint8], cut: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Adapts the opacity to the clean-up that turned the mask `cut` into `mask`. All are uint8 (H, W).

    Where clean-up changed a pixel, its opacity becomes that of `mask`, 0 or 255. Far outside `mask` the opacity is 0.
    """
    adapted = np.where(cut == mask, opacity, mask)
    near = cleanup.dilate(mask, FAR * _band(mask))
    return np.where(near > 0, adapted, 0).astype(np.uint8)


def foreground(photo: Pixels, opacity: NDArray[np.uint8]) -> Pixels:
    """Returns the object's colours, (H, W, 3) like the photo, without the background's share where it is not opaque.

    `opacity`: uint8 (H, W). Where it is 0, the colours are those of the object nearby.
    """
    from pymatting import estimate_foreground_ml

    most = np.float32(np.iinfo(photo.dtype).max)
    colours = _in_one_thread(estimate_foreground_ml, photo / most, opacity / np.float32(255))
    found = np.rint(most * np.clip(colours, 0, 1)).astype(photo.dtype)
    return np.where((opacity < 255)[..., None], found, photo)


def inner_colours(photo: Pixels, mask: NDArray[np.uint8], radius: int) -> Pixels:
    """Returns the colours of a mask's object, (H, W, 3) like the photo, without the background's share at its edge.

    `mask`: uint8 (H, W), 0 and 255, some of it 255. It does not say how pixels within `radius` of its edge are mixed,
    so they are taken for a mixture of two colours, that of the nearest pixel surely inside and that of the nearest
    surely outside. The result has no colour there that is not surely inside nearby: sharpened photos have a dark or a
    light line along edges. Outside, the colours are those of the object nearby.
    """
    inside, outside = (_sure(each, radius) for each in (mask, cleanup.inverted(mask)))
    own = photo.reshape(-1, 3)[nearest(inside)[0]]
    mixed = ~(inside | outside)
    share = np.where(inside, np.uint8(255), np.where(outside, np.uint8(0), mask))
    if mixed.any():
        behind = photo.reshape(-1, 3)[nearest(outside)[0][mixed]]
        share[mixed] = _mixture(photo[mixed], own[mixed], behind, share[mixed])
    window = np.ones((2 * radius + 1,) * 2, np.uint8)
    limited: Pixels = np.clip(foreground(photo, share), cv2.erode(own, window), cv2.dilate(own, window))
    return np.where(inside[..., None], photo, limited)


def _mixture(pixels: Pixels, near: Pixels, far: Pixels, unclear: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns how much of each pixel is the colour `near` and not `far`, uint8 (N,), 0 to 255.

    `pixels`, `near` and `far`: (N, 3). Where the two colours hardly differ, the result is that of `unclear`.
    """
    own, ahead, behind = (each.astype(np.float32) / np.iinfo(each.dtype).max for each in (pixels, near, far))
    apart = ahead - behind
    length = np.square(apart).sum(axis=1)
    share = ((own - behind) * apart).sum(axis=1) / np.maximum(length, LEAST_CONTRAST**2)
    return np.where(length > LEAST_CONTRAST**2, np.rint(255 * share.clip(0, 1)), unclear).astype(np.uint8)


def _sure(mask: NDArray[np.uint8], radius: int) -> NDArray[np.bool_]:
    """Returns the pixels further than `radius` inside a mask and, of its thinner parts, those furthest inside."""
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    deepest = cv2.dilate(depth, np.ones((2 * radius + 1,) * 2, np.uint8))
    return np.asarray((depth > radius) | ((depth > 0) & (depth >= deepest)))


def nearest(region: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Returns the flat index of the nearest pixel of a region, and the distance to it, for each pixel: both (H, W).

    The region has at least one pixel.
    """
    rest = np.where(region, 0, 255).astype(np.uint8)
    far, labels = cv2.distanceTransformWithLabels(rest, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    position = np.zeros(int(labels.max()) + 1, np.int64)  # OpenCV's label of a pixel -> the pixel's flat index
    inner = np.flatnonzero(region)
    position[labels.ravel()[inner]] = inner
    return position[labels], np.asarray(far, np.float32)


def _band(mask: NDArray[np.uint8]) -> int:
    """Returns the width in pixels of the band around the edge."""
    return max(2, round(int(max(mask.shape)) / BAND))


def _solved(image: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.float64]:
    from pymatting import estimate_alpha_cf, ichol

    def precondition(matrix: Any) -> Any:
        return ichol(matrix, max_nnz=FILL * matrix.nnz)

    vars(sys.modules[ichol.__module__])["print"] = _silent  # ichol prints every retry to stdout
    solve = partial(estimate_alpha_cf, preconditioner=precondition, cg_kwargs={"rtol": TOLERANCE})
    return np.asarray(_in_one_thread(solve, image, regions), np.float64)


def _silent(*words: object) -> None:
    """Replaces `print` in a library that must not write to stdout."""


def _in_one_thread(work: Callable[..., Any], *arrays: NDArray[Any]) -> Any:
    """Calls `work` with one numba thread, so that results are identical bit for bit."""
    import numba

    with _ALONE:
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return work(*arrays)
        finally:
            numba.set_num_threads(before)
