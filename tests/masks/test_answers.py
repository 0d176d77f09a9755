"""SAM's answers and the guard: a network that answers with given masks, on soft maps that are drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from clipseg_cli.masks import answers, soft_maps, threshold
from clipseg_cli.masks.instances import separate
from clipseg_cli.masks.questions import Question
from clipseg_cli.settings.masks import CleanUp
from pictures import iou

HEIGHT, WIDTH = 300, 400


@dataclass
class Answering:
    """A network whose candidates are given masks of the image, with the IoUs that it predicts for them."""

    draw: Callable[[Question], Sequence[tuple[NDArray[np.uint8], float]]]
    grid: int = 64
    asked: list[Question] = field(default_factory=list)
    looks: list[NDArray[np.uint8]] = field(default_factory=list)  # the views that it was shown

    def look(self, photo: NDArray[np.uint8]) -> "Answering":
        """Returns a network that answers with the bright pixels of the view."""
        self.looks.append(photo)
        return Answering(lambda question: [(np.where(photo[..., 0] > 102, np.uint8(255), np.uint8(0)), 0.9)], self.grid)

    def answer(self, questions: Sequence[Question]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits of 10 inside of each mask and of -10 outside."""
        self.asked += questions
        drawn = [self.draw(question) for question in questions]
        logits = [[self._logits(mask) for mask, _ in candidates] for candidates in drawn]
        return np.array(logits, np.float32), np.array([[score for _, score in each] for each in drawn], np.float32)

    def _logits(self, mask: NDArray[np.uint8]) -> NDArray[np.float32]:
        small = cv2.resize(mask.astype(np.float32), (self.grid, self.grid), interpolation=cv2.INTER_AREA)
        return (small / 255 - 0.5) * 20


def empty() -> NDArray[np.uint8]:
    """Returns an empty mask."""
    return np.zeros((HEIGHT, WIDTH), np.uint8)


def disc(x: int = 120, y: int = 150, radius: int = 60, inner: int = 0) -> NDArray[np.uint8]:
    """Returns the mask of a disc, or of a ring."""
    drawn = cv2.circle(empty(), (x, y), radius, 255, -1)
    return cv2.circle(drawn, (x, y), inner, 0, -1) if inner else drawn


def blurred(*masks: NDArray[np.uint8], sigma: float = 15) -> NDArray[np.uint8]:
    """Returns the soft map of objects as a coarse network gives it."""
    return cv2.GaussianBlur(np.maximum.reduce(masks), (0, 0), sigma)


def flat() -> NDArray[np.uint8]:
    """Returns a photo without edges."""
    return np.full((HEIGHT, WIDTH, 3), 90, np.uint8)


def refined(levels: NDArray[np.uint8], network: Answering, most: int = 8) -> tuple[NDArray[np.uint8], str]:
    """Returns what becomes of the mask at 0.3, and why it was held back."""
    return answers.refine(levels, soft_maps.cut_soft(levels, 0.3), flat, 0.3, most, network)[:2]


def test_the_first_answer_is_the_soft_map_of_a_second_question() -> None:
    """The second answer is taken, unless it is refused. Cells that only the first one was about are SAM's too."""
    truth, first, levels = disc(), disc(radius=58), blurred(disc())
    for second, expected in ((truth, truth), (disc(300, 80), first)):
        given = iter([(first, 0.9), (second, 0.9)])
        mask, held_back = refined(levels, Answering(lambda question, given=given: [next(given)]))  # type: ignore[misc]
        assert held_back == "" and iou(mask, expected) > 0.98 and not mask[levels < 60].any()


def test_a_second_answer_that_is_refused_leaves_its_part() -> None:
    """Beside another part whose second answer is taken: no object is lost."""
    left, right = disc(100, 150, 50), disc(300, 150, 50)
    better, given = disc(300, 150, 51), dict[bool, int]()

    def draw(question: Question) -> list[tuple[NDArray[np.uint8], float]]:
        on_left = bool(question.box[0] < 150)
        given[on_left] = given.get(on_left, 0) + 1
        second = empty() if on_left else better
        return [((left if on_left else right) if given[on_left] == 1 else second, 0.9)]

    mask, held_back = refined(blurred(left, right), Answering(draw, grid=128))
    assert given == {True: 2, False: 2} and held_back == ""
    assert iou(mask, left | better) > 0.98


