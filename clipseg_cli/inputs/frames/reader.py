"""Decodes the frames of files, each once if they are asked for in rising order."""

import contextlib
import threading
from contextlib import ExitStack
from typing import Any, Self

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.decode import Image
from clipseg_cli.inputs.decoders.result import Sequence, TimedSequence
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.storage.paths import fault


class FrameReader:
    """Decodes frames of files. Keeps the last file open, so that frames in rising order are each decoded once.

    Safe to call from several threads, one of which decodes. If they do not ask in order, `near` says how far apart the
    frames may be that they ask for at the same time: so many are kept. Use it with `with`.
    """

    def __init__(self, near: int = 0) -> None:
        self._near = near
        self._lock = threading.Lock()
        self._files = ExitStack()
        self._opened: list[Any] = []  # what identifies the open file
        self._frames: tuple[str, Sequence] | None = None  # its kind and its frames
        self._at = -1  # the number of the last frame that was decoded
        self._kept: dict[int, Image | ImageError] = {}  # the last ones, by number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def load(self, source: Source, options: DecodeOptions = decode.DEFAULTS) -> Image:
        """Decodes a source, which may also be a file of one image. Raises ImageError, like `decode.load`."""
        if source.frame is None or source.error is not None:
            return decode.load(source, options)
        with self._lock, decode.enough_memory():
            image = self._load(*self._open(source, options), source.frame)
            if _identity(source) != self._opened:
                raise decode.changed()
            return image

    def times(self, source: Source, options: DecodeOptions = decode.DEFAULTS) -> tuple[float, ...]:
        """Returns when each frame of a video is shown, in seconds, rising. Raises ImageError."""
        with self._lock, decode.enough_memory():
            _, frames = self._open(source, options)
            assert isinstance(frames, TimedSequence)
            return frames.times

    def _open(self, source: Source, options: DecodeOptions) -> tuple[str, Sequence]:
        """Returns the kind and the frames of a file, which stays open until another one is asked for."""
        identity = _identity(source)
        if self._frames is None or self._opened != identity:
            self._close()
            file = self._files.enter_context(decode.opened(source))
            kind, decoder = decode.recognised(file, options)
            self._frames, self._opened = (kind, decoder.sequence(kind, file, options)), identity
        return self._frames

    def _load(self, kind: str, frames: Sequence, wanted: int) -> Image:
        if wanted not in self._kept:
            first = self._at + 1 if 0 <= wanted - self._at <= self._near + 1 else wanted
            for number in range(min(first, wanted), wanted + 1):
                try:
                    self._kept[number] = decode.finished(kind, frames.decode(number), alone=True)
                except ImageError as error:
                    self._kept[number] = error
            self._at = wanted
        image = self._kept[wanted]
        for number in sorted(self._kept)[: -self._near or None]:
            del self._kept[number]
        if isinstance(image, ImageError):
            raise image
        return image

    def _close(self) -> None:
        self._frames, self._at, self._kept = None, -1, {}
        with contextlib.suppress(ImageError):  # that the file has changed, which `load` has reported
            self._files.close()


def _identity(source: Source) -> list[Any]:
    """Returns what changes when a file is replaced or written to. Raises ImageError."""
    if source.data is not None:
        return [source.name, hash(source.data)]
    try:
        return [source.path, *identify(source, checksum=False)]
    except (OSError, ValueError) as error:
        raise fault(error, "load") from error
