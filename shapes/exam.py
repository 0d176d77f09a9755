"""Held-out questions with their answers, and the marks that a model gets for them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from clipseg_cli.prompts import highlight
from shapes import phrases
from shapes.lessons import example
from shapes.vocabulary import UNHEARD_STRANGERS
from shapes.world import Kind, Manner, Scene, draw_scene

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Question:
    """kind: where its score is counted. text or exemplar: the prompt. truth: bool (H, W), the scene's own size."""

    kind: str
    scene: int
    text: str
    exemplar: NDArray[np.float32] | None
    truth: Bool


@dataclass(frozen=True)
class Exam:
    """images: uint8 (H, W, 3) each of its own size; questions about them, in the order of the scenes."""

    images: tuple[NDArray[np.uint8], ...]
    questions: tuple[Question, ...]


def exemplar_of(kind: Kind, rng: np.random.Generator, held_out: bool = False) -> NDArray[np.float32]:
    """What `clipseg oneshot` shows the network of a thing of `kind`: float32 (224, 224, 3), normalised colour."""
    scene = example(kind, rng, Manner(held_out=held_out))
    return highlight.crop_blur_dim(scene.image, scene.owners == 1, 224)


def questions_about(index: int, scene: Scene, pair_only: bool, rng: np.random.Generator) -> list[Question]:
    """Some of every kind about one scene; about held-out pairs alone with `pair_only`."""
    asked: dict[str, Question] = {}

    def add(kind: str, query: phrases.Query, picture: NDArray[np.float32] | None = None) -> None:
        found = phrases.denoted(query, scene)
        if found is None or kind in asked:
            return
        truth = phrases.truth(found, scene.owners)
        if truth.sum() >= 30 or not found:
            asked[kind] = Question(kind, index, phrases.wording(query, rng), picture, truth)

    for position in rng.permutation(len(scene.things)):
        thing = scene.things[position]
        pair = phrases.Query(shape=thing.shape, colour=thing.colour)
        if pair_only:
            if phrases.is_held_out(pair):
                add("unseen colour+shape", pair)
                add("unseen one-shot", pair, exemplar_of(thing.kind, rng, held_out=True))
            continue
        add("colour+shape", pair)
        add("shape", phrases.Query(shape=thing.shape))
        add("colour", phrases.Query(colour=thing.colour))
        add("one-shot", pair, exemplar_of(thing.kind, rng))
        for _ in range(8):
            query = phrases.about(thing, rng)
            for part in ("pattern", "size", "place"):
                if getattr(query, part):
                    add(part, query)
        if rng.random() < 0.15:
            add("anything", phrases.Query())
        for _ in range(2):
            wrong = phrases.against(phrases.about(thing, rng), scene, rng, UNHEARD_STRANGERS)
            if not phrases.is_held_out(wrong) and not phrases.denoted(wrong, scene):
                add("absent stranger" if wrong.stranger else "absent near miss", wrong)
        wrong = phrases.against(phrases.Query(shape=thing.shape, colour=thing.colour), scene, rng, UNHEARD_STRANGERS)
        if not wrong.stranger and not phrases.is_held_out(wrong) and phrases.denoted(wrong, scene) == []:
            add("absent pair", wrong)
    return list(asked.values())


def draw_exam(scenes: int, seed: int, draw: Callable[[np.random.Generator, Manner], Scene] = draw_scene) -> Exam:
    """An exam of `scenes` scenes, a quarter of them about pairs that training never shows."""
    rng = np.random.default_rng(seed)
    images: list[NDArray[np.uint8]] = []
    questions: list[Question] = []
    while len(images) < scenes:
        pair_only = len(images) % 4 == 3
        scene = draw(rng, Manner(held_out=pair_only, only_held_out=pair_only))
        if scene.things:
            questions += questions_about(len(images), scene, pair_only, rng)
            images.append(scene.image)
    return Exam(tuple(images), tuple(questions))


def prepared(image: NDArray[np.uint8], side: int = 224) -> NDArray[np.float32]:
    """What the processor gives the network: float32 (3, side, side), normalised colour, squared by PIL's bilinear."""
    from PIL import Image

    square = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(highlight.normalised(np.asarray(square)).transpose(2, 0, 1))


@torch.inference_mode()
def soft_maps(model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, exam: Exam) -> list[Tensor]:
    """Probability of each question's target, float32 at its picture's own size, in [0, 1]."""
    was, maps = model.training, []
    model.eval()
    device, dtype = model.device, model.dtype
    for index, image in enumerate(exam.images):
        asked = [question for question in exam.questions if question.scene == index]
        if not asked:
            continue
        batch = torch.from_numpy(prepared(image))[None].to(device, dtype)
        vision = model.clip.vision_model(batch, output_hidden_states=True)
        states = [vision.hidden_states[layer + 1].expand(len(asked), -1, -1) for layer in model.extract_layers]
        rows = []
        for question in asked:
            if question.exemplar is None:
                ids = tokenizer([question.text], return_tensors="pt").input_ids.to(device)
                rows.append(model.clip.get_text_features(ids).pooler_output[0])
            else:
                shown = torch.from_numpy(question.exemplar).permute(2, 0, 1)[None].to(device, dtype)
                rows.append(model.clip.get_image_features(shown).pooler_output[0])
        logits = model.decoder(states, torch.stack(rows)).logits[:, None].float()
        size = image.shape[:2]
        maps += list(torch.nn.functional.interpolate(logits.sigmoid(), size, mode="bilinear")[:, 0].cpu())
    model.train(was)
    return maps


def marks(
    model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, exam: Exam, threshold: float = 0.5
) -> dict[str, float]:
    """Per kind of question the mean IoU, or for the absent kinds the share of empty masks; rounded to 3 digits."""
    return scored(soft_maps(model, tokenizer, exam), exam, threshold)


def scored(maps: list[Tensor], exam: Exam, threshold: float) -> dict[str, float]:
    """Marks of soft maps cut at a threshold; see `marks`."""
    lists: dict[str, list[float]] = {}
    for soft, question in zip(maps, exam.questions, strict=True):
        mask = soft.numpy() > threshold
        if question.kind.startswith("absent"):
            mark = float(not mask.any())
        else:
            mark = float((mask & question.truth).sum() / max(1, (mask | question.truth).sum()))
        lists.setdefault(question.kind, []).append(mark)
    return {kind: round(float(np.mean(values)), 3) for kind, values in sorted(lists.items())}