def test_a_good_answer_takes_the_place_of_the_mask() -> None:
    """With the edge that the network sees, not the blurred one."""
    levels, truth = blurred(disc()), disc()
    mask, held_back = refined(levels, Answering(lambda question: [(truth, 0.9)]))
    assert held_back == "" and iou(mask, truth) > 0.98 > 0.9 > iou(soft_maps.cut_soft(levels, 0.3), truth)


def test_edges_are_those_of_the_photo() -> None:
    """An answer is as coarse as SAM's grid; where the photo has an edge within a cell of it, the mask has it too."""
    truth = disc()
    photo = np.where(truth[..., None] > 0, np.uint8(200), np.uint8(50)).repeat(3, 2)
    network = Answering(lambda question: [(disc(radius=57), 0.9)], grid=32)
    levels = blurred(truth)
    own = soft_maps.cut_soft(levels, 0.3)
    plain, sharp = (answers.refine(levels, own, pixels, 0.3, 8, network)[0] for pixels in (flat, lambda: photo))
    assert iou(sharp, truth) > 0.99 > 0.95 > iou(plain, truth)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(disc(300, 80), "what is not the object"), (empty(), "disagrees"), (disc(radius=25), "disagrees"),
     (disc(radius=140), "what is not the object"), (255 - empty(), "what is not the object")],
    ids=["elsewhere", "nothing", "a small part", "too much", "everything"],
)  # fmt: skip
def test_a_bad_answer_is_refused(answer: NDArray[np.uint8], reason: str) -> None:
    """The mask stays as it was, and the reason is told, however sure the network is."""
    levels = blurred(disc())
    mask, held_back = refined(levels, Answering(lambda question: [(answer, 1.0)]))
    assert reason in held_back and (mask == soft_maps.cut_soft(levels, 0.3)).all()


