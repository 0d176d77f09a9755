"""Builds held-out questions with their ground truth, and scores a model on them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from clipseg_cli.prompts import highlight
from shapes import queries
from shapes.batches import exemplar_scene
from shapes.scenes import Kind, Scene, SceneObject, SceneOptions, draw_scene
from shapes.vocabulary import UNSEEN_NOUNS

MIN_PIXELS = 30  # of an object that a question is about


@dataclass(frozen=True)
class Question:
    """A prompt about an image, and the right mask.

    kind: the row of the results that it counts in. image: index of the image. exemplar: float32 (224, 224, 3),
    normalised colour; None for a text prompt. ground_truth: bool (H, W), of the image's size.
    """

    kind: str
    image: int
    text: str
    exemplar: NDArray[np.float32] | None
    ground_truth: NDArray[np.bool_]


@dataclass(frozen=True)
class EvaluationSet:
    """images: uint8 (H, W, 3) RGB, each of its own size. questions: in the order of the images."""

    images: tuple[NDArray[np.uint8], ...]
    questions: tuple[Question, ...]


def exemplar_for(kind: Kind, rng: np.random.Generator, held_out: bool = False) -> NDArray[np.float32]:
    """Returns the visual prompt that `clipseg oneshot` makes of an object of `kind`: float32 (224, 224, 3)."""
    scene = exemplar_scene(kind, rng, SceneOptions(held_out=held_out))
    return highlight.crop_blur_dim(scene.image, scene.instances == 1, 224)


class SceneQuestions:
    """Collects at most one question of each kind about one scene."""

    def __init__(self, image: int, scene: Scene, rng: np.random.Generator) -> None:
        self.image, self.scene, self.rng = image, scene, rng
        self.by_kind: dict[str, Question] = {}

    def add(self, kind: str, query: queries.Query, exemplar: NDArray[np.float32] | None = None) -> None:
        """Adds a question, unless its kind is taken, the query is ambiguous, or what it means is hardly visible."""
        indices = queries.matching(query, self.scene)
        if indices is None or kind in self.by_kind:
            return
        mask = queries.ground_truth(indices, self.scene.instances)
        if mask.sum() >= MIN_PIXELS or not indices:
            self.by_kind[kind] = Question(kind, self.image, queries.as_prompt(query, self.rng), exemplar, mask)

    def ask_unseen(self, target: SceneObject) -> None:
        """Adds questions about an object if training never shows its pair of shape and colour."""
        pair = queries.Query(shape=target.shape, colour=target.colour)
        if queries.is_held_out(pair):
            self.add("unseen colour+shape", pair)
            self.add("unseen one-shot", pair, exemplar_for(target.kind, self.rng, held_out=True))

    def ask_present(self, target: SceneObject) -> None:
        """Adds questions about an object of the scene."""
        pair = queries.Query(shape=target.shape, colour=target.colour)
        self.add("colour+shape", pair)
        self.add("shape", queries.Query(shape=target.shape))
        self.add("colour", queries.Query(colour=target.colour))
        self.add("one-shot", pair, exemplar_for(target.kind, self.rng))
        for _ in range(8):
            query = queries.query_about(target, self.rng)
            for attribute in ("pattern", "size", "place"):
                if getattr(query, attribute):
                    self.add(attribute, query)
        if self.rng.random() < 0.15:
            self.add("anything", queries.Query())

    def ask_absent(self, target: SceneObject) -> None:
        """Adds questions that nothing in the scene matches, one attribute away from an object of it."""
        for _ in range(2):
            query = queries.near_miss(queries.query_about(target, self.rng), self.scene, self.rng, UNSEEN_NOUNS)
            if not queries.is_held_out(query) and not queries.matching(query, self.scene):
                self.add("absent unknown noun" if query.unknown else "absent near miss", query)
        pair = queries.Query(shape=target.shape, colour=target.colour)
        query = queries.near_miss(pair, self.scene, self.rng, UNSEEN_NOUNS)
        if not query.unknown and not queries.is_held_out(query) and queries.matching(query, self.scene) == []:
            self.add("absent pair", query)


def questions_about(image: int, scene: Scene, unseen_only: bool, rng: np.random.Generator) -> list[Question]:
    """Returns questions of several kinds about a scene; with `unseen_only` only about pairs that training never shows.

    image: index of the scene's image.
    """
    questions = SceneQuestions(image, scene, rng)
    for position in rng.permutation(len(scene.objects)):
        target = scene.objects[position]
        if unseen_only:
            questions.ask_unseen(target)
        else:
            questions.ask_present(target)
            questions.ask_absent(target)
    return list(questions.by_kind.values())


def build_evaluation_set(
    images: int, seed: int, draw: Callable[[np.random.Generator, SceneOptions], Scene] = draw_scene
) -> EvaluationSet:
    """Returns `images` scenes with questions. A quarter are about pairs that training never shows."""
    rng = np.random.default_rng(seed)
    drawn: list[NDArray[np.uint8]] = []
    questions: list[Question] = []
    while len(drawn) < images:
        unseen_only = len(drawn) % 4 == 3
        scene = draw(rng, SceneOptions(held_out=unseen_only, only_held_out=unseen_only))
        if scene.objects:
            questions += questions_about(len(drawn), scene, unseen_only, rng)
            drawn.append(scene.image)
    return EvaluationSet(tuple(drawn), tuple(questions))


def preprocess(image: NDArray[np.uint8], side: int = 224) -> NDArray[np.float32]:
    """Returns the image as the model's processor does: float32 (3, side, side), normalised, bilinear by PIL."""
    square = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(highlight.normalised(np.asarray(square)).transpose(2, 0, 1))


