"""The spine of a run: sources in, records out. Images are loaded ahead and masks written behind the network."""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, Stage, lacks_memory
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.discovery import Source, identify
from clipseg_cli.masks import soft_maps, tiles
from clipseg_cli.model.feature_store import FeatureStore
from clipseg_cli.outputs.manifest import Identity, Record
from clipseg_cli.run.finish import Write, finish
from clipseg_cli.settings import ExportOptions, Format, MaskOptions
from clipseg_cli.storage import files

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Embeddings, Segmenter

DISTANT = 16  # threads that fetch, and as many that write, where each waits for a network most of its time

T = TypeVar("T")
R = TypeVar("R")

At = Callable[[Source, Stage], None]  # hears where each image is


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with each image."""

    mask: MaskOptions
    formats: tuple[Format, ...]
    max_pixels: int
    batch_size: int  # images encoded at once
    export: ExportOptions = field(default_factory=ExportOptions)
    checksum: bool = False  # an input is known by its content, not by its time
    tiles: int = 1  # along the longer side of a picture, that the network looks at beside the whole
    flip: bool = False  # look at everything mirrored too
    similarity: bool = False  # compare the embeddings of image and prompt too; costs the layers that maps do not need
    features: str | None = None  # a folder that keeps encoded images
    distant: bool = False  # pictures or files travel over a network: more threads, since they wait for it


def run(
    sources: Iterable[Source],
    job: Job,
    load_model: Callable[[], "tuple[Segmenter, Embeddings]"],
    write: Write,
    at: At = lambda source, stage: None,
) -> Iterator[Record]:
    """One record a source, in the order of the sources. A failed image is a record; OutputError ends the run.

    The network and the embeddings of the prompts are made when the first picture needs them. At most a few batches
    are in memory, whatever the number of sources.
    """
    workers = DISTANT if job.distant else max(2, min(8, os.cpu_count() or 1))
    network = _Lazy(load_model, job.features)

    def load(source: Source) -> Loaded:
        return _load(source, job, network, at)

    def finished(item: tuple[Loaded, Seen | ImageError | None]) -> Record:
        return _finish(*item, job, write, at)

    def masked(loaded: Iterable[Loaded]) -> Iterator[tuple[Loaded, Seen | ImageError | None]]:
        for batch in _batches(loaded, job.batch_size):
            pictures = [picture for item in batch for picture in item.pictures]
            looks = (network.see(some, job.similarity) for some in _batches(pictures, job.batch_size))
            seen = itertools.chain.from_iterable(looks)
            for item in batch:
                yield item, _joined(item, list(itertools.islice(seen, len(item.pictures))))

    with ThreadPoolExecutor(workers) as loaders, ThreadPoolExecutor(workers) as finishers:
        loaded = ahead(loaders, load, sources, 2 * job.batch_size)
        yield from ahead(finishers, finished, masked(loaded), job.batch_size)


class _Lazy:
    """The network and the prompts' embeddings, made by the first thread that needs them."""

    def __init__(self, load: Callable[[], "tuple[Segmenter, Embeddings]"], features: str | None = None) -> None:
        self.load, self.folder = load, features
        self.store: FeatureStore | None = None
        self.lock = threading.Lock()
        self.made: tuple[Segmenter, Embeddings] | None = None

    def get(self) -> "tuple[Segmenter, Embeddings]":
        with self.lock:
            if self.made is None:
                self.made = self.load()
                self.store = FeatureStore.of(Path(self.folder), self.made[0]) if self.folder is not None else None
            return self.made

    def see(self, pictures: Sequence[NDArray[np.uint8]], similarity: bool) -> "list[Seen | ImageError]":
        """What the network makes of each of some pictures that the segmenter has resized.

        Where memory does not suffice for all at once, half of them are tried, and so on; a single one then fails."""
        if not pictures:
            return []
        try:
            return list(self._see(pictures, similarity))
        except Exception as error:
            if not lacks_memory(error):
                raise
        # outside the handler, where the error no longer holds the memory that the attempt took
        half = len(pictures) // 2
        if half:
            return self.see(pictures[:half], similarity) + self.see(pictures[half:], similarity)
        return [ImageError("out_of_memory", "encode", "not enough memory for the network; give fewer phrases at once")]

    def _see(self, pictures: Sequence[NDArray[np.uint8]], similarity: bool) -> "Iterator[Seen]":
        segmenter, embeddings = self.get()
        if self.store is None:
            features = segmenter.encode(pictures, pooled=similarity)
        else:
            features = self.store.encode(segmenter, pictures, pooled=similarity)
        for index, logits in enumerate(segmenter.logits(features, embeddings)):
            pooled = None if features.pooled is None else features.pooled[index]
            yield Seen(logits, None if pooled is None else cosines(embeddings.values, pooled))


