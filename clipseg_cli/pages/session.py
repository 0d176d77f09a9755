"""What the live page shows: a folder's pictures, encoded once and kept, and the masks of whatever is asked of them.

A thread of its own encodes, visible pictures first; between two pictures it lets questions pass. All public methods may
be called from any thread.
"""

import functools
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ClipsegError, ImageError, UsageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.discovery import discover
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import cleanup, matting, soft_maps
from clipseg_cli.model import registry
from clipseg_cli.outputs import drawing
from clipseg_cli.outputs.writers import raster
from clipseg_cli.pages.background_run import PATIENCE, Run, free
from clipseg_cli.prompts import highlight
from clipseg_cli.prompts.text import Prompt, distinct, parse
from clipseg_cli.prompts.thresholds import probability
from clipseg_cli.run.finish import cut
from clipseg_cli.settings.inputs import MAX_PIXELS, InputOptions
from clipseg_cli.settings.masks import CleanUp, Refine
from clipseg_cli.settings.model import ModelOptions

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Features, Segmenter

MOST = 20_000  # pictures listed
KEPT = 2_000  # pictures whose features are kept: 0.75 GB at rd64-refined's size
MAPS = 256  # soft maps kept
SMALL = 240  # pictures kept as the gallery shows them, 10 pages: at most 93 MB
THUMB = 360  # pixels, the longer side of a picture and its masks in the gallery


class Stale(Exception):
    """The page has asked something newer since."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One row of the page: a phrase, or a box on a picture, and its threshold (None: the model's)."""

    label: str
    threshold: float | None
    text: str | None = None
    image: int | None = None
    box: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels of the whole picture


@dataclass(frozen=True, slots=True)
class Ask:
    """What is looked for, and how its masks are cleaned. Lengths in pixels of the whole picture."""

    wishes: tuple[Wish, ...] = ()
    clean: CleanUp = field(default_factory=CleanUp)


def read_ask(document: dict[str, Any], pictures: int) -> Ask:
    """An Ask from the page's JSON. Raises UsageError for anything else."""
    try:
        wishes = []
        for row in document["wishes"]:
            threshold = None if row.get("threshold") is None else probability(str(row["threshold"]), "threshold")
            if "box" in row:
                x, y, width, height = (int(value) for value in row["box"])
                image = int(row["image"])
                if not (0 <= image < pictures and width > 0 and height > 0):
                    raise UsageError("an exemplar needs a box on one of the pictures")
                wishes.append(Wish(str(row["label"]), threshold, None, image, (x, y, width, height)))
            else:
                prompt = parse(str(row["text"]))
                wishes.append(Wish(prompt.label, threshold, prompt.text))
        given = document.get("clean", {})
        names = ("open", "close", "min_area", "keep_largest", "grow")
        open_, close, min_area, largest, grow = (int(given.get(name) or 0) for name in names)
        holes: int | str = "all" if given.get("fill_holes") else 0
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"the page sent something that is no question: {error}") from error
    if wishes:
        distinct(Prompt(wish.label, wish.text or "exemplar") for wish in wishes)
    if min(open_, close, min_area, largest) < 0:
        raise UsageError("only grow may be negative")
    refine: Refine = given.get("refine") or "none"
    if refine not in get_args(Refine):
        raise UsageError(f"there is no refinement {refine!r}")
    if refine == "matting":
        matting.check()
    clean = CleanUp(
        refine, open=open_, close=close, fill_holes=holes, min_area=min_area, keep_largest=largest, grow=grow
    )
    return Ask(tuple(wishes), clean)


