"""The commands that take what a run made: `post`, `report`, `status`, `merge`; with ground truth, `eval` and others."""

import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipseg_cli import settings
from clipseg_cli.cli import options
from clipseg_cli.cli.terminal import say
from clipseg_cli.errors import UsageError
from clipseg_cli.storage import files

if TYPE_CHECKING:
    from clipseg_cli.evaluation.evaluate import Evaluation
    from clipseg_cli.training.train import Progress

DEFAULT = settings.Recipe()


def _here(path: str) -> Path:
    """A path on this machine. Raises UsageError for a bucket."""
    if files.is_url(path):
        raise UsageError(
            f"{path}: this command reads folders of this machine; copy it here first (aws s3 sync, rclone)"
        )
    return Path(files.local(path))


Run = Annotated[str, typer.Argument(help="The output directory of a run, or its URL.")]
Pred = Annotated[Path, typer.Argument(parser=_here, metavar="PRED", help="A run's directory, or a folder of masks.")]
Truth = Annotated[Path, typer.Argument(parser=_here, metavar="GT", help="A mask folder, a COCO file, or indexed PNGs.")]


def post(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The output directory of a run with -f soft.")],
    threshold: options.Threshold = None,
    refine: options.RefineOption = "none",
    peak: options.Peak = None,
    open_: options.Open = 0,
    close: options.Close = 0,
    fill_holes: options.FillHoles = "0",
    min_area: options.MinArea = "0",
    keep_largest: options.KeepLargest = 0,
    grow: options.Grow = 0,
    invert: options.Invert = False,
    feather: options.Feather = 0.0,
    empty: options.EmptyOption = "write",
    min_presence: options.MinPresence = 0.0,
    mode: options.ModeOption = "binary",
    background: options.Background = 0.0,
    max_pixels: options.MaxPixels = settings.MAX_PIXELS,
    out: options.Out = None,
    formats: options.FormatOption = None,
    components: options.Components = False,
    polygons: options.Polygons = False,
    backdrop: options.Backdrop = None,
    json: options.Json = False,
    print_: options.PrintOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over another run.")] = False,
    fsync: options.Fsync = False,
    quiet: options.Quiet = False,
    progress: options.ProgressOption = "auto",
    no_color: options.NoColor = False,
    debug: options.Debug = False,
    config: options.Config = None,
) -> None:
    """Masks and files again from a run's soft maps, with other options; the model is not loaded.

    clipseg segment photos/ -p "a cat" -f soft -o run && clipseg post run -t 0.4 --fill-holes all -f mask -o masks

    clipseg post run --refine guided -f cutout -f coco -o export

    Thresholds that are not given stay the run's. The photos are read again only where something needs them.
    """
    from clipseg_cli.cli.terminal import Terminal, emitter
    from clipseg_cli.run import post as use
    from clipseg_cli.storage import store

    options.check_background(background, mode)
    clean = options.clean_up(refine, peak, open_, close, fill_holes, min_area, keep_largest, grow, invert, feather)
    request = use.Request(
        store.place(run),
        tuple(threshold or ()),
        settings.MaskOptions((), (), (), (), empty, clean, min_presence, mode, background),
        options.export(components, polygons, backdrop),
        options.output_options(out or "clipseg-post", formats, not overwrite, False, fsync),
        max_pixels,
        tuple(sys.argv[1:]),
    )
    with Terminal(progress, quiet, not no_color) as terminal:
        terminal.begin(None)
        emit = emitter(json, print_, request.output.out, False)
        for record in use.post(request, terminal.note):
            terminal.record(record)
            emit(record)
    raise typer.Exit(3 if terminal.failed else 0)