def test_a_speck_does_not_grow_into_an_object() -> None:
    """Where the soft map exceeds the threshold in a few cells and is unsure around them, SAM's object stays out."""
    other = disc(radius=80)
    levels = np.maximum(other // 4, blurred(disc(radius=8), sigma=2))  # 63 of 255: under the threshold of 0.3
    mask, held_back = refined(levels, Answering(lambda question: [(other, 0.9)]))
    assert held_back == "SAM disagrees" and (mask == soft_maps.cut_soft(levels, 0.3)).all()


@pytest.mark.parametrize(("level", "taken"), [(70, True), (26, False)])
def test_where_the_soft_map_nearly_reaches_the_threshold_sam_decides(level: int, taken: bool) -> None:
    """A part of the object exceeds the threshold of 0.3, 76 levels. SAM's answer is the whole of it."""
    truth = disc()
    levels = np.where(np.arange(WIDTH) < 108, truth, truth // 255 * np.uint8(level)).astype(np.uint8)
    mask, held_back = refined(levels, Answering(lambda question: [(truth, 0.9)]))
    assert (held_back == "") == taken and (iou(mask, truth) > 0.95) == taken


def test_agreement_counts_as_much_as_the_predicted_iou() -> None:
    """The surest candidate is another object; the one that agrees is taken. Of two that agree, the surer one is."""
    truth, other = disc(), disc(300, 80)
    levels = blurred(truth)
    mask, _ = refined(levels, Answering(lambda question: [(other, 1.0), (truth, 0.7), (disc(radius=25), 0.9)]))
    assert iou(mask, truth) > 0.98
    near = disc(radius=58)
    mask, _ = refined(levels, Answering(lambda question: [(near, 0.95), (truth, 0.6)]))
    assert iou(mask, near) > 0.98


def test_each_part_is_judged_for_itself() -> None:
    """A bad answer about one part leaves that part, and only that part, as it was."""
    left, right = disc(100, 150, 50), disc(300, 150, 50)
    levels = blurred(left, right)
    plain = soft_maps.cut_soft(levels, 0.3)

    def draw(question: Question) -> list[tuple[NDArray[np.uint8], float]]:
        return [(left if question.box[0] < 150 else empty(), 0.9)]

    mask, held_back = refined(levels, Answering(draw))
    assert held_back == "1 of 2 parts: SAM disagrees"
    assert iou(mask[:, :200], left[:, :200]) > 0.98 and (mask[:, 220:] == plain[:, 220:]).all()


def test_parts_beyond_the_limit_keep_their_mask() -> None:
    """Of many small parts, the largest are refined; none is lost."""
    centres = [(x, y) for y in range(30, 300, 60) for x in range(30, 400, 60)]
    truths = [disc(x, y, 14 + (x + y) % 5) for x, y in centres]
    levels = blurred(*truths, sigma=3)
    plain = soft_maps.cut_soft(levels, 0.3)

    def draw(question: Question) -> list[tuple[NDArray[np.uint8], float]]:
        x, y = question.points[0]
        return [(truths[int(np.argmin([np.hypot(x - a, y - b) for a, b in centres]))], 0.9)]

    network = Answering(draw, grid=128)
    mask, held_back = refined(levels, network, most=5)
    assert len(network.asked) == 2 * 5 and held_back == ""  # each is asked about again
    numbers, _ = cv2.connectedComponents(mask)
    assert numbers - 1 == len(centres)
    changed = [
        np.any(mask[y - 25 : y + 25, x - 25 : x + 25] != plain[y - 25 : y + 25, x - 25 : x + 25]) for x, y in centres
    ]
    assert sum(changed) == 5


def test_a_hole_comes_back() -> None:
    """The soft map has blurred it away; the network sees it."""
    ring = disc(radius=80, inner=14)
    levels = blurred(ring, sigma=16)
    assert soft_maps.cut_soft(levels, 0.3)[150, 120]
    mask, held_back = refined(levels, Answering(lambda question: [(ring, 0.9)], grid=128))
    assert held_back == "" and not mask[150, 120] and iou(mask, ring) > 0.95


def test_a_thin_part_stays() -> None:
    """A handle that the network leaves out of an otherwise good answer is lost only where SAM decides; a part that is
    too thin for a cell of the grid is never asked for and keeps its mask."""
    thin = cv2.line(empty(), (250, 20), (390, 25), 255, 1)
    levels = np.maximum(blurred(disc()), thin)
    mask, held_back = refined(levels, Answering(lambda question: [(disc(), 0.9)], grid=32))
    assert held_back == "" and (mask[thin > 0] > 0).all()
    mask, held_back = refined(thin, Answering(lambda question: [(disc(), 0.9)], grid=32))
    assert held_back == "too small for SAM" and (mask == thin).all()


def test_an_absent_object_costs_no_question() -> None:
    """The mask is empty, the network is not asked, and nothing is held back."""
    network = Answering(lambda question: [(disc(), 0.9)])
    photo = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    clean = CleanUp("sam")
    for levels, present in ((empty(), True), (blurred(disc()), False)):
        cut = threshold.cut(soft_maps.StoredMap(levels), lambda: photo, 0.3, clean, present, network)
        assert not cut.mask.any() and not cut.refined and cut.held_back == "" and network.asked == []
    cut = threshold.cut(soft_maps.StoredMap(blurred(disc())), lambda: photo, 0.3, clean, True, network)
    assert cut.refined and iou(cut.mask, disc()) > 0.98


def test_a_refused_answer_leaves_the_guided_mask() -> None:
    """With `--refine sam`, CLIPSeg's own mask is that of `--refine guided`."""
    photo = np.where(disc()[..., None] > 0, np.uint8(200), np.uint8(50)).repeat(3, 2)
    soft_map = soft_maps.StoredMap(blurred(disc()))
    network = Answering(lambda question: [(empty(), 0.9)])
    held, guided = (
        threshold.cut(soft_map, lambda: photo, 0.3, CleanUp(way), True, network) for way in ("sam", "guided")
    )
    assert held.held_back == "SAM disagrees" and not held.refined and guided.refined and guided.held_back == ""
    assert (held.mask == guided.mask).all()


def apart(levels: NDArray[np.uint8], network: Answering) -> tuple[str, list[NDArray[np.uint8]]]:
    """Returns why the mask at 0.3 was held back, and the masks of its instances, the leftmost first."""
    own = soft_maps.cut_soft(levels, 0.3)
    mask, held_back, division = answers.refine(levels, own, flat, 0.3, 8, network, apart=True)
    found = sorted(separate(mask, levels, division), key=lambda each: each.box)
    return held_back, [each.whole(mask.shape) for each in found]


def test_objects_that_touch_are_asked_about_one_by_one() -> None:
    """Each peak of a blob is a question, and each pixel goes to the answer that takes it."""
    left, right = disc(130, 150, 60), disc(245, 150, 60)
    levels = blurred(left, right)
    assert cv2.connectedComponents(soft_maps.cut_soft(levels, 0.3))[0] == 2  # one, and the background
    network = Answering(lambda question: [(left if question.points[0][0] < 187 else right, 0.9)])
    held_back, found = apart(levels, network)
    assert held_back == "" and len(network.asked) == 2 == len(found)
    assert iou(found[0], left) > 0.97 and iou(found[1], right) > 0.97


def test_peaks_whose_answers_are_one_object_are_one_instance() -> None:
    """It is then asked about as a whole, as without instances."""
    levels = blurred(disc(130, 150, 60), disc(245, 150, 60))
    truth = soft_maps.cut_soft(levels, 0.5)
    network = Answering(lambda question: [(truth, 0.9)])
    held_back, found = apart(levels, network)
    assert held_back == "" and len(found) == 1 and iou(found[0], truth) > 0.97
    whole = Answering(lambda question: [(truth, 0.9)])
    refined(levels, whole)
    assert len(network.asked) == 3 and np.array_equal(network.asked[-1].part, whole.asked[0].part)
    assert np.array_equal(network.asked[-1].points, whole.asked[0].points)


def test_a_refused_answer_leaves_the_peak_s_own_pixels() -> None:
    """An instance of the soft map's own mask, beside one that is refined."""
    left, right = disc(130, 150, 60), disc(245, 150, 60)
    levels = blurred(left, right)
    held_back, found = apart(levels, Answering(lambda question: [(left if question.box[0] < 100 else empty(), 0.9)]))
    assert held_back == "1 of 2 parts: SAM disagrees" and len(found) == 2
    assert iou(found[0], left) > 0.9 and iou(found[1], right) > 0.7


def test_one_object_is_asked_about_as_without_instances() -> None:
    """The same question, box and points, for each of the components."""
    levels = blurred(disc(100, 90, 50), disc(300, 200, 50))
    networks = [Answering(lambda question: [(empty(), 0.9)]) for _ in range(2)]
    refined(levels, networks[0])
    apart(levels, networks[1])
    for one, two in zip(networks[0].asked, networks[1].asked, strict=True):
        assert np.array_equal(one.box, two.box) and np.array_equal(one.points, two.points)


def bright(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns a photo in which an object is a little brighter: too little for the guided filter."""
    return np.where(mask[..., None] > 0, np.uint8(104), np.uint8(100)).repeat(3, 2)


def looked(
    truth: NDArray[np.uint8], first: NDArray[np.uint8], photo: NDArray[np.uint8], closer: bool = True
) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Returns the mask of an object, and the views that SAM looked at. It answers `first`, then what is bright."""
    levels, network = blurred(truth, sigma=5), Answering(lambda question: [(first, 0.9)], grid=32)
    own = soft_maps.cut_soft(levels, 0.3)
    mask, _, _ = answers.refine(levels, own, lambda: photo, 0.3, 8, network, closer=closer)
    return mask, network.looks


def test_a_closer_look_takes_the_place_of_the_first() -> None:
    """The view is a square around the first answer, half as large again, and what SAM sees in it is in the mask."""
    truth, shifted = disc(radius=30), disc(x=123, y=147, radius=30)
    mask, views = looked(truth, shifted, bright(truth))
    assert [view.shape for view in views] in ([(side, side, 3)] for side in range(90, 120))
    assert iou(mask, truth) > 0.98 > 0.96 > iou(looked(truth, shifted, bright(truth), closer=False)[0], truth)


def test_a_second_answer_that_is_refused_changes_nothing() -> None:
    """SAM sees another object in the view: the first answer stays."""
    truth, photo = disc(radius=30), bright(disc(x=150, radius=8))
    mask, views = looked(truth, truth, photo)
    assert views and (mask == looked(truth, truth, photo, closer=False)[0]).all()


def test_a_large_part_is_not_looked_at_again() -> None:
    """An enlarged view of it would show little more than the image."""
    truth = disc(radius=100)
    assert not looked(truth, truth, bright(truth))[1]


@pytest.mark.parametrize(
    ("x", "y", "rows", "columns"),
    [(120, 150, (90, 210), (60, 180)), (20, 20, (0, 120), (0, 120)), (380, 290, (180, 300), (280, 400))],
)
def test_a_view_lies_in_the_image(x: int, y: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """In the middle of the part or, at a border, as near to it as fits."""
    levels = cv2.rectangle(empty(), (x - 15, y - 15), (x + 14, y + 14), 255, -1)
    network = Answering(lambda question: [(levels, 0.9)], grid=40)  # LEAST_VIEW: 120 pixels
    (answer,) = answers.answered(answers.ask(levels, 0.5, 8, 40), network)
    tall, wide = answers.view(answer, 40, HEIGHT, WIDTH) or pytest.fail("no view")
    found = [tall.start, tall.stop, wide.start, wide.stop]
    assert np.abs(np.subtract(found, [*rows, *columns])).max() <= 10
    assert (tall.stop - tall.start, wide.stop - wide.start) == (120, 120)
