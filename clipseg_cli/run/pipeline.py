"""The core of a run: sources in, records out. Threads load images ahead of the network and write masks behind it."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, Stage
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.frames.reader import FrameReader
from clipseg_cli.inputs.kinds import KINDS
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.masks import smoothing, soft_maps, tiles
from clipseg_cli.outputs.record import Identity, Record
from clipseg_cli.outputs.writers import photos
from clipseg_cli.run import known_images, windows
from clipseg_cli.run.engines.crew import pool_size
from clipseg_cli.run.finish import Write, finish
from clipseg_cli.run.job import Job
from clipseg_cli.run.known_images import KnownImage, KnownImages, Mark
from clipseg_cli.run.network import Network, Seen
from clipseg_cli.run.refiner import Refiner, own_cache
from clipseg_cli.run.steady import Frame, Steady
from clipseg_cli.storage import paths, store

if TYPE_CHECKING:
    from clipseg_cli.model.sam import Sam
    from clipseg_cli.model.segmenter import Embeddings, Segmenter
    from clipseg_cli.run.network import Input

REMOTE_THREADS = 16  # threads that read, and as many that write, if each mostly waits for a remote server
KNOWN = 4  # images whose features are kept that take the place of one in a batch
FEW_PROMPTS = 8  # with more of them, soft maps take more memory than pixels

T = TypeVar("T")
R = TypeVar("R")

Outcome = Seen | ImageError | Record | None  # for an image: what the network saw, or all that came of it
Progress = Callable[[Source, Stage], None]  # called when an image reaches a stage


def run(
    sources: Iterable[Source | None],
    job: Job,
    load_model: Callable[[], "tuple[Segmenter, Embeddings]"],
    write: Write,
    progress: Progress = lambda source, stage: None,
    load_sam: "Callable[[], Sam] | None" = None,
    tell: windows.Tell = lambda line: None,
) -> Iterator[Record]:
    """Yields one record per source, in their order. A failed image has a record too; OutputError ends the run.

    The network is loaded and the prompts are embedded when the first image needs them; the SAM of `--refine sam`, when
    the first image shows a label. At most a few batches are in memory. None among the sources is a pause: the records
    of all sources before it are yielded before the next one is asked for. `tell` is told how far a large image is.
    """
    threads = REMOTE_THREADS if job.remote else pool_size()
    found = partial(KnownImages.of, job.kept, job.encode, job.decoding, job.checksum) if job.kept else None
    network = Network(load_model, job.encode.similarity, found)
    refiner = None if load_sam is None else Refiner(load_sam, own_cache(job.kept, job.encode))
    load = partial(_load, job=job, network=network, progress=progress)
    windowed = partial(windows.segment, job=job, network=network, write=write, tell=tell)

    def read(source: Source) -> Read:
        return _read(source, job, reader, progress) if source.frame is not None else (source, None)

    def finished(item: tuple[Loaded, Outcome]) -> Record:
        (loaded, seen), record = item, _finish(*item, job, write, progress)
        if record.ok and loaded.image is not None and isinstance(seen, Seen):
            network.keep(loaded.mark, loaded.image, seen)
        return record

    def decoded(loaded: Iterable[Loaded | None]) -> Iterator[tuple[Loaded, Outcome] | None]:
        batches = (batch or None for batch in _batches(loaded, job))
        for batch_seen in ahead(seers, partial(_see, job=job, network=network), batches, job.in_flight - 1):
            if batch_seen is None:
                yield None
                continue
            batch, results = batch_seen
            if job.smooth:
                results = [_steadied(*each, steady) for each in zip(batch, results, strict=True)]
            if refiner is not None:
                results = _refinable(batch, results, job, refiner, loaders)
            for item, seen in zip(batch, results, strict=True):
                yield item, windowed(item.source, item.identity) if item.by_windows else seen

    with (
        FrameReader() as reader,
        FrameReader() as around,
        _steady(job, network, around) as steady,
        ThreadPoolExecutor(1) as frame_loader,  # one: in turn, each frame of a file is decoded once
        ThreadPoolExecutor(job.in_flight) as seers,
        ThreadPoolExecutor(threads) as loaders,
        ThreadPoolExecutor(threads) as finishers,
    ):
        # one batch ahead: a 4K frame takes 25 MB
        depth = job.batch_size if not job.remote else 2 * job.batch_size
        loaded = ahead(loaders, load, ahead(frame_loader, read, sources, 1), depth)
        yield from filter(None, ahead(finishers, finished, decoded(loaded), job.batch_size))


def _see(batch: "list[Loaded]", job: Job, network: Network) -> "tuple[list[Loaded], list[Seen | ImageError | None]]":
    """Returns a batch and the network's result for each image; none for those that `_steadied` sees."""
    alone = [replace(item, inputs=()) if job.smooth and item.of_video else item for item in batch]
    return batch, _seen(alone, job, network)


