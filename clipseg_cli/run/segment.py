"""One run: prompts and images in, an output folder with its manifest out."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from clipseg_cli.errors import ClipsegError, NoInputError, TooManyErrors, UsageError
from clipseg_cli.inputs import decode, names
from clipseg_cli.inputs.source import Source, identify, readable
from clipseg_cli.model import registry
from clipseg_cli.outputs import films, stacks, writers
from clipseg_cli.outputs.ledger import Ledger
from clipseg_cli.outputs.manifest import RUN
from clipseg_cli.outputs.names import USUAL, Place
from clipseg_cli.outputs.record import Record
from clipseg_cli.outputs.writers import per_run, raster
from clipseg_cli.outputs.writers.one_file import OneFile
from clipseg_cli.prompts import highlight
from clipseg_cli.prompts.slugs import unique_slugs
from clipseg_cli.run import pauses, pipeline, run_file, sharing, work
from clipseg_cli.run.engines import workers
from clipseg_cli.run.finish import Write
from clipseg_cli.run.job import Job
from clipseg_cli.run.query import embedding_file
from clipseg_cli.run.query.exemplars import visual_prompt
from clipseg_cli.run.request import Request
from clipseg_cli.run.summary import Summary
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage import store, unfinished

WHOLE = InputOptions().shard


class Note(Protocol):
    """Shows a line to the user. A `passing` one says how far something is."""

    def __call__(self, text: str, passing: bool = False) -> None:
        """Shows it."""


Process = Callable[[Iterable[Source | None], Write], Iterator[Record]]


def segment(
    request: Request, sources: Iterator[Source], note: Note, stdout: BinaryIO, summary: Summary
) -> Iterator[Record]:
    """Carries out a run. Yields each record once its files and its manifest line are written, and counts it.

    A repeated request processes only missing images, and loads the model only if there are any. Raises NoInputError if
    there is no source; OutputError, before the model is loaded, if the output cannot be written or holds a run with
    other settings; ModelError; UsageError.
    """
    first = next(sources, None)
    if first is None and request.inputs.shard != WHOLE:
        note("this shard has no images")
        return
    if first is None:
        raise _no_input(summary)
    if request.file is not None and request.to_stdout:
        yield from _to_stdout(request, request.file, chain((first,), sources), note, stdout, summary)
        return
    second = next(sources, None)
    if request.file is None:
        sources = chain((first,), () if second is None else (second,), sources)
        yield from _to_folder(request, sources, note, second is None, summary)
    elif second is None:
        yield from _to_one_file(request, request.file, first, note, summary)
    else:
        raise UsageError(f"-o {request.file.path} takes one image, but there are more: name a folder with -o DIR")


def placed(request: Request, note: Note) -> Request:
    """Returns the request with its output folder, and takes that folder if it is new.

    Without `-o` it is the folder of an earlier run of the same settings, otherwise the first of `clipseg-out`,
    `clipseg-out-2`, ... that holds no run. Raises OutputError, ModelError, UsageError.
    """
    if request.output.out is not None:
        return request
    _, _, document = _described(request)
    out, told = run_file.take_folder(request.out, document, request.run.resume)
    if told:
        note(told)
    return request.to(out)


def _located(request: Request) -> registry.Checkpoint:
    """Returns the model's files, and downloads them first if necessary. Raises ModelError."""
    return registry.locate(request.model.model, offline=request.model.offline, progress=True)


def _described(request: Request) -> tuple[registry.Checkpoint, Job, dict[str, Any]]:
    """Returns the model's files, what to do with each image, and the content of run.json."""
    checkpoint = _located(request)
    job = work.make_job(request, checkpoint, request.formats)
    document = run_file.describe(request, job, checkpoint)
    return checkpoint, job, document | {"workers": work.workers_of(request, checkpoint).document()}


def _no_input(summary: Summary) -> NoInputError:
    left_out = summary.files_left_out()
    return NoInputError(
        "no image found: give files, a folder or a list, and check --ext, --exclude and --max-depth"
        + (f"\n{left_out}" if left_out else "")
    )


