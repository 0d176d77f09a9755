"""The state of the live page: the images of a folder, encoded once, and the masks of the prompts on the page.

One background thread encodes the images, visible ones first, and pauses while requests for masks are answered. All
public methods may be called from any thread.
"""

import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ClipsegError, ImageError, UsageError
from clipseg_cli.masks import cleanup, soft_maps
from clipseg_cli.masks.refine import REFINEMENTS
from clipseg_cli.masks.threshold import cut
from clipseg_cli.model import registry
from clipseg_cli.model.feature_store import FeatureStore
from clipseg_cli.outputs import colours
from clipseg_cli.pages.background_run import PATIENCE, Run, is_run_of
from clipseg_cli.pages.gallery import THUMBNAIL, Gallery
from clipseg_cli.pages.mask_request import MaskRequest, PagePrompt
from clipseg_cli.prompts import highlight
from clipseg_cli.run import refiner, run_file, work
from clipseg_cli.run.refiner import Encoded, Refiner
from clipseg_cli.settings.flag import spelled
from clipseg_cli.settings.masks import CleanUp, Refine
from clipseg_cli.settings.model import EncodeOptions, ModelOptions
from clipseg_cli.storage.cache import Cache

if TYPE_CHECKING:
    from clipseg_cli.model.sam import Sam
    from clipseg_cli.model.segmenter import Features, Segmenter

MAX_ENCODED = 2_000  # images whose features stay in memory: 0.75 GB at the size of rd64-refined
MAX_LOGITS = 256  # logits (one prompt on one image) that stay in memory
MAX_SEEN = 24  # images whose SAM embedding stays in memory: 17 MB each with sam2.1-tiny
WAIT = 2.0  # seconds: a request that takes longer encodes no other image with SAM


class Stale(Exception):
    """The page has sent a newer request."""