def _seen(batch: "Sequence[Loaded]", job: Job, network: "Network") -> "list[Seen | ImageError | None]":
    """Returns the network's result for each image of a batch; None if it was not loaded."""
    inputs: Iterator[list[Input]] = _batches([each for item in batch for each in item.inputs], job)
    seen = itertools.chain.from_iterable(map(network.see, inputs))
    return [_joined(item, list(itertools.islice(seen, len(item.inputs)))) for item in batch]


def _refinable(
    batch: "Sequence[Loaded]", results: "list[Seen | ImageError | None]", job: Job, refiner: Refiner, pool: Executor
) -> "list[Seen | ImageError | None]":
    """Returns the network's results. Those that show a label have the image as SAM has encoded it."""
    shown = [index for index, seen in enumerate(results) if isinstance(seen, Seen) and _shows(seen, job)]
    photos = dict(zip(shown, pool.map(_pixels, (batch[index] for index in shown)), strict=True))
    good = {index: photo for index, photo in photos.items() if not isinstance(photo, ImageError)}
    encoded = dict(zip(good, refiner.see([*good.values()], pool.map), strict=True)) if good else {}
    for index, photo in photos.items():
        seen, found = results[index], photo if isinstance(photo, ImageError) else encoded[index]
        if isinstance(found, ImageError):
            results[index] = found
        elif isinstance(seen, Seen):
            results[index] = replace(seen, sam=found)
    return results


def _pixels(item: "Loaded") -> NDArray[np.uint8] | ImageError:
    """Returns the pixels of an image, which are decoded now if a kept image stands in for it."""
    assert item.image is not None
    try:
        return item.image.pixels
    except ImageError as error:
        return error


def _shows(seen: "Seen", job: Job) -> bool:
    """Returns whether the mask of some label may not be empty. An enlarged map nowhere exceeds the map itself."""
    maps = soft_maps.combine(seen.logits, job.rules, job.texts)
    return any(
        round(soft_maps.presence(logits), 4) >= job.plan.masks.min_presence
        and (isinstance(threshold, str) or bool(soft_maps.cut(logits, threshold).any()))
        for logits, threshold in zip(maps, job.plan.thresholds, strict=True)
    )


def _steady(job: Job, network: "Network", reader: FrameReader) -> "Steady[Loaded]":
    """Returns what steadies the frames of videos. It decodes them itself, apart from those that are written."""

    def load(source: Source) -> Loaded:
        item = _load(_read(source, job, reader, _untold), job, network, _untold)
        first = next((each for each in item.inputs if isinstance(each, np.ndarray)), None)
        return replace(item, image=None, guide=None if first is None else smoothing.guide(first))

    def encode(batch: list[Loaded]) -> list[Frame | ImageError]:
        return [_kept(item, seen) for item, seen in zip(batch, _seen(batch, job, network), strict=True)]

    return Steady(job.smooth, job.batch_size, partial(reader.times, options=job.decoding), load, encode)


def _kept(item: "Loaded", seen: "Seen | ImageError | None") -> Frame | ImageError:
    if isinstance(seen, Seen) and item.guide is not None:
        return Frame(seen.logits, item.guide, seen.similarity)
    if isinstance(seen, ImageError):
        return seen
    assert item.record is not None and item.record.error is not None
    return item.record.error


def _steadied(item: "Loaded", seen: "Seen | ImageError | None", steady: "Steady[Loaded]") -> "Seen | ImageError | None":
    """Returns the result for a frame of a video together with those around it; that of another image as it is."""
    if not item.of_video:
        return seen
    try:
        frame = steady.frame(item.source)
    except ImageError as error:
        return error
    return Seen(frame.logits, frame.similarity)


def _untold(source: Source, stage: Stage) -> None:
    """Tells nobody of a frame that is not written itself."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A source with its pixels, or with the record of its failure."""

    source: Source
    image: decode.Image | KnownImage | None = None
    size: tuple[int, int] = (0, 0)  # height and width of the image, also where its pixels are no longer held
    views: tuple[tiles.View, ...] = ()  # the views of the image that the network sees
    inputs: "tuple[Input, ...]" = ()  # one per view
    mark: Mark | None = None  # see `known_images.mark`
    identity: Identity | None = None
    record: Record | None = None
    guide: NDArray[np.float32] | None = None  # (S, S, 3): see `smoothing.guide`
    by_windows: bool = False  # it is too large for its pixels to be here: see `windows`

    @property
    def of_video(self) -> bool:
        """Whether it is a frame of a video, and loaded."""
        return self.source.frame is not None and self.image is not None and KINDS[self.image.format].video


Read = tuple[Source, "decode.Image | ImageError | None"]  # a frame that has been decoded, or any other source


def _read(source: Source, job: Job, reader: FrameReader, progress: Progress) -> Read:
    progress(source, "load")
    try:
        return source, reader.load(source, job.decoding)
    except ImageError as error:
        return source, error


