"""How a decoder is trained on the user's data."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag

Named = Literal["short", "paper"]
Augment = Literal["auto", "on", "off"]


def layers(text: str) -> tuple[int, ...]:
    """Returns the numbers of a list like `3,6,9`. Raises UsageError for anything else."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--extract-layers {text}: give layers of the vision tower, counted from 0, like 3,6,9")
    return tuple(map(int, parts))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a decoder is trained. The defaults are for small data sets; `PAPER` is the paper's recipe for PhraseCut."""

    PANEL: ClassVar[str] = "Training"

    recipe: Annotated[
        Named,
        Flag(
            "short: features are computed once, for small data sets. paper: random crops, for large data such as "
            "PhraseCut; best on a GPU."
        ),
    ] = "short"
    steps: Annotated[
        int,
        Flag(
            "Largest number of steps; training stops earlier if nothing improves.",
            metavar="N",
            low=1,
            default="2000; paper: 20000",
        ),
    ] = 2000
    batch: Annotated[int, Flag("Examples per step.", ("--batch-size", "-b"), "N", low=1, default="32; paper: 64")] = 32
    rate: Annotated[float, Flag("First learning rate of AdamW; it falls to a tenth on a cosine schedule.", low=0)] = (
        1e-3
    )
    absent: Annotated[
        float,
        Flag("Share of examples with a prompt for an absent object and an empty mask, 0 to 1.", low=0, high=1),
    ] = 0.2
    blend: Annotated[
        float,
        Flag(
            "Share of examples whose prompt is blended with an exemplar of the object, 0 to 1.",
            low=0,
            high=1,
            default="0.5; paper: 1",
        ),
    ] = 0.5
    augment: Annotated[
        Augment,
        Flag(
            "Also learn from random views of the images: cropped, scaled, mirrored, in another light.",
            default="auto, which is on for fewer than 500 images",
        ),
    ] = "auto"
    hold: Annotated[float, Flag("Share of the images held out for the checks, 0 to 0.9.", low=0, high=0.9)] = 0.1
    check: Annotated[
        int,
        Flag("Steps between two checks on the held-out images.", metavar="N", low=1, default="100; paper: 500"),
    ] = 100
    patience: Annotated[
        int,
        Flag("Stop after this many checks without a better score.", metavar="N", low=1, default="10; paper: 40"),
    ] = 10
    replay_weight: Annotated[
        float, Flag("Weight of the loss on replayed prompts; new prompts have weight 1.", low=0)
    ] = 1.0
    seed: Annotated[int, Flag("Seed of the training; the same seed gives the same weights.", metavar="N", low=0)] = 0

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Returns the values that the named recipe sets, by field name. Options that are given go before them."""
        return dict(PAPER) if given.get("recipe") == "paper" else {}

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step: a tenth of the first, as in the paper's training."""
        return self.rate / 10


# rd64-uni of the authors' experiments/phrasecut.yaml (timojl/clipseg at 77c4e2d). They made no checks during training.
PAPER: dict[str, Any] = {"steps": 20_000, "batch": 64, "blend": 1.0, "check": 500, "patience": 40}


@dataclass(frozen=True, slots=True)
class NewDecoder:
    """A new decoder for a plain CLIP, which is trained in place of the decoder of --model."""

    PANEL: ClassVar[str] = "Decoder"

    from_clip: Annotated[
        str | None,
        Flag("Train a new decoder for this CLIP: a Hugging Face id, or a directory. Replaces --model.", metavar="CLIP"),
    ] = None
    reduce_dim: Annotated[int, Flag("Channels of the new decoder, a multiple of 4.", metavar="N", low=4)] = 64
    extract_layers: Annotated[
        tuple[int, ...],
        Flag(
            "Vision layers that the new decoder reads, counted from 0.",
            metavar="3,6,9",
            parse=layers,
            default="at 1/4, 2/4 and 3/4 of the depth",
        ),
    ] = ()
    refined: Annotated[bool, Flag("Give the new decoder finer upsampling. Needs a patch of 16 pixels.")] = False
    side: Annotated[
        int | None,
        Flag(
            "Side of the new model's square input, in pixels.",
            ("--size",),
            "PX",
            low=1,
            default="352, or the nearest multiple of the patch",
        ),
    ] = None
