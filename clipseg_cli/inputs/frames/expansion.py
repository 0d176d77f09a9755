"""Expansion: a file of several frames becomes one source per frame. Nothing is decoded."""

import os
from collections.abc import Iterator
from dataclasses import replace

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.finding import folders
from clipseg_cli.inputs.frames import videos
from clipseg_cli.inputs.frames.times import TIMES, frame_times
from clipseg_cli.inputs.kinds import KINDS, sniff
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import InputOptions, selected

STILL = frozenset(extension for kind in KINDS.values() if not kind.video for extension in kind.extensions)


def expand(source: Source, options: InputOptions) -> Iterator[Source]:
    """Yields the frames of a file that the options select, each as a source.

    Yields the source itself if it is a single image, if only its first frame is wanted, or if it cannot be read, which
    decoding it will report.
    """
    kind = None if source.error is not None else _kind(source, options)
    if kind is None:
        yield source
        return
    video = KINDS[kind].video
    try:
        times = videos.frame_times(source) if video else _times(kind, source)
    except ImageError as error:
        yield replace(source, error=error)
        return
    if len(times) < 2 and not video:
        yield source
        return
    folder = _folder(source)
    numbers = list(selected(options.frames or "all", len(times)))
    if video:
        numbers.sort()
        numbers = [numbers[each] for each in videos.chosen([times[number] for number in numbers], options.video)]
    for index in numbers:
        yield replace(source, output=f"{folder}/{index:06}", frame=index, time=times[index])


def _times(kind: str, source: Source) -> list[float]:
    try:
        with decode.opened(source) as file:
            return frame_times(kind, file)
    except ImageError:
        return []  # decoding will report it


def _kind(source: Source, options: InputOptions) -> str | None:
    """Returns the kind of a file whose frames are wanted; None for others. Opens no still image without need."""
    every = options.frames not in (None, "first")
    if not every and os.path.splitext(source.path)[1].lower() in STILL:
        return None
    kind = folders.sniffed(source.path) if source.data is None else sniff(source.data)
    if kind is not None and KINDS[kind].video and KINDS[kind].installed and options.frames != "first":
        return kind
    return kind if every and kind in TIMES else None


def _folder(source: Source) -> str:
    """Returns the folder for the outputs of a file's frames: its output path.

    That carries the file's full name if there is a folder beside the file whose outputs would be there.
    """
    above, _, last = source.output.rpartition("/")
    beside = os.path.join(os.path.dirname(source.path), last)
    if source.data is not None or not folders.is_folder(beside):
        return source.output
    return "/".join(filter(None, (above, source.name.rpartition("/")[2])))