def report(
    run: Run,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Default: report.html in the run.")
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """One self-contained HTML page of a run: gallery, live thresholds, failures, keyboard review.

    clipseg segment photos/ -p cat -f mask -f soft -o out && clipseg report out

    With soft maps (-f soft) thresholds can be moved on the page. Accepted and rejected images download as a list for
    --files-from.
    """
    from clipseg_cli.cli.terminal import Terminal
    from clipseg_cli.pages import report as reports
    from clipseg_cli.storage import store

    target = None if out is None else store.place(out)
    say(str(reports.write(store.place(run), Terminal("none", quiet).note, target)))


def status(run: Run, json: options.Json = False, debug: options.Debug = False) -> None:
    """Says what is done, failed and missing, over all shards of a run; exits 3 where anything is not done.

    clipseg status out --json | jq -r '.missing[]'
    """
    from clipseg_cli.inputs.discovery import escape
    from clipseg_cli.run.status import status as look
    from clipseg_cli.storage import store

    found = look(store.place(run))
    if json:
        say(dumps(found.document(), ensure_ascii=False))
    else:
        failed = ", ".join(f"{count} {kind}" for kind, count in sorted(found.failed.items()))
        missing = "an unknown number (the inputs came from a list)" if found.missing is None else len(found.missing)
        say(f"done     {found.done}")
        say(f"failed   {sum(found.failed.values())}" + (f" ({failed})" if failed else ""))
        say(f"missing  {missing}")
        for name in (*found.names, *(found.missing or ()))[:20]:
            say(f"  {escape(name)}")
    raise typer.Exit(3 if found.failed or found.missing else 0)


def merge(run: Run, debug: options.Debug = False) -> None:
    """Makes one manifest of all shards, sorted by image, and the files that speak of all images, like coco.json."""
    from clipseg_cli.run.status import merge as join
    from clipseg_cli.storage import store

    out = store.place(run)
    say(f"{join(out)} images in {out / 'manifest.jsonl'}")


def evaluate(
    pred: Pred,
    gt: Truth,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(metavar="[SCORE=]X", help="Exit 1 where a score is below X; repeatable. \\[SCORE: miou]"),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write precision-recall.svg and iou.svg, of soft maps.")
    ] = None,
    classes: Annotated[
        settings.Classes, typer.Option(help="What miou is the mean of: every picture and label, or every label.")
    ] = "images",
    debug: options.Debug = False,
) -> None:
    """Scores predictions against ground-truth masks: the paper's scores, and precision, recall, Dice, boundary F.

    clipseg segment photos/ -p cat -p dog -f mask -f soft -o out && clipseg eval out truth/

    clipseg eval out gt --json | jq -e '.miou > 0.6'

    clipseg eval masks/ instances.json --fail-under 0.6 --fail-under recall=0.8
    """
    from clipseg_cli.evaluation import evaluate as use

    floors = dict(_floor(text) for text in fail_under or ())
    found = use.evaluate(pred, gt, classes)
    for note in found.notes:
        sys.stderr.write(f"clipseg: {note}\n")
    if curves is not None:
        _draw(found, curves)
    document = found.document()
    say(dumps(document, ensure_ascii=False) if json else _table(found))
    low = []
    for name, least in floors.items():
        if name not in document:
            raise UsageError(f"--fail-under {name}: only soft maps have it; run with -f soft")
        if document[name] is None or document[name] < least:
            low.append(f"{name} is {document[name]}, below {least:g}")
    if low:
        sys.stderr.write(f"clipseg: {'; '.join(low)}\n")
        raise typer.Exit(1)


