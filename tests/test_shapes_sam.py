"""The bundled SAM finds the edges of drawn objects, and its training asks right questions and can be resumed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import Sam2Model

from clipseg_cli.evaluation import metrics
from clipseg_cli.masks import answers, soft_maps, threshold
from clipseg_cli.model.registry import WEIGHTS
from clipseg_cli.model.sam import Sam
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.run.refiner import Once, Refiner
from clipseg_cli.settings.masks import CleanUp
from pictures import iou
from shapes import refinement_benchmark, sam_batches, sam_model, train, train_sam
from shapes.sam_batches import CELL, SamBatch, SamBatchOptions
from shapes.scenes import SceneOptions, draw_scene

FOLDER = WEIGHTS / "shapes-sam"
FLOORS = 0.03, 0.15  # gains in IoU and boundary F
SIDE = 256  # pixels: the smaller stage of training


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The bundled CLIPSeg."""
    return Segmenter.load("shapes", device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def batch(segmenter: Segmenter) -> SamBatch:
    """A batch of small images."""
    return next(sam_batches.batches(SamBatchOptions(SIDE, images=2), segmenter))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run with a single process; afterwards, torch has its threads back."""
    threads = torch.get_num_threads()
    train.join(0, tmp_path, train.Recipe(processes=1))
    yield tmp_path
    dist.destroy_process_group()
    torch.set_num_threads(threads)


def test_the_bundled_sam_is_small_and_complete() -> None:
    """Its folder has at most 5 MB; transformers finds every tensor; points and image positions share one code."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 5e6
    model, info = Sam2Model.from_pretrained(FOLDER, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    codes = model.shared_image_embedding, model.prompt_encoder.shared_embedding
    assert torch.equal(*(each.positional_embedding for each in codes))
    sam = Sam.load("shapes-sam", device="cpu")
    assert (sam.grid, sam.edge) == (sam_model.FULL // CELL, -0.5)


def test_the_bundled_sam_sharpens_a_blurred_mask() -> None:
    """For the largest object of three scenes, whose soft map is blurred and too wide, edges become more exact."""
    refiner = Refiner(lambda: Sam.load("shapes-sam", device="cpu"))
    rng, before, after = np.random.default_rng(11), [], []
    while len(after) < 3:
        scene = draw_scene(rng, SceneOptions(short_side=600), 4 / 3)
        if not scene.objects:
            continue
        expected = scene.instances == 1 + np.argmax(np.bincount(scene.instances.ravel())[1:])
        levels = cv2.convertScaleAbs(cv2.GaussianBlur(expected.view(np.uint8) * 255, (0, 0), 16), alpha=1.6)
        blurred = np.where(levels > 127, np.uint8(255), np.uint8(0))
        photo = partial(np.copy, scene.image)
        refined, held_back, _ = answers.refine(levels, blurred, photo, 0.5, 16, Once(refiner, photo))
        assert not held_back
        for mask, scores in ((blurred, before), (refined, after)):
            scores.append(metrics.boundary_f(mask > 0, expected, 2 / np.hypot(*mask.shape)))
    assert np.mean(after) > np.mean(before) + 0.25, (before, after)


def with_a_hole(mask: NDArray[np.uint8]) -> None:
    """Draws a ring."""
    cv2.circle(mask, (400, 300), 180, 255, 70)


def with_thin_parts(mask: NDArray[np.uint8]) -> None:
    """Draws a disc with rays of 14 pixels."""
    cv2.circle(mask, (400, 300), 110, 255, -1)
    for angle in np.arange(8) * np.pi / 4:
        end = np.rint([400 + 260 * np.cos(angle), 300 + 260 * np.sin(angle)]).astype(int)
        cv2.line(mask, (400, 300), (int(end[0]), int(end[1])), 255, 14)


def with_many_parts(mask: NDArray[np.uint8]) -> None:
    """Draws 24 small discs, more than SAM is asked about."""
    for number in range(24):
        cv2.circle(mask, (90 + 125 * (number % 6), 90 + 140 * (number // 6)), 26, 255, -1)


@pytest.mark.parametrize("draw", [with_a_hole, with_thin_parts, with_many_parts])
def test_holes_and_thin_and_small_parts_stay(draw: Callable[[NDArray[np.uint8]], None]) -> None:
    """The mask has the holes and the components of the object, and is at least as good as the guided one."""
    expected = np.zeros((600, 800), np.uint8)
    draw(expected)
    rng = np.random.default_rng(5)
    ground = cv2.resize(rng.integers(120, 200, (75, 100, 3), np.uint8), (800, 600), interpolation=cv2.INTER_CUBIC)
    photo = np.where(expected[..., None] > 0, np.array((200, 40, 40), np.uint8), ground)
    soft_map = soft_maps.StoredMap(cv2.GaussianBlur(expected, (0, 0), 9))
    refiner = Refiner(lambda: Sam.load("shapes-sam", device="cpu"))
    plain, guided, sam = (
        threshold.cut(soft_map, lambda: photo, 0.5, CleanUp(way), sam=Once(refiner, lambda: photo)).mask
        for way in ("none", "guided", "sam")
    )
    assert iou(sam, expected) > max(0.95, iou(guided, expected) - 0.005, iou(plain, expected))
    for kept in (expected, 255 - expected):
        mask = sam if kept is expected else 255 - sam
        areas = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
        assert np.count_nonzero(areas > 100) == cv2.connectedComponents(kept)[0] - 1


@pytest.mark.slow
def test_the_bundled_sam_sharpens_clipsegs_masks(segmenter: Segmenter) -> None:
    """On 20 held-out scenes of 1600 x 1200 pixels its gains in IoU and boundary F reach these floors."""
    methods = {name: refinement_benchmark.METHODS[name] for name in ("plain", "`--refine guided`", "`--refine sam`")}
    scores = refinement_benchmark.measure(segmenter, "shapes-sam", 20, methods)
    plain, guided, sam = (np.mean([(each.iou, each.boundary_f) for each in rows], 0) for rows in scores.values())
    assert (sam > plain + FLOORS).all() and sam[1] > guided[1], (plain, guided, sam)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [refinement_benchmark.METHODS, refinement_benchmark.QUESTIONS])
def test_every_refinement_is_scored(
    methods: dict[str, refinement_benchmark.Method], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`shapes.refinement_benchmark` gives each method a mean IoU and a boundary F, and a row of the table."""
    monkeypatch.setattr(refinement_benchmark, "HEIGHT", 240)
    scores = refinement_benchmark.measure(segmenter, "shapes-sam", 1, methods)
    assert list(scores) == list(methods)
    assert all(0 <= row.iou <= 1 and 0 <= row.boundary_f <= 1 for rows in scores.values() for row in rows)
    rows = refinement_benchmark.as_markdown(scores).splitlines()
    assert all(any(row.startswith(f"| {name} |") for row in rows) for name in scores)
    assert len(refinement_benchmark.gains(scores, next(iter(scores)))) == 2  # a shape and a colour


def test_the_guard_is_scored(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its table counts each part once: by what the guard did, and by whose mask is better."""
    monkeypatch.setattr(refinement_benchmark, "HEIGHT", 240)
    rows = refinement_benchmark.report("guard", segmenter, "shapes-sam", 3).splitlines()[4:]
    assert rows
    for row in rows:
        _, _, parts, own, sam, *counts, _ = (cell.strip() for cell in row.split("|"))
        assert int(parts) == sum(map(int, counts)) and 0 <= float(own) <= 1 and 0 <= float(sam) <= 1
    right = [refinement_benchmark.Verdict("SAM disagrees", 0.9, 0.4), refinement_benchmark.Verdict("", 0.9, 0.901)]
    table = refinement_benchmark.guard_table(right).splitlines()
    assert table[2] == "| taken | 1 | 0.900 | 0.901 | 0 | 0 | 1 |"
    assert table[3] == "| held back: SAM disagrees | 1 | 0.900 | 0.400 | 1 | 0 | 0 |"


def test_a_batch_depends_on_its_step_alone(segmenter: Segmenter) -> None:
    """The second batch of a stream is the first of one that starts at the second step, as after `--resume`."""
    options = SamBatchOptions(SIDE, images=1, seed=3)
    stream = sam_batches.batches(options, segmenter)
    first, second = next(stream), next(stream)
    again = next(sam_batches.batches(options, segmenter, first_step=1))
    assert torch.equal(second.images, again.images) and second.given == again.given
    assert torch.equal(second.parts.soft, again.parts.soft) and not torch.equal(first.images, second.images)


def test_points_about_one_object_lie_on_it_or_beside_it() -> None:
    """Positive points lie on the target, negative points do not, and the box reaches over the target."""
    rng = np.random.default_rng(4)
    scenes = [draw_scene(rng, SceneOptions(short_side=SIDE)) for _ in range(12)]
    for scene in (each for each in scenes if each.objects):
        row = sam_batches.single_row(scene, SIDE // CELL, rng)
        x, y = ((row["points"] - (CELL - 1) / 2) / CELL).round().astype(int).T
        on_target = row["targets"][y, x] > 0.3
        assert on_target[row["labels"] == 1].all() and (row["labels"] == 1).any()
        assert (row["targets"][y, x] < 0.7)[row["labels"] == 0].all()
        rows, columns = np.nonzero(row["targets"] > 0.5)
        x0, y0, x1, y1 = row["boxes"] / CELL
        slack = 0.15 * max(np.ptp(columns), np.ptp(rows)) + 2
        assert x0 < columns.min() + slack and columns.max() < x1 + slack
        assert y0 < rows.min() + slack and rows.max() < y1 + slack


def test_most_points_of_the_questions_about_parts_are_right(batch: SamBatch) -> None:
    """Most positive points of the soft maps' parts lie on the target, negative ones beside it; padding fills up."""
    asked = batch.parts
    inside = [
        float(asked.targets[q, int(y) // CELL, int(x) // CELL])
        for q in range(len(asked.labels))
        for x, y in asked.points[q]
    ]
    right = torch.tensor(inside).view_as(asked.labels) > 0.5
    assert right[asked.labels == 1].float().mean() > 0.8 and right[asked.labels == 0].float().mean() < 0.1
    assert set(asked.labels.unique().tolist()) <= {sam_batches.PADDING, 0, 1}
    assert asked.soft.abs().max() <= 32 and asked.targets.min() >= 0 and asked.targets.max() <= 1


@pytest.mark.parametrize(
    ("covered", "asked", "expected"),
    [
        ({1: 1.0}, [1], [1]),
        ({1: 0.4, 2: 1.0}, [1], [1]),  # the object of the query, though another is covered better
        ({1: 0.1, 2: 1.0}, [1], [2]),  # CLIPSeg is wrong: SAM is to find the edges of what it points at
        ({1: 0.9, 2: 0.9}, [1, 2], [1, 2]),
        ({1: 0.1, 2: 0.3}, [1], []),  # not about any object
    ],
)
def test_a_part_means_the_objects_of_the_query(
    covered: dict[int, float], asked: list[int], expected: list[int]
) -> None:
    """A part means the objects of the query that it covers; if there are none, any that it covers mostly."""
    numbers, part = np.zeros((20, 20), np.uint8), np.zeros((20, 20), bool)
    for number, share in covered.items():
        rows = slice(8 * number - 7, 8 * number)
        numbers[rows, :10] = number
        part[rows, : round(10 * share)] = True
    assert sam_batches.meant(part, numbers, asked) == expected


def test_a_perfect_answer_costs_nothing(batch: SamBatch) -> None:
    """Sure and right logits have hardly any loss; the best of three candidates counts more than the others."""
    asked = batch.parts
    whole = (asked.targets > 0.5).float()
    asked = replace(asked, targets=whole)
    right = (20 * (2 * whole - 1))[:, None]
    present = torch.full((len(whole), 1), 20.0)
    best = sam_model.losses(right, torch.ones(len(whole), 1), present, asked)
    assert all(float(term) < 0.01 for term in best.values())
    mixed = sam_model.losses(
        torch.cat([right, -right], 1), torch.tensor([[1.0, 0.0]]).expand(len(whole), 2), present, asked
    )
    worst = sam_model.losses(-right, torch.zeros(len(whole), 1), present, asked)
    assert 0.2 < float(mixed["dice"] / worst["dice"]) < 0.3  # half of the mean of 0 and 1


def test_an_answer_reaches_every_weight(batch: SamBatch) -> None:
    """With all that a question can tell, and with both kinds of answers, the whole network learns."""
    torch.manual_seed(0)
    model = Sam2Model(sam_model.configuration()).train()
    sam_model.set_side(model, SIDE)
    everything = frozenset(("box", "points", "soft"))
    for given in (everything, everything | {"one"}, frozenset(("points",))):
        terms = sam_model.SamTraining(model)(replace(batch, given=(given, given)))
        torch.autograd.backward(sum(terms.values()))
    still = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert not still


def weights(trainer: train_sam.SamTrainer) -> list[torch.Tensor]:
    """Returns copies of the averaged weights."""
    return [parameter.detach().clone() for parameter in trainer.average.parameters()]


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(one_process: Path) -> None:
    """Four steps, of which the last ones use full images, or two steps, a checkpoint, and two more."""
    recipe = replace(train_sam.DEFAULT, steps=4, processes=1, images=1, small=0.7, warm=1)
    whole = train_sam.SamTrainer(0, one_process, recipe, None)
    for _ in range(2):
        whole.advance()
    whole.save()
    resumed = train_sam.SamTrainer(0, one_process, recipe, None)
    resumed.load()
    for trainer in (whole, resumed):
        while trainer.progress < 1:
            terms, _ = trainer.advance()
            assert all(torch.isfinite(term) for term in terms.values())
    assert whole.step == resumed.step == 4 and whole.side == resumed.side == sam_model.FULL
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


@pytest.mark.slow
def test_the_training_command_leaves_a_model_that_the_program_loads(tmp_path: Path) -> None:
    """The documented command, for two steps shared by two processes, from the bundled weights."""
    command = f"-m shapes.train_sam --out {tmp_path} --start {FOLDER} --steps 2 --images 1 --warm 1"
    subprocess.run([sys.executable, *command.split()], check=True, capture_output=True)
    assert '"step": 2' in (tmp_path / "log.jsonl").read_text()
    before, after = Sam.load(str(FOLDER), device="cpu"), Sam.load(str(tmp_path / "model"), device="cpu")
    pairs = zip(before.model.parameters(), after.model.parameters(), strict=True)
    changed = [not torch.equal(a, b) for a, b in pairs]
    assert sum(changed) > 0.8 * len(changed) and after.side == before.side
