"""Makes masks and files from the soft maps of a finished run, with other options. Does not load the network.

With the options of the run it writes the same bytes as the run: both end in `finish`.
"""

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli import __version__
from clipseg_cli.errors import ImageError, OutputError, UsageError
from clipseg_cli.inputs import decode, georeference, orientation
from clipseg_cli.inputs.decoders import no_data
from clipseg_cli.inputs.finding import folders
from clipseg_cli.inputs.frames import tiff_pages
from clipseg_cli.inputs.frames.reader import FrameReader
from clipseg_cli.inputs.georeference import NOWHERE, Georeference
from clipseg_cli.inputs.names import stem as stem_of
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.masks import matting, soft_maps
from clipseg_cli.masks.refine import REFINEMENTS
from clipseg_cli.model import registry
from clipseg_cli.outputs import films, manifest, names, stacks, writers
from clipseg_cli.outputs.ledger import Ledger
from clipseg_cli.outputs.manifest import MANIFEST, RUN
from clipseg_cli.outputs.names import Names
from clipseg_cli.outputs.record import Identity, Record, image_name, key_of
from clipseg_cli.outputs.writers import one_file, per_run, photos, raster
from clipseg_cli.prompts.slugs import unique_slugs
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.prompts.thresholds import resolve_thresholds
from clipseg_cli.run import refiner, run_file, sharing, work
from clipseg_cli.run.engines.crew import pool_size
from clipseg_cli.run.finish import MaskPlan, Write, finish
from clipseg_cli.run.pipeline import ahead
from clipseg_cli.run.refiner import Once, Refiner
from clipseg_cli.run.summary import Summary
from clipseg_cli.settings.flag import decisive
from clipseg_cli.settings.inputs import MAX_PIXELS, DecodeOptions, recorded
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import ModelOptions, devices
from clipseg_cli.settings.names import patterns, templates
from clipseg_cli.settings.outputs import OutputOptions, complete
from clipseg_cli.storage import paths, store
from clipseg_cli.storage.buckets import Url

OUT = "clipseg-post"  # the default output folder
SOFT = ("soft16", "soft")  # keys of a soft map's path in a record, the finer map first

Row = dict[str, Any]  # a record of the run, as JSON types


@dataclass(frozen=True, slots=True)
class Request:
    """The options of `clipseg post`. Raises UsageError if a refinement lacks its package."""

    run: store.AnyPath
    masks: MaskOptions = field(default_factory=MaskOptions)  # labels without a threshold keep the run's
    output: OutputOptions = field(default_factory=OutputOptions)
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    command: tuple[str, ...] = ()
    network: ModelOptions = field(default_factory=ModelOptions)  # device, precision and `offline` of --refine sam

    def __post_init__(self) -> None:
        REFINEMENTS[self.masks.clean.refine].check()
        if self.output.export.decontaminate:
            matting.check("--decontaminate")
        one_file.check_folder(self.out, "clipseg post")

    @property
    def out(self) -> str:
        """The output folder, or its URL."""
        return paths.local(self.output.out or OUT)


def placed(request: Request, note: Callable[[str], None]) -> Request:
    """Returns the request with its output folder, and takes that folder if it is new.

    Without `-o` it is the folder of an earlier `post` of the same settings, otherwise the first of `clipseg-post`,
    `clipseg-post-2`, ... that holds no run. Raises OutputError, UsageError.
    """
    if request.output.out is not None:
        return request
    before = _read(request.run)
    document = _describe(request, before, _plan(request, before), _sam(request, before))
    out, told = run_file.take_folder(request.out, document, not request.overwrite)
    if told:
        note(told)
    return replace(request, output=replace(request.output, out=out))


