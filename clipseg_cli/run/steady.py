"""`--smooth`: the soft map of a video's frame is averaged with those of the frames around it, also of unselected ones.

What a frame gets depends on its file alone. So a resumed run and any number of worker processes write the same bytes,
although each worker then encodes some frames that another one encodes too.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import smoothing

L = TypeVar("L")


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What is kept of a frame around."""

    logits: NDArray[np.float32]  # (T, h, w)
    guide: NDArray[np.float32]  # (S, S, 3): see `smoothing.guide`
    similarity: NDArray[np.float32] | None = None  # (T,): of the frame itself


class Steady(Generic[L]):
    """Frames with steadied logits. Frames that are asked for in rising order are encoded once. Use it with `with`.

    `load` decodes a frame, `encode` passes a batch of them through the network. One thread decodes the next batch
    meanwhile. Only the frames within `seconds` are kept, each as small maps.
    """

    def __init__(
        self,
        seconds: float,
        batch_size: int,
        times: Callable[[Source], Sequence[float]],
        load: Callable[[Source], L],
        encode: Callable[[list[L]], list[Frame | ImageError]],
    ) -> None:
        self.seconds, self.batch_size = seconds, batch_size
        self.times, self.load, self.encode = times, load, encode
        self._file: tuple[str, str] | None = None
        self._frames: dict[int, Frame | ImageError] = {}
        self._loading: dict[int, Future[L]] = {}
        self._loader = ThreadPoolExecutor(1)

    def __enter__(self) -> "Steady[L]":
        return self

    def __exit__(self, *exception: object) -> None:
        self._loader.shutdown(cancel_futures=True)

    def frame(self, source: Source) -> Frame:
        """Returns a frame of a video with steadied logits. Raises ImageError if it is broken.

        Broken frames around it do not count.
        """
        assert source.frame is not None
        if self._file != (source.path, source.name):
            self._file, self._frames, self._loading = (source.path, source.name), {}, {}
        times = self.times(source)
        if not source.frame < len(times):
            raise ImageError("changed", "load", "the video is not the one that was listed; the next run reads it again")
        now = times[source.frame]
        first = min(source.frame, bisect_right(times, now - self.seconds))
        end = max(source.frame + 1, bisect_left(times, now + self.seconds))
        self._frames = {number: frame for number, frame in self._frames.items() if number >= first}
        while missing := [number for number in range(first, end) if number not in self._frames]:
            self._encode(source, missing[0], len(times))
        own = self._frames[source.frame]
        if isinstance(own, ImageError):
            raise own
        around = {number: self._frames[number] for number in range(first, end)}
        whole = {number: frame for number, frame in around.items() if isinstance(frame, Frame)}
        logits = smoothing.smoothed(
            [frame.logits for frame in whole.values()],
            [frame.guide for frame in whole.values()],
            [times[number] for number in whole],
            list(whole).index(source.frame),
            self.seconds,
        )
        return replace(own, logits=logits)

    def _encode(self, source: Source, first: int, count: int) -> None:
        """Encodes a batch of frames from number `first` on. Loads the one after it meanwhile if they come in order."""
        in_order = first in self._loading or first - 1 in self._frames
        numbers = range(first, min(first + self.batch_size, count))
        following = range(numbers.stop, min(numbers.stop + self.batch_size, count)) if in_order else range(0)
        before, self._loading = self._loading, {}
        for number in (*numbers, *following):
            one = before.get(number)
            self._loading[number] = one or self._loader.submit(self.load, replace(source, frame=number))
        loaded = [self._loading.pop(number).result() for number in numbers]
        self._frames |= zip(numbers, self.encode(loaded), strict=True)
