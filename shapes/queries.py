"""Queries about scenes: their attributes, their wording as prompts, and the objects that match them.

A prompt means all objects that match its query. An object matches, does not match, or is ambiguous: its size is
medium, it lies near the middle, or only the second colour of its pattern matches. A query that is ambiguous for any
object of a scene has no ground truth there and is not used with that scene.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapes import vocabulary as voc
from shapes.scenes import Scene, SceneObject

SMALL, LARGE = 0.19, 0.3  # extents: small up to the first, large from the second, ambiguous between them
LOW, HIGH = 0.4, 0.6  # centres: left or top up to the first, right or bottom from the second, ambiguous between them
VALUES = {
    "shape": voc.SHAPES,
    "colour": voc.COLOURS,
    "pattern": voc.PATTERNS,
    "size": voc.SIZES,
    "place": voc.PLACES,
}


@dataclass(frozen=True)
class Query:
    """The attributes that an object must have; None for any. unknown: a noun that no object of a scene matches."""

    shape: str | None = None
    colour: str | None = None
    pattern: str | None = None
    size: str | None = None
    place: str | None = None
    unknown: str | None = None


def matches(query: Query, candidate: SceneObject) -> bool | None:
    """Returns whether the query means the object: True, False, or None if that is ambiguous."""
    if query.unknown or (query.shape and query.shape != candidate.shape):
        return False
    ambiguous = False
    if query.colour and query.colour != candidate.colour:
        if query.colour != candidate.second:
            return False
        ambiguous = True
    if query.pattern and query.pattern != candidate.pattern:
        return False
    if query.size:
        agrees, contradicts = (candidate.extent >= LARGE, candidate.extent <= SMALL)
        if query.size == "small":
            agrees, contradicts = contradicts, agrees
        if contradicts:
            return False
        ambiguous = ambiguous or not agrees
    if query.place:
        along = candidate.x if query.place in ("left", "right") else candidate.y
        if query.place in ("right", "bottom"):
            along = 1 - along
        if along >= HIGH:
            return False
        ambiguous = ambiguous or along > LOW
    return None if ambiguous else True


def matching(query: Query, scene: Scene) -> list[int] | None:
    """Returns the indices of the objects that match; None if the query is ambiguous for any object of the scene."""
    answers = [matches(query, candidate) for candidate in scene.objects]
    if any(answer is None for answer in answers):
        return None
    return [index for index, answer in enumerate(answers) if answer]


def ground_truth(indices: list[int], instances: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns the visible pixels of the objects with these indices: bool (H, W)."""
    selected = np.zeros(256, bool)
    selected[[index + 1 for index in indices]] = True
    return np.asarray(selected[instances])


def is_held_out(query: Query) -> bool:
    """Returns whether the query names a pair of shape and colour that training must not name."""
    return (query.shape, query.colour) in voc.HELD_OUT_PAIRS