def post(request: Request, summary: Summary, note: Callable[[str], None]) -> Iterator[Record]:
    """Yields the record of each image of the run once its files are written, and counts it.

    A repeated request processes only images that are missing, or whose soft maps or photos have changed. Raises
    UsageError if there is no run or it has no soft maps, OutputError if the output cannot be written or holds something
    else.
    """
    run, out, fsync = request.run, store.as_path(request.out), request.output.fsync
    before = _read(run)
    plan = _plan(request, before)
    sam = _sam(request, before)
    document = _describe(request, before, plan, sam)
    names = [prompt.label for prompt in plan.prompts]
    run_file.check_names(out, patterns(request.output.name, names, plan.formats, plan.export.images))
    _admit(out, document, request)
    started = time.monotonic()
    store.write(out / RUN, run_file.to_json(document), fsync)

    def write(path: str, data: store.Written) -> None:
        store.write(out / path, data, fsync)

    directory = before.get("directory", "")
    decoding = recorded(before["settings"], request.max_pixels)
    threads = pool_size()
    paged: set[str] = set()  # images of several pages or frames
    with Ledger(out, fsync) as ledger, FrameReader(threads) as reader, ThreadPoolExecutor(threads) as pool:
        load = partial(reader.load, options=decoding)
        kept = _Run(run, directory, before["settings"].get("orientation") == "stored", _stems(run, before))
        options = replace(request.network, device=devices(request.network.device)[0])
        load_sam = None if sam is None else partial(work.load_sam, options, sam, lambda notice: note(notice.line))
        seer = None if load_sam is None else Refiner(load_sam)
        again = partial(_again, run=kept, load=load, decoding=decoding, plan=plan, write=write, sam=seer)

        def take(row: Row) -> Row | Record | None:
            taken = ledger.take(key_of(row), partial(_identify, row, run, directory))
            return taken if isinstance(taken, Record) else row if taken else None

        rows = manifest.documents(run / MANIFEST)
        for record in sharing.shared(
            rows, take, lambda items: filter(None, ahead(pool, again, items, 2 * threads)), note
        ):
            record = record.of_run(plan.formats)
            ledger.add(record)
            summary.add(record)
            paged |= {record.image} if record.frame else set()
            yield record
        ledger.close()
    store.sweep(out)
    labels = tuple(prompt.label for prompt in plan.prompts)
    per_run.assemble(out, plan.formats, labels, fsync, before.get("inputs", {}).get("inputs", ()))
    feather, export = plan.masks.clean.feather, plan.export
    slugs = tuple(unique_slugs(labels))
    films.assemble(films.Plan(out, plan.formats, labels, slugs, export, feather, directory, decoding, fsync))
    for line in stacks.assemble(stacks.Plan(out, plan.formats, plan.names.templates, directory, fsync), paged):
        note(line)
    summary.seconds = time.monotonic() - started
    store.write(out / RUN, run_file.to_json(document | run_file.ending(summary)), fsync)


def _sam(request: Request, before: dict[str, Any]) -> registry.Checkpoint | None:
    """Returns the network of `--refine sam`; None without that."""
    return refiner.located(request.masks.clean, str(before["settings"].get("model")), request.network.offline)


