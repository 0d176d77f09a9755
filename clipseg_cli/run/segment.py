"""One run: phrases and images in, an output directory with its manifest out."""

import gc
import json
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from clipseg_cli import __version__
from clipseg_cli.errors import NoInputError, OutputError, Stage, TooManyErrors, UsageError
from clipseg_cli.inputs.discovery import Source
from clipseg_cli.model import registry
from clipseg_cli.outputs.manifest import MANIFEST, RUN, Ledger, Record, forget
from clipseg_cli.outputs.writers import check_label_count, per_run, raster
from clipseg_cli.prompts import highlight, text
from clipseg_cli.run import embeddings, engines, exemplars, pipeline
from clipseg_cli.run.embeddings import Wanted
from clipseg_cli.run.exemplars import Show
from clipseg_cli.settings import (
    ExportOptions,
    Format,
    InputOptions,
    MaskOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    devices,
)
from clipseg_cli.storage import files, store

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Embeddings, Segmenter

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "opencv-python", "pillow")
SINGLE: dict[str, Format] = {"": "mask", ".png": "mask", ".jpg": "overlay", ".jpeg": "overlay"}  # of -o FILE's suffix
AHEAD = 8  # batches that a worker is sent before its records come: more than the pipeline holds
BATCH = {"cpu": 4}  # images encoded at once, by device; 16 elsewhere

WHOLE = InputOptions().shard
NO_IMAGE = "no image found: give files, a folder or a list, and look at --ext, --exclude, --max-depth"

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, checked as far as it can be without a model."""

    model: ModelOptions
    wanted: Wanted
    thresholds: tuple[str, ...]  # as typed: the default is the model's
    mask: MaskOptions
    similarity: bool
    output: OutputOptions
    inputs: InputOptions
    command: tuple[str, ...]
    show: Show
    run: RunOptions = field(default_factory=RunOptions)
    export: ExportOptions = field(default_factory=ExportOptions)


def single(out: str) -> bool:
    """True where `-o` names one file (or `-`, stdout) instead of a directory."""
    return out == "-" or (Path(out).suffix.lower() in SINGLE and bool(Path(out).suffix) and not os.path.isdir(out))


def segment(request: Request, sources: Iterator[Source], note: Note, stdout: BinaryIO) -> Iterator[Record]:
    """Runs it; yields each record once its files and its manifest line are written.

    The same request again does what is missing and nothing else; without anything missing the model is not loaded.
    Raises NoInputError when there is no source; OutputError before the model is loaded where the output cannot be
    written or holds a run with other settings; ModelError, UsageError.
    """
    first = next(sources, None)
    if first is None and request.inputs.shard != WHOLE:
        note("this shard holds no image")
        return
    if first is None:
        raise NoInputError(NO_IMAGE)
    second = next(sources, None)
    alone = second is None
    sources = chain((first,), () if second is None else (second,), sources)
    if single(request.output.out):
        yield from _one(request, sources, note, stdout)
        return
    out, fsync = store.place(request.output.out), request.output.fsync
    store.check(out)
    if store.folds(out):
        sources = _unfolded(sources)
    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    job = _job(request, checkpoint, request.output.formats or ("mask", "overlay"))
    document = _document(request, job, checkpoint)
    ended = _admit(out, document, request.output.resume)

    at: set[str] = set()

    def tell(news: engines.News) -> None:
        document.update(news.facts)
        if "device" in news.facts:
            at.add(news.facts["device"])
            document["device"] = ",".join(sorted(at))
        note(news.line)

    store.write(out / RUN, _json(document), fsync)
    started, done, kept, failed = time.monotonic(), 0, 0, 0
    with Ledger(out, fsync) as ledger:
        items = (ledger.kept(source, job.checksum) or _failed(source) or ledger.claim(source) for source in sources)
        for record in _work(request, checkpoint, job, items, tell, alone):
            ledger.add(record)
            done, kept, failed = done + record.ok, kept + (record.kept is not None), failed + (not record.ok)
            yield record
            if failed == request.run.max_errors:
                raise TooManyErrors(f"stopped: {failed} images failed; the same command again does what is missing")
        ledger.close()
    if not ended or "workers_died" in document:
        store.sweep(out)
    per_run.assemble(out, job.formats, [prompt.label for prompt in job.mask.prompts], fsync)
    seconds = time.monotonic() - started
    counts = {"done": done, "of_these_before": kept, "failed": failed}
    store.write(out / RUN, _json(document | {"images": counts, "seconds": round(seconds, 3)}), fsync)
    before = f" ({kept} before)" if kept else ""
    wrong = f", {failed} failed (see {out / MANIFEST})" if failed else ""
    note(f"{done} of {done + failed} images done{before}{wrong}, {seconds:.1f} s -> {out}")


def _line(note: Note) -> engines.Tell:
    """Tells the person what there is to tell, where no run.json takes the facts."""
    return lambda news: note(news.line)


def _unfolded(sources: Iterator[Source]) -> Iterator[Source]:
    """The sources with outputs that stay apart where `A.png` and `a.png` are one file."""
    taken: set[int] = set()
    for source in sources:
        if hash(store.folded(source.output)) in taken:
            source = replace(source, output=files.apart(source.output, source.name))
        taken.add(hash(store.folded(source.output)))
        yield source


def _failed(source: Source) -> Record | None:
    """The record of an image that discovery could not use."""
    return None if source.error is None else Record(source.name, error=source.error)


def _work(
    request: Request, checkpoint: registry.Checkpoint, job: pipeline.Job, items: Iterable[Source | Record],
    tell: engines.Tell, alone: bool = False,
) -> Iterator[Record]:  # fmt: skip
    """One record an item, by the engine; a single image is done here, and not kept waiting for a worker's start."""
    run = request.run
    private = any(path.startswith("memory://") for path in (request.output.out, *request.inputs.inputs))
    engine = engines.inline if (alone or private) and run.engine == "local" else engines.ENGINES[run.engine]
    works = [partial(_images, one, checkpoint, job) for one in _crew(request)]
    return engine(items, works, tell, AHEAD * job.batch_size, engines.Place(run.ray_address, request.model.device))