@torch.inference_mode()
def predict(
    model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, evaluation_set: EvaluationSet
) -> list[Tensor]:
    """Returns a soft map for each question: float32 of its image's size, in [0, 1]."""
    was_training, soft_maps = model.training, []
    model.eval()
    device, dtype = model.device, model.dtype
    for index, image in enumerate(evaluation_set.images):
        questions = [question for question in evaluation_set.questions if question.image == index]
        if not questions:
            continue
        batch = torch.from_numpy(preprocess(image))[None].to(device, dtype)
        vision = model.clip.vision_model(batch, output_hidden_states=True)
        states = [vision.hidden_states[layer + 1].expand(len(questions), -1, -1) for layer in model.extract_layers]
        embeddings = []
        for question in questions:
            if question.exemplar is None:
                ids = tokenizer([question.text], return_tensors="pt").input_ids.to(device)
                embeddings.append(model.clip.get_text_features(ids).pooler_output[0])
            else:
                exemplar = torch.from_numpy(question.exemplar).permute(2, 0, 1)[None].to(device, dtype)
                embeddings.append(model.clip.get_image_features(exemplar).pooler_output[0])
        logits = model.decoder(states, torch.stack(embeddings)).logits[:, None].float()
        size = image.shape[:2]
        soft_maps += list(torch.nn.functional.interpolate(logits.sigmoid(), size, mode="bilinear")[:, 0].cpu())
    model.train(was_training)
    return soft_maps


def score(soft_maps: list[Tensor], evaluation_set: EvaluationSet, threshold: float = 0.5) -> dict[str, float]:
    """Returns the mean IoU of each kind of question, rounded to 3 digits; for absent kinds the share of empty masks."""
    scores: dict[str, list[float]] = {}
    for soft_map, question in zip(soft_maps, evaluation_set.questions, strict=True):
        mask, expected = soft_map.numpy() > threshold, question.ground_truth
        if question.kind.startswith("absent"):
            value = float(not mask.any())
        else:
            value = float((mask & expected).sum() / max(1, (mask | expected).sum()))
        scores.setdefault(question.kind, []).append(value)
    return {kind: round(float(np.mean(values)), 3) for kind, values in sorted(scores.items())}