def _to_folder(
    request: Request, sources: Iterator[Source], note: Note, alone: bool, summary: Summary
) -> Iterator[Record]:
    out, fsync = store.as_path(request.out), request.output.fsync
    store.check(out)
    if store.folds(out):
        sources = _unfolded(sources)
    named = request.output.name  # empty for a data set, whose own names all differ
    if request.output.layout is not None and named and not any("{name}" in each for each in named):
        sources = _without_own_stem(sources, request.output.layout, note)
    checkpoint, job, document = _described(request)
    run_file.check_names(out, request.patterns)
    ended = run_file.admit(out, document, request.run.resume)
    begun = run_file.to_json(document)
    store.write(out / RUN, begun, fsync)
    started = time.monotonic()
    paged: set[str] = set()  # images of several pages or frames
    with Ledger(out, fsync) as ledger:
        take, tell = partial(_take, ledger=ledger, checksum=job.checksum), _teller(document, note)
        for record in sharing.shared(
            sources, take, lambda items: work.work(request, checkpoint, job, items, tell, alone), note
        ):
            record = record.of_run(job.plan.formats)
            ledger.add(record)
            if record.ok and job.unfinished is not None:
                unfinished.delete(job.unfinished, record.key)
            summary.add(record)
            paged |= {record.image} if record.frame else set()
            yield record
            _check_errors(request, summary, "; run the same command again to resume")
        ledger.close()
    if not ended or "workers_died" in document or not run_file.holds(out, begun):
        store.sweep(out)
    labels = tuple(prompt.label for prompt in job.plan.prompts)
    per_run.assemble(out, job.plan.formats, labels, fsync, request.inputs.inputs)
    feather, export = job.plan.masks.clean.feather, job.plan.export
    slugs = tuple(unique_slugs(labels))
    films.assemble(films.Plan(out, job.plan.formats, labels, slugs, export, feather, "", job.decoding, fsync))
    for line in stacks.assemble(stacks.Plan(out, job.plan.formats, job.plan.names.templates, "", fsync), paged):
        note(line)
    summary.seconds = time.monotonic() - started
    store.write(out / RUN, run_file.to_json(document | run_file.ending(summary)), fsync)


def _take(source: Source, ledger: Ledger, checksum: bool) -> Source | Record | None:
    """Returns the source if this run may process it, its record if it is finished, None while another run has it."""
    if source.data is not None:  # each run has a standard input of its own
        return ledger.with_own_output(source)
    taken = ledger.take(source.key, partial(identify, source, checksum) if source.error is None else None)
    if isinstance(taken, Record):
        return taken
    return (_failed(source) or ledger.with_own_output(source)) if taken else None


def _teller(document: dict[str, Any], note: Note) -> workers.Notify:
    """Returns a function that shows a notice to the user and adds its facts to run.json."""
    devices: set[str] = set()

    def tell(notice: workers.Notice) -> None:
        document.update(notice.facts)
        if "device" in notice.facts:
            devices.add(notice.facts["device"])
            document["device"] = ",".join(sorted(devices))
        note(notice.line, notice.passing)

    return tell


def _line(note: Note) -> workers.Notify:
    """Returns a function that shows a notice to the user, for runs without a run.json."""
    return lambda notice: note(notice.line, notice.passing)


def _unfolded(sources: Iterator[Source]) -> Iterator[Source]:
    """Yields the sources, with outputs that stay distinct on a file system where `A.png` and `a.png` are one file."""
    taken: set[int] = set()
    for source in sources:
        if hash(store.folded(source.output)) in taken:
            source = replace(source, output=names.renamed(source.output, source.key))
        taken.add(hash(store.folded(source.output)))
        yield source


def _without_own_stem(sources: Iterator[Source], layout: str, note: Note) -> Iterator[Source]:
    """Yields the sources, then notes how many have the stem of another image, for a program that goes by stems."""
    count = 0
    for source in sources:
        last = source.output.rpartition("/")[2]
        count += last != names.stem(last) and source.name.endswith(last)
        yield source
    if count:
        note(
            f"{count} images differ from others only in their extension: {layout} goes by names without it; rename them"
        )


def _failed(source: Source) -> Record | None:
    """Returns the record of a source that discovery could not use; None for other sources."""
    return None if source.error is None else Record.of(source).failed(source.error)


def _to_one_file(request: Request, file: OneFile, source: Source, note: Note, summary: Summary) -> Iterator[Record]:
    """Writes the output of one image to a file, without a manifest."""
    store.check(store.as_path(file.path).parent)

    def write(path: str, data: store.Written) -> None:
        store.write(store.as_path(path), data, request.output.fsync)

    job, process = _single(request, file, note)
    for record in _counted(process([source], write), summary):
        yield record.of_run(job.plan.formats)