def _crew(request: Request) -> list[Request]:
    """The request of each worker, which has one device: as many as -j says, and one a device at least."""
    each = _devices(request)
    return [*islice(cycle(each), max(request.run.jobs, len(each)))]


def _devices(request: Request) -> list[Request]:
    """The same request, on each device alone."""
    return [replace(request, model=replace(request.model, device=one)) for one in devices(request.model.device)]


def _images(
    request: Request, checkpoint: registry.Checkpoint, job: pipeline.Job, sources: Iterable[Source], send: engines.Send
) -> Iterator[Record]:
    """The work of one process: does these images and writes their files. The manifest is its parent's.

    Another machine may keep the model's files elsewhere. It must see the parent's output directory."""
    if not checkpoint.weights.exists():
        named = f"{checkpoint.repo}@{checkpoint.revision}" if checkpoint.repo else request.model.model
        checkpoint = registry.locate(named, offline=request.model.offline)
    out = store.place(request.output.out)
    if job.formats and isinstance(out, Path) and not (out / RUN).exists():
        node = socket.gethostname()
        raise OutputError(f"{node} does not see {out.absolute()}: give an --out that all machines of the run share")

    def at(source: Source, stage: Stage) -> None:
        send(engines.Step(source.name, stage))

    def write(path: str, data: bytes) -> None:
        store.write(out / path, data, request.output.fsync)

    return pipeline.run(sources, job, partial(_model, request, checkpoint, send), write, at)


