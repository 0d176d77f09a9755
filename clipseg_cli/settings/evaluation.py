"""How predictions are scored, and which of the paper's evaluations is run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from clipseg_cli.settings.flag import Flag, local_path

Classes = Literal["images", "labels"]  # what a mean IoU is the mean of
Score = Literal["miou", "iou_fg"]  # what a threshold is chosen by
Protocol = Literal["phrasecut", "pascal-5i", "pascal-5i-text", "coco-20i", "pascal-zero-shot"]  # the paper's


@dataclass(frozen=True, slots=True)
class ProtocolOptions:
    """Which part of one of the paper's evaluations is run."""

    PANEL: ClassVar[str] = "Protocol"

    protocol: Annotated[Protocol, Flag("Which of the paper's evaluations.", argument=True)]
    data: Annotated[
        Path, Flag("The data set's folder; see docs/protocols.md.", metavar="DATA", parse=local_path, argument=True)
    ]
    folds: Annotated[
        tuple[int, ...],
        Flag("Of pascal-5i and coco-20i: only this fold, 0 to 3. Repeatable.", ("--fold",), "N", 0, 3, default="all"),
    ] = (0, 1, 2, 3)
    split: Annotated[str, Flag("Of phrasecut: test, val or miniv.")] = "test"
    seed: Annotated[int, Flag("Seed of the draw that chooses support images.", metavar="N", low=0)] = 0
    limit: Annotated[int | None, Flag("Only the first N samples of each fold.", metavar="N", low=1)] = None
