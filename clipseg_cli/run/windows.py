"""Images that are larger than memory: they are read, segmented and written by rows of windows.

rows of the file -> windows -> logits -> rows of the joined soft map -> masks of BAND rows -> tiles of the output

Only what a row of windows needs is in memory. What is finished is saved after each row of windows; the next run goes on
there. The outputs are those of the same image in memory. So only steps that look at each pixel alone are possible:
`obstacle` names the others.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipseg_cli import __version__
from clipseg_cli.errors import ClipsegError, ImageError, lacks_memory
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.decoders import no_data
from clipseg_cli.inputs.rows import Rows
from clipseg_cli.inputs.source import Source, readable
from clipseg_cli.masks import soft_maps, tiles
from clipseg_cli.masks.tally import Tally
from clipseg_cli.outputs import splits, writers
from clipseg_cli.outputs.names import Place
from clipseg_cli.outputs.record import Identity, Mask, Record
from clipseg_cli.outputs.writers import geotiff, one_file, world
from clipseg_cli.outputs.writers.result import Result
from clipseg_cli.prompts.slugs import unique_slugs
from clipseg_cli.run import finish
from clipseg_cli.run.job import Job
from clipseg_cli.run.network import Network
from clipseg_cli.settings.masks import CleanUp
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage.unfinished import Unfinished

if TYPE_CHECKING:
    from clipseg_cli.inputs.decoders.tiff_rows import LongImage

BAND = geotiff.TILE  # rows of the image whose masks are made at once
MOST_WINDOWS = 1_000_000  # of one image: their list takes about 200 MB
POSSIBLE: tuple[Format, ...] = ("mask", "soft", "soft16", "labels", "joined")
Tell = Callable[[str], None]


def segment(
    source: Source, identity: Identity | None, job: Job, network: Network, write: finish.Write, tell: Tell
) -> Record:
    """Writes the files of an image of more than --max-pixels, and returns its record. Raises OutputError.

    `tell` is told how far it is.
    """
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(_folder(job))
            with decode.by_rows(source, job.decoding) as image:
                work = _Work(source, identity, job, image)
                parts = stack.enter_context(work.unfinished(folder))
                work.do(network, parts, tell)
            return work.record(parts, write)  # not earlier: the end of the block tells whether the file has changed
    except ImageError as error:
        return Record.of(source).failed(error)
    except ClipsegError:
        raise
    except Exception as error:  # a bug here must fail one image, not the whole run
        why = ImageError("internal", "mask", f"{type(error).__name__}: {error}")
        if lacks_memory(error):
            why = ImageError("out_of_memory", "mask", "not enough memory for a row of windows; choose smaller ones")
        return Record.of(source).failed(why)


@contextmanager
def _folder(job: Job) -> Iterator[Path]:
    """Returns the folder of unfinished files. Without an output folder nothing resumes a run, so it is deleted."""
    if job.unfinished is not None:
        yield job.unfinished
        return
    with tempfile.TemporaryDirectory(prefix="clipseg-") as folder:
        yield Path(folder)


def obstacle(job: Job, geotiff: bool) -> str:
    """Returns the first option that needs the whole image in memory; "" if there is none."""
    plan, options = job.plan, job.plan.masks
    formats = (plan.file.form,) if plan.file else plan.formats
    steps, usual = replace(options.clean, invert=False), CleanUp()
    found = [f"-f {form}" for form in formats if form not in POSSIBLE]
    found += [
        f"--{field.name.replace('_', '-')}"
        for field in fields(steps)
        if getattr(steps, field.name) != getattr(usual, field.name)
    ]
    found += [f"--threshold {each}" for each in plan.thresholds if isinstance(each, str)]
    found += ["--instances"] if options.instances else []
    found += ["--min-presence"] if options.min_presence else []
    found += ["--similarity"] if job.encode.similarity else []
    for form in formats:
        own = plan.file.suffix if plan.file else plan.names.suffix(form)
        if own not in (".tif", ".tiff") and (plan.file or form in plan.names.templates or not geotiff):
            found.append(f"-f {form} as {own}")
    return next(iter(found), "")


class _Output(NamedTuple):
    """A file that is written by rows."""

    form: Format
    label: int | None  # its number; None: a file of all labels
    path: str

    def rows(self, result: Result) -> NDArray[Any]:
        """Returns its rows, from the result of these rows: uint8 or uint16 (R, W)."""
        return one_file.PIXELS[self.form](result, self.label or 0)


class _Work:
    """The state of one image's work."""

    def __init__(self, source: Source, identity: Identity | None, job: Job, image: "LongImage") -> None:
        """Raises ImageError if the image cannot be done by windows."""
        self.source, self.identity, self.job, self.image = source, identity, job, image
        beside, own = decode.placed(source, "TIFF"), image.georeference
        self.place = replace(beside, tags=own.tags) if beside.world else own
        height, width, window = image.height, image.width, job.encode.window
        what = obstacle(job, self.place.is_geotiff)
        if what:
            why = f"{width} x {height} pixels exceeds --max-pixels, and {what} needs the whole image in memory"
            raise ImageError("too_large", "load", f"{why}: leave it out, or raise that limit")
        if (row := min(window, height)) * width > job.decoding.max_pixels:
            why = f"a row of windows, {width} x {row} pixels, exceeds --max-pixels; choose smaller windows"
            raise ImageError("too_large", "load", f"{why}, or raise that limit")
        if height * width > MOST_WINDOWS * (window * (1 - tiles.OVERLAP)) ** 2:
            why = f"{width} x {height} pixels are more than {MOST_WINDOWS} windows; choose larger ones"
            raise ImageError("too_large", "load", why)
        self.views = tiles.views(height, width, 1, job.encode.flip, window)
        self.slugs = unique_slugs(prompt.label for prompt in job.plan.prompts)
        self.outputs = tuple(self._outputs())
        self.logits, self.clear = Rows(axis=1), Rows()
        # what is finished, from here on
        labels = len(self.slugs)
        self.done = 0  # rows of the image
        self.blank = 0  # pixels without data
        self.areas = np.zeros(labels, np.int64)
        self.boxes = np.zeros((labels, 4), np.int64)  # x, y, width, height, as `soft_maps.bbox`
        self.tally = Tally(labels)

    def _outputs(self) -> Iterator[_Output]:
        """Yields the files, in the order of the formats and labels. Raises ImageError."""
        plan, place = self.job.plan, Place(self.source.output, self.source.name, self.source.frame)
        for form in (plan.file.form,) if plan.file else plan.formats:
            for index in range(len(self.slugs)) if form in one_file.ONE_LABEL else (None,):
                slug = "" if index is None else self.slugs[index]
                path = writers.path(form, place, slug, plan.names, self.place.is_geotiff)
                if plan.file is not None:
                    path = place.stem if plan.file.path == one_file.STDOUT else plan.file.path
                yield _Output(form, index, path)

    def unfinished(self, folder: Path) -> Unfinished:
        """Returns the unfinished files of this image."""
        job = self.job
        mark = (__version__, self.identity, self.outputs, job.plan, job.rules, job.texts, job.encode, job.decoding)
        return Unfinished(folder, self.source.key, len(self.outputs), repr(mark))

    def do(self, network: Network, parts: Unfinished, tell: Tell) -> None:
        """Does the work from where it was left."""
        if parts.state:
            self._resume(parts.state)
        facts = self.image.survey(tuple(parts.state["facts"].tolist()) if parts.state else ())
        height = self.image.height
        scale = tiles.Scale.of(self.views[0], network.get()[0].side, height, self.image.width)
        if self.done == height:
            return
        start = soft_maps.Part.of(scale.height, height, self.done, height)[0].first
        self.logits.drop(start)
        for rows in tiles.blended(self._windows(network, scale, start, tell), scale, len(self.job.texts), start):
            self.logits.add(rows)
            self._bands(scale, parts)
            parts.save(self._state(facts))

    def _state(self, facts: Sequence[float]) -> dict[str, NDArray[Any]]:
        return {
            "done": np.array([self.done, self.blank]),
            "areas": self.areas,
            "boxes": self.boxes,
            "facts": np.array(facts, np.float64),
            "notes": np.array(json.dumps(self.image.notes)),
            **self.tally.state(),
        }

    def _resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        self.done, self.blank = state["done"].tolist()
        self.areas, self.boxes = state["areas"], state["boxes"]
        self.image.notes = json.loads(str(state["notes"]))
        self.tally = Tally(len(self.slugs), state)

    def _windows(
        self, network: Network, scale: tiles.Scale, start: int, tell: Tell
    ) -> Iterator[tuple[tiles.View, NDArray[np.float32]]]:
        """Yields the windows that row `start` of the joined map and those below need, each with its logits.

        A row of windows is read and resized while the network sees that before it.
        """
        every = [tuple(row) for _, row in groupby(self.views, lambda view: view.top)]
        rows = [row for row in every if scale.span(row[0].top, row[0].height)[1] > start]
        count = len(self.views) - sum(map(len, rows))
        self.clear.drop(rows[0][0].top)
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(self._read, rows[0], network)
            for row, following in zip_longest(rows, rows[1:]):
                views, inputs, clear = waiting.result()
                if following is not None:
                    waiting = reader.submit(self._read, following, network)
                self.clear.add(clear[self.clear.end - row[0].top :])
                yield from tiles.upright(views, self._seen(inputs, network))
                count += len(row)
                tell(f"{readable(self.source.key)}: {count} of {len(self.views)} windows")

    def _read(
        self, row: Sequence[tiles.View], network: Network
    ) -> tuple[list[tiles.View], list[NDArray[np.uint8]], NDArray[np.bool_]]:
        """Returns the windows of a row that show data, each as the network sees it, uint8 (S, S, 3), and `clear`.

        `clear`, bool (R, W), says which pixels of the row have no data. Raises ImageError.
        """
        segmenter, first, margin = network.get()[0], row[0].top, row[0].margin
        top, bottom = max(0, first - margin), min(self.image.height, first + row[0].height + margin)
        pixels, clear = self.image.between(top, bottom)
        here = [(view, replace(view, top=view.top - top)) for view in row]
        kept = [(view, moved) for view, moved in here if not moved.is_blank(clear)]
        inputs = [segmenter.resize(moved.of(pixels)) for _, moved in kept]
        return [view for view, _ in kept], inputs, clear[first - top : first - top + row[0].height]

    def _seen(self, inputs: Sequence[NDArray[np.uint8]], network: Network) -> Iterator[NDArray[np.float32]]:
        """Yields the logits of each window. Raises ImageError.

        The user's cache would hold nothing but the windows of one image, so only a folder of the user's keeps them.
        """
        size, keep = self.job.batch_size, self.job.encode.features != "auto"
        for start in range(0, len(inputs), size):
            for seen in network.see(inputs[start : start + size], keep):
                if isinstance(seen, ImageError):
                    raise seen
                yield seen.logits

    def _bands(self, scale: tiles.Scale, parts: Unfinished) -> None:
        """Makes the masks of all rows of the image whose logits are there."""
        height = self.image.height
        while self.done < height:
            bottom = min(self.done + BAND, height)
            part, rows = soft_maps.Part.of(scale.height, height, self.done, bottom)
            if rows.stop > self.logits.end:
                self.logits.drop(part.first)
                break
            logits = soft_maps.combine(self.logits.between(rows.start, rows.stop), self.job.rules, self.job.texts)
            # each row of the joined map is counted once
            first, last = (-(-row * scale.height // height) - part.first for row in (self.done, bottom))
            self.tally.add(logits[:, first:last])
            self._band(logits, part, parts)
            self.done = bottom
            self.clear.drop(bottom)

    def _band(self, logits: NDArray[np.float32], part: soft_maps.Part, parts: Unfinished) -> None:
        """Makes the masks of some rows of the image from the labels' logits, and adds them to the files."""
        size, clear = (self.image.height, self.image.width), self.clear.between(part.top, part.bottom)
        known = clear if clear.any() else None
        maps = [soft_maps.Scored(soft_maps.LogitMap(label, size, part), 0.0, 0.0, 1.0, clear=known) for label in logits]
        result, masks = finish.masks(self._blank(), _no_photo, maps, self.job.plan, None)
        for number, output in enumerate(self.outputs):
            parts.add(number, geotiff.tiled(output.rows(result)))
        self.blank += int(clear.sum())
        for label, mask in enumerate(masks):
            x, y, width, height = mask.bbox
            self.areas[label] += mask.area
            if mask.area:
                self.boxes[label] = _around(self.boxes[label], np.array([x, y + part.top, width, height]))

    def _blank(self) -> Record:
        """Returns the record without masks."""
        image = self.image
        size = image.height * image.width
        return replace(
            Record.of(self.source),
            width=image.width,
            height=image.height,
            format="TIFF",
            frames=image.frames,
            notes=(*image.notes, *no_data.noted(self.blank, size), *decode.counted(image.frames)),
            identity=self.identity,
            georeference=self.place,
        )

    def record(self, parts: Unfinished, write: finish.Write) -> Record:
        """Writes the files and returns the record. Raises ImageError, OutputError."""
        plan, blank, image = self.job.plan, self._blank(), self.image
        paths: dict[tuple[Format, int | None], str] = {}
        written: list[tuple[str, int]] = []
        for number, (form, index, path) in enumerate(self.outputs):
            some = self.areas.any() if index is None else self.areas[index]
            if plan.masks.empty == "skip" and form in one_file.SKIPPED and not some:
                continue
            kind = geotiff.Form(image.height, image.width, 1, np.dtype(np.uint16 if form == "soft16" else np.uint8))
            before, after = geotiff.around(parts.sizes[number], kind, self.place)
            write(path, chain((before,), parts.content(number), (after,)))
            paths[form, index] = path
            written.append((path, len(before) + sum(parts.sizes[number]) + len(after)))
            for beside, content in world.files(path, self.place) if plan.file is None else ():
                write(beside, content)
                written.append((beside, len(content)))
        masks = [
            Mask(
                prompt.label,
                prompt.text,
                float(threshold),
                float(self.tally.highest[label]),
                self.tally.mean(label),
                int(self.areas[label]),
                int(self.areas[label]) / (image.height * image.width),
                tuple(self.boxes[label].tolist()),
                round(self.tally.presence(label), 4),
                files=_of(label, paths),
            )
            for label, (prompt, threshold) in enumerate(zip(plan.prompts, plan.thresholds, strict=True))
        ]
        stem = Place(self.source.output, self.source.name, self.source.frame).stem
        part = splits.split(stem, False, plan.export.split)
        blank = replace(blank, masks=tuple(masks), files=_of(None, paths), output=stem, split=part)
        return replace(blank, outputs=tuple(written))


def _of(label: int | None, paths: Mapping[tuple[Format, int | None], str]) -> tuple[tuple[str, str], ...]:
    return tuple((form, path) for (form, index), path in paths.items() if index == label)


def _around(box: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the box around two, each x, y, width, height; the other one if the first is empty."""
    if not box[2]:
        return other
    start = np.minimum(box[:2], other[:2])
    return np.concatenate([start, np.maximum(box[:2] + box[2:], other[:2] + other[2:]) - start])


def _no_photo() -> NDArray[np.uint8]:
    raise AssertionError("obstacle() lets no step pass that needs the image")
