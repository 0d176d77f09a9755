"""How a decoder is fitted to a user's data."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from clipseg_cli.settings.flag import Flag


@dataclass(frozen=True, slots=True)
class Recipe:
    """The paper's numbers, with fewer and smaller steps for smaller data."""

    PANEL: ClassVar[str] = "Training"

    steps: Annotated[int, Flag("Most steps; training ends earlier when nothing improves.", metavar="N", low=1)] = 2000
    batch: Annotated[int, Flag("Examples per step.", ("--batch-size", "-b"), "N", low=1)] = 32
    rate: Annotated[float, Flag("First learning rate of AdamW; it falls to a tenth along a cosine.", low=0)] = 1e-3
    absent: Annotated[
        float,
        Flag("Share of examples with a prompt for an absent object, and an empty mask.", low=0, high=1),
    ] = 0.2
    blend: Annotated[
        float, Flag("Share of examples whose prompt is blended with an exemplar of the object.", low=0, high=1)
    ] = 0.5
    hold: Annotated[float, Flag("Share of the images held out for the checks.", low=0, high=0.9)] = 0.1
    check: Annotated[int, Flag("Steps between two checks on the held-out images.", metavar="N", low=1)] = 100
    patience: Annotated[int, Flag("Checks without a gain that end the training.", metavar="N", low=1)] = 10
    replay_weight: Annotated[float, Flag("Weight of the loss on replayed prompts; that on new ones is 1.", low=0)] = 1.0
    seed: Annotated[int, Flag("The same seed gives the same weights.", metavar="N", low=0)] = 0

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step: a tenth of the first, as in the paper's training."""
        return self.rate / 10
