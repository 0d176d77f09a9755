"""The work of a run: a request becomes a job, and an engine carries it out, one record per item."""

import gc
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipseg_cli.errors import OutputError, Stage, UsageError
from clipseg_cli.inputs.source import Source
from clipseg_cli.model import feature_store, registry
from clipseg_cli.model.checkpoint_files import KINDS
from clipseg_cli.outputs import writers
from clipseg_cli.outputs.manifest import RUN
from clipseg_cli.outputs.names import Names
from clipseg_cli.outputs.record import Record
from clipseg_cli.prompts.thresholds import resolve_thresholds
from clipseg_cli.run import pipeline, refiner
from clipseg_cli.run.engines import crew, gpus, workers
from clipseg_cli.run.engines.table import ENGINES, inline
from clipseg_cli.run.finish import MaskPlan
from clipseg_cli.run.job import Job
from clipseg_cli.run.query import embed, embedding_file
from clipseg_cli.run.request import Request
from clipseg_cli.settings.model import GPU_BATCH, EncodeOptions, ModelOptions
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage import cache, paths, store
from clipseg_cli.storage.unfinished import FOLDER

if TYPE_CHECKING:
    from clipseg_cli.model.sam import Sam
    from clipseg_cli.model.segmenter import Embeddings, Segmenter

USUAL = 603_000_000  # bytes of the weights of rd64-refined
AHEAD = 8  # batches that a worker gets before it returns their records: more than its pipeline holds
BATCH = 4  # images encoded at once on a CPU; at least one per thread
IN_FLIGHT = 2  # batches at once on a GPU: it computes one while the host prepares or takes away another


def make_job(request: Request, checkpoint: registry.Checkpoint, formats: tuple[Format, ...]) -> Job:
    """Returns what to do with each image. Raises UsageError."""
    query, encode = request.query, request.encode
    chosen = resolve_thresholds(request.masks.threshold, query.prompts, checkpoint.threshold)
    writers.check(len(query.prompts), request.masks, formats)
    embedding_file.check(query.saved, checkpoint.weights, request.model.model)
    # a guess is enough: an image gives the same bits at any batch size
    device = _likely_devices(request)[0]
    usual = max(workers_of(request, checkpoint).threads, BATCH) if device == "cpu" else GPU_BATCH
    return Job(
        MaskPlan(
            query.prompts,
            chosen,
            request.masks,
            formats,
            request.output.export,
            names=Names.of(request.output.name, formats),
        ),
        query.rules,
        query.texts,
        encode.batch_size or usual,
        encode,
        request.inputs.decoding,
        request.run.checksum,
        kept(encode),
        any(map(paths.is_url, (request.out, *request.inputs.inputs))),
        request.inputs.video.smooth,
        refiner.located(request.masks.clean, request.model.model, request.model.offline) if formats else None,
        in_flight=1 if device == "cpu" else IN_FLIGHT,
        unfinished=_unfinished(request) if formats else None,
    )


def _unfinished(request: Request) -> Path | None:
    """Returns where files are that are written by windows; None if no later run goes on with them."""
    return None if request.file is not None or paths.is_url(request.out) else Path(request.out) / FOLDER


def kept(encode: EncodeOptions) -> cache.Place | None:
    """Returns where the features of images are kept. Raises UsageError for a bucket."""
    if encode.features == "none":
        return None
    if encode.features == "auto":
        return feature_store.user_place(encode.features_limit)
    if paths.is_url(paths.local(encode.features)):
        raise UsageError(f"--features {encode.features}: name a local folder; buckets are not supported here")
    return cache.Place(Path(paths.local(encode.features)), encode.features_limit)


def _likely_devices(request: Request) -> list[str]:
    """Returns the devices of a run, without importing torch: "auto" is replaced by what it will probably be."""
    likely = "cuda" if shutil.which("nvidia-smi") else "mps" if sys.platform == "darwin" else "cpu"
    return [each.model.device.replace("auto", likely) for each in request.per_device()]


def workers_of(request: Request, checkpoint: registry.Checkpoint | None) -> crew.Crew:
    """Returns the worker processes of a run. Without a checkpoint, its model is taken to have the usual size.

    Ray knows the cores of its nodes; by default it gets one actor per device.
    """
    options = request.run.workers
    jobs = 1 if options.jobs is None and options.engine == "ray" else options.jobs
    try:
        model = USUAL if checkpoint is None else checkpoint.weights.stat().st_size
    except OSError:  # it is told when the model is loaded
        model = USUAL
    likely = _likely_devices(request)
    return crew.choose(crew.Machine.here(), model, likely, jobs, gpus.memories() if likely != ["cpu"] else ())


