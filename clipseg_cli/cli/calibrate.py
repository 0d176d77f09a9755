"""`clipseg calibrate`: picks thresholds from a few hand-made masks."""

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

from clipseg_cli.cli import streams
from clipseg_cli.cli.evaluate import GroundTruth
from clipseg_cli.cli.status import Debug, Json
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.evaluation import Score
from clipseg_cli.settings.flag import Flag, local_path


def _csv(text: str) -> Path:
    if Path(text).suffix.lower() != ".csv":
        raise UsageError(f"-o {text}: the file must end in .csv, like prompts.csv, so that `segment -P` can read it")
    return Path(text)


def calibrate(
    run: Annotated[
        Path,
        Flag("The output folder of a run with -f soft.", metavar="RUN", parse=local_path, argument=True, panel="Input"),
    ],
    gt: GroundTruth,
    out: Annotated[
        Path | None,
        Flag("Write to this file.", ("--out", "-o"), "FILE.csv", parse=_csv, default="stdout", panel="Output"),
    ] = None,
    score: Annotated[
        Score,
        Flag("Maximise miou (mean over images that show the object) or iou_fg (over all pixels).", panel="Output"),
    ] = "miou",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Picks thresholds from a few hand-made masks.

    Writes a prompts file with a threshold for each label, to use with `segment -P`.

    \b
    Examples:
      clipseg segment photos/ -p cat -p dog -f soft -o out
      clipseg calibrate out masks/ -o prompts.csv
      clipseg segment photos/ -P prompts.csv -o better
    """
    from clipseg_cli.evaluation import calibrate as scores
    from clipseg_cli.storage import store

    rows, notes = scores.calibrate(run, gt, score)
    for line in (*notes, *scores.summary(rows)):
        streams.tell(f"{line}\n")
    if json:
        documents = {row.label: {**asdict(row), "enough": row.enough} for row in rows}
        # JSON has no NaN, which alone differs from itself
        say(dumps({label: {k: None if v != v else v for k, v in each.items()} for label, each in documents.items()}))
    if out is not None:
        store.write(out, scores.prompts_file(rows).encode())
    elif not json:
        say(scores.prompts_file(rows).rstrip("\n"))