def _describe(
    request: Request, before: dict[str, Any], plan: MaskPlan, sam: registry.Checkpoint | None
) -> dict[str, Any]:
    """Returns the content of run.json."""
    prompts = [
        {"label": prompt.label, "text": prompt.text, "threshold": threshold}
        for prompt, threshold in zip(plan.prompts, plan.thresholds, strict=True)
    ]
    return {
        "clipseg": __version__,
        "command": ["clipseg", *request.command],
        "model": before.get("model"),
        "settings": {
            "post": {"run": str(request.run), "settings": before["settings"]},
            "prompts": prompts,
            "formats": list(plan.formats),
            **decisive(request.masks, request.output, *(() if sam is None else (request.network,))),
            **run_file.refinement(sam),
        },
        "own_thresholds": before.get("own_thresholds", {}),
        "directory": before.get("directory", os.getcwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _read(run: store.AnyPath) -> dict[str, Any]:
    """Returns the content of the run's run.json. Raises UsageError if there is none or it names no soft maps."""
    try:
        document = json.loads((run / RUN).read_bytes())
        [str(prompt["label"] + prompt["text"]) for prompt in document["settings"]["prompts"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{run} holds no run: name the output folder of `clipseg segment ... -f soft`") from None
    if not isinstance(document, dict):
        raise UsageError(f"{run / RUN} was not written by clipseg")
    if not any(form in document["settings"]["formats"] for form in SOFT):
        raise UsageError(f"{run} has no soft maps: run it again with -f soft (or -f mask,overlay,soft)")
    return document


def _plan(request: Request, before: dict[str, Any]) -> MaskPlan:
    rows = before["settings"]["prompts"]
    known = [Prompt(row["label"], row["text"]) for row in rows]
    bare = any("=" not in text for text in request.masks.threshold)
    kept = before.get("own_thresholds", {}) if bare else {row["label"]: row["threshold"] for row in rows}
    given = [replace(prompt, threshold=kept.get(prompt.label)) for prompt in known]
    chosen = resolve_thresholds(request.masks.threshold, given, 0.5)
    formats = complete(request.output.formats)
    writers.check(len(known), request.masks, formats)
    if "soft16" in formats and "soft16" not in before["settings"]["formats"]:
        raise UsageError(f"{request.run} has only 8-bit soft maps: run it again with -f soft16")
    slugs = unique_slugs(prompt.label for prompt in known)
    names.check(request.output.name, formats, slugs, one_file.NAMED)
    named = Names.of(request.output.name, formats)
    return MaskPlan(tuple(known), chosen, request.masks, formats, request.output.export, names=named)


def _admit(out: store.AnyPath, document: dict[str, Any], request: Request) -> None:
    """Prepares the output folder: keeps what an earlier request with the same settings did, forgets that of another.

    Raises OutputError if the folder holds a run of another command.
    """
    store.check(out)
    if folders.same(str(out), str(request.run)):
        raise OutputError(f"{out} is the run itself: choose another --out")
    before: dict[str, Any] = {}
    try:
        before = dict(json.loads((out / RUN).read_bytes())["settings"])
        ours = "post" in before
    except FileNotFoundError:
        ours = not (out / MANIFEST).exists()
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours and not request.overwrite:
        raise OutputError(f"{out} holds a run of another command: choose another --out, or use --overwrite")
    if request.overwrite or before != json.loads(run_file.to_json(document))["settings"]:
        manifest.forget(out)


def _identify(row: Row, run: store.AnyPath, directory: str) -> Identity:
    """Returns what changes when the record, one of its soft maps or the photo changes.

    Raises OSError if a soft map is gone, ValueError for the record of a failed image.
    """
    if row["status"] != "ok":
        raise ValueError("a failed image")
    seen: list[Any] = [row, *(identify(Source(str(run / path), "", ""), False) for path in _stored(row))]
    with contextlib.suppress(OSError):  # the photo may be gone: masks do not need it
        seen.append(identify(Source(_photo(row, directory), "", ""), False))
    return [hashlib.sha256(json.dumps(seen).encode()).hexdigest()]


def _stored(row: Row) -> list[str]:
    """Returns the path of each label's soft map in the run, of the finer one if there are two."""
    return [str(next(filter(None, (mask.get(form) for form in SOFT)), None)) for mask in row["masks"]]


def _photo(row: Row, directory: str) -> str:
    """Returns the path or the URL of the image."""
    name = image_name(row)
    return name if paths.is_url(name) else os.path.join(directory, name)


@dataclass(frozen=True, slots=True)
class _Run:
    """The run whose soft maps are used."""

    folder: store.AnyPath
    directory: str  # base of the images' relative paths
    stored: bool  # its masks are in the pixel frame of the files
    stem: Callable[[Row], str]  # returns the output path of an image


def _again(
    row: Row | Record,
    *,
    run: _Run,
    load: Callable[[Source], decode.Image],
    decoding: DecodeOptions,
    plan: MaskPlan,
    write: Write,
    sam: Refiner | None = None,
) -> Record:
    """Writes the files of one image of the run again and returns its record. A record is passed on."""
    if isinstance(row, Record):
        return row
    before = Record.kept_from(row)
    if before.error is not None:
        return before.failed(before.error)
    notes = tuple(filter(None, row["notes"].split("; ")))
    blank = replace(before, kept=None, format=row["format"], frames=row["frames"], notes=notes)
    with contextlib.suppress(OSError):  # a soft map is gone: reading it will say so
        blank = replace(blank, identity=_identify(row, run.folder, run.directory))
    shape = row["height"], row["width"]  # of its masks
    turn = before.orientation if run.stored else 1
    shown = shape[::-1] if turn >= 5 else shape
    blank = replace(blank, height=shown[0], width=shown[1])

    stored = _stored(row)
    try:
        stem = run.stem(row)
    except ImageError as error:
        return blank.failed(error)
    source = Source(_photo(row, run.directory), before.image, stem, frame=_frame(row, stem))
    blank = replace(blank, frame=source.frame, georeference=_georeference(run.folder, stored))

    @cache
    def image() -> decode.Image:
        found = load(source)
        if found.pixels.shape[:2] != shown:
            raise ImageError("changed", "load", f"it is not the image of the run ({shown[1]} x {shown[0]} pixels)")
        return found

    def seen() -> Identity:
        try:
            found = identify(source, False)
        except (OSError, ValueError) as error:
            raise paths.fault(error, "load") from error
        image()  # it is the image of the run
        return found

    def maps() -> Iterator[soft_maps.Scored]:
        for mask, path in zip(row["masks"], stored, strict=True):
            levels = np.ascontiguousarray(orientation.upright(_levels(run.folder / path, shape), turn))
            soft_map = soft_maps.StoredMap(levels)
            scores = mask["score"], mask["mean"], mask["presence"], mask["similarity"]
            yield soft_maps.Scored(soft_map, *scores, image().clear if no_data.is_noted(notes) else None)

    def photo() -> NDArray[np.uint8]:
        return image().pixels

    kept = photos.reread(source, before.format, seen, decoding)
    return finish(blank, stem, photo, maps(), plan, write, kept, None if sam is None else Once(sam, photo))


def _georeference(folder: store.AnyPath, soft: list[str]) -> Georeference:
    """Returns the georeference of an image, which its soft maps have too."""
    if not soft:
        return NOWHERE
    found = NOWHERE if isinstance(folder, Url) else georeference.beside(str(folder / soft[0]))
    if soft[0].endswith((".tif", ".tiff")):
        with contextlib.suppress(OSError, ValueError):
            first = next(tiff_pages.directories(io.BytesIO((folder / soft[0]).read_bytes())))
            found = replace(found, tags=georeference.of_tiff(first).tags)
    return found


def _levels(path: store.AnyPath, shape: tuple[int, int]) -> NDArray[Any]:
    """Returns the levels of a soft map of the run, uint8 or uint16 (H, W). Raises ImageError."""
    try:
        levels = raster.levels(path.read_bytes())
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError("vanished", "mask", f"its soft map {path} cannot be read ({error}): run it again") from None
    if levels.shape != shape:
        raise ImageError("changed", "mask", f"its soft map {path} is not the one the run wrote: run it again")
    return levels


def _stems(run: store.AnyPath, before: dict[str, Any]) -> Callable[[Row], str]:
    """Returns a function from an image of the run to its output path. The function raises ImageError.

    It is in the path of a soft map, soft/<label>/<stem>.png; if --name has changed that, in the journal.
    """
    if not {*SOFT} & {*templates(before["settings"].get("name", ()))}:
        return lambda row: _stored(row)[0].split("/", 2)[2].rpartition(".")[0]
    known = manifest.outputs(run)

    def stem(row: Row) -> str:
        if key_of(row) not in known:
            raise ImageError("vanished", "mask", f"{run / manifest.JOURNAL} does not have it: run it again")
        return known[key_of(row)]

    return stem


def _frame(row: Row, stem: str) -> int | None:
    """Returns the number of the frame that a record describes; None if the file was taken as one image.

    Both may have the number 0, but a frame's output path ends in its number, below that of its file.
    """
    number, last = int(row["frame"]), stem.rpartition("/")[2]
    named = stem_of(image_name(row).rpartition("/")[2])
    return number if number or (last.startswith(f"{0:06}") and not last.startswith(named)) else None
