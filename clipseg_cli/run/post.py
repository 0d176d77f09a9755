"""A finished run's soft maps to masks again, with other options: the network is never loaded.

Given the options that the run had, its files come out again to the byte: both end in `finish`.
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from clipseg_cli import __version__
from clipseg_cli.errors import ImageError, OutputError, UsageError
from clipseg_cli.inputs import decode, folders
from clipseg_cli.inputs.discovery import Source
from clipseg_cli.masks import soft_maps
from clipseg_cli.outputs import manifest
from clipseg_cli.outputs.manifest import MANIFEST, RUN, Ledger, Record
from clipseg_cli.outputs.writers import refuse_many, whole
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.prompts.thresholds import resolve_thresholds
from clipseg_cli.run.finish import finish
from clipseg_cli.run.pipeline import ahead
from clipseg_cli.settings import ExportOptions, Format, MaskOptions, OutputOptions
from clipseg_cli.storage import files, store

KEPT = ("soft16", "soft")  # where a record names a soft map, the finer first


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    run: store.Place
    thresholds: tuple[str, ...]  # as typed; without a bare one a label that is not named keeps the run's
    mask: MaskOptions  # its prompts and thresholds are the run's
    export: ExportOptions
    output: OutputOptions
    max_pixels: int
    command: tuple[str, ...]


def post(request: Request, note: Callable[[str], None]) -> Iterator[Record]:
    """Yields the record of each image of the run once its files are written.

    Raises UsageError where there is no run or it kept no soft maps, OutputError where the output cannot be written or
    holds something else.
    """
    run, out, fsync = request.run, store.place(request.output.out), request.output.fsync
    before = _read(run)
    formats: tuple[Format, ...] = request.output.formats or ("mask", "overlay")
    mask = _options(request, before)
    _admit(out, run, request.output.resume)
    manifest.forget(out)
    settings = {
        "post": {"run": str(run), "settings": before["settings"]},
        "prompts": [
            {"label": prompt.label, "text": prompt.text, "threshold": threshold}
            for prompt, threshold in zip(mask.prompts, mask.thresholds, strict=True)
        ],
        "mode": mask.mode,
        "background": mask.background,
        "min_presence": mask.min_presence,
        "empty": mask.empty,
        "clean": asdict(mask.clean),
        "formats": list(formats),
        "export": asdict(request.export),
    }
    document: dict[str, Any] = {
        "clipseg": __version__,
        "command": ["clipseg", *request.command],
        "model": before.get("model"),
        "settings": settings,
        "own_thresholds": before.get("own_thresholds", {}),
        "directory": before.get("directory", os.getcwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    started, done, failed = time.monotonic(), 0, 0
    store.write(out / RUN, _json(document), fsync)

    def again(row: dict[str, Any]) -> Record:
        return _again(row, request, before, mask, formats, lambda path, data: store.write(out / path, data, fsync))

    workers = max(2, min(8, os.cpu_count() or 1))
    with Ledger(out, fsync) as ledger, ThreadPoolExecutor(workers) as pool:
        for record in ahead(pool, again, manifest.documents(run / MANIFEST), 2 * workers):
            ledger.add(record)
            done, failed = done + record.ok, failed + (not record.ok)
            yield record
        ledger.close()
    whole.assemble(out, formats, [prompt.label for prompt in mask.prompts], fsync)
    seconds = time.monotonic() - started
    store.write(
        out / RUN, _json(document | {"images": {"done": done, "failed": failed}, "seconds": round(seconds, 3)}), fsync
    )
    wrong = f", {failed} failed (see {out / MANIFEST})" if failed else ""
    note(f"{done} of {done + failed} images done{wrong}, {seconds:.1f} s -> {out}")


def _read(run: store.Place) -> dict[str, Any]:
    """The run's run.json."""
    try:
        document = json.loads((run / RUN).read_bytes())
        [str(prompt["label"] + prompt["text"]) for prompt in document["settings"]["prompts"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{run} holds no run: name the output directory of `clipseg segment ... -f soft`") from None
    if not isinstance(document, dict):
        raise UsageError(f"{run / RUN} was not written by clipseg")
    if not any(form in document["settings"]["formats"] for form in KEPT):
        raise UsageError(f"{run} kept no soft maps: run it again with -f soft (-f mask,overlay,soft keeps the rest)")
    return document


def _options(request: Request, before: dict[str, Any]) -> MaskOptions:
    rows = before["settings"]["prompts"]
    known = [Prompt(row["label"], row["text"]) for row in rows]
    bare = any("=" not in text for text in request.thresholds)
    kept = before.get("own_thresholds", {}) if bare else {row["label"]: row["threshold"] for row in rows}
    given = [replace(prompt, threshold=kept.get(prompt.label)) for prompt in known]
    thresholds = resolve_thresholds(request.thresholds, given, 0.5)
    refuse_many(len(known), request.mask.mode, request.output.formats)
    if "soft16" in request.output.formats and "soft16" not in before["settings"]["formats"]:
        raise UsageError(f"{request.run} kept its maps in 8 bits: run it again with -f soft16")
    return replace(request.mask, prompts=tuple(known), thresholds=thresholds)


def _admit(out: store.Place, run: store.Place, resume: bool) -> None:
    """Refuses to write over a run; what an earlier `post` wrote may go."""
    store.check(out)
    if folders.same(str(out), str(run)):
        raise OutputError(f"{out} is the run itself: choose another --out")
    if not resume:
        return
    try:
        ours = "post" in json.loads((out / RUN).read_bytes())["settings"]
    except FileNotFoundError:
        ours = not (out / MANIFEST).exists()
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise OutputError(f"{out} holds a run of another command: choose another --out, or --overwrite it")


def _again(
    row: dict[str, Any],
    request: Request,
    before: dict[str, Any],
    options: MaskOptions,
    formats: tuple[Format, ...],
    write: Callable[[str, bytes], None],
) -> Record:
    """The record of one image of the run, with its files written anew."""
    name = manifest.image_name(row)
    if row["status"] != "ok":
        error = row["error"]
        return Record(name, error=ImageError(error["class"], error["stage"], error["message"]))
    notes = tuple(row.get("notes", ()))
    blank = Record(name, row["width"], row["height"], row["format"], row.get("frames", 1), notes=notes)
    shape = row["height"], row["width"]

    @cache
    def photo() -> NDArray[np.uint8]:
        path = name if files.is_url(name) else os.path.join(before.get("directory", ""), name)
        image = decode.load(Source(path, name, name), max_pixels=request.max_pixels)
        if image.pixels.shape[:2] != shape:
            raise ImageError("changed", "load", f"it is not the picture of the run, which had {shape[1]} x {shape[0]}")
        return image.pixels

    paths = [next((mask[form] for form in KEPT if form in mask), None) for mask in row["masks"]]

    def maps() -> Iterator[soft_maps.Scored]:
        for mask, path in zip(row["masks"], paths, strict=True):
            one = soft_maps.StoredMap(_levels(request.run / str(path), shape))
            yield soft_maps.Scored(one, mask["score"], mask["mean"], mask["presence"], mask.get("similarity"))

    return finish(blank, _stem(str(paths[0])), photo, maps(), options, formats, request.export, write)


def _levels(path: store.Place, shape: tuple[int, int]) -> NDArray[Any]:
    """A soft map that the run kept. Raises ImageError."""
    try:
        with PngImageFile(io.BytesIO(path.read_bytes())) as picture:
            levels = np.array(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError("vanished", "mask", f"its soft map {path} cannot be read ({error}): run it again") from None
    if levels.dtype not in (np.uint8, np.uint16) or levels.shape != shape:
        raise ImageError("changed", "mask", f"its soft map {path} is not the one that the run wrote: run it again")
    return levels


def _stem(path: str) -> str:
    """An image's output path, of the path soft/<label>/<stem>.png of its soft map."""
    return path.split("/", 2)[2].removesuffix(".png")


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