def work(
    request: Request,
    checkpoint: registry.Checkpoint,
    job: Job,
    items: Iterable[Source | Record],
    notify: workers.Notify,
    alone: bool = False,
) -> Iterator[Record]:
    """Yields one record per item from the request's engine. `alone`: a single image needs no worker process."""
    options = request.run.workers
    in_memory = any(path.startswith("memory://") for path in (request.out, *request.inputs.inputs))
    engine = inline if (alone or in_memory) and options.engine == "local" else ENGINES[options.engine]
    chosen = workers_of(request, checkpoint)
    works = [partial(_process, one, checkpoint, job) for one in request.per_worker(chosen.processes)]
    cluster = workers.Cluster(options.ray_address, request.model.device, chosen.threads, chosen.patient)
    return engine(items, works, notify, AHEAD * job.batch_size, cluster)


def _process(
    request: Request,
    checkpoint: registry.Checkpoint,
    job: Job,
    sources: Iterable[Source | None],
    send: workers.Send,
) -> Iterator[Record]:
    """Does the work of one worker: yields records and writes files. Its parent writes the manifest.

    On another machine the weights may be elsewhere, but the output folder must be the parent's. Raises OutputError.
    """
    checkpoint = _here(checkpoint, request.model.offline)
    out = store.as_path(request.out)
    if job.plan.formats and isinstance(out, Path) and not (out / RUN).exists():
        node = socket.gethostname()
        raise OutputError(f"{node} does not see {out.absolute()}: use an --out that all machines of the run share")

    def progress(source: Source, stage: Stage) -> None:
        send(workers.Progress(source.key, stage))

    def write(path: str, data: store.Written) -> None:
        store.write(out / path, data, request.output.fsync)

    load_refiner = None if job.sam is None else partial(load_sam, request.model, job.sam, send)

    def tell(line: str) -> None:
        send(workers.Notice(line, passing=True))

    load_network = partial(load_model, request, checkpoint, send)
    return pipeline.run(sources, job, load_network, write, progress, load_refiner, tell)


def _here(checkpoint: registry.Checkpoint, offline: bool) -> registry.Checkpoint:
    """Returns a checkpoint as it is on this machine, which may be another one than the parent's."""
    if checkpoint.weights.exists():
        return checkpoint
    named = f"{checkpoint.repo}@{checkpoint.revision}" if checkpoint.repo else checkpoint.name
    return registry.locate(named, offline=offline, kinds=KINDS)


def load_sam(options: ModelOptions, checkpoint: registry.Checkpoint, notify: workers.Notify) -> "Sam":
    """Returns the loaded network of `--refine sam`. Notifies of the model, device and precision."""
    from clipseg_cli.model.sam import Sam

    sam = Sam.load(_here(checkpoint, options.offline), device=options.device, dtype=options.dtype)
    at = f" ({checkpoint.repo} at {checkpoint.revision})" if checkpoint.repo else ""
    notify(workers.Notice(f"refinement by {checkpoint.name}{at} on {sam.device} in {sam.dtype}"))
    return sam


def load_model(
    request: Request, checkpoint: registry.Checkpoint, notify: workers.Notify
) -> "tuple[Segmenter, Embeddings]":
    """Returns the loaded network and the embedded query. Notifies of the model, device, precision and backend."""
    options = request.model
    gc.disable()  # loading makes half a million objects that all stay; scanning them takes a tenth of the time
    try:
        from clipseg_cli.model.tokenizer import read_tokenizer

        if options.backend == "fast":
            read_tokenizer(checkpoint.path)  # kept for the network; now, while torch's library is still being loaded
        from clipseg_cli.model.segmenter import Segmenter

        encode = request.encode
        segmenter = Segmenter.load(
            checkpoint,
            device=options.device,
            dtype=options.dtype,
            backend=options.backend,
            size=encode.size,
            batch=encode.batch_size,
        )
    finally:
        gc.enable()
        gc.freeze()
    at = f" ({checkpoint.repo} at {checkpoint.revision})" if checkpoint.repo else ""
    line = f"model {checkpoint.name}{at} on {segmenter.device} in {segmenter.dtype}, {segmenter.backend} backend"
    notify(workers.Notice(line, {"device": segmenter.device, "dtype": segmenter.dtype, "backend": segmenter.backend}))
    return segmenter, embed.embed(segmenter, request.query, request.inputs.decoding)