def _to_stdout(
    request: Request, file: OneFile, sources: Iterator[Source], note: Note, stdout: BinaryIO, summary: Summary
) -> Iterator[Record]:
    """Writes the output of each image to stdout when its record is yielded, in the order of the images.

    If images come slowly, each is done without waiting for later ones; otherwise in batches. A few batches are read
    ahead. Raises TooManyErrors.
    """
    written: dict[str, bytes] = {}  # what is finished and waits for its turn
    job, process = _single(request, file, note)
    numbered = (replace(source, output=f"{number}/{source.output}") for number, source in enumerate(sources))
    arriving = pauses.with_pauses(numbered, 2 * job.batch_size)

    def keep(path: str, data: store.Written) -> None:
        written[path] = store.whole(data)

    for record in _counted(process(arriving, keep), summary):
        for path, _ in record.outputs:
            stdout.write(written.pop(path))
            stdout.flush()
        yield record
        _check_errors(request, summary)


def _single(request: Request, file: OneFile, note: Note) -> tuple[Job, Process]:
    """Returns what to do with each image if its only output is `file`, and the function that does it."""
    checkpoint = _located(request)
    job = work.make_job(request, checkpoint, (file.form,))
    job = replace(job, plan=replace(job.plan, file=file))
    request = request.per_device()[0]
    load_sam = None if job.sam is None else partial(work.load_sam, request.model, job.sam, _line(note))
    load_model = partial(work.load_model, request, checkpoint, _line(note))

    def process(sources: Iterable[Source | None], write: Write) -> Iterator[Record]:
        return pipeline.run(sources, job, load_model, write, load_sam=load_sam, tell=partial(note, passing=True))

    return job, process


def _check_errors(request: Request, summary: Summary, resume: str = "") -> None:
    """Raises TooManyErrors if as many images have failed as the request allows."""
    if summary.failed == request.run.most_errors:
        raise TooManyErrors(f"stopped: {summary.failed} images failed{resume}")


def _counted(records: Iterator[Record], summary: Summary) -> Iterator[Record]:
    """Yields the records, and counts them and their time."""
    started = time.monotonic()
    for record in records:
        summary.add(record)
        summary.seconds = time.monotonic() - started
        yield record


def find(request: Request, sources: Iterator[Source], note: Note, summary: Summary) -> Iterator[Record]:
    """Yields one record per source and counts it, like `segment`, but writes no file.

    Raises NoInputError, ModelError, UsageError.
    """
    first = next(sources, None)
    if first is None:
        raise _no_input(summary)
    checkpoint = _located(request)
    job = work.make_job(request, checkpoint, ())
    items = (_failed(source) or source for source in chain((first,), sources))
    return _counted(work.work(request, checkpoint, job, items, _line(note)), summary)


def embed(request: Request, note: Note) -> bytes:
    """Returns the bytes of an embedding file for the labels of the request."""
    checkpoint = _located(request)
    _, embeddings = work.load_model(request, checkpoint, _line(note))
    query = request.query
    rows = embeddings.values[[rule for rule in query.rules if isinstance(rule, int)]]
    labels, sources = zip(*((prompt.label, prompt.text) for prompt in query.prompts), strict=True)
    return embedding_file.pack(rows, labels, sources, checkpoint.name, checkpoint.weights)


def show_exemplars(request: Request, path: Path) -> None:
    """Writes what the model sees of every exemplar, side by side, as one PNG."""
    checkpoint = _located(request)
    segmenter, _ = work.load_model(request, checkpoint, lambda notice: None)
    query = request.query
    decoding = request.inputs.decoding
    views = [visual_prompt(segmenter, each, query.recipe, query.region_prompt, decoding) for each in query.exemplars]
    store.write(path, raster.colour_png(np.hstack([highlight.denormalised(view.transpose(1, 2, 0)) for view in views])))


def planned_workers(request: Request) -> str:
    """Returns the line of --dry-run -v that says how many processes and threads a run would use, and why."""
    try:
        checkpoint = registry.locate(request.model.model, offline=True, download=False)
    except ClipsegError:  # it is not on this machine
        checkpoint = None
    return str(work.workers_of(request, checkpoint))


def planned(source: Source, request: Request) -> str:
    """Returns one line of --dry-run: the image, and the masks it would get."""
    slugs, place = (
        unique_slugs(prompt.label for prompt in request.query.prompts),
        Place(source.output, source.name, source.frame),
    )
    form: Format = "mask" if "mask" in request.formats else request.formats[0]
    geotiff = form in writers.LOCATED and decode.is_geotiff(source)
    paths = [writers.path(form, place, slug, request.names, geotiff) for slug in slugs] if form in USUAL else []
    named = paths or [f"{form} {place.stem}"]
    return readable(source.key) + " -> " + " ".join(dict.fromkeys(named))
