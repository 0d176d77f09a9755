"""How a decoder is trained on the user's data."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from clipseg_cli.settings.flag import Flag


@dataclass(frozen=True, slots=True)
class Recipe:
    """The paper's settings, with fewer steps and smaller batches for smaller data sets."""

    PANEL: ClassVar[str] = "Training"

    steps: Annotated[
        int, Flag("Largest number of steps; training stops earlier if nothing improves.", metavar="N", low=1)
    ] = 2000
    batch: Annotated[int, Flag("Examples per step.", ("--batch-size", "-b"), "N", low=1)] = 32
    rate: Annotated[float, Flag("First learning rate of AdamW; it falls to a tenth on a cosine schedule.", low=0)] = (
        1e-3
    )
    absent: Annotated[
        float,
        Flag("Share of examples with a prompt for an absent object and an empty mask, 0 to 1.", low=0, high=1),
    ] = 0.2
    blend: Annotated[
        float, Flag("Share of examples whose prompt is blended with an exemplar of the object, 0 to 1.", low=0, high=1)
    ] = 0.5
    hold: Annotated[float, Flag("Share of the images held out for the checks, 0 to 0.9.", low=0, high=0.9)] = 0.1
    check: Annotated[int, Flag("Steps between two checks on the held-out images.", metavar="N", low=1)] = 100
    patience: Annotated[int, Flag("Stop after this many checks without a better score.", metavar="N", low=1)] = 10
    replay_weight: Annotated[
        float, Flag("Weight of the loss on replayed prompts; new prompts have weight 1.", low=0)
    ] = 1.0
    seed: Annotated[int, Flag("Seed of the training; the same seed gives the same weights.", metavar="N", low=0)] = 0

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step: a tenth of the first, as in the paper's training."""
        return self.rate / 10