class Session:
    """The folder, the model, and what is known of each picture. Start it once with `start`, end it with `close`."""

    def __init__(self, folder: str, options: ModelOptions, out: str) -> None:
        self.folder, self.options, self.out = folder, options, out
        self.sources: list[Source] = []
        for source in discover(InputOptions((folder,)), None, out):
            self.sources.append(source)
            if len(self.sources) == MOST:
                break
        self.sizes: dict[int, tuple[int, int]] = {}  # height, width
        self.failed: dict[int, str] = {}
        self.trouble: str | None = None  # why there is no model
        self.segmenter: Segmenter | None = None
        self.features: OrderedDict[int, Features] = OrderedDict()
        self.thumbs: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self.maps: OrderedDict[tuple[int, Wish], NDArray[np.float32]] = OrderedDict()
        self.embedded: dict[Wish, NDArray[np.float32]] = {}
        self.visible: tuple[int, ...] = ()
        self.turn = 0
        self.asking = 0
        self.closed = False
        self.network = threading.Lock()  # torch has all cores; two questions at once would only slow each other
        self.state = threading.Condition()
        self.run: Run | None = None
        self.worker = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begins to load the model and to encode."""
        self.worker.start()

    def close(self) -> None:
        """Ends the thread, at the picture that it is at, and the run that was started from the page."""
        with self.state:
            self.closed = True
            self.state.notify_all()
        if self.run is not None:
            self.run.end()
        self.worker.join(PATIENCE)  # a thread that Python's end finds at work in the network is told of on stderr

    def _work(self) -> None:
        try:
            from clipseg_cli.model.segmenter import Segmenter

            checkpoint = registry.locate(self.options.model, offline=self.options.offline)
            options = self.options
            segmenter = Segmenter.load(checkpoint, device=options.device, dtype=options.dtype, backend=options.backend)
        except ClipsegError as error:
            self.trouble = f"{error}; then start the page again"
            return
        self.segmenter = segmenter
        while (index := self._next()) is not None:
            try:
                pixels = self._pixels(index)
                self._thumb(index, pixels)
                with self.network:
                    features = segmenter.encode([pixels])
                with self.state:
                    self.features[index] = features
            except ImageError as error:
                self.failed[index] = str(error)
            except Exception as error:  # one picture must not end the page
                self.failed[index] = f"{type(error).__name__}: {error}"

    def _next(self) -> int | None:
        """The picture to encode: a visible one, else the first; waits for questions to pass. None at the end."""
        with self.state:
            while not self.closed:
                rest = range(len(self.sources)) if len(self.features) < KEPT else ()
                candidates = (*self.visible, *rest) if not self.asking else ()
                missing = (each for each in candidates if each not in self.features and each not in self.failed)
                index: int | None = next(missing, None)
                if index is not None:
                    if len(self.features) >= KEPT:
                        self.features.popitem(last=False)
                    return index
                self.state.wait(1.0)
        return None

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        source = self.sources[index]
        if source.error is not None:
            raise source.error
        if not Path(source.path).resolve().is_relative_to(Path(self.folder).resolve()):  # a link since it was listed
            raise ImageError("not_a_file", "load", "it leads out of the folder; it was not opened")
        pixels = decode.load(source, max_pixels=MAX_PIXELS).pixels
        self.sizes[index] = pixels.shape[0], pixels.shape[1]
        return pixels

    def status(self) -> dict[str, Any]:
        """What the page shows of the state of things, as JSON types."""
        model = self.segmenter
        return {
            "model": self.options.model + ("" if model is None else f" on {model.device} in {model.dtype}"),
            "threshold": None if model is None else model.threshold,
            "trouble": self.trouble,
            "images": len(self.sources),
            "encoded": len(self.features),
            "failed": len(self.failed),
            "run": None if self.run is None else self.run.status(),
        }

    def picture(self, index: int, side: int) -> bytes:
        """JPEG of a picture with its longer side at most `side` pixels. Raises ImageError."""
        return raster.jpeg(self._fitted(index, side))

    def _fitted(self, index: int, side: int) -> NDArray[np.uint8]:
        """The picture with its longer side at most `side` pixels; of the gallery's size it may be kept."""
        if side > THUMB:
            return drawing.fitted(self._pixels(index), side)
        with self.state:
            kept = self.thumbs.get(index)
        return drawing.fitted(self._thumb(index, self._pixels(index)) if kept is None else kept, side)

    def _thumb(self, index: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        small = drawing.fitted(pixels, THUMB)
        with self.state:
            self.thumbs[index] = small.copy() if small.base is not None else small
            self.thumbs.move_to_end(index)
            while len(self.thumbs) > SMALL:
                self.thumbs.popitem(last=False)
        return small

    def look(self, indices: Sequence[int], turn: int) -> None:
        """Says which pictures are on the screen."""
        with self.state:
            self.visible, self.turn = tuple(indices), max(self.turn, turn)
            self.state.notify_all()

    def answer(self, indices: Sequence[int], ask: Ask, turn: int, whole: bool = False) -> list[dict[str, Any]]:
        """Per picture: `pending`, or `failed` with the reason, or per wish the mask with its presence and area.

        A mask is uint8 (h, w), at most THUMB pixels on its longer side, or of the picture's own size with `whole`.
        Raises Stale once a newer turn has come (but not with `whole`), UsageError for a wish that cannot be embedded.
        """
        with self.state:
            self.asking += 1
        try:
            return [self._one(index, ask, turn, whole) for index in indices]
        finally:
            with self.state:
                self.asking -= 1
                self.state.notify_all()

    def _one(self, index: int, ask: Ask, turn: int, whole: bool) -> dict[str, Any]:
        if turn < self.turn and not whole:
            raise Stale
        if index in self.failed:
            return {"id": index, "failed": self.failed[index]}
        features = self.features.get(index)
        if self.segmenter is None or features is None:
            return {"id": index, "pending": True}
        height, width = self.sizes[index]
        scale = 1.0 if whole else min(1.0, THUMB / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        clean = _scaled(ask.clean, scale)
        photo = functools.cache(lambda: self._fitted(index, max(size)))
        found = []
        for wish, logits in zip(ask.wishes, self._logits(index, features, ask.wishes), strict=True):
            threshold = self.segmenter.threshold if wish.threshold is None else wish.threshold
            mask, _, _ = cut(soft_maps.LogitMap(logits, size), photo, threshold, clean)
            mask = cleanup.clean(mask, clean)
            area = float(np.count_nonzero(mask)) / mask.size
            found.append({"label": wish.label, "mask": mask, "presence": soft_maps.presence(logits), "area": area})
        return {"id": index, "size": [height, width], "masks": found}

    def _logits(self, index: int, features: "Features", wishes: Sequence[Wish]) -> list[NDArray[np.float32]]:
        """A map of each wish on one picture, float32 (S, S): those that are not kept are decoded at once."""
        from clipseg_cli.model.segmenter import Embeddings

        assert self.segmenter is not None
        keys = [replace(wish, threshold=None) for wish in wishes]
        with self.network:
            missing = [key for key in dict.fromkeys(keys) if (index, key) not in self.maps]
            if missing:
                rows = np.stack([self._embedding(key) for key in missing])
                decoded = self.segmenter.logits(features, Embeddings(rows))[0]
                for key, logits in zip(missing, decoded, strict=True):
                    self.maps[index, key] = logits
            result = [self.maps[index, key] for key in keys]
            while len(self.maps) > MAPS:
                self.maps.popitem(last=False)
        return result

    def _embedding(self, wish: Wish) -> NDArray[np.float32]:
        assert self.segmenter is not None
        if wish not in self.embedded:
            if wish.text is not None:
                self.embedded[wish] = self.segmenter.embed([wish.text]).values[0]
            else:
                assert wish.image is not None and wish.box is not None
                pixels = self._pixels(wish.image)
                x, y, width, height = wish.box
                region = np.zeros(pixels.shape[:2], bool)
                region[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = True
                if not region.any():
                    raise UsageError("the box lies outside the picture")
                shown = highlight.highlight(pixels, region, "crop-blur-dim", self.segmenter.side).transpose(2, 0, 1)
                self.embedded[wish] = self.segmenter.embed_images(shown[None]).values[0]
        return self.embedded[wish]

    def command(self, ask: Ask) -> list[str]:
        """The command line that gives these masks for the whole folder, into a directory that no other run has."""
        line = ["clipseg", "segment", self.folder, "--model", self.options.model]
        for wish in ask.wishes:
            if wish.text is not None:
                line += ["-p", wish.text if wish.label == wish.text else f"{wish.label}={wish.text}"]
        for wish in ask.wishes:
            if wish.image is not None and wish.box is not None:
                line += ["--support", f"{wish.label}={self.sources[wish.image].path}"]
                line += ["--support-box", ",".join(map(str, wish.box))]
        for wish in ask.wishes:
            if wish.threshold is not None:
                line += ["-t", f"{wish.label}={wish.threshold:g}"]
        clean = ask.clean
        flags: dict[str, int | float | str] = {
            "--open": clean.open,
            "--close": clean.close,
            "--fill-holes": clean.fill_holes,
        }
        flags |= {"--min-area": clean.min_area, "--keep-largest": clean.keep_largest, "--grow": clean.grow}
        line += [part for flag, value in flags.items() if value for part in (flag, str(value))]
        if clean.refine != "none":
            line += ["--refine", clean.refine]
        places = (self.out if number == 1 else f"{self.out}-{number}" for number in itertools.count(1))
        return next(whole for out in places if free(out, whole := [*line, "-o", out]))

    def begin(self, ask: Ask) -> None:
        """Runs the command on the whole folder, beside this process. Raises UsageError where a run is under way."""
        if self.run is not None and self.run.status()["state"] == "running":
            raise UsageError("a run is under way: wait for its end, or cancel it")
        if not ask.wishes:
            raise UsageError("say what to look for first")
        self.run = Run(self.command(ask), len(self.sources))


def _scaled(clean: CleanUp, scale: float) -> CleanUp:
    """The clean-up for a picture drawn smaller."""
    return replace(
        clean,
        open=round(clean.open * scale),
        close=round(clean.close * scale),
        grow=round(clean.grow * scale),
        min_area=round(clean.min_area * scale * scale),
    )


def folder_of(path: str) -> str:
    """The folder, checked. Raises UsageError."""
    if not Path(path).is_dir():
        raise UsageError(f"{path} is no folder: name one with pictures in it, like `clipseg ui photos/`")
    return path
