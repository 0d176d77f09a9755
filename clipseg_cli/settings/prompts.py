"""What to look for: text prompts, expressions and exemplars, as the user wrote them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from clipseg_cli.settings.flag import Flag

RECIPE = "crop-blur-dim"  # the paper's best visual prompt: table 2


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """Text prompts, expressions, exemplars and saved embeddings; `run.query` makes a Query of them."""

    PANEL: ClassVar[str] = "Prompts"

    prompt: Annotated[
        tuple[str, ...],
        Flag("What to find, in words. label=text names it in the outputs. Repeatable.", ("--prompt", "-p"), "TEXT"),
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
        Flag("An exemplar: an image (or a folder of images) that shows the object. Repeatable.", metavar="[LABEL=]IMG"),
    ] = ()
    support_mask: Annotated[
        tuple[str, ...],
        Flag(
            "The exemplar's object as a mask, bright on dark. Repeatable.",
            metavar="IMG",
            default="NAME_mask.png beside the exemplar",
        ),
    ] = ()
    support_box: Annotated[
        tuple[str, ...], Flag("The exemplar's object as a box, in pixels. Repeatable.", metavar="X,Y,W,H")
    ] = ()
    support_prompt: Annotated[
        str | None, Flag("A text prompt that finds the object in the exemplar.", metavar="TEXT")
    ] = None
    embedding: Annotated[
        tuple[str, ...],
        Flag("Embeddings saved by `clipseg embed`, with their labels; - is stdin. Repeatable.", metavar="FILE|-"),
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
            "How an exemplar's object is shown to the model: crop-blur-dim, dim, mask, blur, blur-dim, crop, outline, "
            "dye or none.",
            metavar="RECIPE",
            panel="Advanced",
        ),
    ] = RECIPE
    mix: Annotated[
        float,
        Flag(
            "Weight of the text prompt, 0 to 1, where a label has both text and exemplars.",
            low=0.0,
            high=1.0,
            panel="Advanced",
        ),
    ] = 0.5
    show_exemplar: Annotated[
        str | None,
        Flag("Write what the model sees of the exemplars to this PNG.", metavar="FILE.png", panel="Advanced"),
    ] = None
