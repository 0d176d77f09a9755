"""Compares refinements and tiles on held-out scenes of 1600 x 1200 pixels: `python -m shapes.refinement_benchmark`.

Each method makes a mask for one prompt per scene, which is scored by IoU and by boundary F at a tolerance of 4 pixels.
Prints three tables: the methods, what each part of a question gives to `--refine sam`, and whether its guard was right.
`--write` puts them into docs/masks.md.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipseg_cli.evaluation import metrics
from clipseg_cli.masks import answers, matting, questions, soft_maps, threshold, tiles
from clipseg_cli.model.sam import Sam
from clipseg_cli.model.segmenter import Embeddings, Segmenter
from clipseg_cli.run.refiner import Encoded, Refiner
from clipseg_cli.settings.masks import CleanUp, Refine
from shapes import queries
from shapes.markdown import replace_section, table
from shapes.scenes import Scene, SceneOptions, draw_scene

PAGE = Path(__file__).parent.parent / "docs" / "masks.md"
MARKS = {  # of the tables in PAGE
    "methods": ("<!-- refinement -->", "<!-- end of refinement -->"),
    "questions": ("<!-- questions -->", "<!-- end of questions -->"),
    "guard": ("<!-- guard -->", "<!-- end of guard -->"),
}
SEED = 7_000_003
HEIGHT, ASPECT = 1200, 4 / 3  # pixels; width / height
TOLERANCE = 4  # pixels
ALIKE = 0.002  # IoU: masks that differ by less are equally good
FOUND = 0.5  # an object is found if CLIPSeg's mask covers more than this share of it
Mask = NDArray[np.uint8]  # (H, W), 0 and 255


@dataclass(frozen=True)
class Case:
    """A scene with one prompt, its objects as numbers of the instance map, and the CLIPSeg and the SAM that see it."""

    scene: Scene
    query: queries.Query
    asked: list[int]
    segmenter: Segmenter
    embedding: Embeddings
    refiner: Refiner
    known: dict[tuple[int, bool], soft_maps.LogitMap] = field(default_factory=dict)

    @property
    def expected(self) -> NDArray[np.bool_]:
        """The ground truth."""
        return queries.ground_truth(self.asked, self.scene.instances)

    def soft_map(self, tile: int = 1, flip: bool = False) -> soft_maps.LogitMap:
        """Returns the soft map of `clipseg segment --tile --flip`."""
        if (tile, flip) not in self.known:
            logits = full_size_logits(self.segmenter, self.embedding, self.scene.image, tile, flip)
            self.known[tile, flip] = soft_maps.LogitMap(logits)
        return self.known[tile, flip]

    def cut(self, refinement: Refine = "none", tile: int = 1, flip: bool = False, closer: bool = False) -> Mask:
        """Returns the mask of `clipseg segment --refine --tile --flip --refine-closer`."""
        sam = self.seen() if refinement == "sam" else None
        soft_map, wanted = self.soft_map(tile, flip), self.segmenter.threshold
        clean = CleanUp(refinement, refine_closer=closer)
        return threshold.cut(soft_map, lambda: self.scene.image, wanted, clean, sam=sam).mask

    def seen(self) -> Encoded:
        """Returns the image as SAM sees it."""
        seen = self.refiner.see([self.scene.image])[0]
        assert isinstance(seen, Encoded), "memory is enough for one image"
        return seen

    def answered(self, sam: answers.Sam) -> list[answers.Answer]:
        """Returns the answers to the questions that `--refine sam` asks."""
        levels, most = self.soft_map().soft(), CleanUp().refine_parts
        return answers.answered(questions.ask(levels, self.segmenter.threshold, most, sam.grid), sam)

    def joined(self, taken: Sequence[answers.Answer], filtered: bool = True) -> Mask:
        """Returns the mask in which answers are taken; `filtered`: with the edges of the photo."""
        return answers.joined(self.cut("guided"), taken, (lambda: self.scene.image) if filtered else None)


Method = Callable[[Case], Mask]


def full_size_logits(
    segmenter: Segmenter, embedding: Embeddings, image: NDArray[np.uint8], tile: int, flip: bool
) -> NDArray[np.float32]:
    """Returns the logits of one prompt as `clipseg segment --tile --flip` computes them: float32 (H, W)."""
    height, width = image.shape[:2]
    views = tiles.views(height, width, tile, flip)
    logits = [segmenter.logits(segmenter.encode([view.of(image)]), embedding)[0] for view in views]
    return soft_maps.upsample(tiles.joined(views, logits, height, width)[0], height, width)


def method(refinement: Refine = "none", tile: int = 1, flip: bool = False, closer: bool = False) -> Method:
    """Returns a function from a case to the mask of these options."""
    return lambda case: case.cut(refinement, tile, flip, closer)


def sam_and_matting(case: Case) -> Mask:
    """Returns the mask of matting that starts from SAM's mask instead of CLIPSeg's."""
    opacity = matting.alpha(case.scene.image, case.soft_map().soft(), case.cut("sam"))
    return np.where(opacity > 127, np.uint8(255), np.uint8(0))


def perfect(case: Case) -> Mask:
    """Returns the true masks of the objects that CLIPSeg finds, right or wrong: no refinement can do better."""
    instances = case.scene.instances
    inside = np.bincount(instances[case.cut() > 0], minlength=256)
    found = inside > FOUND * np.bincount(instances.ravel(), minlength=256)
    found[0] = False
    return found[instances].view(np.uint8) * np.uint8(255)


METHODS: dict[str, Method] = {
    "plain": method(),
    "`--refine guided`": method("guided"),
    "`--refine grabcut`": method("grabcut"),
    "`--refine matting`": method("matting"),
    "`--refine sam`": method("sam"),
    "`--refine sam --refine-closer`": method("sam", closer=True),
    "`--refine sam`, then matting": sam_and_matting,
    "`--flip`": method(flip=True),
    "`--tile 2`": method(tile=2),
    "`--tile 3`": method(tile=3),
    "`--tile 2 --refine guided`": method("guided", 2),
    "`--tile 2 --refine sam`": method("sam", 2),
    "`--tile 2 --refine sam --refine-closer`": method("sam", 2, closer=True),
    "true edges of what plain finds": perfect,
}


@dataclass(frozen=True)
class Told:
    """A SAM that is told only a part of each question. It implements `masks.answers.Sam`.

    given: any of "box", "points", "positive" (points on the object only) and "soft". choice: "both" as in the program;
    "iou" or "agreement": chooses among the candidates by this alone; "one": SAM's single answer.
    """

    encoded: Encoded
    given: str
    choice: str = "both"

    @property
    def grid(self) -> int:
        """Cells per side of the mask prompts and the answers."""
        return self.encoded.grid

    def look(self, photo: NDArray[np.uint8]) -> "Told":
        """See `masks.answers.Sam`."""
        return replace(self, encoded=self.encoded.look(photo))

    def answer(self, asked: Sequence[questions.Question]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `masks.answers.Sam`."""
        results = [self.one_answer(question) for question in asked]
        logits, predicted = (np.concatenate(each) for each in zip(*results, strict=True))
        return logits, predicted * {"iou": 1e6, "agreement": 0}.get(self.choice, 1)

    @torch.inference_mode()
    def one_answer(self, question: questions.Question) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the candidates for one question, (1, C, grid, grid), and the IoUs that SAM predicts, (1, C)."""
        sam, given = self.encoded.sam, self.given.split()
        scale = np.array([sam.side / self.encoded.width, sam.side / self.encoded.height], np.float32)
        kept = question.positive if "positive" in given else np.ones_like(question.positive)
        prompts: dict[str, Any] = {}
        if "points" in given or "positive" in given:
            prompts["input_points"] = question.points[kept] * scale
            prompts["input_labels"] = question.positive[kept].astype(np.int64)
        if "box" in given:
            prompts["input_boxes"] = question.box * np.tile(scale, 2)
        if "soft" in given:
            prompts["input_masks"] = question.soft
        output = sam.model(
            image_embeddings=[*self.encoded.embedding],
            multimask_output=self.choice != "one",
            **{name: torch.from_numpy(value)[None, None] for name, value in prompts.items()},
        )
        return output.pred_masks[:, 0].numpy() - sam.edge, output.iou_scores[:, 0].numpy()


def told(given: str, choice: str = "both", guard: bool = True, filtered: bool = True) -> Method:
    """Returns a function from a case to its mask, see Told. Without `guard`, every answer is taken."""

    def mask(case: Case) -> Mask:
        found = case.answered(Told(case.seen(), given, choice))
        return case.joined([each for each in found if not (guard and each.refusal)], filtered)

    return mask


QUESTIONS: dict[str, Method] = {
    "everything, as in the program": told("box points soft"),
    "no box": told("points soft"),
    "no negative points": told("box positive soft"),
    "no points": told("box soft"),
    "no soft map": told("box points"),
    "box alone": told("box"),
    "points alone": told("points"),
    "soft map alone": told("soft"),
    "candidate by predicted IoU alone": told("box points soft", "iou"),
    "candidate by agreement alone": told("box points soft", "agreement"),
    "SAM's single answer": told("box points soft", "one"),
    "no guard": told("box points soft", guard=False),
    "SAM's edges, not the photo's": told("box points soft", filtered=False),
}


@dataclass(frozen=True)
class Verdict:
    """What the guard made of SAM's answer about one part, and the IoU with the ground truth, if only that part changes.

    It is the IoU of the whole mask, so that an answer that makes a wrong part larger is worse than the part itself.
    """

    refusal: str  # "" if the answer is taken
    own: float  # of CLIPSeg's own mask, with guided edges
    sam: float


def verdicts(case: Case) -> Iterator[Verdict]:
    """Yields the verdict about each part."""
    own = overlap(case.cut("guided") > 0, case.expected)
    for answer in case.answered(case.seen()):
        yield Verdict(answer.refusal, own, overlap(case.joined([answer]) > 0, case.expected))


def guard_table(found: Sequence[Verdict]) -> str:
    """Returns a table of the verdicts by what the guard did."""
    rows = []
    for refusal in sorted({each.refusal for each in found}):
        some = [each for each in found if each.refusal == refusal]
        means = [np.mean([getattr(each, name) for each in some]) for name in ("own", "sam")]
        better = [sum(sign * (each.own - each.sam) > ALIKE for each in some) for sign in (1, -1)]
        name = f"held back: {refusal}" if refusal else "taken"
        rows.append((name, len(some), *(f"{mean:.3f}" for mean in means), *better, len(some) - sum(better)))
    head = ("SAM's answer", "parts", "IoU, CLIPSeg's own", "IoU, SAM's", "own is better", "SAM's is better", "alike")
    return table(head, rows)


@dataclass(frozen=True)
class Score:
    """How good the mask of one method is for one case."""

    query: queries.Query
    iou: float
    boundary_f: float


def overlap(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> float:
    """Returns the IoU of two masks."""
    return np.count_nonzero(one & two) / max(1, np.count_nonzero(one | two))


def cases(segmenter: Segmenter, refiner: Refiner, scenes: int) -> Iterator[Case]:
    """Yields `scenes` held-out scenes, each with a prompt for an object that it contains."""
    rng, count = np.random.default_rng(SEED), 0
    while count < scenes:
        scene = draw_scene(rng, SceneOptions(short_side=HEIGHT), ASPECT)
        pairs = [queries.Query(shape=each.shape, colour=each.colour) for each in scene.objects]
        query = next((one for one in pairs if queries.matching(one, scene) and not queries.is_held_out(one)), None)
        if query is not None:
            count += 1
            embedding = segmenter.embed([queries.as_prompt(query, rng)])
            yield Case(scene, query, queries.matching(query, scene) or [], segmenter, embedding, refiner)


def measure(segmenter: Segmenter, sam: str, scenes: int, methods: dict[str, Method]) -> dict[str, list[Score]]:
    """Returns the scores of each method on `scenes` scenes."""
    scores: dict[str, list[Score]] = {name: [] for name in methods}
    for case in cases(segmenter, Refiner(lambda: Sam.load(sam, device=segmenter.device)), scenes):
        expected = case.expected
        for name, make_mask in methods.items():
            mask = make_mask(case) > 0
            iou = overlap(mask, expected)
            boundary_f = metrics.boundary_f(mask, expected, TOLERANCE / np.hypot(*mask.shape))
            scores[name].append(Score(case.query, iou, boundary_f))
    return scores


def as_markdown(scores: dict[str, list[Score]]) -> str:
    """Returns a table of scores; the others are compared with the first method."""
    means = {name: np.mean([(each.iou, each.boundary_f) for each in rows], 0) for name, rows in scores.items()}
    first, start = next(iter(means.items()))
    rows = [
        (name, f"{iou:.3f}", f"{boundary:.3f}", f"{iou - start[0]:+.3f}, {boundary - start[1]:+.3f}")
        for name, (iou, boundary) in means.items()
    ]
    return table(("", "mean IoU", "boundary F", f"against {first}"), rows)


def gains(scores: dict[str, list[Score]], name: str) -> dict[str, float]:
    """Returns the mean gain in IoU of a method over the first one, by the shape and by the colour of the prompt."""
    by_label: dict[str, list[float]] = {}
    for before, after in zip(next(iter(scores.values())), scores[name], strict=True):
        for label in (before.query.shape, before.query.colour):
            by_label.setdefault(str(label), []).append(after.iou - before.iou)
    return {label: float(np.mean(values)) for label, values in by_label.items()}


def report(kind: str, segmenter: Segmenter, sam: str, scenes: int) -> str:
    """Returns one of the tables as Markdown, with what was measured."""
    text = f"{scenes} held-out scenes of 1600 x 1200 pixels, one prompt each, models `{segmenter.checkpoint.name}` and "
    if kind == "guard":
        found = cases(segmenter, Refiner(lambda: Sam.load(sam, device=segmenter.device)), scenes)
        return f"{text}`{sam}`:\n\n{guard_table([verdict for case in found for verdict in verdicts(case)])}"
    scores = measure(segmenter, sam, scenes, QUESTIONS if kind == "questions" else METHODS)
    text += f"`{sam}`; boundary F at {TOLERANCE} pixels:\n\n{as_markdown(scores)}"
    if kind == "questions":
        return text
    gained = gains(scores, "`--refine sam`")
    least = min(gained, key=lambda label: gained[label])
    return f"{text}\n\nThe shape or colour that gains least by `--refine sam`: {least}, {gained[least]:+.3f} mean IoU."


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m shapes.refinement_benchmark", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--refine-model", default="shapes-sam", help="the SAM")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--only", choices=tuple(MARKS), help="measure one of the tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/masks.md")
    given = parser.parse_args()
    segmenter = Segmenter.load(given.model)
    for kind, marks in MARKS.items():
        if given.only in (None, kind):
            text = report(kind, segmenter, given.refine_model, given.scenes)
            sys.stdout.write(text + "\n")
            if given.write:
                replace_section(PAGE, text, marks)


if __name__ == "__main__":
    main()
