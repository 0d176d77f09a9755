"""The program with a network that calls red what is red, and with an end at a chosen point. All else is real."""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.inputs import decode
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import MANIFEST
from clipseg_cli.run import work, workers
from clipseg_cli.run.workers import Notice, Notify
from clipseg_cli.storage import bucket_lines, lines, store

FILE_POINTS = ("before-temp", "mid-write", "after-write", "before-rename", "after-rename")
LINE_POINTS = ("before-line", "mid-line", "after-line")


class Red:
    """What `pipeline` asks of a segmenter, in 16 x 16 pixels."""

    device, dtype, backend = "cpu", "fp32", "fast"

    def __init__(self, terms: int) -> None:
        self.terms = terms

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(16, 16, 3)."""
        return np.asarray(cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA), np.uint8)

    def encode(self, images: Sequence[NDArray[np.uint8]], *, pooled: bool) -> SimpleNamespace:
        """The pictures themselves."""
        return SimpleNamespace(images=images, pooled=None)

    def logits(self, features: SimpleNamespace, embeddings: object) -> NDArray[np.float32]:
        """(N, T, 16, 16): how much redder than green a pixel is."""
        maps = [(image[:, :, 0].astype(np.float32) - image[:, :, 1]) / 16 - 2 for image in features.images]
        return np.repeat(np.stack(maps)[:, None], self.terms, axis=1)


def model(request: Any, checkpoint: Any, tell: Notify) -> tuple[Any, Any]:
    """Takes the place of `runs._model`."""
    tell(Notice("model red", {"device": "cpu", "dtype": "fp32", "backend": "fast"}))
    return Red(len(request.query.texts)), None


def arm(point: str, number: int, die: Callable[[], None]) -> None:
    """Calls `die` at a point of the `number`-th file, or line of the manifest, that this process writes."""
    passes, here = itertools.count(1), threading.local()
    write, append = store.write, lines.Lines.append

    def at(reached: str) -> bool:
        return reached == point and getattr(here, "armed", False)

    def armed_write(path: Path, data: bytes, fsync: bool = False) -> None:
        here.armed = store.TEMPORARY not in str(path) and path.suffix in (".png", ".jpg") and next(passes) == number
        try:
            write(path, data, fsync)
        finally:
            here.armed = False

    class Half:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Half":
            return self

        def __exit__(self, *exception: object) -> None:
            self.file.close()

        def write(self, data: memoryview) -> int:
            if at("mid-write"):
                self.file.write(data[: len(data) // 2])
                die()
            written = self.file.write(data)
            if at("after-write"):
                die()
            return int(written)

        def fileno(self) -> int:
            return int(self.file.fileno())

    def armed_open(name: Any, mode: str, **options: Any) -> Any:
        if at("before-temp"):
            die()
        file = open(name, mode, **options)  # noqa: SIM115
        return Half(file) if getattr(here, "armed", False) else file

    class System:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def replace(self, source: Any, target: Any) -> None:
            if at("before-rename"):
                die()
            os.replace(source, target)
            if at("after-rename"):
                die()

    def armed_append(file: lines.Lines, line: str) -> None:
        if file.path.name == MANIFEST and point in LINE_POINTS and next(passes) == number:
            if point == "before-line":
                die()
            if point == "mid-line":
                with file._locked() as opened:
                    opened.seek(0, os.SEEK_END)
                    opened.write(line.encode()[: len(line) // 2])
                    die()
            append(file, line)
            die()
        append(file, line)

    if point in FILE_POINTS:
        store.write, store.open, store.os = armed_write, armed_open, System()  # type: ignore
    else:
        lines.Lines.append = armed_append  # type: ignore


def disarm() -> None:
    """Undoes `arm` in this process."""
    store.write, lines.Lines.append, store.os = WRITE, APPEND, os
    store.__dict__.pop("open", None)


WRITE, APPEND = store.write, lines.Lines.append


def install() -> None:
    """For a program that has tests/swift on its path: the network, and death as RED_CRASH=point:number says.

    A point of a file is met in a worker, which takes its parent with it; with RED_ONCE=FILE the worker dies alone, and
    only if that file is not there yet. A point of a line is met in the parent. With RED_PARTS each record is put into a
    bucket at once. A picture whose name has RED_STUCK in it is never loaded; RED_PATIENCE says for how many seconds
    that is borne.
    """
    import signal
    import sys

    worker = any("serve" in argument for argument in sys.orig_argv)
    work.load_model = model
    if "RED_PARTS" in os.environ:
        bucket_lines.SHORTEST = bucket_lines.LONGEST = 0.0
    load, stuck = decode.load, os.environ.get("RED_STUCK")
    workers.LOAD_TIMEOUT = int(os.environ.get("RED_PATIENCE", workers.LOAD_TIMEOUT))

    def slow(source: Source, *, max_pixels: int) -> decode.Image:
        if stuck and stuck in source.name:
            print("stuck", file=sys.stderr, flush=True)
            threading.Event().wait()
        return load(source, max_pixels=max_pixels)

    decode.load = slow
    point, _, number = os.environ.get("RED_CRASH", "").partition(":")
    once = os.environ.get("RED_ONCE")

    def die() -> None:
        if once:
            Path(once).touch()
        elif worker:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    if point in (FILE_POINTS if worker else LINE_POINTS) and not (once and Path(once).exists()):
        arm(point, int(number), die)
