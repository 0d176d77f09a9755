"""The words of the synthetic scenes, and the pairs of shape and colour that training never shows."""

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "ring",
    "cross",
    "hexagon",
    "heart",
    "crescent",
    "diamond",
    "arrow",
    "oval",
)
COLOURS = (
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "pink",
    "cyan",
    "brown",
    "white",
    "black",
    "gray",
)
PATTERNS = ("plain", "striped", "dotted", "checkered")
SIZES = ("large", "small")
PLACES = ("left", "right", "top", "bottom")

# Neither drawn nor named in training: they test whether the model composes shape and colour or memorises pairs.
HELD_OUT_PAIRS = frozenset(
    {("star", "purple"), ("heart", "green"), ("ring", "orange"), ("triangle", "cyan"), ("cross", "pink")}
)

# The synonyms of each word; the first is the usual one.
SHAPE_WORDS = {
    "circle": ("circle", "disc", "disk"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring",),
    "cross": ("cross", "plus"),
    "hexagon": ("hexagon",),
    "heart": ("heart",),
    "crescent": ("crescent", "moon"),
    "diamond": ("diamond", "rhombus"),
    "arrow": ("arrow",),
    "oval": ("oval", "ellipse"),
}
PLURALS = {
    "cross": "crosses",
    "plus": "pluses",
    "rhombus": "rhombuses",
}
COLOUR_WORDS = {colour: (colour,) for colour in COLOURS} | {"gray": ("gray", "grey"), "purple": ("purple", "violet")}
PATTERN_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "checked"),
}
SIZE_WORDS = {"large": ("large", "big"), "small": ("small", "tiny")}
GENERAL_WORDS = ("shape", "object", "thing")
TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}")
FUNCTION_WORDS = tuple("a an the on at in of all every everything photo picture image drawing side is that and".split())  # noqa: SIM905

# Nouns of objects that no scene contains. The ground truth of a prompt with one of them is an empty mask.
UNKNOWN_NOUNS = tuple(
    """person man woman child baby face hand dog puppy horse sheep cow elephant bear zebra giraffe bird duck fish
    car truck bus train plane boat bicycle motorcycle wheel road street building house window door roof wall floor
    chair table sofa bed lamp clock vase book phone laptop keyboard screen bottle cup glass plate fork knife spoon
    apple banana carrot pizza cake bread cheese egg tree grass leaf rose cloud sky sun snow water river beach
    mountain rock sand fire shoe shirt hat coat bag umbrella ball kite bench sign light pole fence bridge guitar
    robot dragon ghost castle rocket spoon brush pencil paper box basket rope chain button coin key""".split()  # noqa: SIM905
)
# Unknown nouns that only the evaluation uses.
UNSEEN_NOUNS = tuple(
    """cat flower traffic tiger monkey airplane sandwich orange-juice refrigerator toothbrush skateboard sink
    surfboard wine pillow helmet jacket camera spider violin""".split()  # noqa: SIM905
)


def plural(word: str) -> str:
    """Returns the plural of a noun of the vocabulary."""
    return PLURALS.get(word, word + "s")


def all_words() -> list[str]:
    """Returns, sorted, every word that the tokenizer must encode as one token. Unknown nouns are encoded in bytes."""
    words: set[str] = set(FUNCTION_WORDS) | set(PLACES) | set(GENERAL_WORDS) | {plural(w) for w in GENERAL_WORDS}
    for table in (SHAPE_WORDS, COLOUR_WORDS, PATTERN_WORDS, SIZE_WORDS):
        for forms in table.values():
            words.update(forms)
    words.update(plural(form) for forms in SHAPE_WORDS.values() for form in forms)
    return sorted(words)
