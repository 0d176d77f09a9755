"""The questions to SAM: drawn soft maps in, boxes, points and mask prompts out. scipy is the oracle of parts."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from clipseg_cli.masks import peaks, questions
from clipseg_cli.masks.questions import Question, ask

SIDE = 64


def drawn(height: int = 300, width: int = 400) -> NDArray[np.uint8]:
    """Returns a soft map with a large disc that has a hole, and a thin bar far from it."""
    levels = np.zeros((height, width), np.uint8)
    cv2.circle(levels, (110, 150), 80, 250, -1)
    cv2.circle(levels, (110, 150), 40, 0, -1)
    cv2.rectangle(levels, (250, 40), (380, 60), 200, -1)
    return cv2.GaussianBlur(levels, (0, 0), 4)


def at(levels: NDArray[np.uint8], question: Question) -> NDArray[np.int_]:
    """Returns the level of the soft map at each point of a question."""
    x, y = np.rint(question.points).astype(int).T
    return levels[y.clip(0), x.clip(0)].astype(int)


def test_each_part_gets_a_question_and_the_largest_comes_first() -> None:
    """A box around it, and no more questions than allowed."""
    levels = drawn()
    disc, bar = ask(levels, 0.3, 8, SIDE)
    for question, (x0, y0, x1, y1) in ((disc, (30, 70, 190, 230)), (bar, (250, 40, 380, 60))):
        left, top, right, bottom = question.box
        assert x0 - 30 < left <= x0 and y0 - 30 < top <= y0 and x1 <= right < x1 + 30 and y1 <= bottom < y1 + 30
    assert [each.part.sum() for each in ask(levels, 0.3, 1, SIDE)] == [disc.part.sum()]


def test_points_are_sure_and_apart() -> None:
    """Positive ones where the soft map is high, away from the edge; negative ones where it is sure of nothing."""
    levels = drawn()
    for question in ask(levels, 0.3, 8, SIDE):
        assert 2 <= question.positive.sum() <= questions.POSITIVES
        assert 1 <= (~question.positive).sum() <= questions.NEGATIVES
        found = at(levels, question)
        assert (found[question.positive] > 150).all() and (found[~question.positive] < 255 * 0.1).all()
        for kind in (True, False):
            same = question.points[question.positive == kind]
            distances = np.hypot(*(same[:, None] - same[None]).T) + 1000 * np.eye(len(same))
            assert distances.min() > 20


def test_a_hole_is_no_place_for_a_positive_point() -> None:
    """The centre of a ring is empty."""
    ring = ask(drawn(), 0.3, 1, SIDE)[0]
    distance = np.hypot(*(ring.points[ring.positive] - [110, 150]).T)
    assert (distance > 45).all() and (distance < 80).all()


def test_the_mask_prompt_is_zero_at_the_threshold_and_knows_only_its_part() -> None:
    """Cells that are nearer to another part are as empty as they can be."""
    levels = drawn()
    for threshold in (0.1, 0.3, 0.7):
        asked = ask(levels, threshold, 8, SIDE)
        for question in asked:
            others = np.any([each.part for each in asked if each is not question], 0)
            assert ((question.soft > 0) == question.part).all()
            assert (question.soft[others] == -questions.LIMIT).all() and np.abs(question.soft).max() <= questions.LIMIT
            assert question.boxed[question.part].all() and not question.boxed[others].any()


def test_near_components_are_one_part() -> None:
    """Two boxes one cell apart are asked for together, far ones are not."""
    for gap, parts in ((4, 1), (40, 2)):
        levels = np.zeros((256, 256), np.uint8)
        levels[100:140, 40:80] = levels[100:140, 80 + gap : 120 + gap] = 255
        assert len(ask(levels, 0.5, 8, 64)) == parts


def test_many_small_parts_are_asked_for_up_to_the_limit() -> None:
    """Each has a point inside."""
    levels = np.zeros((640, 640), np.uint8)
    for y in range(30, 640, 60):
        for x in range(30, 640, 60):
            cv2.circle(levels, (x, y), 10, 255, -1)
    asked = ask(levels, 0.3, 1000, 128)
    assert len(asked) == 11 * 11
    assert all(at(levels, question)[question.positive].min() == 255 for question in asked)
    assert len(ask(levels, 0.3, 16, 128)) == 16


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (5, 7), (700, 500)])
@pytest.mark.parametrize("level", [0, 255])
def test_uniform_maps_of_any_size(shape: tuple[int, int], level: int) -> None:
    """Nothing above the threshold: no question. Everything: one, with its box and points in the image."""
    asked = ask(np.full(shape, level, np.uint8), 0.3, 8, 32)
    assert len(asked) == (level > 0)
    for question in asked:
        assert question.positive.all()
        assert (question.box >= 0).all() and (question.box.reshape(2, 2) <= [shape[1] - 1, shape[0] - 1]).all()
        assert (np.rint(question.points) <= [shape[1] - 1, shape[0] - 1]).all() and (question.points >= -0.5).all()


@settings(max_examples=20, deadline=None)
@given(arrays(np.uint8, (17, 23)), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_any_soft_map_gives_sound_questions(levels: NDArray[np.uint8], threshold: float) -> None:
    """The same ones every time; the parts are scipy's, of a mask grown by NEAR cells."""
    ndimage = pytest.importorskip("scipy.ndimage")
    asked = ask(levels, threshold, 1000, 24)
    inside = peaks.onto_grid(levels, 24) > 255 * threshold
    size = 2 * questions.NEAR + 1
    found = ndimage.label(ndimage.binary_dilation(inside, np.ones((size, size))), np.ones((3, 3)))[1]
    assert len(asked) == found
    assert (np.sum([each.part for each in asked], 0) == inside).all() if asked else not inside.any()
    for question, again in zip(asked, ask(levels, threshold, 1000, 24), strict=True):
        assert question.positive[0] and np.isfinite(question.soft).all()
        assert (question.box[:2] <= question.box[2:]).all()
        assert (question.points == again.points).all() and (question.box == again.box).all()
