"""What is asked of a scene, in words, and which of its things the words denote.

A phrase denotes all things that match it. Each attribute of a thing matches, does not match, or is in doubt
(a middling size, a place near the middle, a pattern's second colour); a phrase that leaves any thing of the scene
in doubt is not asked of that scene.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shapes import vocabulary as voc
from shapes.world import Scene, Thing

SMALL, LARGE = 0.19, 0.3  # extents: at most small, at least large; in doubt between
LOW, HIGH = 0.4, 0.6  # centres: at most left or top, at least right or bottom; in doubt between


@dataclass(frozen=True)
class Query:
    """Wanted attributes; None where anything goes. `stranger` is a word for something the world does not hold."""

    shape: str | None = None
    colour: str | None = None
    pattern: str | None = None
    size: str | None = None
    place: str | None = None
    stranger: str | None = None

    @property
    def kind(self) -> str:
        """The attributes it names, joined by '+': the key under which scores are reported."""
        if self.stranger:
            return "stranger"
        named = ("colour", "shape", "pattern", "size", "place")
        return "+".join(part for part in named if getattr(self, part)) or "anything"


def matches(query: Query, thing: Thing) -> bool | None:
    """Whether `thing` is meant: True, False, or None where that is in doubt."""
    if query.stranger or (query.shape and query.shape != thing.shape):
        return False
    doubt = False
    if query.colour and query.colour != thing.colour:
        if query.colour != thing.second:
            return False
        doubt = True
    if query.pattern and query.pattern != thing.pattern:
        return False
    if query.size:
        wanted, other = (thing.extent >= LARGE, thing.extent <= SMALL)
        if query.size == "small":
            wanted, other = other, wanted
        if other:
            return False
        doubt = doubt or not wanted
    if query.place:
        along = thing.x if query.place in ("left", "right") else thing.y
        if query.place in ("right", "bottom"):
            along = 1 - along
        if along >= HIGH:
            return False
        doubt = doubt or along > LOW
    return None if doubt else True


def denoted(query: Query, scene: Scene) -> list[int] | None:
    """The indices of the things that `query` means, empty if none; None if a thing of the scene is in doubt."""
    answers = [matches(query, thing) for thing in scene.things]
    if any(answer is None for answer in answers):
        return None
    return [index for index, answer in enumerate(answers) if answer]


def truth(indices: list[int], owners: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The seen pixels of the given things: bool (H, W)."""
    table = np.zeros(256, bool)
    table[[index + 1 for index in indices]] = True
    return np.asarray(table[owners])


def is_held_out(query: Query) -> bool:
    """Whether the query names a pair that training must not name."""
    return (query.shape, query.colour) in voc.HELD_OUT_PAIRS


def pick(forms: tuple[str, ...], rng: np.random.Generator) -> str:
    """The plain form in most cases, else any of the others."""
    return forms[0] if len(forms) == 1 or rng.random() < 0.65 else forms[int(rng.integers(len(forms)))]


def place_words(place: str, rng: np.random.Generator) -> str:
    """'on the left', 'at the top', and their variants."""
    if rng.random() < 0.75:
        return f"{'on' if place in ('left', 'right') else 'at'} the {place}"
    tail = " side" if place in ("left", "right") and rng.random() < 0.5 else ""
    return f"{('on', 'at', 'in')[int(rng.integers(3))]} the {place}{tail}"


