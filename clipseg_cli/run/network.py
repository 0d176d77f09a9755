"""The network of a run: it encodes views of images, or finds them encoded, and decodes the query for each."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, lacks_memory
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.source import Source
from clipseg_cli.run.known_images import KnownImage, KnownImages, Mark
from clipseg_cli.run.refiner import Encoded, in_halves

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Embeddings, Features, Segmenter

    Input = NDArray[np.uint8] | Features  # a view, (S, S, 3), or its features from an earlier run


@dataclass(frozen=True, slots=True)
class Seen:
    """The network's result for one view or one image."""

    logits: NDArray[np.float32]  # one map per term: (T, S, S) for a view, (T, h, w) for an image
    similarity: NDArray[np.float32] | None = None  # (T,), the cosine similarity of the image with each term
    entries: tuple[str, ...] = ()  # where the features of its views are stored; "": nowhere, or they were found there
    sam: Encoded | None = None  # of an image that shows a label, with --refine sam


def cosines(rows: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the cosine similarity of each row (T, dim) with `one` (dim,): float32 (T,), in [-1, 1]."""
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(one)
    return np.asarray(rows @ one / np.maximum(lengths, np.float32(1e-12)), np.float32)


class Network:
    """The network, the embeddings of the query and what earlier runs kept, loaded by the first thread in need."""

    def __init__(
        self,
        load: Callable[[], "tuple[Segmenter, Embeddings]"],
        similarity: bool,
        known_images: "Callable[[Segmenter], KnownImages] | None",
    ) -> None:
        self.load, self.similarity, self.known_images = load, similarity, known_images
        self.images: KnownImages | None = None  # None also if no run keeps any
        self.lock = threading.Lock()
        self.made: tuple[Segmenter, Embeddings] | None = None

    def get(self) -> "tuple[Segmenter, Embeddings]":
        """Returns the segmenter and the embeddings, loaded on first use."""
        with self.lock:
            if self.made is None:
                self.made = self.load()
                self.images = None if self.known_images is None else self.known_images(self.made[0])
            return self.made

    def find(self, of: Mark | None, source: Source) -> "tuple[KnownImage, tuple[Features, ...]] | None":
        """Returns an image that an earlier run has seen. Loads nothing: meanwhile, the first images are decoded."""
        return None if self.images is None else self.images.find(of, source)

    def keep(self, of: Mark | None, image: decode.Image | KnownImage, seen: Seen) -> None:
        """Notes an image for later runs."""
        if self.images is not None:
            self.images.keep(of, image, seen.entries)

    def see(self, views: "Sequence[Input]", keep: bool = True) -> list[Seen | ImageError]:
        """Returns the network's result for each view, or for its features: an ImageError if memory runs out.

        `keep`: the features of views are stored if a run keeps any.
        """
        failed = ImageError("out_of_memory", "encode", "not enough memory for the network; give fewer prompts at once")
        return [seen or failed for seen in in_halves(partial(self._see, keep), views)]

    def _see(self, keep: bool, views: "Sequence[Input]") -> list[Seen]:
        """Returns the network's result for each view. If memory runs out on a GPU, its passes get half as many images.

        They stay so: trying again each time would take longer than smaller passes do.
        """
        while True:
            segmenter, embeddings = self.get()
            try:
                return self._seen(segmenter, embeddings, views, keep)
            except Exception as error:
                if segmenter.batch == 1 or not lacks_memory(error):
                    raise
            with self.lock:
                self.made = replace(segmenter, batch=segmenter.batch // 2), embeddings

    def _seen(
        self, segmenter: "Segmenter", embeddings: "Embeddings", views: "Sequence[Input]", keep: bool
    ) -> list[Seen]:
        pooled, names = self.similarity, [""] * len(views)
        if self.images is None or not keep:
            features = segmenter.encode([view for view in views if isinstance(view, np.ndarray)], pooled=pooled)
        else:
            features, names = self.images.store.encode(segmenter, views, pooled=pooled)
        maps = segmenter.logits(features, embeddings)
        if features.pooled is None:
            return [Seen(logits, None, (name,)) for logits, name in zip(maps, names, strict=True)]
        alike = (cosines(embeddings.values, one) for one in features.pooled)
        return [Seen(logits, each, (name,)) for logits, each, name in zip(maps, alike, names, strict=True)]
