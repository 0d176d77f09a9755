"""What becomes of SAM's answers: the best candidate of each, and the guard that keeps CLIPSeg's own mask.

A soft map is blurred but knows where the object is; SAM knows where edges are but not what is asked for. So a candidate
must agree with the soft map. Where none does, the mask stays as it was, and the record says why. An answer is as coarse
as SAM's grid; the guided filter takes its edges from the photo, within about a cell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import peaks, soft_maps
from clipseg_cli.masks.guided import guided
from clipseg_cli.masks.instances import Division, divide
from clipseg_cli.masks.questions import LIMIT, Cells, Grid, Question, ask

AGREEMENT = 0.5  # weight of a candidate's agreement with the soft map against the IoU that SAM predicts for it
LEAST_IOU = 1 / 3  # an answer whose IoU with the soft map's part is lower is refused,
LEAST_SHARE = 0.6  # and one for which this IoU is lower if a cell outside the part counts as far as the map allows it
SAME = 0.5  # two answers are of one object if a larger share of the smaller one is in the other
CELLS = 2  # of SAM's grid, along the side of a window of the guided filter
VIEW = 1.5  # side of an enlarged view, in sides of the part
LEAST_VIEW = 3  # its least side in pixels, in cells of SAM's grid: three quarters of what the network sees
MOST_VIEW = 0.75  # share of the image's longer side: a larger view would not be worth the time
VIEW_PARTS = 8  # parts of an answer that a view is asked about, at most
MOST_EMPTY = 0.1  # an answer is refused if a larger share of it is where the soft map is sure of no object

Photo = Callable[[], NDArray[np.uint8]]  # loads the image, uint8 (H, W, 3) RGB; raises ImageError


class Sam(Protocol):
    """A network that has seen the image."""

    @property
    def grid(self) -> int:
        """Cells per side of the mask prompts and the answers."""

    def answer(self, questions: Sequence[Question]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the logits of C candidates per question, (Q, C, grid, grid), and the IoUs that it predicts, (Q, C).

        Raises ImageError if memory runs out.
        """

    def look(self, photo: NDArray[np.uint8]) -> "Sam":
        """Returns the network that has seen another image, uint8 (h, w, 3). Raises ImageError if memory runs out."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The best answer to a question, and whether it is taken."""

    question: Question
    logits: Grid  # above 0 on the object
    refusal: str  # why it is not taken; "" if it is

    @property
    def reach(self) -> Cells:
        """The cells that it decides about: those of the box, and those that it takes in beyond."""
        return self.question.boxed | self.question.near & (self.logits > 0)


def refine(
    levels: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    photo: Photo,
    threshold: float,
    most: int,
    sam: Sam,
    apart: bool = False,
    closer: bool = False,
) -> tuple[NDArray[np.uint8], str, Division | None]:
    """Returns the mask with the edges that SAM sees, why it was held back ("" if it was not), and its objects.

    levels: the soft map, uint8 (H, W). mask: CLIPSeg's own mask, uint8 (H, W), 0 and 255; it stays where SAM is not
    asked, and where its answer is refused. photo: called only if an answer is taken. threshold: a probability. most:
    parts that SAM is asked about. The objects are divided only if they are to be told `apart`: then each peak of the
    soft map is a part of its own, unless SAM's answers show that it is of the same object as another. closer: SAM also
    looks at an enlarged view of each part.
    """
    found = peaks.find(levels, threshold) if apart else None
    answers = answered(ask(levels, threshold, most, sam.grid, found), sam)
    if found is not None and (same := same_objects(answers, found.numbers)):
        found = found.joined(same)
        answers = answered(ask(levels, threshold, most, sam.grid, found), sam)
    if not answers:
        return mask, "too small for SAM", None
    taken, again = [each for each in answers if not each.refusal], list[Answer]()
    division = None
    if found is not None:
        shape = mask.shape[0], mask.shape[1]
        division = divide(found, shape, [(peak_of(each, found.numbers), each.logits) for each in taken])
    else:
        again = asked_again(taken, mask.shape, most, sam)
    refined = joined(mask, taken, photo, again)
    if closer and taken:
        look_closer(refined, again or taken, photo(), sam)
    return refined, told(answers), division


def peak_of(answer: Answer, numbers: NDArray[np.int32]) -> int:
    """Returns the number of the peak that a question is about: see `peaks.Peaks.numbers`."""
    part = answer.question.part
    own = cv2.resize(numbers, part.shape, interpolation=cv2.INTER_NEAREST)
    return int(np.bincount(own[part]).argmax())


