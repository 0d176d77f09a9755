"""The SAM network of a run with `--refine sam`: it encodes images in batches and answers questions about each."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, lacks_memory
from clipseg_cli.masks.questions import Question
from clipseg_cli.model import registry
from clipseg_cli.model.checkpoint_files import SAM
from clipseg_cli.model.feature_store import EmbeddingStore
from clipseg_cli.settings.masks import CleanUp
from clipseg_cli.settings.model import EncodeOptions
from clipseg_cli.storage.cache import Cache, Place

if TYPE_CHECKING:
    from clipseg_cli.model.sam import Embedding, Sam

Pixels = NDArray[np.uint8]
Map = Callable[[Callable[[Pixels], Pixels], Iterable[Pixels]], Iterable[Pixels]]  # like `map`
T = TypeVar("T")
R = TypeVar("R")

DEFAULT, BUNDLED = "sam2.1-tiny", "shapes-sam"


def located(clean: CleanUp, model: str, offline: bool) -> registry.Checkpoint | None:
    """Returns the SAM that refines the masks of a CLIPSeg model, and downloads it first if necessary.

    None without `--refine sam`. The bundled CLIPSeg has a bundled SAM. Raises ModelError, UsageError.
    """
    if clean.refine != "sam":
        return None
    name = clean.refine_model or (BUNDLED if model == "shapes" else DEFAULT)
    return registry.locate(name, offline=offline, progress=True, kinds=(SAM,))


def own_cache(place: Place | None, encode: EncodeOptions) -> Cache | None:
    """Returns where encoded images are kept: a folder that the user has named. The user's cache is too small."""
    return Cache(place) if place is not None and encode.own_folder else None


def in_halves(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R | None]:
    """Returns the result of each item, from one call of `work` if memory is enough for it.

    If memory runs out, tries each half of the items, and so on. If it runs out for a single item, its result is None.
    """
    if not items:
        return []
    try:
        return list(work(items))
    except Exception as error:
        if not lacks_memory(error):
            raise
    # outside the handler: the error would keep the memory of the failed attempt
    half = len(items) // 2
    return in_halves(work, items[:half]) + in_halves(work, items[half:]) if half else [None]


def encoded(
    sam: "Sam",
    photos: Sequence[Pixels],
    each: "type[map[Any]] | Map" = map,
    store: EmbeddingStore | None = None,
) -> "list[Encoded | ImageError]":
    """Returns each image, uint8 (H, W, 3), in encoded form, or an error if memory runs out for it alone.

    `each` resizes the images; the `map` of a pool does so in its threads. `store`: where encoded images are kept.
    """
    sizes = [photo.shape[:2] for photo in photos]
    encode = sam.encode if store is None else partial(store.encode, sam)
    embeddings = in_halves(encode, [*each(sam.resize, photos)])
    return [
        ImageError("out_of_memory", "encode", "not enough memory for the SAM network; choose a smaller one")
        if embedding is None
        else Encoded(sam, embedding, *size)
        for size, embedding in zip(sizes, embeddings, strict=True)
    ]


def one_encoded(sam: "Sam", photo: Pixels) -> "Encoded":
    """Returns an image, uint8 (H, W, 3), in encoded form. Raises ImageError if memory runs out."""
    seen = encoded(sam, [photo])[0]
    if isinstance(seen, ImageError):
        raise seen
    return seen


@dataclass(slots=True)
class Refiner:
    """The SAM of a run, loaded by the first image that needs it. Several threads may use it.

    `cache`: where encoded images are kept; views of them are not.
    """

    load: Callable[[], "Sam"]
    cache: Cache | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    sam: "Sam | None" = None
    store: EmbeddingStore | None = None

    def get(self) -> "Sam":
        """Returns the network."""
        with self.lock:
            if self.sam is None:
                self.sam = self.load()
                self.store = None if self.cache is None else EmbeddingStore.of(self.cache, self.sam)
            return self.sam

    def see(
        self, photos: Sequence[NDArray[np.uint8]], each: "type[map[Any]] | Map" = map
    ) -> "list[Encoded | ImageError]":
        """See `encoded`."""
        return encoded(self.get(), photos, each, self.store)


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """An image that SAM has encoded. It implements `masks.answers.Sam`."""

    sam: "Sam"
    embedding: "Embedding"
    height: int  # pixels, of the image
    width: int

    @property
    def grid(self) -> int:
        """Cells per side of the mask prompts and the answers."""
        return self.sam.grid

    def answer(self, questions: Sequence[Question]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `masks.answers.Sam`."""

        def decode(part: Sequence[Question]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
            return [*zip(*self.sam.decode(self.embedding, part, self.height, self.width), strict=True)]

        answers = in_halves(decode, questions)
        good = [each for each in answers if each is not None]
        if len(good) < len(answers):
            raise ImageError("out_of_memory", "mask", "not enough memory for the SAM network; choose a smaller one")
        logits, predicted = zip(*good, strict=True)
        return np.stack(logits), np.stack(predicted)

    def look(self, photo: Pixels) -> "Encoded":
        """See `masks.answers.Sam`."""
        return one_encoded(self.sam, photo)


@dataclass(slots=True)
class Once:
    """An image that SAM encodes when it is asked the first question about it. It implements `masks.answers.Sam`."""

    refiner: Refiner
    photo: Callable[[], NDArray[np.uint8]]
    seen: Encoded | None = None

    @property
    def grid(self) -> int:
        """Cells per side of the mask prompts and the answers."""
        return self.refiner.get().grid

    def answer(self, questions: Sequence[Question]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `masks.answers.Sam`."""
        if self.seen is None:
            self.seen = self.look(self.photo())
        return self.seen.answer(questions)

    def look(self, photo: Pixels) -> Encoded:
        """See `masks.answers.Sam`."""
        return one_encoded(self.refiner.get(), photo)
