"""`clipseg eval`: scores predictions against ground truth."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipseg_cli.cli import streams
from clipseg_cli.cli.status import Debug, Json
from clipseg_cli.cli.terminal import as_text, say
from clipseg_cli.errors import UsageError
from clipseg_cli.settings.evaluation import Classes
from clipseg_cli.settings.flag import Flag, local_path

if TYPE_CHECKING:
    from clipseg_cli.evaluation.evaluate import Evaluation

GroundTruth = Annotated[
    Path,
    Flag(
        "Ground truth: a folder of masks, a COCO file, or indexed PNGs.",
        metavar="GT",
        parse=local_path,
        argument=True,
        panel="Input",
    ),
]


def _least(text: str) -> tuple[tuple[str, float], ...]:
    from clipseg_cli.evaluation.evaluate import SCORES

    name, _, value = text.rpartition("=")
    try:
        least = float(value)
    except ValueError:
        least = float("nan")
    if not 0 <= least <= 1:  # nan too
        raise UsageError(f"--fail-under {text}: write a number from 0 to 1, like 0.6 or recall=0.8")
    if (name or "miou") not in SCORES:
        raise UsageError(f"--fail-under {text}: no such score; choose from {', '.join(SCORES)}")
    return ((name or "miou", least),)


def evaluate(
    pred: Annotated[
        Path,
        Flag("A run, or a folder of masks.", metavar="PRED", parse=local_path, argument=True, panel="Input"),
    ],
    gt: GroundTruth,
    json: Json = False,
    fail_under: Annotated[
        tuple[tuple[str, float], ...],
        Flag(
            "Exit 1 if a score is below X: 0.6 (for miou) or recall=0.8. Repeatable.",
            metavar="[SCORE=]X",
            parse=_least,
            panel="Output",
        ),
    ] = (),
    curves: Annotated[
        Path | None,
        Flag(
            "Write precision-recall.svg and iou.svg to this folder. Needs soft maps (-f soft).",
            metavar="DIR",
            parse=Path,
            panel="Output",
        ),
    ] = None,
    classes: Annotated[
        Classes,
        Flag("Average miou over all pairs of image and label (images), or over labels (labels).", panel="Output"),
    ] = "images",
    debug: Debug = False,
) -> None:
    """Scores predictions against ground truth.

    Prints the paper's scores, precision, recall, Dice and boundary F, for each label and for all labels together.

    \b
    Examples:
      clipseg segment photos/ -p cat -p dog -f mask -f soft -o out && clipseg eval out gt/
      clipseg eval out gt --json | jq -e '.miou > 0.6'
      clipseg eval masks/ instances.json --fail-under 0.6 --fail-under recall=0.8
    """
    from clipseg_cli.evaluation import evaluate as scores

    evaluation = scores.evaluate(pred, gt, classes)
    for note in evaluation.notes:
        streams.tell(f"clipseg: {note}\n")
    if curves is not None:
        _draw(evaluation, curves)
    document = evaluation.document()
    say(dumps(document, ensure_ascii=False) if json else _table(evaluation))
    low = []
    for name, least in dict(fail_under).items():
        if name not in document:
            raise UsageError(f"--fail-under {name}: this score needs soft maps; run with -f soft")
        if document[name] is None or document[name] < least:
            low.append(f"{name} is {document[name]}, below {least:g}")
    if low:
        streams.tell(f"clipseg: {'; '.join(low)}\n")
        raise typer.Exit(1)


def _table(evaluation: "Evaluation") -> str:
    """Returns the scores as text: one row per label, and one for all labels."""
    from rich.table import Table

    from clipseg_cli.evaluation.evaluate import SCORES

    document = evaluation.document()
    rows = [*document["labels"].items(), ("all", document)]
    shown = [name for name in ("threshold", *SCORES) if any(row.get(name) is not None for _, row in rows)]
    table = Table("label", "pairs", *(name.replace("_", " ") for name in shown), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, row in rows:
        values = ("" if row.get(name) is None else f"{row[name]:.3f}" for name in shown)
        table.add_row(label or "masks", str(row["pairs"]), *values)
    best = [f"{name} {value:.3f} at {threshold:.2f}" for name, (value, threshold) in document.get("best", {}).items()]
    return "\n".join([as_text(table, 200, markup=False), *(["best thresholds: " + ", ".join(best)] if best else [])])


def _draw(evaluation: "Evaluation", folder: Path) -> None:
    from clipseg_cli.evaluation import curves
    from clipseg_cli.storage import store

    drawn = {label or "masks": score.curve for label, score in evaluation.labels.items() if score.curve is not None}
    if not drawn:
        raise UsageError("--curves needs soft maps; run with -f soft")
    for name, draw in (("precision-recall", curves.precision_recall), ("iou", curves.iou_by_threshold)):
        store.write(folder / f"{name}.svg", draw(drawn).encode())
