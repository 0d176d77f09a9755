"""One run: phrases and images in, an output directory with its manifest out."""

import json
import os
import platform
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from clipseg_cli import __version__, pipeline, prompts, registry, store
from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.manifest import MANIFEST, RUN, Record
from clipseg_cli.prompts import Prompt
from clipseg_cli.settings import Empty, Format, MaskOptions, ModelOptions, OutputOptions
from clipseg_cli.sources import Source

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "opencv-python", "pillow")
SINGLE = {"": "mask", ".png": "mask", ".jpg": "overlay", ".jpeg": "overlay"}  # suffix of -o FILE -> its default format


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, checked as far as it can be without a model."""

    model: ModelOptions
    prompts: tuple[Prompt, ...]
    thresholds: tuple[str, ...]  # as typed: the default is the model's
    empty: Empty
    output: OutputOptions
    max_pixels: int
    command: tuple[str, ...]


def single(out: str) -> bool:
    """True where `-o` names one file (or `-`, stdout) instead of a directory."""
    return out == "-" or (Path(out).suffix.lower() in SINGLE and bool(Path(out).suffix) and not os.path.isdir(out))


def segment(
    request: Request, sources: Iterator[Source], note: Callable[[str], None], stdout: BinaryIO
) -> Iterator[Record]:
    """Runs it; yields each record once its files and its manifest line are written.

    Raises NoInputError when there is no source, OutputError before the model is loaded where the output cannot be
    written, ModelError, UsageError.
    """
    first = next(sources, None)
    if first is None:
        raise NoInputError("no image found: give files, a folder or a list, and look at --ext, --exclude, --max-depth")
    sources = _chain(first, sources)
    if single(request.output.out):
        yield from _one(request, sources, note, stdout)
        return
    out = Path(request.output.out)
    store.check(out)
    job, segmenter = _prepare(request, note)
    document = _document(request, job, segmenter)
    store.write(out / RUN, _json(document))
    started, counts = time.monotonic(), {"ok": 0, "failed": 0}
    with store.Lines(out / MANIFEST) as manifest:
        for record in pipeline.run(sources, job, segmenter, lambda path, data: store.write(out / path, data)):
            manifest.append(record.line())
            counts["ok" if record.ok else "failed"] += 1
            yield record
    seconds = time.monotonic() - started
    images = sum(counts.values())
    store.write(out / RUN, _json(document | {"images": counts, "seconds": round(seconds, 3)}))
    failed = f", {counts['failed']} failed (see {out / MANIFEST})" if counts["failed"] else ""
    note(f"{counts['ok']} of {images} images done{failed}, {images / max(seconds, 1e-9):.1f} images/s -> {out}")


def _one(
    request: Request, sources: Iterator[Source], note: Callable[[str], None], stdout: BinaryIO
) -> Iterator[Record]:
    """One image to one file or to stdout: no manifest, no folders."""
    source, second = next(sources), next(sources, None)
    out = request.output.out
    if second is not None:
        raise UsageError(f"-o {out} takes one image, and more were given: name a folder with -o DIR")
    forms = request.output.formats or (SINGLE["" if out == "-" else Path(out).suffix.lower()],)
    if len(forms) != 1 or (forms[0] != "overlay" and len(request.prompts) != 1):
        raise UsageError(f"-o {out} takes one file: one format and one prompt (or -f overlay for several prompts)")
    if out != "-":
        store.check(Path(out).parent)

    def write(path: str, data: bytes) -> None:
        if out == "-":
            stdout.write(data)
            stdout.flush()
        else:
            store.write(Path(out), data)

    job, segmenter = _prepare(request, note, forms)  # type: ignore[arg-type]
    yield from pipeline.run([source], job, segmenter, write)


def _prepare(
    request: Request, note: Callable[[str], None], formats: tuple[Format, ...] | None = None
) -> tuple[pipeline.Job, Any]:
    """The job and the loaded network; says once which model runs where and how."""
    options = request.model
    checkpoint = registry.locate(options.model, offline=options.offline, progress=True)
    thresholds = prompts.thresholds(request.thresholds, request.prompts, checkpoint.threshold)
    from clipseg_cli.model import Segmenter

    segmenter = Segmenter.load(checkpoint, device=options.device, dtype=options.dtype, backend=options.backend)
    at = f" ({checkpoint.repo} at {checkpoint.revision})" if checkpoint.repo else ""
    note(f"model {checkpoint.name}{at} on {segmenter.device} in {segmenter.dtype}, {segmenter.backend} backend")
    batch = options.batch_size or (4 if segmenter.device == "cpu" else 16)
    forms = formats or request.output.formats or ("mask", "overlay")
    return pipeline.Job(
        MaskOptions(request.prompts, thresholds, request.empty), forms, request.max_pixels, batch
    ), segmenter


def _document(request: Request, job: pipeline.Job, segmenter: Any) -> dict[str, Any]:
    """The content of run.json. All that differs between two runs of the same command stands here."""
    checkpoint = segmenter.checkpoint
    return {
        "clipseg": __version__,
        "command": ["clipseg", *request.command],
        "model": {
            "name": checkpoint.name,
            "repo": checkpoint.repo,
            "revision": checkpoint.revision,
            "path": None if checkpoint.repo else str(checkpoint.path),
        },
        "device": segmenter.device,
        "dtype": segmenter.dtype,
        "backend": segmenter.backend,
        "settings": {
            "prompts": [
                {"label": prompt.label, "text": prompt.text, "threshold": threshold}
                for prompt, threshold in zip(job.mask.prompts, job.mask.thresholds, strict=True)
            ],
            "empty": job.mask.empty,
            "formats": list(job.formats),
            "max_pixels": job.max_pixels,
            "batch_size": job.batch_size,
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _chain(first: Source, rest: Iterable[Source]) -> Iterator[Source]:
    yield first
    yield from rest


def planned(source: Source, request: Request) -> str:
    """One line of --dry-run: what would be read, and the masks that it would give."""
    slugs = prompts.slugs(prompt.label for prompt in request.prompts)
    stem = store.portable(source.output)
    return source.name + " -> " + " ".join(f"masks/{slug}/{stem}.png" for slug in slugs)
