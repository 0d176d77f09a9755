"""How a decoder is trained on the user's data."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.settings.flag import Flag

Named = Literal["short", "new", "paper"]
Augment = Literal["auto", "on", "off"]


def layers(text: str) -> tuple[int, ...]:
    """Returns the numbers of a list like `3,6,9`. Raises UsageError for anything else."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--extract-layers {text}: give layers of the vision tower, counted from 0, like 3,6,9")
    return tuple(map(int, parts))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a decoder is trained. The defaults go on from a trained decoder; `RECIPES` has those of the other recipes."""

    PANEL: ClassVar[str] = "Training"

    recipe: Annotated[
        Named,
        Flag(
            "short: a trained decoder goes on; features are computed once. new: the same for random weights, which "
            "learn faster so. paper: random crops, for large data such as PhraseCut; best on a GPU.",
            default="short; with --from-clip, new",
        ),
    ] = "short"
    steps: Annotated[
        int,
        Flag(
            "Largest number of steps; training stops earlier if nothing improves.",
            metavar="N",
            low=1,
            default="2000; new: 10000; paper: 20000",
        ),
    ] = 2000
    batch: Annotated[
        int, Flag("Examples per step.", ("--batch-size", "-b"), "N", low=1, default="32; new: 16; paper: 64")
    ] = 32
    rate: Annotated[
        float,
        Flag(
            "First learning rate of AdamW; it falls to a tenth on a cosine schedule, or to nothing with new.",
            low=0,
            default="0.001; new: 0.0008",
        ),
    ] = 1e-3
    absent: Annotated[
        float,
        Flag(
            "Share of examples with a prompt for an absent object and an empty mask, 0 to 1.",
            low=0,
            high=1,
            default="0.2; new: 0.4",
        ),
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
        Flag(
            "Steps between two checks on the held-out images.", metavar="N", low=1, default="100; new: 500; paper: 500"
        ),
    ] = 100
    patience: Annotated[
        int,
        Flag(
            "Stop after this many checks without a better score.", metavar="N", low=1, default="10; new: 20; paper: 40"
        ),
    ] = 10
    replay_weight: Annotated[
        float, Flag("Weight of the loss on replayed prompts; new prompts have weight 1.", low=0)
    ] = 1.0
    seed: Annotated[int, Flag("Seed of the training; the same seed gives the same weights.", metavar="N", low=0)] = 0

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Returns the values that the named recipe sets, by field name. Options that are given go before them."""
        named = given.get("recipe") or ("new" if given.get("from_clip") else "short")
        return {"recipe": named} | RECIPES[named]

    @property
    def is_new(self) -> bool:
        """Whether the decoder has random weights, and the recipe is made for them."""
        return self.recipe == "new"

    def rate_of(self, step: int) -> float:
        """Returns the learning rate of a step, counted from 0. It falls to a tenth, as in the paper's training.

        With random weights it rises over the first steps, and then falls to nothing in a straight line.
        """
        if self.is_new:
            rise = max(1, min(RISE, self.steps // 10))
            return self.rate * (1 - step / self.steps) * min(1.0, (step + 1) / rise)
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.rate * (0.1 + 0.9 * cosine)


# rd64-uni of the authors' experiments/phrasecut.yaml (timojl/clipseg at 77c4e2d). They made no checks during training.
PAPER: dict[str, Any] = {"steps": 20_000, "batch": 64, "blend": 1.0, "check": 500, "patience": 40}
NEW: dict[str, Any] = {"steps": 10_000, "batch": 16, "rate": 8e-4, "absent": 0.4, "check": 500, "patience": 20}
RECIPES: dict[str, dict[str, Any]] = {"short": {}, "new": NEW, "paper": PAPER}
RISE = 100  # steps at most, in which the rate of a new decoder rises


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
    feedforward: Annotated[
        int, Flag("Channels between the two layers of each MLP in the new decoder.", metavar="N", low=1)
    ] = 2048
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