def calibrate(
    run: Annotated[
        Path, typer.Argument(parser=_here, metavar="RUN", help="The directory of a run with soft maps (-f soft).")
    ],
    gt: Truth,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.csv", help="Write it there. \\[default: stdout]")
    ] = None,
    score: Annotated[
        settings.Score, typer.Option(help="miou: of the pictures that show it; iou_fg: of all pixels together.")
    ] = "miou",
    json: Annotated[bool, typer.Option("--json", help="The choices and their spread, in JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Picks each label's threshold from a few hand-made masks, and writes the prompts file that `segment -P` takes.

    clipseg segment photos/ -p cat -p dog -f soft -o out

    clipseg calibrate out masks/ -o prompts.csv

    clipseg segment photos/ -P prompts.csv -o better
    """
    from clipseg_cli.evaluation import calibrate as use
    from clipseg_cli.storage import store

    if out is not None and out.suffix.lower() != ".csv":
        raise UsageError(f"-o {out}: name it like prompts.csv, so that segment -P reads it as such")
    rows, notes = use.calibrate(run, gt, score)
    for line in (*notes, *use.summary(rows)):
        sys.stderr.write(f"{line}\n")
    if json:
        known = {row.label: {**asdict(row), "enough": row.enough} for row in rows}
        say(dumps({label: {k: None if v != v else v for k, v in row.items()} for label, row in known.items()}))
    if out is not None:
        store.write(out, use.prompts_file(rows).encode())
    elif not json:
        say(use.prompts_file(rows).rstrip("\n"))


def train(
    data: Annotated[
        Path,
        typer.Argument(
            parser=_here,
            metavar="DATA",
            help="A folder with images/ and masks/<label>/; or .csv, .jsonl (image, mask, prompt), COCO.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", parser=_here, metavar="MODEL_DIR", help="Of the new model.")],
    model: options.Model = "rd64-refined",
    offline: options.Offline = False,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    steps: Annotated[int, typer.Option(min=1, help="At most; it ends earlier once nothing improves.")] = DEFAULT.steps,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Examples a step.")] = DEFAULT.batch,
    rate: Annotated[
        float, typer.Option(min=0, help="First learning rate, of AdamW; it falls to a tenth.")
    ] = DEFAULT.rate,
    absent: Annotated[float, typer.Option(min=0, max=1, help="Share of phrases for what is absent.")] = DEFAULT.absent,
    blend: Annotated[float, typer.Option(min=0, max=1, help="Share blended with an exemplar.")] = DEFAULT.blend,
    hold: Annotated[float, typer.Option(min=0, max=0.9, help="Share of pictures kept to check by.")] = DEFAULT.hold,
    check: Annotated[int, typer.Option(min=1, help="Steps between two checks.")] = DEFAULT.check,
    patience: Annotated[int, typer.Option(min=1, help="Checks without a gain that end it.")] = DEFAULT.patience,
    replay: Annotated[
        str | None, typer.Option(metavar="FILE", help="A prompts file: phrases whose masks are to stay as they are.")
    ] = None,
    replay_weight: Annotated[
        float, typer.Option(min=0, help="Of the replayed phrases' loss; the new ones' is 1.")
    ] = DEFAULT.replay_weight,
    template: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Frame of phrases, with {}; repeatable. \\[the paper's]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same weights.")] = DEFAULT.seed,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Fits a model's decoder to your pictures, masks and phrases; CLIP stays as it is.

    clipseg train data/ -o my-model && clipseg segment photos/ -m my-model -p "a gasket"

    clipseg train pairs.csv -m shapes -o my-model --replay old-phrases.txt
    """
    from clipseg_cli.prompts import text
    from clipseg_cli.training import train as use

    kept = [each.text for each in text.read_file(replay)] if replay else []
    chosen = settings.ModelOptions(model, offline, device, dtype)
    recipe = settings.Recipe(
        steps=steps, batch=batch_size, rate=rate, last_rate=rate / 10, absent=absent, blend=blend,
        replay_weight=replay_weight, hold=hold,
        check=check, patience=patience, seed=seed,
    )  # fmt: skip
    for now in use.train(data, out, chosen, recipe, kept, template or use.TEMPLATES):
        if not quiet:
            _tell(now)
    say(str(out))


def protocol(
    name: Annotated[settings.Protocol, typer.Argument(help="Which of the paper's evaluations.")],
    data: Annotated[Path, typer.Argument(parser=_here, metavar="DATA", help="Its folder; see docs/protocols.md.")],
    model: options.Model = "rd64-refined",
    offline: options.Offline = False,
    device: options.Device = "auto",
    dtype: options.DtypeOption = "auto",
    fold: Annotated[
        list[int] | None, typer.Option(min=0, max=3, help="Of Pascal-5i and COCO-20i; repeatable. \\[all four]")
    ] = None,
    split: Annotated[str, typer.Option(help="Of PhraseCut: test, val or miniv.")] = "test",
    seed: Annotated[int, typer.Option(min=0, help="Of the lots that choose supports.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N questions of each fold.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    config: options.Config = None,
) -> None:
    """Scores a model as the paper does, on the files of its data sets, with the paper's numbers beside.

    clipseg protocol phrasecut VGPhraseCut_v0/

    clipseg protocol pascal-5i VOCdevkit/VOC2012/ -m my-model --fold 0 --json
    """
    from tqdm import tqdm

    from clipseg_cli.evaluation import protocols as use
    from clipseg_cli.model.segmenter import Segmenter

    asked = settings.ProtocolOptions(name, data, tuple(fold or (0, 1, 2, 3)), split, seed, limit)
    segmenter = Segmenter.load(model, device=device, dtype=dtype, offline=offline)
    with tqdm(unit=" questions", disable=True if quiet else None) as bar:
        found = use.run(segmenter, asked, bar.update)
    say(dumps({"model": model} | found.document()) if json else "\n".join(use.table(found, model)))


def _tell(now: "Progress") -> None:
    """Progress on stderr: a line that is written over on a terminal, a line a check elsewhere."""
    live = sys.stderr.isatty()
    said = {
        "features": f"features {now.at} of {now.of} pictures",
        "step": f"step {now.at} of {now.of}, loss {now.loss:.4f}",
        "check": f"step {now.at} of {now.of}: loss {now.loss:.4f}, held-out mIoU {now.miou:.3f}, best {now.best:.3f}",
        "done": f"best at step {now.at}: held-out mIoU {now.best:.3f} at threshold {now.threshold:.2f}",
    }[now.stage]
    if live:
        sys.stderr.write(f"\r\x1b[K{said}" + ("\n" if now.stage in ("check", "done") else ""))
    elif now.stage in ("check", "done") or (now.stage == "features" and now.at == now.of):
        sys.stderr.write(f"{said}\n")
    sys.stderr.flush()


def _floor(text: str) -> tuple[str, float]:
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
    return name or "miou", least


def _table(found: "Evaluation") -> str:
    """The scores as text: a row a label, and one for all."""
    from rich.console import Console
    from rich.table import Table

    from clipseg_cli.evaluation.evaluate import SCORES

    document = found.document()
    rows = [*document["labels"].items(), ("all", document)]
    shown = [name for name in ("threshold", *SCORES) if any(row.get(name) is not None for _, row in rows)]
    table = Table("label", "pairs", *(name.replace("_", " ") for name in shown), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, row in rows:
        values = ("" if row.get(name) is None else f"{row[name]:.3f}" for name in shown)
        table.add_row(label or "masks", str(row["pairs"]), *values)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    with console.capture() as text:
        console.print(table)
    best = [f"{name} {value:.3f} at {threshold:.2f}" for name, (value, threshold) in document.get("best", {}).items()]
    lines = [line.rstrip() for line in text.get().splitlines()]
    return "\n".join([*lines, *(["best thresholds: " + ", ".join(best)] if best else [])])


def _draw(found: "Evaluation", folder: Path) -> None:
    from clipseg_cli.evaluation import curves
    from clipseg_cli.storage import store

    kept = {label or "masks": score.curve for label, score in found.labels.items() if score.curve is not None}
    if not kept:
        raise UsageError("--curves: there are no soft maps to draw from; run with -f soft")
    for name, draw in (("precision-recall", curves.precision_recall), ("iou", curves.iou_by_threshold)):
        store.write(folder / f"{name}.svg", draw(kept).encode())