def _one(request: Request, sources: Iterator[Source], note: Note, stdout: BinaryIO) -> Iterator[Record]:
    """One image to one file or to stdout: no manifest, no folders."""
    source, second = next(sources), next(sources, None)
    out = request.output.out
    if second is not None:
        raise UsageError(f"-o {out} takes one image, and more were given: name a folder with -o DIR")
    forms = request.output.formats or (SINGLE["" if out == "-" else Path(out).suffix.lower()],)
    if len(forms) != 1 or (forms[0] != "overlay" and len(request.wanted.prompts) != 1):
        raise UsageError(f"-o {out} takes one file: one format and one prompt (or -f overlay for several prompts)")
    if out != "-":
        store.check(store.place(out).parent)

    def write(path: str, data: bytes) -> None:
        if out == "-":
            stdout.write(data)
            stdout.flush()
        else:
            store.write(store.place(out), data, request.output.fsync)

    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    job = _job(request, checkpoint, forms)
    yield from pipeline.run([source], job, partial(_model, _devices(request)[0], checkpoint, _line(note)), write)


def _job(request: Request, checkpoint: registry.Checkpoint, formats: tuple[Format, ...]) -> pipeline.Job:
    wanted = request.wanted
    thresholds = text.thresholds(request.thresholds, wanted.prompts, checkpoint.threshold)
    mask = replace(request.mask, thresholds=thresholds)
    check_label_count(len(wanted.prompts), mask.mode, formats)
    embeddings.check(wanted, checkpoint.weights, request.model.model)
    # an image of a batch has the same bits as alone, so its size is no setting of the result
    batch = request.model.batch_size or BATCH.get(_devices(request)[0].model.device.replace("auto", _likely()), 16)
    if request.run.features is not None:
        if files.is_url(request.run.features):
            raise UsageError(f"--features {request.run.features}: encoded images are kept in a folder of this machine")
        store.check(Path(request.run.features))
    model = request.model
    return pipeline.Job(
        mask, formats, request.inputs.max_pixels, batch, request.export, request.output.checksum,
        model.tiles, model.flip, request.similarity, request.run.features,
        any(map(files.is_url, (request.output.out, *request.inputs.inputs))),
    )  # fmt: skip


def _likely() -> str:
    """What "auto" will come to, as far as it can be told before torch is imported: for the size of batches, no more."""
    return "cuda" if shutil.which("nvidia-smi") else "mps" if sys.platform == "darwin" else "cpu"


def _model(request: Request, checkpoint: registry.Checkpoint, tell: engines.Tell) -> "tuple[Segmenter, Embeddings]":
    """The loaded network and what to look for; says once which model runs where and how."""
    options = request.model
    gc.disable()  # half a million objects are made, all to stay: a tenth of a start is spent on looking through them
    try:
        from clipseg_cli.model.segmenter import Segmenter

        segmenter = Segmenter.load(
            checkpoint, device=options.device, dtype=options.dtype, backend=options.backend, size=options.size
        )
    finally:
        gc.enable()
        gc.freeze()
    at = f" ({checkpoint.repo} at {checkpoint.revision})" if checkpoint.repo else ""
    line = f"model {checkpoint.name}{at} on {segmenter.device} in {segmenter.dtype}, {segmenter.backend} backend"
    tell(engines.News(line, {"device": segmenter.device, "dtype": segmenter.dtype, "backend": segmenter.backend}))
    return segmenter, embeddings.embed(segmenter, request.wanted, request.show)


def find(request: Request, sources: Iterator[Source], note: Note) -> Iterator[Record]:
    """One record a source, as `segment` gives, and no file. Raises NoInputError, ModelError, UsageError."""
    first = next(sources, None)
    if first is None:
        raise NoInputError(NO_IMAGE)
    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    job = _job(request, checkpoint, ())
    items = (_failed(source) or source for source in chain((first,), sources))
    return _work(request, checkpoint, job, items, _line(note))


def embed(request: Request, note: Note) -> bytes:
    """The bytes of an embedding file of what the request wants."""
    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    _, rows = _model(request, checkpoint, _line(note))
    return embeddings.pack(request.wanted, rows, checkpoint.name, checkpoint.weights)