def cosines(rows: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cosine of each row of (T, dim) with (dim,): float32 (T,), in [-1, 1]."""
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(one)
    return np.asarray(rows @ one / np.maximum(lengths, np.float32(1e-12)), np.float32)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network makes of one image."""

    logits: NDArray[np.float32]  # (T, S, S) of a view, (T, h, w) of an image; one map a term
    similarity: NDArray[np.float32] | None  # (T,), the cosine of the image with each term


@dataclass(frozen=True, slots=True)
class Loaded:
    """A source with its pixels and the network's view of them, or with the record that it has without them."""

    source: Source
    image: decode.Image | None = None
    views: tuple[tiles.View, ...] = ()  # what the network is shown of it
    pictures: tuple[NDArray[np.uint8], ...] = ()  # (S, S, 3), one a view
    identity: Identity | None = None
    record: Record | None = None


def _load(source: Source, job: Job, network: _Lazy, at: At) -> Loaded:
    def failed(error: ImageError) -> Loaded:
        return Loaded(source, record=Record(source.name, error=error))

    if source.error is not None:
        return failed(source.error)
    at(source, "load")
    try:
        identity = None if source.data is not None else identify(source, job.checksum)
    except (OSError, ValueError) as error:
        return failed(files.fault(error, "load"))
    try:
        image = decode.load(source, max_pixels=job.max_pixels)
        at(source, "encode")
        (height, width, _), segmenter = image.pixels.shape, network.get()[0]
        views = tiles.views(height, width, job.tiles, job.flip)
        return Loaded(source, image, views, tuple(segmenter.resize(view.of(image.pixels)) for view in views), identity)
    except ImageError as error:
        return failed(error)
    except MemoryError:
        return failed(ImageError("out_of_memory", "load", "not enough memory to decode it"))


def _joined(loaded: Loaded, seen: "list[Seen | ImageError]") -> "Seen | ImageError | None":
    """One image's maps of the maps of its views; None for an image that was not loaded."""
    wrong = next((one for one in seen if isinstance(one, ImageError)), None)
    if wrong is not None or not seen:
        return wrong
    whole = [one for one in seen if isinstance(one, Seen)]
    return Seen(tiles.joined(loaded.views, [one.logits for one in whole]), whole[0].similarity)


def _finish(loaded: Loaded, seen: Seen | ImageError | None, job: Job, write: Write, at: At) -> Record:
    """Files and record of one image."""
    source, image = loaded.source, loaded.image
    if loaded.record is not None:
        return loaded.record
    if isinstance(seen, ImageError):
        return Record(source.name, error=seen)
    assert image is not None and seen is not None
    logits, similarity = seen.logits, seen.similarity
    height, width = image.pixels.shape[:2]
    notes, identity = image.notes, loaded.identity
    blank = Record(source.name, width, height, image.format, image.frames, notes=notes, identity=identity)

    at(source, "mask")

    def noted(path: str, data: bytes) -> None:
        at(source, "write")
        write(path, data)

    def maps() -> Iterator[soft_maps.Scored]:
        for one, rule in zip(soft_maps.combine(logits, job.mask.rules, job.mask.texts), job.mask.rules, strict=True):
            probability = soft_maps.sigmoid(one)
            large = soft_maps.LogitMap(one, (height, width))
            like = None if similarity is None or not isinstance(rule, int) else float(similarity[rule])
            presence = round(soft_maps.presence(one), 4)
            yield soft_maps.Scored(large, float(probability.max()), float(probability.mean()), presence, like)

    return finish(blank, source.output, lambda: image.pixels, maps(), job.mask, job.formats, job.export, noted)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
    """`map` in order on a pool with at most `depth` results waiting; cancels what waits when it is closed."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