def wording(query: Query, rng: np.random.Generator) -> str:
    """One of the ways to say the query in English."""
    adjectives = [pick(table[word], rng) for table, word in (
        (voc.SIZE_WORDS, query.size), (voc.PATTERN_WORDS, query.pattern), (voc.COLOUR_WORDS, query.colour),
    ) if word]  # fmt: skip
    if len(adjectives) > 1 and rng.random() < 0.25:
        adjectives = [adjectives[i] for i in rng.permutation(len(adjectives))]
    noun = query.stranger or (pick(voc.SHAPE_WORDS[query.shape], rng) if query.shape else "")
    place = place_words(query.place, rng) if query.place else ""
    if not noun and adjectives and rng.random() < 0.35:
        head = "everything " if rng.random() < 0.5 else ""
        text = head + " ".join(adjectives)
    elif not noun and not adjectives and rng.random() < 0.3:
        text = "everything"
    else:
        noun = noun or voc.GENERAL_WORDS[int(rng.integers(len(voc.GENERAL_WORDS)))]
        draw = rng.random()
        if draw < 0.15 and not query.stranger:
            noun = voc.plural(noun)
            adjectives = ["all", *adjectives] if rng.random() < 0.4 else adjectives
            article = ""
        else:
            first = (adjectives[0] if adjectives else noun)[0]
            article = ("a", "the", "", "every")[int(rng.choice(4, p=(0.45, 0.3, 0.23, 0.02)))]
            article = "an" if article == "a" and first in "aeiou" else article
        text = " ".join(word for word in (article, *adjectives, noun) if word)
    text = f"{text} {place}".strip()
    return voc.FRAMES[int(rng.integers(1, len(voc.FRAMES)))].format(text) if rng.random() < 0.12 else text


def about(thing: Thing, rng: np.random.Generator) -> Query:
    """A query that means `thing` where nothing is in doubt, of a random degree of detail."""
    draw = rng.random()
    parts = {"shape": thing.shape, "colour": thing.colour}
    if draw < 0.15:
        parts.pop("colour")
    elif draw < 0.4:
        parts.pop("shape")
    elif draw < 0.42:
        parts = {}
    size = "large" if thing.extent >= LARGE else "small" if thing.extent <= SMALL else None
    nearness = {"left": thing.x, "right": 1 - thing.x, "top": thing.y, "bottom": 1 - thing.y}
    places = [place for place, away in nearness.items() if away <= LOW]
    extra = rng.random(3)
    return Query(
        **parts,
        pattern=thing.pattern if extra[0] < (0.15 if thing.pattern != "plain" else 0.05) else None,
        size=size if extra[1] < 0.08 else None,
        place=places[int(rng.integers(len(places)))] if places and extra[2] < 0.08 else None,
    )


def other(choices: tuple[str, ...], than: str | None, rng: np.random.Generator) -> str:
    """One of the choices that is not `than`."""
    rest = [choice for choice in choices if choice != than]
    return rest[int(rng.integers(len(rest)))]


def stranger(rng: np.random.Generator, words: tuple[str, ...] = voc.STRANGERS) -> str:
    """A word outside the world: an English noun, or a run of letters."""
    if rng.random() < 0.8:
        return words[int(rng.integers(len(words)))]
    letters = rng.integers(97, 123, int(rng.integers(2, 10))).astype(np.uint8)
    return letters.tobytes().decode()


def against(query: Query, scene: Scene, rng: np.random.Generator, words: tuple[str, ...] = voc.STRANGERS) -> Query:
    """A near miss of `query`: one attribute changed, often to that of another thing, or a noun the world lacks."""
    draw = rng.random()
    if draw < 0.15:
        return Query(
            colour=query.colour if rng.random() < 0.35 else None, size=query.size, stranger=stranger(rng, words)
        )
    change = [part for part in ("shape", "colour", "pattern", "size", "place") if getattr(query, part)] or ["shape"]
    heavy = np.array([3.0 if part in ("shape", "colour") else 1.5 for part in change])
    part = change[int(rng.choice(len(change), p=heavy / heavy.sum()))]
    table = {
        "shape": voc.SHAPES,
        "colour": voc.COLOURS,
        "pattern": voc.PATTERNS,
        "size": voc.SIZES,
        "place": voc.PLACES,
    }
    new = other(table[part], getattr(query, part), rng)
    if part in ("shape", "colour") and scene.things and rng.random() < 0.5:
        new = getattr(scene.things[int(rng.integers(len(scene.things)))], part)
    values = {name: getattr(query, name) for name in table} | {part: new}
    return Query(**values)