def _load(item: Read, job: Job, network: Network, progress: Progress) -> Loaded:
    source, image = item

    def failed(error: ImageError) -> Loaded:
        return Loaded(source, record=Record.of(source).failed(error))

    if source.error is not None:
        return failed(source.error)
    progress(source, "load")
    try:
        identity = None if source.data is not None else identify(source, job.checksum)
        mark = None if job.kept is None else known_images.mark(source, identity, job.checksum)
    except (OSError, ValueError) as error:
        return failed(paths.fault(error, "load"))
    try:
        if isinstance(image, ImageError):
            return failed(image)
        if job.sam is None and (found := network.find(mark, source)) is not None:  # SAM needs the pixels
            known, features = found
            return Loaded(source, known, known.size, _views(known.size, job), features, None, identity)
        if image is None:
            image = decode.load(source, job.decoding)
        progress(source, "encode")
        segmenter, views = network.get()[0], _views(image.size, job)
        if job.encode.window:
            views = tiles.seen(views, image.clear)
        resized = tuple(segmenter.resize(view.of(image.pixels)) for view in views)
        return Loaded(source, image, image.size, views, resized, mark, identity)
    except ImageError as error:
        if error.kind == "too_large" and job.encode.window and source.frame is None:
            progress(source, "encode")
            return Loaded(source, identity=identity, by_windows=True)
        return failed(error)
    except MemoryError:
        return failed(ImageError("out_of_memory", "load", "not enough memory to decode it"))


def _views(size: tuple[int, int], job: Job) -> tuple[tiles.View, ...]:
    return tiles.views(*size, job.encode.tiles, job.encode.flip, job.encode.window)


def _joined(loaded: Loaded, seen: "list[Seen | ImageError]") -> "Seen | ImageError | None":
    """Returns the result for an image from those of its views; None if it was not loaded."""
    failed = next((each for each in seen if isinstance(each, ImageError)), None)
    if failed is not None or not seen:
        return failed
    good = [each for each in seen if isinstance(each, Seen)]
    entries = tuple(name for each in good for name in each.entries)
    logits = tiles.joined(loaded.views, [each.logits for each in good], *loaded.size)
    return Seen(logits, good[0].similarity, entries)


def _finish(loaded: Loaded, seen: "Outcome", job: Job, write: Write, progress: Progress) -> Record:
    """Writes the files of one image and returns its record."""
    source, image = loaded.source, loaded.image
    if loaded.record is not None:
        return loaded.record
    if isinstance(seen, Record):
        return seen
    if isinstance(seen, ImageError):
        return Record.of(source).failed(seen)
    assert image is not None and seen is not None
    logits, similarity = seen.logits, seen.similarity
    (height, width), identity = image.size, loaded.identity
    blank = replace(
        Record.of(source),
        width=width,
        height=height,
        format=image.format,
        frames=image.frames,
        notes=image.notes,
        identity=identity,
        orientation=image.orientation,
        georeference=image.georeference,
    )

    progress(source, "mask")

    def noted(path: str, data: store.Written) -> None:
        progress(source, "write")
        write(path, data)

    def maps() -> Iterator[soft_maps.Scored]:
        for label, rule in zip(soft_maps.combine(logits, job.rules, job.texts), job.rules, strict=True):
            probability = soft_maps.sigmoid(label)
            large = soft_maps.LogitMap(label, (height, width))
            alike = 0.0 if similarity is None or not isinstance(rule, int) else float(similarity[rule])
            presence = round(soft_maps.presence(label), 4)
            scores = float(probability.max()), float(probability.mean()), presence, alike
            yield soft_maps.Scored(large, *scores, image.clear)

    file = photos.reread(source, image.format, lambda: identity, job.decoding, job.checksum)
    return finish(blank, source.output, lambda: image.pixels, maps(), job.plan, noted, file, seen.sam)


def _batches(items: Iterable[T | None], job: Job) -> Iterator[list[T]]:
    """Yields the items in lists of the job's batch size. None ends a list early, and an empty list follows.

    Items whose features are kept hold no pixels, so KNOWN times as many of them make a batch: the threads that decode a
    batch wait for each other less often. Not with many prompts, whose soft maps take more memory than pixels.
    """
    share = 1 / KNOWN if len(job.texts) <= FEW_PROMPTS else 1
    batch: list[T] = []
    size = 0.0
    for item in items:
        if item is not None:
            batch.append(item)
            size += share if _is_known(item) else 1
        if batch and (item is None or size >= job.batch_size):
            yield batch
            batch, size = [], 0.0
        if item is None:
            yield []
    if batch:
        yield batch


def _is_known(item: object) -> bool:
    """Returns whether an image or a view stands for features that are kept."""
    return isinstance(item.image, KnownImage) if isinstance(item, Loaded) else not isinstance(item, np.ndarray)


def ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T | None], depth: int) -> Iterator[R | None]:
    """Yields `function(item)` for each item, computed by a pool, in order, at most `depth` items ahead.

    None is passed on once what stands before it is yielded. Cancels the waiting items when it is closed.
    """
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            if item is not None:
                waiting.append(pool.submit(function, item))
            while len(waiting) > (0 if item is None else depth):
                yield waiting.popleft().result()
            if item is None:
                yield None
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
