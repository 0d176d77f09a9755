"""A fake network that marks red pixels in place of CLIPSeg. Everything else of the program is real.

A run takes one second in place of ten, since torch is not imported. A process that starts with `python_path()` as its
PYTHONPATH has the fake network, and fails on demand. These variables of its environment say how:

TEST_KILL_AT=point:number     SIGKILL at a point of `kill_points`. A file's point is reached in a worker process, which
                              kills the main process too; a line's point is reached in the main process
TEST_KILL_ONCE=FILE           with TEST_KILL_AT: only the worker dies, and only if FILE, which it makes, does not exist
TEST_CRASH_ON=name            decoding an image with this in its name ends the worker process by SIGSEGV
TEST_HANG_ON=name             decoding an image with this in its name never ends
TEST_DECODED=FILE             every image that is decoded adds its name to FILE, and takes 5 ms more
TEST_LOAD_TIMEOUT=seconds     for `workers.LOAD_TIMEOUT`
TEST_FLUSH_EACH_RECORD=1      a bucket's manifest is written after every record
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

import kill_points
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.source import Source
from clipseg_cli.run import work
from clipseg_cli.run.engines import workers
from clipseg_cli.run.engines.workers import Notice, Notify
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.storage import bucket_lines

if TYPE_CHECKING:
    import pytest


class FakeSegmenter:
    """What the pipeline needs of a `Segmenter`, in 16 x 16 pixels."""

    device, dtype, backend, batch, side = "cpu", "fp32", "fast", 1, 16

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the image in uint8 (16, 16, 3)."""
        return np.asarray(cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA), np.uint8)

    def encode(self, images: Sequence[NDArray[np.uint8]], *, pooled: bool) -> SimpleNamespace:
        """Returns the images themselves."""
        return SimpleNamespace(images=images, pooled=None)

    def logits(self, features: SimpleNamespace, embeddings: object) -> NDArray[np.float32]:
        """Returns float32 (N, P, 16, 16): how much redder than green a pixel is."""
        maps = [(image[:, :, 0].astype(np.float32) - image[:, :, 1]) / 16 - 2 for image in features.images]
        return np.repeat(np.stack(maps)[:, None], self.prompts, axis=1)


def load_model(request: Any, checkpoint: Any, notify: Notify) -> tuple[Any, Any]:
    """Takes the place of the function that loads the network."""
    notify(Notice("model fake", {"device": "cpu", "dtype": "fp32", "backend": "fast"}))
    return FakeSegmenter(len(request.query.texts)), None


def use(patch: "pytest.MonkeyPatch") -> None:
    """Gives this process the fake network."""
    patch.setattr(work, "load_model", load_model)


def python_path() -> str:
    """Returns the PYTHONPATH that gives every `clipseg` the fake network."""
    return os.pathsep.join([str(Path(__file__).parent / "fake_network_path"), os.environ.get("PYTHONPATH", "")])


def install() -> None:
    """Gives this process the fake network, and the failures that its environment asks for."""
    in_worker = any("serve" in argument for argument in sys.orig_argv)
    work.load_model = load_model  # type: ignore[assignment]
    if "TEST_FLUSH_EACH_RECORD" in os.environ:
        bucket_lines.SHORTEST = bucket_lines.LONGEST = 0.0
    workers.LOAD_TIMEOUT = int(os.environ.get("TEST_LOAD_TIMEOUT", workers.LOAD_TIMEOUT))
    _fail_in_decode(in_worker)
    point, _, number = os.environ.get("TEST_KILL_AT", "").partition(":")
    once = os.environ.get("TEST_KILL_ONCE")

    def die() -> None:
        if once:
            Path(once).touch()
        elif in_worker:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    here = kill_points.FILE_POINTS if in_worker else kill_points.LINE_POINTS
    if point in here and not (once and Path(once).exists()):
        kill_points.arm(point, int(number), die)


def _fail_in_decode(in_worker: bool) -> None:
    load, hang, crash = decode.load, os.environ.get("TEST_HANG_ON"), os.environ.get("TEST_CRASH_ON")
    decoded = os.environ.get("TEST_DECODED")

    def load_or_fail(source: Source, options: DecodeOptions = decode.DEFAULTS) -> decode.Image:
        if hang and hang in source.name:
            print("hangs", file=sys.stderr, flush=True)
            threading.Event().wait()
        if crash and crash in source.name and in_worker:
            signal.raise_signal(signal.SIGSEGV)
        if decoded:
            with open(decoded, "a", buffering=1) as file:
                file.write(source.name + "\n")
            time.sleep(0.005)
        return load(source, options)

    decode.load = load_or_fail