def same_objects(answers: Sequence[Answer], numbers: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Returns pairs of numbers of peaks that are of one object, because most of the smaller answer is in the other."""
    cells = [(peak_of(each, numbers), each.logits > 0) for each in answers]
    return [
        (number, other) for (number, one), (other, two) in combinations(cells, 2) if number != other and _same(one, two)
    ]


def _same(one: Cells, two: Cells) -> bool:
    smaller = min(int(np.count_nonzero(one)), int(np.count_nonzero(two)))
    return int(np.count_nonzero(one & two)) > SAME * max(1, smaller)


def answered(questions: Sequence[Question], sam: Sam) -> list[Answer]:
    """Returns the best of SAM's answers to each question."""
    if not questions:
        return []
    logits, predicted = sam.answer(questions)
    return [_best(*each) for each in zip(questions, logits, predicted, strict=True)]


def joined(
    mask: NDArray[np.uint8], taken: Sequence[Answer], photo: Photo | None, again: Sequence[Answer] = ()
) -> NDArray[np.uint8]:
    """Returns a mask, uint8 (H, W), in which the answers stand in place of the cells that they are about.

    again: later answers, which go before the others. Without a photo, the edges of the answers are not taken from it.
    """
    if not taken:
        return mask
    height, width = mask.shape
    logits, about = _together(taken)
    if again:
        later, there = _together(again)
        logits, about = np.where(there, later, logits), about | there
    kept = cv2.resize((~about).view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    answer = soft_maps.LogitMap(logits, (height, width))
    if photo is None:
        return np.asarray(answer.cut(0.5) | mask * kept, np.uint8)
    sharp = guided(photo(), answer.soft(), len(logits) / CELLS)
    return np.where(sharp > 0.5, np.uint8(255), mask * kept)


def asked_again(taken: Sequence[Answer], shape: tuple[int, ...], most: int, sam: Sam) -> list[Answer]:
    """Returns the good ones among SAM's answers to the questions that its answers raise, as the soft map of an image of
    that shape."""
    return _good(_levels(taken, shape), most, sam) if taken else []


def _good(levels: NDArray[np.uint8], most: int, sam: Sam) -> list[Answer]:
    """Returns the answers that are not refused, about a soft map with the threshold 0.5."""
    return [each for each in answered(ask(levels, 0.5, most, sam.grid), sam) if not each.refusal]


def _together(taken: Sequence[Answer]) -> tuple[Grid, Cells]:
    """Returns the logits of answers, and the cells that they are about."""
    return np.max([each.logits for each in taken], 0), np.any([each.reach for each in taken], 0)


def _levels(taken: Sequence[Answer], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Returns answers as a soft map, uint8 (H, W)."""
    logits, about = _together(taken)
    return soft_maps.LogitMap(np.where(about, logits, np.float32(-LIMIT)), (shape[0], shape[1])).soft()


def look_closer(mask: NDArray[np.uint8], taken: Sequence[Answer], photo: NDArray[np.uint8], sam: Sam) -> None:
    """Draws each part into the mask as SAM sees it in an enlarged view, with its first answer as the soft map.

    mask: uint8 (H, W), changed in place. photo: uint8 (H, W, 3). A part stays if it has no `view`, or if the second
    answer is refused.
    """
    for answer in taken:
        if (place := view(answer, sam.grid, *mask.shape)) is not None:
            levels = _levels([answer], mask.shape)
            levels, own, pixels = (np.ascontiguousarray(each[place]) for each in (levels, mask, photo))
            mask[place] = _second(levels, own, pixels, sam.look(pixels))


def _second(
    levels: NDArray[np.uint8], own: NDArray[np.uint8], pixels: NDArray[np.uint8], sam: Sam
) -> NDArray[np.uint8]:
    """Returns the mask in a view, uint8 (h, w), of which `levels` is the soft map and `own` the mask so far."""
    taken = _good(levels, VIEW_PARTS, sam)
    return joined(own, taken, lambda: pixels, asked_again(taken, own.shape, VIEW_PARTS, sam))


def view(answer: Answer, grid: int, height: int, width: int) -> tuple[slice, slice] | None:
    """Returns the rows and columns of an enlarged view of a part, in pixels of an image of height x width.

    It is a square around the answer, or as much of one as fits. None if it would not be much smaller than the image.
    """
    cells = (answer.logits > 0) & answer.reach | answer.question.part
    spans = []
    for axis, length in ((1, height), (0, width)):
        found = np.flatnonzero(cells.any(axis))
        spans.append((found[0] * length / grid, (found[-1] + 1) * length / grid))
    side = max(VIEW * max(last - first for first, last in spans), LEAST_VIEW * grid)
    if side > MOST_VIEW * max(height, width):
        return None
    return _around(*spans[0], side, height), _around(*spans[1], side, width)


def _around(first: float, last: float, side: float, length: int) -> slice:
    """Returns `side` pixels of `length`, with the middle of `first` and `last` in their middle if they reach so far."""
    side = min(round(side), length)
    start = round(min(max((first + last - side) / 2, 0), length - side))
    return slice(start, start + side)


def told(answers: Sequence[Answer]) -> str:
    """Returns why answers were refused: "" if none was."""
    refusals = [each.refusal for each in answers if each.refusal]
    if len(answers) <= 1 or not refusals:
        return "".join(refusals)
    return f"{len(refusals)} of {len(answers)} parts: {'; '.join(dict.fromkeys(refusals))}"


def _best(question: Question, candidates: NDArray[np.float32], predicted: NDArray[np.float32]) -> Answer:
    prior = soft_maps.sigmoid(question.soft)
    agreement = np.array([_soft_iou(soft_maps.sigmoid(each), prior) for each in candidates])
    logits = candidates[int(np.argmax(AGREEMENT * agreement + (1 - AGREEMENT) * predicted))]
    return Answer(question, logits, _refusal(logits > 0, question))


def _soft_iou(a: Grid, b: Grid) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(np.maximum(a, b).sum(), 1e-9))


def _refusal(answer: Cells, question: Question) -> str:
    """Returns why an answer is refused, "" if it is not: see LEAST_IOU, LEAST_SHARE and MOST_EMPTY."""
    if np.count_nonzero(answer & question.empty) > MOST_EMPTY * np.count_nonzero(answer):
        return "SAM takes in what is not the object"
    union = np.count_nonzero(answer | question.part)
    sure, shares = np.count_nonzero(answer & question.part), question.share[answer].sum()
    return "" if sure >= LEAST_IOU * union and shares >= LEAST_SHARE * union else "SAM disagrees"
