"""The spine of a run: sources in, records out. Images are loaded ahead and masks written behind the network."""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipseg_cli import files, images, masks, store
from clipseg_cli.errors import ClipsegError, ImageError
from clipseg_cli.manifest import Identity, Mask, Record
from clipseg_cli.prompts import slugs
from clipseg_cli.settings import Format, MaskOptions
from clipseg_cli.sources import Source
from clipseg_cli.writers import WRITERS, Result

if TYPE_CHECKING:
    from clipseg_cli.model import Embeddings, Segmenter

T = TypeVar("T")
R = TypeVar("R")

Done = Callable[[str, Identity | None], dict[str, Any] | None]  # the document of an image that is done already
Write = Callable[[str, bytes], None]  # puts bytes at a path under the output; raises OutputError or ImageError


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with each image."""

    mask: MaskOptions
    formats: tuple[Format, ...]
    max_pixels: int
    batch_size: int  # images encoded at once
    checksum: bool = False  # an input is known by its content, not by its time


def run(
    sources: Iterable[Source],
    job: Job,
    load_model: Callable[[], "tuple[Segmenter, Embeddings]"],
    write: Write,
    done: Done = lambda name, identity: None,
) -> Iterator[Record]:
    """One record a source, in the order of the sources. A failed image is a record; OutputError ends the run.

    What `done` has a document for is not read again. The network and the embeddings of the prompts are made when the
    first picture needs them. At most a few batches are in memory, whatever the number of sources.
    """
    workers = max(2, min(8, os.cpu_count() or 1))
    network = _Lazy(load_model)

    def load(source: Source) -> Loaded:
        return _load(source, job, network, done)

    def finish(item: tuple[Loaded, NDArray[np.float32] | None]) -> Record:
        return _finish(*item, job, write)

    def masked(loaded: Iterable[Loaded]) -> Iterator[tuple[Loaded, NDArray[np.float32] | None]]:
        for batch in _batches(loaded, job.batch_size):
            pictures = [item.picture for item in batch if item.picture is not None]
            logits = iter(network.logits(pictures) if pictures else ())
            for item in batch:
                yield item, None if item.picture is None else next(logits)

    with ThreadPoolExecutor(workers) as loaders, ThreadPoolExecutor(workers) as finishers:
        loaded = _ahead(loaders, load, sources, 2 * job.batch_size)
        yield from _ahead(finishers, finish, masked(loaded), job.batch_size)


class _Lazy:
    """The network and the prompts' embeddings, made by the first thread that needs them."""

    def __init__(self, load: Callable[[], "tuple[Segmenter, Embeddings]"]) -> None:
        self.load = load
        self.lock = threading.Lock()
        self.made: tuple[Segmenter, Embeddings] | None = None

    def get(self) -> "tuple[Segmenter, Embeddings]":
        with self.lock:
            if self.made is None:
                self.made = self.load()
            return self.made

    def logits(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """float32 (N, T, S, S) of pictures that the segmenter has resized."""
        segmenter, embeddings = self.get()
        return segmenter.logits(segmenter.encode(pictures), embeddings)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A source with its pixels and the network's view of them, or with the record that it has without them."""

    source: Source
    image: images.Image | None = None
    picture: NDArray[np.uint8] | None = None  # (S, S, 3)
    identity: Identity | None = None
    record: Record | None = None


def _load(source: Source, job: Job, network: _Lazy, done: Done) -> Loaded:
    def failed(error: ImageError) -> Loaded:
        return Loaded(source, record=Record(source.name, error=error))

    if source.error is not None:
        return failed(source.error)
    try:
        identity = None if source.data is not None else files.identity(source.path, job.checksum)
        if (document := done(source.name, identity)) is not None:
            return Loaded(source, record=Record(source.name, kept=document))
        image = images.load(source, max_pixels=job.max_pixels)
        return Loaded(source, image, network.get()[0].resize(image.pixels), identity)
    except ImageError as error:
        return failed(error)
    except MemoryError:
        return failed(ImageError("out_of_memory", "load", "not enough memory to decode it"))
    except (OSError, ValueError) as error:  # from `identity`
        return failed(files.fault(error, "load"))


def _finish(loaded: Loaded, logits: NDArray[np.float32] | None, job: Job, write: Write) -> Record:
    """Masks and files of one image; `logits` float32 (T, S, S), one a term."""
    source, image = loaded.source, loaded.image
    if loaded.record is not None:
        return loaded.record
    assert image is not None and logits is not None
    paths: dict[tuple[Format, int | None], str] = {}
    outputs: list[tuple[str, int]] = []
    try:
        logits = masks.combine(logits, job.mask.rules, job.mask.texts)
        result = _result(image.pixels, logits, job)
        stem = store.portable(source.output)
        for form in job.formats:
            for path, index, data in WRITERS[form](stem, result):
                write(path, data)
                paths[form, index] = path
                outputs.append((path, len(data)))
    except ImageError as error:
        return Record(source.name, error=error)
    except MemoryError:
        return Record(source.name, error=ImageError("out_of_memory", "mask", "not enough memory for its masks"))
    except ClipsegError:
        raise
    except Exception as error:  # a defect here must cost one image, not the night's run
        return Record(source.name, error=ImageError("internal", "mask", f"{type(error).__name__}: {error}"))
    records = []
    for index, prompt in enumerate(job.mask.prompts):
        mask, probability = result.masks[index], masks.sigmoid(logits[index])
        area = int(np.count_nonzero(mask))
        records.append(
            Mask(
                prompt.label,
                prompt.text,
                job.mask.thresholds[index],
                score=float(probability.max()),
                mean=float(probability.mean()),
                area=area,
                area_frac=area / mask.size,
                bbox=masks.bbox(mask),
                path=paths.get(("mask", index)),
                soft=paths.get(("soft", index)),
            )
        )
    height, width = image.pixels.shape[:2]
    return Record(
        source.name,
        width,
        height,
        image.format,
        image.frames,
        tuple(records),
        overlay=paths.get(("overlay", None)),
        notes=image.notes,
        identity=loaded.identity,
        outputs=tuple(outputs),
    )


def _result(pixels: NDArray[np.uint8], logits: NDArray[np.float32], job: Job) -> Result:
    height, width = pixels.shape[:2]
    labels = tuple(prompt.label for prompt in job.mask.prompts)
    cuts, softs = [], []
    for one, threshold in zip(logits, job.mask.thresholds, strict=True):
        large = masks.upsample(one, height, width)
        cuts.append(masks.cut(large, threshold))
        if "soft" in job.formats:
            softs.append(masks.soft(large))
    skip = tuple(job.mask.empty == "skip" and not cut.any() for cut in cuts)
    return Result(pixels, labels, slugs(labels), tuple(cuts), tuple(softs), skip)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], depth: int) -> Iterator[R]:
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
