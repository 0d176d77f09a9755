"""Drawn data in PhraseCut's layout, and the bundled model's towers as a plain CLIP.

OUT/VGPhraseCut_v0/   refer_train.json, refer_test.json, image_data_split.json, images/<id>.jpg
OUT/clip/             vision and text tower in transformers' layout for CLIP, without a decoder

Phrases are worded as in PhraseCut, without articles and by many people: "large striped star on the left", "big discs".
Each is true of its image and not ambiguous. The pairs of shape and colour that the bundled model never saw in training
are neither drawn nor named.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from clipseg_cli.masks import outline
from shapes import queries
from shapes import vocabulary as voc
from shapes.evaluate import MODEL
from shapes.scenes import Scene, draw_scene

SEEDS = {"train": 9_000_011, "test": 9_500_021}
QUALITY = 95  # of the JPEG files
MIN_PIXELS = 30  # of what a phrase means


def write_phrasecut(folder: Path, images: dict[str, int]) -> Path:
    """Draws so many images for each split, with the phrases that are true of them. Returns `folder`."""
    (folder / "images").mkdir(parents=True)
    infos: list[dict[str, Any]] = []
    for split, count in images.items():
        rng = np.random.default_rng(SEEDS[split])
        tasks: list[dict[str, Any]] = []
        for _ in range(count):
            scene = draw_scene(rng)
            height, width = scene.instances.shape
            number = len(infos)
            infos.append({"image_id": number, "height": height, "width": width, "split": split})
            pixels = np.ascontiguousarray(scene.image[..., ::-1])
            cv2.imwrite(str(folder / f"images/{number}.jpg"), pixels, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
            for phrase, indices in phrases(scene, rng):
                tasks.append(_task(f"{number}__{len(tasks)}", number, phrase, scene, indices))
        (folder / f"refer_{split}.json").write_text(json.dumps(tasks), "utf-8")
    (folder / "image_data_split.json").write_text(json.dumps(infos), "utf-8")
    return folder


def phrases(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, list[int]]]:
    """Yields phrases about a scene, and the indices of the objects that each means.

    They mean everything, or name an object's shape and colour, each of its attributes alone, or whatever one of the
    bundled model's queries does, in the usual words and in others. So nearly every phrase that is not listed for an
    image is false there.
    """
    seen: set[str] = set()
    for target in scene.objects:
        pair = queries.Query(shape=target.shape, colour=target.colour)
        for query in (queries.Query(), pair, *queries.single(target), queries.query_about(target, rng)):
            indices = queries.matching(query, scene)
            if not indices or queries.is_held_out(query):
                continue
            if queries.ground_truth(indices, scene.instances).sum() >= MIN_PIXELS:
                texts = dict.fromkeys((usual(query), varied(query, len(indices) > 1, rng)))
                yield from ((text, indices) for text in texts if text not in seen)
                seen.update(texts)


def usual(query: queries.Query) -> str:
    """Returns the usual words of a query, without an article: "small red circle at the top", "dotted shape"."""
    if query == queries.Query():
        return "everything"
    words = [query.size, query.pattern, query.colour, query.shape or voc.GENERAL_WORDS[0]]
    place = f"{'on' if query.place in ('left', 'right') else 'at'} the {query.place}" if query.place else None
    return " ".join(word for word in (*words, place) if word)


def varied(query: queries.Query, several: bool, rng: np.random.Generator) -> str:
    """Returns random words of a query, without an article: "tiny red disc in the top", "spotted things".

    several: it means several objects, whose noun may be in the plural.
    """
    tables = ((voc.SIZE_WORDS, query.size), (voc.PATTERN_WORDS, query.pattern), (voc.COLOUR_WORDS, query.colour))
    adjectives = [str(rng.choice(table[value])) for table, value in tables if value]
    noun = str(rng.choice(voc.SHAPE_WORDS[query.shape] if query.shape else voc.GENERAL_WORDS))
    if query == queries.Query():
        return f"all {voc.plural(noun)}"
    noun = voc.plural(noun) if several and rng.random() < 0.5 else noun
    place = queries.place_phrase(query.place, rng) if query.place else ""
    return " ".join((*adjectives, noun, place)).rstrip()


def _task(name: str, image: int, phrase: str, scene: Scene, indices: list[int]) -> dict[str, Any]:
    """Returns a row of refer_*.json. Each object is an instance with a polygon per visible component."""
    masks = [queries.ground_truth([index], scene.instances).view(np.uint8) * np.uint8(255) for index in indices]
    return {
        "task_id": name,
        "image_id": image,
        "phrase": phrase,
        "instance_boxes": [list(cv2.boundingRect(mask)) for mask in masks],
        "Polygons": [[ring.tolist() for ring in _rings(mask)] for mask in masks],
    }


def _rings(mask: NDArray[np.uint8]) -> Iterator[NDArray[np.int32]]:
    """Yields one polygon per component of a mask of 0 and 255.

    PhraseCut has no holes. So a polygon with a hole goes to the hole, around it, and back along the same line.
    """
    for component in outline.centres(mask):
        parts = [component.outer]
        for hole in component.holes:
            parts += [component.outer[:1], hole, hole[:1]]
        yield np.concatenate(parts)


def write_clip(folder: Path) -> Path:
    """Writes the bundled model's two towers as transformers saves a CLIP. Returns `folder`."""
    config = json.loads((MODEL / "config.json").read_text("utf-8"))
    parts = {name: config[name] for name in ("text_config", "vision_config", "projection_dim")}
    for name in ("text_config", "vision_config"):
        parts[name].pop("model_type")
    clip = CLIPModel(CLIPConfig(**parts))
    prefix = "clip."
    tensors = load_file(MODEL / "model.safetensors")
    towers = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    clip.load_state_dict(towers)
    clip.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(MODEL / name, folder / name)
    images = json.loads((MODEL / "preprocessor_config.json").read_text("utf-8"))
    images["image_processor_type"] = "CLIPImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(images), "utf-8")
    return folder
