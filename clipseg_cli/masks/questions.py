"""The questions that `--refine sam` puts to a SAM network, one for each part of a soft map.

SAM sees the image warped to a square. Parts, points and the mask prompt are found on a grid of `side` x `side` cells
over the image, the grid of SAM's own mask prompts and answers: a part that is smaller than a cell is too small for SAM.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import peaks, soft_maps

Grid = NDArray[np.float32]  # (side, side)
Cells = NDArray[np.bool_]  # (side, side)
Corners = NDArray[np.float64]  # (2, 2): x and y of the first and of the last corner of a box, in cells

NEAR = 1  # cells: parts with at most twice this many cells between them are one part
MARGIN = 0.05  # share of a box's sides by which it is enlarged on each side, and one cell
ROUND = 0.5  # share of a box's sides: negative points are at most this far outside the box
POSITIVES, NEGATIVES = 3, 3  # points of a question, at most
SAFE = 0.1  # share of the longer side of a box: a negative point this far from the uncertain is as good as any farther
WORTH = 0.3  # a point whose score is a smaller share of the best one's is left out
EMPTY = 1 / 3  # share of the threshold under which the soft map is sure that the object is not there
# SAM's mask prompts are logits of its own earlier answers, limited to [-32, 32] (sam2/sam2_image_predictor.py), and 0
# is the edge. An 8-bit soft map has logits in [-6.2, 6.2].
SCALE, LIMIT = 3.0, 32.0


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What SAM is asked about one part. Coordinates are pixels; (0, 0) is the centre of the image's first pixel."""

    box: NDArray[np.float32]  # (4,): x0, y0, x1, y1
    points: NDArray[np.float32]  # (N, 2): x, y; N is at least 1
    positive: NDArray[np.bool_]  # (N,): whether a point is on the object
    soft: Grid  # logits, 0 at the threshold: the mask prompt
    part: Cells  # where the soft map is above the threshold
    near: Cells  # the cells that are nearer to this part than to any other
    boxed: Cells  # those of them in the box
    empty: Cells  # where the soft map is sure that the object is not
    share: Grid  # the soft map's share of the threshold, at most 1; 0 in cells that are nearer to another part


def ask(
    levels: NDArray[np.uint8], threshold: float, most: int, side: int, apart: peaks.Peaks | None = None
) -> tuple[Question, ...]:
    """Returns the questions about the largest parts of a soft map, the largest first, at most `most`.

    levels: the soft map, uint8 (H, W). threshold: a probability. A part is a connected component above the threshold;
    components that are near are one part. If peaks are to be told `apart`, a part with several of them is divided.
    Returns no question if no cell is above the threshold.
    """
    soft = peaks.onto_grid(levels, side)
    inside = soft > 255 * threshold
    labels, order = _parts(inside, apart)
    if not order:
        return ()
    logits = SCALE * (soft_maps.logit(soft / np.float32(255)) - soft_maps.logit(np.array([threshold], np.float32)))
    logits = np.clip(logits, -LIMIT, LIMIT, dtype=np.float32)
    share = soft / np.float32(max(255 * threshold, 0.5))  # a threshold may be 0
    nearest = peaks.nearest(labels)
    scale = np.array([levels.shape[1] / side, levels.shape[0] / side])
    return tuple(_question(labels == part, nearest == part, share, logits, scale) for part in order[:most])


def _parts(inside: Cells, apart: peaks.Peaks | None) -> tuple[NDArray[np.int32], list[int]]:
    """Returns the number of each cell's part, 0 outside of all, and the parts' numbers, the largest part first."""
    wide = cv2.dilate(inside.view(np.uint8), np.ones((2 * NEAR + 1,) * 2, np.uint8))
    count, around = cv2.connectedComponents(wide, connectivity=8, ltype=cv2.CV_32S)
    labels = np.where(inside, around, 0)
    if apart is not None:
        own = cv2.resize(apart.numbers, labels.shape, interpolation=cv2.INTER_NEAREST)
        seeds = apart.seeds(*labels.shape)
        for part in range(1, count):
            seeded = {number for x, y, number in seeds if around[y, x] == part}
            if len(seeded) > 1:
                cells = labels == part
                labels[cells] = count + peaks.divided(cells.view(np.uint8), own, seeded)[cells]
                count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count)[1:]
    return labels, [int(index) + 1 for index in np.argsort(-areas, kind="stable") if areas[index]]


def _question(part: Cells, near: Cells, share: Grid, logits: Grid, scale: NDArray[np.float64]) -> Question:
    """Returns the question about one part. `share` has all cells; `scale` is the size of a cell in pixels, x and y."""
    empty = share < EMPTY
    columns, rows = np.flatnonzero(part.any(0)), np.flatnonzero(part.any(1))
    corners = np.array([[columns[0], rows[0]], [columns[-1] + 1, rows[-1] + 1]])
    sides = corners[1] - corners[0]
    box, around = (_grown(corners, 1 + wider * sides, len(part)) for wider in (MARGIN, ROUND))
    safe = np.minimum(_from_edge(empty), max(1, SAFE * sides.max()))
    positive = [*_spread(share * _from_edge(part), POSITIVES)]
    negative = [*_spread(np.where(_window(around, part), safe, 0), NEGATIVES)]
    points = np.array([*positive, *negative]) + 0.5
    return Question(
        box=(box * scale - 0.5).clip(0, len(part) * scale - 1).astype(np.float32).ravel(),
        points=(points * scale - 0.5).astype(np.float32),
        positive=np.arange(len(points)) < len(positive),
        soft=np.where(near, logits, -LIMIT).astype(np.float32),
        part=part,
        near=near,
        boxed=near & _window(box, part),
        empty=empty,
        share=np.where(near, share.clip(0, 1), 0).astype(np.float32),
    )


def _grown(corners: Corners, by: NDArray[np.float64], side: int) -> Corners:
    grown: Corners = np.clip([corners[0] - by, corners[1] + by], 0, side)
    return grown


def _window(corners: Corners, like: Cells) -> Cells:
    """Returns the cells between two corners."""
    (x0, y0), (x1, y1) = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
    window = np.zeros_like(like)
    window[y0:y1, x0:x1] = True
    return window


def _from_edge(cells: Cells) -> Grid:
    """Returns the distance of each cell to the next one outside `cells`, in cells. Outside the image is outside."""
    padded = np.pad(cells.view(np.uint8), 1)
    distance: Grid = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return distance


def _spread(score: Grid, count: int) -> Iterator[tuple[int, int]]:
    """Yields x and y of up to `count` cells of high score, far from each other; none if no score is above 0."""
    y, x = np.unravel_index(np.argmax(score), score.shape)
    least, rows, columns = WORTH * score[y, x], *np.indices(score.shape)
    apart = np.full(score.shape, np.inf)
    for _ in range(count):
        if not score[y, x] > 0:
            return
        yield int(x), int(y)
        apart = np.minimum(apart, np.hypot(rows - y, columns - x))
        score = np.where(score >= least, score, 0)
        y, x = np.unravel_index(np.argmax(score * apart), score.shape)
        if apart[y, x] == 0:
            return
