"""What to look for: text prompts, expressions and exemplars, as the user wrote them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from clipseg_cli.errors import UsageError
from clipseg_cli.prompts.recipes import RECIPES
from clipseg_cli.settings.flag import Flag

RECIPE = "crop-blur-dim"  # the paper's best visual prompt: table 2


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """Text prompts, expressions, exemplars and saved embeddings; `run.query` builds a Query from them."""

    PANEL: ClassVar[str] = "Prompts"

    prompt: Annotated[
        tuple[str, ...],
        Flag(
            "What to find, in words. cat='a fluffy cat' gives it the label cat. Repeatable.",
            ("--prompt", "-p"),
            "[LABEL=]TEXT",
        ),
    ] = ()
    prompts_file: Annotated[
        str | None,
        Flag(
            "Read prompts from a file: one per line, or .csv or .toml with label, text, threshold.",
            ("--prompts-file", "-P"),
            "FILE",
        ),
    ] = None
    expr: Annotated[
        tuple[str, ...],
        Flag("Combine prompts with AND, OR, NOT and ( ): 'cat AND NOT collar'. Repeatable.", metavar="[LABEL=]EXPR"),
    ] = ()
    support: Annotated[
        tuple[str, ...],
        Flag("Exemplar: an image, or a folder of images, that shows the object. Repeatable.", metavar="[LABEL=]IMG"),
    ] = ()
    support_mask: Annotated[
        tuple[str, ...],
        Flag(
            "Mask of the exemplar's object, bright on dark. Repeatable: one per exemplar, in order.",
            metavar="IMG",
            default="NAME_mask.png beside the exemplar",
        ),
    ] = ()
    support_box: Annotated[
        tuple[str, ...],
        Flag(
            "Box of the exemplar's object, in pixels: 40,30,200,180. Repeatable: one per exemplar, in order.",
            metavar="X,Y,W,H",
        ),
    ] = ()
    support_prompt: Annotated[
        str | None, Flag("Text prompt that finds the object in exemplars without mask or box.", metavar="TEXT")
    ] = None
    embedding: Annotated[
        tuple[str, ...],
        Flag(
            "Use the embeddings and labels in this file of `clipseg embed`; - is stdin. Repeatable.", metavar="FILE|-"
        ),
    ] = ()
    template: Annotated[
        tuple[str, ...],
        Flag(
            "Put each text prompt into this sentence. Repeatable: the embeddings are averaged.",
            metavar="'a photo of a {}'",
            panel="Advanced",
        ),
    ] = ()
    highlight: Annotated[
        str,
        Flag(
            f"How to show an exemplar's object to the model: {', '.join(RECIPES)}.",
            metavar="RECIPE",
            panel="Advanced",
        ),
    ] = RECIPE
    mix: Annotated[
        float,
        Flag(
            "Weight of the text prompt, 0 to 1, if a label has both text and exemplars.",
            low=0.0,
            high=1.0,
            panel="Advanced",
        ),
    ] = 0.5
    show_exemplar: Annotated[
        str | None,
        Flag("Write the exemplars as the model sees them to this PNG.", metavar="FILE.png", panel="Advanced"),
    ] = None

    def __post_init__(self) -> None:
        if self.highlight not in RECIPES:
            raise UsageError(f"--highlight {self.highlight}: no such recipe; choose from {', '.join(RECIPES)}")
