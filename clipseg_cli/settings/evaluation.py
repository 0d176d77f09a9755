"""How predictions are scored, and which of the paper's evaluations runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from clipseg_cli.settings.flag import Flag, local_path

Classes = Literal["images", "labels"]  # what a mean IoU averages over
Score = Literal["miou", "iou_fg"]  # the score that a threshold maximises
Protocol = Literal["phrasecut", "pascal-5i", "pascal-5i-text", "coco-20i", "pascal-zero-shot"]  # the paper's


@dataclass(frozen=True, slots=True)
class ProtocolOptions:
    """Which of the paper's evaluations runs, and on which samples."""

    PANEL: ClassVar[str] = "Protocol"

    protocol: Annotated[Protocol, Flag("The evaluation to repeat.", argument=True)]
    data: Annotated[
        Path, Flag("Folder of the data set; see docs/protocols.md.", metavar="DATA", parse=local_path, argument=True)
    ]
    folds: Annotated[
        tuple[int, ...],
        Flag("Only this fold of pascal-5i or coco-20i, 0 to 3. Repeatable.", ("--fold",), "N", 0, 3, default="all"),
    ] = (0, 1, 2, 3)
    split: Annotated[str, Flag("Split of phrasecut: test, val or miniv.")] = "test"
    seed: Annotated[int, Flag("Seed for the random choice of support images.", metavar="N", low=0)] = 0
    limit: Annotated[int | None, Flag("Only the first N samples of each fold.", metavar="N", low=1)] = None
