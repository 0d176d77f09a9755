"""One run: phrases and images in, an output directory with its manifest out."""

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from clipseg_cli import __version__, exemplar, exemplars, files, pipeline, prompts, registry, store
from clipseg_cli.errors import NoInputError, OutputError, UsageError
from clipseg_cli.exemplars import Show, Wanted
from clipseg_cli.manifest import JOURNAL, MANIFEST, RUN, Ledger, Record
from clipseg_cli.settings import Empty, Format, MaskOptions, ModelOptions, OutputOptions
from clipseg_cli.sources import Source
from clipseg_cli.writers import raster

if TYPE_CHECKING:
    from clipseg_cli.model import Embeddings, Segmenter

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "opencv-python", "pillow")
SINGLE: dict[str, Format] = {"": "mask", ".png": "mask", ".jpg": "overlay", ".jpeg": "overlay"}  # of -o FILE's suffix
BATCH = {"cpu": 4}  # images encoded at once, by device; 16 elsewhere

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, checked as far as it can be without a model."""

    model: ModelOptions
    wanted: Wanted
    thresholds: tuple[str, ...]  # as typed: the default is the model's
    empty: Empty
    output: OutputOptions
    max_pixels: int
    command: tuple[str, ...]
    show: Show


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
    if first is None:
        raise NoInputError("no image found: give files, a folder or a list, and look at --ext, --exclude, --max-depth")
    sources = chain((first,), sources)
    if single(request.output.out):
        yield from _one(request, sources, note, stdout)
        return
    out, fsync = Path(request.output.out), request.output.fsync
    store.check(out)
    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    job = _job(request, checkpoint, request.output.formats or ("mask", "overlay"))
    document = _document(request, job, checkpoint)
    _admit(out, document, request.output.resume)

    def load() -> "tuple[Segmenter, Embeddings]":
        segmenter, embeddings = _model(request, checkpoint, note)
        document.update(device=segmenter.device, dtype=segmenter.dtype, backend=segmenter.backend)
        return segmenter, embeddings

    def write(path: str, data: bytes) -> None:
        store.write(out / path, data, fsync)

    write(RUN, _json(document))
    started, done, kept, failed = time.monotonic(), 0, 0, 0
    with Ledger(out, fsync) as ledger:
        for record in pipeline.run(sources, job, load, write, ledger.done):
            ledger.add(record)
            done, kept, failed = done + record.ok, kept + (record.kept is not None), failed + (not record.ok)
            yield record
        ledger.close()
    seconds = time.monotonic() - started
    counts = {"done": done, "of_these_before": kept, "failed": failed}
    write(RUN, _json(document | {"images": counts, "seconds": round(seconds, 3)}))
    before = f" ({kept} before)" if kept else ""
    wrong = f", {failed} failed (see {out / MANIFEST})" if failed else ""
    note(f"{done} of {done + failed} images done{before}{wrong}, {seconds:.1f} s -> {out}")


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
        store.check(Path(out).parent)

    def write(path: str, data: bytes) -> None:
        if out == "-":
            stdout.write(data)
            stdout.flush()
        else:
            store.write(Path(out), data, request.output.fsync)

    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    job = _job(request, checkpoint, forms)
    yield from pipeline.run([source], job, partial(_model, request, checkpoint, note), write)


def _job(request: Request, checkpoint: registry.Checkpoint, formats: tuple[Format, ...]) -> pipeline.Job:
    wanted = request.wanted
    thresholds = prompts.thresholds(request.thresholds, wanted.prompts, checkpoint.threshold)
    mask = MaskOptions(wanted.prompts, thresholds, wanted.rules, wanted.texts, request.empty)
    # an image of a batch has the same bits as alone, so its size is no setting of the result
    batch = request.model.batch_size or BATCH.get(request.model.device.replace("auto", "cpu"), 16)
    return pipeline.Job(mask, formats, request.max_pixels, batch, request.output.checksum)


def _model(request: Request, checkpoint: registry.Checkpoint, note: Note) -> "tuple[Segmenter, Embeddings]":
    """The loaded network and what to look for; says once which model runs where and how."""
    from clipseg_cli.model import Segmenter

    options = request.model
    segmenter = Segmenter.load(checkpoint, device=options.device, dtype=options.dtype, backend=options.backend)
    at = f" ({checkpoint.repo} at {checkpoint.revision})" if checkpoint.repo else ""
    note(f"model {checkpoint.name}{at} on {segmenter.device} in {segmenter.dtype}, {segmenter.backend} backend")
    return segmenter, exemplars.embed(segmenter, request.wanted, request.show)


def show_exemplars(request: Request, path: Path, note: Note) -> None:
    """Writes what the model is shown of every exemplar, side by side, as one PNG."""
    checkpoint = registry.locate(request.model.model, offline=request.model.offline, progress=True)
    segmenter, _ = _model(request, checkpoint, note)
    tiles = [exemplars.shown(segmenter, each, request.show) for each in request.show.exemplars]
    store.write(path, raster.rgb_png(np.hstack([exemplar.denormalised(tile.transpose(1, 2, 0)) for tile in tiles])))


def _document(request: Request, job: pipeline.Job, checkpoint: registry.Checkpoint) -> dict[str, Any]:
    """The content of run.json. All that differs between two runs of the same command stands here.

    `settings` is all that decides the content of the outputs: two runs that share a directory must agree in it.
    """
    weights = checkpoint.revision or files.identity(str(checkpoint.weights))
    bundled = checkpoint.path == registry.BUNDLED
    model = {"name": checkpoint.name, "repo": checkpoint.repo, "revision": checkpoint.revision}
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
        "formats": list(job.formats),
        "max_pixels": job.max_pixels,
        "checksum": job.checksum,
    }
    if request.show.exemplars:
        settings |= request.show.settings()
    return {
        "clipseg": __version__,
        "command": ["clipseg", *request.command],
        "model": model | {"path": None if checkpoint.repo else str(checkpoint.path)},
        "settings": settings,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _admit(out: Path, document: dict[str, Any], resume: bool) -> None:
    """Refuses a directory that holds a run with other settings, showing the difference; without `resume` forgets it."""
    if not resume:
        for name in (MANIFEST, JOURNAL, RUN):
            (out / name).unlink(missing_ok=True)
        return
    try:
        earlier = json.loads((out / RUN).read_bytes())
        before = earlier["settings"]
        if "seconds" not in earlier:  # it did not come to its end
            store.sweep(out)
    except FileNotFoundError:
        if not (out / MANIFEST).exists():
            return
        before = {}
    except (OSError, ValueError, KeyError, TypeError):
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


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def planned(source: Source, request: Request) -> str:
    """One line of --dry-run: what would be read, and the masks that it would give."""
    slugs = prompts.slugs(prompt.label for prompt in request.wanted.prompts)
    stem = store.portable(source.output)
    return source.name + " -> " + " ".join(f"masks/{slug}/{stem}.png" for slug in slugs)