def show_exemplars(request: Request, path: Path) -> None:
    """Writes what the model is shown of every exemplar, side by side, as one PNG."""
    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    segmenter, _ = _model(request, checkpoint, lambda news: None)
    tiles = [exemplars.shown(segmenter, each, request.show) for each in request.show.exemplars]
    store.write(path, raster.rgb_png(np.hstack([highlight.denormalised(tile.transpose(1, 2, 0)) for tile in tiles])))


def _document(request: Request, job: pipeline.Job, checkpoint: registry.Checkpoint) -> dict[str, Any]:
    """The content of run.json. All that differs between two runs of the same command stands here.

    `settings` is all that decides the content of the outputs: two runs that share a directory must agree in it.
    """
    weights = checkpoint.revision or files.identity(str(checkpoint.weights))
    bundled = checkpoint.path == registry.BUNDLED
    model = {"name": checkpoint.name, "repo": checkpoint.repo, "revision": checkpoint.revision}
    mask = job.mask
    model_options = {"size": request.model.size, "flip": job.flip, "tile": job.tiles if job.tiles > 1 else None}
    optional: dict[str, Any] = model_options | {"min_presence": mask.min_presence, "similarity": job.similarity}
    optional |= {"mode": mask.mode, "background": mask.background} if mask.mode == "labels" else {}
    settings: dict[str, Any] = {
        "model": checkpoint.repo or ("shapes" if bundled else str(checkpoint.path.absolute())),
        "weights": weights[0] if bundled else weights,
        "dtype": request.model.dtype,
        "backend": request.model.backend,
        "prompts": [
            {"label": prompt.label, "text": prompt.text, "threshold": threshold}
            | ({} if isinstance(rule, int) else {"boolean": True})
            for prompt, threshold, rule in zip(job.mask.prompts, job.mask.thresholds, job.mask.rules, strict=True)
        ],
        "empty": job.mask.empty,
        "clean": asdict(job.mask.clean),
        "formats": list(job.formats),
        "export": asdict(job.export),
        "max_pixels": job.max_pixels,
        "checksum": job.checksum,
        **request.wanted.settings(),
        **{name: value for name, value in optional.items() if value},
    }
    if request.show.exemplars:
        settings |= request.show.settings()
    return {
        "clipseg": __version__,
        "command": ["clipseg", *request.command],
        "model": model | {"path": None if checkpoint.repo else str(checkpoint.path)},
        "settings": settings,
        "own_thresholds": {p.label: p.threshold for p in mask.prompts if p.threshold is not None},  # of a prompts file
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": asdict(request.inputs),
        "directory": os.getcwd(),  # that relative names start from
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _admit(out: store.Place, document: dict[str, Any], resume: bool) -> bool:
    """Refuses a directory that holds a run with other settings, showing the difference; without `resume` forgets it.
    False where a run may have been killed there and left temporary files."""
    if not resume:
        forget(out)
        return False
    ended = False
    try:
        earlier = json.loads((out / RUN).read_bytes())
        before = earlier["settings"]
        ended = "seconds" in earlier
    except FileNotFoundError:
        if not (out / MANIFEST).exists():
            return True
        before = {}
    except OSError as error:
        if not isinstance(out, Path):
            raise store.failure(error, out / RUN) from error
        before = {}
    except (ValueError, KeyError, TypeError):
        before = {}
    now = json.loads(_json(document))["settings"]
    if before != now:
        lines = [
            f"  {key}: {json.dumps(before.get(key), ensure_ascii=False)} there, "
            f"{json.dumps(now.get(key), ensure_ascii=False)} now"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        raise OutputError(
            f"{out} holds a run with other settings; choose another --out, or --overwrite it:\n" + "\n".join(lines)
        )
    if not ended:
        store.sweep(out)
    return ended


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def planned(source: Source, request: Request) -> str:
    """One line of --dry-run: what would be read, and the masks that it would give."""
    slugs = text.slugs(prompt.label for prompt in request.wanted.prompts)
    stem = store.portable(source.output)
    return source.name + " -> " + " ".join(f"masks/{slug}/{stem}.png" for slug in slugs)
