"""`clipseg eval`: scores predictions against ground truth."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

Instances = Annotated[
    bool,
    Flag(
        "Score objects instead of pixels: COCO's mask AP and panoptic quality. PRED is a run with `--instances "
        "-f instances`, or, like GT, a COCO file or PNGs that number the objects. Needs the extra eval.",
        panel="Output",
    ),
]


def _least(text: str) -> tuple[tuple[str, float], ...]:
    name, _, value = text.rpartition("=")
    try:
        least = float(value)
    except ValueError:
        least = float("nan")
    if not 0 <= least <= 1:  # nan too
        raise UsageError(f"--fail-under {text}: write a number from 0 to 1, like 0.6 or recall=0.8")
    from clipseg_cli.evaluation import evaluate, instances

    known = (*evaluate.SCORES, *instances.SCORES)
    if (name or "miou") not in known:
        raise UsageError(f"--fail-under {text}: no such score; choose from {', '.join(known)}")
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
    instances: Instances = False,
    debug: Debug = False,
) -> None:
    """Scores predictions against ground truth.

    Prints the paper's scores, precision, recall, Dice and boundary F, for each label and for all labels together.

    \b
    Examples:
      clipseg segment photos/ -p cat -p dog -f mask -f soft -o out && clipseg eval out gt/
      clipseg eval out gt --json | jq -e '.miou > 0.6'
      clipseg eval masks/ instances.json --fail-under 0.6 --fail-under recall=0.8
      clipseg eval out instances.json --instances
    """
    from clipseg_cli.evaluation import evaluate as pixels
    from clipseg_cli.evaluation import instances as objects

    if instances and (curves is not None or classes != "images"):
        raise UsageError("--instances scores objects: leave out --curves and --classes")
    evaluation = objects.evaluate(pred, gt) if instances else pixels.evaluate(pred, gt, classes)
    for note in evaluation.notes:
        streams.tell(f"clipseg: {note}\n")
    if curves is not None and not isinstance(evaluation, objects.InstanceEvaluation):
        _draw(evaluation, curves)
    document = evaluation.document()
    columns = ("objects", "predictions", *objects.SCORES) if instances else ("threshold", *pixels.SCORES)
    say(dumps(document, ensure_ascii=False) if json else _table(document, columns))
    low = _below(document, dict(fail_under), instances)
    if low:
        streams.tell(f"clipseg: {'; '.join(low)}\n")
        raise typer.Exit(1)


def _table(document: dict[str, Any], columns: Sequence[str]) -> str:
    """Returns the scores as text: one row per label, and one for all labels."""
    from rich.table import Table

    rows = [*document["labels"].items(), ("all", document)]
    shown = [name for name in columns if any(row.get(name) is not None for _, row in rows)]
    table = Table("label", "pairs", *(name.replace("_", " ") for name in shown), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, row in rows:
        values = (_shown(row.get(name)) for name in shown)
        table.add_row(label or "masks", str(row["pairs"]), *values)
    best = [f"{name} {value:.3f} at {threshold:.2f}" for name, (value, threshold) in document.get("best", {}).items()]
    return "\n".join([as_text(table, 200, markup=False), *(["best thresholds: " + ", ".join(best)] if best else [])])


def _below(document: dict[str, Any], least: dict[str, float], instances: bool) -> list[str]:
    """Returns a text for each score that is too low. Raises UsageError for a score that there is not."""
    from clipseg_cli.evaluation.instances import SCORES

    for name in least:
        if name not in document and instances:
            raise UsageError(
                f"--fail-under {name}: a score of pixels; --instances has {', '.join(SCORES)}, like pq=0.5"
            )
        if name not in document:
            needs = "--instances" if name in SCORES else "soft maps; run with -f soft"
            raise UsageError(f"--fail-under {name}: this score needs {needs}")
    return [
        f"{name} is {document[name]}, below {value:g}"
        for name, value in least.items()
        if document[name] is None or document[name] < value
    ]


def _shown(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _draw(evaluation: "Evaluation", folder: Path) -> None:
    from clipseg_cli.evaluation import curves
    from clipseg_cli.storage import store

    drawn = {label or "masks": score.curve for label, score in evaluation.labels.items() if score.curve is not None}
    if not drawn:
        raise UsageError("--curves needs soft maps; run with -f soft")
    for name, draw in (("precision-recall", curves.precision_recall), ("iou", curves.iou_by_threshold)):
        store.write(folder / f"{name}.svg", draw(drawn).encode())