def synonym(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """Returns the first word in most cases, else a random one."""
    return words[0] if len(words) == 1 or rng.random() < 0.65 else words[int(rng.integers(len(words)))]


def place_phrase(place: str, rng: np.random.Generator) -> str:
    """Returns 'on the left', 'at the top' or a variant."""
    if rng.random() < 0.75:
        return f"{'on' if place in ('left', 'right') else 'at'} the {place}"
    tail = " side" if place in ("left", "right") and rng.random() < 0.5 else ""
    return f"{('on', 'at', 'in')[int(rng.integers(3))]} the {place}{tail}"


def as_prompt(query: Query, rng: np.random.Generator) -> str:
    """Returns a random wording of the query in English."""
    adjectives = [synonym(table[word], rng) for table, word in (
        (voc.SIZE_WORDS, query.size), (voc.PATTERN_WORDS, query.pattern), (voc.COLOUR_WORDS, query.colour),
    ) if word]  # fmt: skip
    if len(adjectives) > 1 and rng.random() < 0.25:
        adjectives = [adjectives[i] for i in rng.permutation(len(adjectives))]
    noun = query.unknown or (synonym(voc.SHAPE_WORDS[query.shape], rng) if query.shape else "")
    place = place_phrase(query.place, rng) if query.place else ""
    if not noun and adjectives and rng.random() < 0.35:
        head = "everything " if rng.random() < 0.5 else ""
        text = head + " ".join(adjectives)
    elif not noun and not adjectives and rng.random() < 0.3:
        text = "everything"
    else:
        text = noun_phrase(noun, adjectives, query.unknown is not None, rng)
    text = f"{text} {place}".strip()
    return voc.TEMPLATES[int(rng.integers(1, len(voc.TEMPLATES)))].format(text) if rng.random() < 0.12 else text


def noun_phrase(noun: str, adjectives: list[str], unknown: bool, rng: np.random.Generator) -> str:
    """Returns article, adjectives and noun; "" for `noun` stands for any object. An unknown noun has no plural."""
    noun = noun or voc.GENERAL_WORDS[int(rng.integers(len(voc.GENERAL_WORDS)))]
    draw = rng.random()
    if draw < 0.15 and not unknown:
        noun = voc.plural(noun)
        adjectives = ["all", *adjectives] if rng.random() < 0.4 else adjectives
        article = ""
    else:
        first = (adjectives[0] if adjectives else noun)[0]
        article = ("a", "the", "", "every")[int(rng.choice(4, p=(0.45, 0.3, 0.23, 0.02)))]
        article = "an" if article == "a" and first in "aeiou" else article
    return " ".join(word for word in (article, *adjectives, noun) if word)


def size_of(target: SceneObject) -> str | None:
    """Returns the word for the object's size; None for medium."""
    return "large" if target.extent >= LARGE else "small" if target.extent <= SMALL else None


def places_of(target: SceneObject) -> list[str]:
    """Returns the sides of the image on which the object is."""
    distances = {"left": target.x, "right": 1 - target.x, "top": target.y, "bottom": 1 - target.y}
    return [place for place, distance in distances.items() if distance <= LOW]


def single(target: SceneObject) -> list[Query]:
    """Returns the queries that name one attribute of `target`. They may be ambiguous in the scene."""
    size = size_of(target)
    named = [Query(shape=target.shape), Query(colour=target.colour), Query(pattern=target.pattern)]
    return [*named, *([Query(size=size)] if size else []), *(Query(place=place) for place in places_of(target))]


def query_about(target: SceneObject, rng: np.random.Generator) -> Query:
    """Returns a query that means `target`, with a random number of attributes. It may be ambiguous in the scene."""
    draw = rng.random()
    attributes = {"shape": target.shape, "colour": target.colour}
    if draw < 0.15:
        attributes.pop("colour")
    elif draw < 0.4:
        attributes.pop("shape")
    elif draw < 0.42:
        attributes = {}
    size, places = size_of(target), places_of(target)
    extra = rng.random(3)
    return Query(
        **attributes,
        pattern=target.pattern if extra[0] < (0.15 if target.pattern != "plain" else 0.05) else None,
        size=size if extra[1] < 0.08 else None,
        place=places[int(rng.integers(len(places)))] if places and extra[2] < 0.08 else None,
    )


def choice_except(choices: tuple[str, ...], excluded: str | None, rng: np.random.Generator) -> str:
    """Returns a random choice other than `excluded`."""
    rest = [choice for choice in choices if choice != excluded]
    return rest[int(rng.integers(len(rest)))]


def unknown_noun(rng: np.random.Generator, nouns: tuple[str, ...] = voc.UNKNOWN_NOUNS) -> str:
    """Returns one of `nouns` or, in a fifth of the cases, random letters."""
    if rng.random() < 0.8:
        return nouns[int(rng.integers(len(nouns)))]
    letters = rng.integers(97, 123, int(rng.integers(2, 10))).astype(np.uint8)
    return letters.tobytes().decode()


def near_miss(
    query: Query, scene: Scene, rng: np.random.Generator, nouns: tuple[str, ...] = voc.UNKNOWN_NOUNS
) -> Query:
    """Returns the query with one attribute changed, often to that of another object, or with an unknown noun."""
    draw = rng.random()
    if draw < 0.15:
        return Query(
            colour=query.colour if rng.random() < 0.35 else None, size=query.size, unknown=unknown_noun(rng, nouns)
        )
    named = [attribute for attribute in VALUES if getattr(query, attribute)] or ["shape"]
    weights = np.array([3.0 if attribute in ("shape", "colour") else 1.5 for attribute in named])
    changed = named[int(rng.choice(len(named), p=weights / weights.sum()))]
    value = choice_except(VALUES[changed], getattr(query, changed), rng)
    if changed in ("shape", "colour") and scene.objects and rng.random() < 0.5:
        value = getattr(scene.objects[int(rng.integers(len(scene.objects)))], changed)
    return Query(**{attribute: getattr(query, attribute) for attribute in VALUES} | {changed: value})