class Session:
    """The folder, the model, and the features and logits of its images. Call `start` once, then `close` once."""

    def __init__(self, folder: str, options: ModelOptions, out: str, encode: EncodeOptions) -> None:
        """Finds the images. `encode` says where their features are kept. Raises UsageError."""
        self.folder, self.options, self.out, self.encode = folder, options, out, encode
        self.kept = work.kept(self.encode)
        self.gallery = Gallery(folder, out)
        self.failed: dict[int, str] = {}  # image -> why it cannot be encoded
        self.model_error: str | None = None  # why the model could not be loaded
        self.segmenter: Segmenter | None = None
        self.features: OrderedDict[int, Features] = OrderedDict()
        self.logits: OrderedDict[tuple[int, PagePrompt], NDArray[np.float32]] = OrderedDict()
        self.refiner: Refiner | None = None  # the network of --refine sam; None: its weights are not on this machine
        self.seen: OrderedDict[int, Encoded] = OrderedDict()  # images in its encoded form
        self.embeddings: dict[PagePrompt, NDArray[np.float32]] = {}
        self.visible: tuple[int, ...] = ()
        self.generation = 0  # of the newest request
        self.requests = 0  # being answered
        self.closed = False
        self.network = threading.Lock()  # torch uses all cores: two passes at once would only slow each other down
        self.state = threading.Condition()
        self.run: Run | None = None
        self.worker = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Starts the thread that loads the model and encodes the images."""
        self.worker.start()

    def close(self) -> None:
        """Stops the thread after its current image, and the run that was started from the page."""
        with self.state:
            self.closed = True
            self.state.notify_all()
        if self.run is not None:
            self.run.end()
        self.worker.join(PATIENCE)  # a thread that is still in torch at exit makes Python complain on stderr

    def _work(self) -> None:
        try:
            from clipseg_cli.model.segmenter import Segmenter

            checkpoint = registry.locate(self.options.model, offline=self.options.offline)
            options = self.options
            segmenter = Segmenter.load(checkpoint, device=options.device, dtype=options.dtype, backend=options.backend)
        except ClipsegError as error:
            self.model_error = f"{error}; then start clipseg ui again"
            return
        self.refiner = self._find_sam()
        self.segmenter = segmenter
        store = None if self.kept is None else FeatureStore.of(Cache(self.kept), segmenter)
        while (index := self._next()) is not None:
            try:
                pixels = self.gallery.pixels(index)
                self.gallery.keep_thumbnail(index, pixels)
                view = segmenter.resize(pixels)
                with self.network:
                    features = segmenter.encode([view]) if store is None else store.encode(segmenter, [view])[0]
                with self.state:
                    self.features[index] = features
            except ImageError as error:
                self.failed[index] = str(error)
            except Exception as error:  # one image must not end the page
                self.failed[index] = f"{type(error).__name__}: {error}"

    def _find_sam(self) -> Refiner | None:
        """Returns the SAM that `--refine sam` takes beside this model; it is loaded when it is first asked."""
        options = self.options
        try:
            checkpoint = refiner.located(CleanUp("sam"), options.model, offline=True)
        except ClipsegError:
            return None

        def load() -> "Sam":
            from clipseg_cli.model.sam import Sam

            assert checkpoint is not None
            return Sam.load(checkpoint, device=options.device, dtype=options.dtype)

        return Refiner(load, refiner.own_cache(self.kept, self.encode))

    def refinements(self) -> list[str]:
        """Returns the values of `--refine` for which everything is installed."""

        def there(name: Refine) -> bool:
            try:
                REFINEMENTS[name].check()
            except UsageError:
                return False
            return name != "sam" or self.refiner is not None

        return [name for name in REFINEMENTS if there(name)]

    def _next(self) -> int | None:
        """Returns the next image to encode, a visible one if possible; None once the session is closed.

        Waits while requests are answered or nothing is left to encode.
        """
        with self.state:
            while not self.closed:
                rest = range(len(self.gallery.sources)) if len(self.features) < MAX_ENCODED else ()
                candidates = (*self.visible, *rest) if not self.requests else ()
                missing = (each for each in candidates if each not in self.features and each not in self.failed)
                index: int | None = next(missing, None)
                if index is not None:
                    if len(self.features) >= MAX_ENCODED:
                        self.features.popitem(last=False)
                    return index
                self.state.wait(1.0)
        return None

    def status(self) -> dict[str, Any]:
        """Returns the state of the model, the images and the run as JSON types."""
        model = self.segmenter
        return {
            "model": self.options.model + ("" if model is None else f" on {model.device} in {model.dtype}"),
            "threshold": None if model is None else model.threshold,
            "model_error": self.model_error,
            "refinements": self.refinements(),
            "images": len(self.gallery.sources),
            "encoded": len(self.features),
            "failed": len(self.failed),
            "run": None if self.run is None else self.run.status(),
        }

    def set_visible(self, indices: Sequence[int], generation: int) -> None:
        """Sets the images on the screen, which are encoded first. Requests of older generations become stale."""
        with self.state:
            self.visible, self.generation = tuple(indices), max(self.generation, generation)
            self.state.notify_all()

    def masks(
        self, indices: Sequence[int], request: MaskRequest, generation: int, full_size: bool = False
    ) -> list[dict[str, Any]]:
        """Returns one dict per image: `pending`, or `failed` with the reason, or `size` and `masks`, one per prompt.

        Without `full_size`, images that SAM has yet to encode are pending once a request has encoded others for WAIT.
        A mask is uint8 (h, w), 0 or 255, as large as the thumbnail or, with `full_size`, as the image. It comes with
        its label, its presence score, its area, a fraction of the image, and its RGB colour on this image. Raises Stale
        once a newer generation has come, except with `full_size`; UsageError for a prompt that cannot be embedded.
        """
        with self.state:
            self.requests += 1
        try:
            rows, end, before = list[dict[str, Any]](), time.monotonic() + WAIT, {*self.seen}
            for index in indices:
                if generation < self.generation and not full_size:
                    raise Stale
                late = not full_size and time.monotonic() > end and not before.issuperset(self.seen)
                if late and request.clean.refine == "sam" and index not in self.seen:
                    rows.append({"id": index, "pending": True})
                else:
                    rows.append(self._image_masks(index, request, generation, full_size))
            return rows
        finally:
            with self.state:
                self.requests -= 1
                self.state.notify_all()

    def _image_masks(self, index: int, request: MaskRequest, generation: int, full_size: bool) -> dict[str, Any]:
        if index in self.failed:
            return {"id": index, "failed": self.failed[index]}
        features = self.features.get(index)
        if self.segmenter is None or features is None:
            return {"id": index, "pending": True}
        try:
            return self._made(index, features, request, generation, full_size)
        except ImageError as error:  # it has vanished since it was encoded, or memory runs out
            return {"id": index, "failed": str(error)}

    def _made(
        self, index: int, features: "Features", request: MaskRequest, generation: int, full_size: bool
    ) -> dict[str, Any]:
        """Returns the masks of one image that is encoded. Raises ImageError, Stale, UsageError."""
        assert self.segmenter is not None
        thumbnail = self.gallery.fitted(index, THUMBNAIL)
        height, width = self.gallery.sizes[index]
        scale = 1.0 if full_size else min(1.0, THUMBNAIL / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        clean = _scaled(request.clean, scale)
        photo = functools.cache(lambda: self.gallery.fitted(index, max(size)))
        masks, rows = [], []
        own = self.segmenter.threshold
        thresholds = [own if prompt.threshold is None else prompt.threshold for prompt in request.prompts]
        maps = self._logits(index, features, request.prompts)
        shown = any(soft_maps.cut(each, at).any() for each, at in zip(maps, thresholds, strict=True))
        sam = self._sam(index, size) if clean.refine == "sam" and shown else None
        for prompt, logits, threshold in zip(request.prompts, maps, thresholds, strict=True):
            if generation < self.generation and not full_size:
                raise Stale
            mask = cut(soft_maps.LogitMap(logits, size), photo, threshold, clean, sam=sam).mask
            mask = cleanup.clean(mask, clean)
            area = float(np.count_nonzero(mask)) / mask.size
            masks.append(cv2.resize(mask, thumbnail.shape[1::-1], interpolation=cv2.INTER_AREA))
            rows.append({"label": prompt.label, "mask": mask, "presence": soft_maps.presence(logits), "area": area})
        chosen = colours.contrasting(thumbnail, [np.asarray(mask, np.uint8) for mask in masks])
        rows = [row | {"colour": colour} for row, colour in zip(rows, chosen, strict=True)]
        return {"id": index, "size": [height, width], "masks": rows}

    def _sam(self, index: int, size: tuple[int, int]) -> "Encoded":
        """Returns an image as SAM has seen it, for maps of this height and width. Raises ImageError, UsageError."""
        if self.refiner is None:
            raise UsageError("--refine sam needs its weights: run `clipseg models pull sam2.1-tiny`, then start again")
        pixels = None if index in self.seen else self.gallery.pixels(index)
        with self.network:
            if pixels is not None:
                found = self.refiner.see([pixels])[0]
                if isinstance(found, ImageError):
                    raise found
                self.seen[index] = found
            seen = self.seen[index]
            while len(self.seen) > MAX_SEEN:
                self.seen.popitem(last=False)
        return replace(seen, height=size[0], width=size[1])

    def _logits(self, index: int, features: "Features", prompts: Sequence[PagePrompt]) -> list[NDArray[np.float32]]:
        """Returns the logits of each prompt on one image, float32 (S, S); decodes those that are not in memory."""
        from clipseg_cli.model.segmenter import Embeddings

        assert self.segmenter is not None
        keys = [replace(prompt, threshold=None) for prompt in prompts]
        with self.network:
            missing = [key for key in dict.fromkeys(keys) if (index, key) not in self.logits]
            if missing:
                rows = np.stack([self._embedding(key) for key in missing])
                decoded = self.segmenter.logits(features, Embeddings(rows))[0]
                for key, logits in zip(missing, decoded, strict=True):
                    self.logits[index, key] = logits
            result = [self.logits[index, key] for key in keys]
            while len(self.logits) > MAX_LOGITS:
                self.logits.popitem(last=False)
        return result

    def _embedding(self, prompt: PagePrompt) -> NDArray[np.float32]:
        assert self.segmenter is not None
        if prompt not in self.embeddings:
            if prompt.text is not None:
                self.embeddings[prompt] = self.segmenter.embed([prompt.text]).values[0]
            else:
                assert prompt.image is not None and prompt.box is not None
                pixels = self.gallery.pixels(prompt.image)
                x, y, width, height = prompt.box
                region = np.zeros(pixels.shape[:2], bool)
                region[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = True
                if not region.any():
                    raise UsageError("the box lies outside the image: draw it again")
                exemplar = highlight.highlight(pixels, region, "crop-blur-dim", self.segmenter.side).transpose(2, 0, 1)
                self.embeddings[prompt] = self.segmenter.embed_images(exemplar[None]).values[0]
        return self.embeddings[prompt]

    def command(self, request: MaskRequest) -> list[str]:
        """Returns the command line that gives these masks for the whole folder.

        Its output folder holds no other run: `out`, or `out-2`, `out-3`, ...
        """
        words = ["clipseg", "segment", self.folder, "--model", self.options.model]
        words += request.options(lambda image: self.gallery.sources[image].path)
        words += spelled(self.encode)
        out, _ = run_file.choose_folder(self.out, lambda document, out: is_run_of(document, [*words, "-o", out]))
        return [*words, "-o", out]

    def start_run(self, request: MaskRequest) -> None:
        """Runs the command on the whole folder in its own process.

        Raises UsageError if there are no prompts or a run is in progress.
        """
        if self.run is not None and self.run.status()["state"] == "running":
            raise UsageError("a run is in progress: wait for its end, or cancel it")
        if not request.prompts:
            raise UsageError("type a prompt first")
        self.run = Run(self.command(request), len(self.gallery.sources))


def _scaled(clean: CleanUp, scale: float) -> CleanUp:
    """Returns the clean-up for an image drawn `scale` times as large."""
    return replace(
        clean,
        open=round(clean.open * scale),
        close=round(clean.close * scale),
        grow=round(clean.grow * scale),
        min_area=round(clean.min_area * scale * scale),
    )


def folder_of(path: str) -> str:
    """Returns the path if it is a folder. Raises UsageError otherwise."""
    if not Path(path).is_dir():
        raise UsageError(f"{path} is not a folder: name a folder of images, as in `clipseg ui photos/`")
    return path
