"""Opacity at the edge of an object, and its own colours there. numpy in, numpy out; the extra `[matting]`.

Around the mask's outline nothing is taken for known: how much of each pixel is the object is found from the photo's
colours (closed-form matting: Levin, Lischinski and Weiss 2008), and then which colour that part has (Germer, Uelwer,
Conrad and Harmeling 2020). Both are pymatting's.
"""

import importlib.util
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import UsageError
from clipseg_cli.masks import cleanup, refine

BAND = 100  # of it on the longer side: how far from the outline nothing is known
FAR = 4  # bands from the outline, within which the soft map's doubt counts too
EXACT = 1e-5  # of the solver's residual: opacity is off by less than one level of 255
FILL = 20  # times the numbers of the equations: room for their factors, by default 4 GB
FINE = 2  # pixels of the small picture: the window that brings opacity to the photo's own size
_ALONE = threading.Lock()  # numba's threads must not be entered from two of ours


def check() -> None:
    """Raises UsageError where the extra is not installed."""
    if importlib.util.find_spec("pymatting") is None:
        raise UsageError("--refine matting needs another package: pip install 'clipseg-cli[matting]'")


def alpha(photo: NDArray[np.uint8], soft: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Opacity uint8 (H, W), 0 to 255: the mask uint8 (H, W), 0 and 255, with the edge that the photo shows; the mask
    itself where all of it is edge. `soft` uint8 (H, W): where the network was in doubt."""
    height, width = mask.shape
    scale = max(1, max(height, width) // refine.SMALL)
    small = [refine.shrunk(plane, scale) for plane in (*(photo[..., channel] for channel in range(3)), soft, mask)]
    known = trimap(np.rint(255 * small[3]).astype(np.uint8), np.where(small[4] > 0.5, 255, 0).astype(np.uint8))
    if {*np.unique(known).tolist()} != {0.0, 0.5, 1.0}:
        return mask
    opacity = _solved(np.dstack(small[:3]), known)
    if scale > 1:
        planes = refine.coefficients(small[:3], opacity, FINE)
        large = refine.applied(photo, planes, scale)
        sure = np.repeat(np.repeat(known, scale, 0), scale, 1)[:height, :width]
        opacity = np.where(sure == 0.5, large, sure)
    return np.rint(255 * opacity).astype(np.uint8)


def trimap(levels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """float64 (H, W): 1 surely inside, 0 surely outside, 0.5 unknown."""
    band = max(2, round(max(mask.shape) / BAND))
    wide, narrow = cleanup.dilate(mask, band), cleanup.erode(mask, band)
    doubt = (levels >= 255 * refine.SURE[0]) & (levels <= 255 * refine.SURE[1])
    doubt &= (cleanup.dilate(mask, FAR * band) > 0) & (cleanup.erode(mask, FAR * band) == 0)
    return np.where((wide > 0) & (narrow == 0) | doubt, 0.5, np.where(mask > 0, 1.0, 0.0))


def limited(opacity: NDArray[np.uint8], cut: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The opacity of a mask that was cleaned: where it is no longer the `cut` that the opacity belongs to, itself, and
    nothing beyond its own edge. All uint8 (H, W)."""
    own = np.where(cut == mask, opacity, mask)
    near = cleanup.dilate(mask, FAR * max(2, round(max(mask.shape) / BAND)))
    return np.where(near > 0, own, 0).astype(np.uint8)


def foreground(photo: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (H, W, 3): the object's colours, without the ground's where both mix."""
    from pymatting import estimate_foreground_ml

    colours = _calmly(estimate_foreground_ml, photo / np.float32(255), opacity / np.float32(255))
    mixed = ((opacity > 0) & (opacity < 255))[..., None]
    return np.where(mixed, np.rint(255 * np.clip(colours, 0, 1)).astype(np.uint8), photo)


def _solved(image: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    from pymatting import estimate_alpha_cf, ichol

    def precondition(matrix: Any) -> Any:
        return ichol(matrix, max_nnz=FILL * matrix.nnz)

    vars(sys.modules[ichol.__module__])["print"] = _unsaid  # it tells of every second try, on stdout
    solve = partial(estimate_alpha_cf, preconditioner=precondition, cg_kwargs={"rtol": EXACT})
    return np.asarray(_calmly(solve, image, known), np.float64)


def _unsaid(*words: object) -> None:
    """In place of `print` where a library has none of our streams to write to."""


def _calmly(work: Callable[..., Any], *arrays: NDArray[Any]) -> Any:
    """In one thread: the same bits each time."""
    import numba

    with _ALONE:
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return work(*arrays)
        finally:
            numba.set_num_threads(before)
