"""Discovery: files, folders, globs, lists and standard input become a stream of `Source`. Any path may be a URL.

No pixel is decoded here. A path that cannot be used becomes a `Source` with an `error`, so that it gets a record.

    - Files and lists are taken as named; folders are walked: entries sorted by name, one folder in memory at a time.
    - A walk takes the extensions in `kinds.EXTENSIONS`, and other files that begin like an image or a video. Whether
      one can be read, its decoder says.
    - A walk or a glob never takes a run's own outputs: `search.OUTPUT_NAMES` beside its `run.json`.
    - A file of several frames becomes one source per frame that --frames selects; a video, by default, all its frames.
    - A file's output name depends only on its path and on the files beside it, so that parallel runs agree.

Paths are strings and are handled with os.path, which keeps them as typed, with any bytes in them; pathlib does not.
"""

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs.finding import folders, image_stream, lists
from clipseg_cli.inputs.finding.search import LeftOut, Search, path_parts, path_root
from clipseg_cli.inputs.frames import expansion
from clipseg_cli.inputs.kinds import SNIFF, sniff
from clipseg_cli.inputs.names import renamed, shard_number
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.storage import buckets
from clipseg_cli.storage.paths import escape, is_url, local

TOGETHER = 256  # frames of a file that are in the same shard, so that a shard decodes few that it does not need


def discover(
    options: InputOptions,
    stdin: BinaryIO | None,
    out: str | None = None,
    left_out: LeftOut | None = None,
    at_once: bool = False,
    named: tuple[re.Pattern[str], ...] = (),
) -> Iterator[Source]:
    """Yields the images of a run lazily, in a fixed order, each name once.

    `stdin` is None if it is missing or a terminal. `out` is the output folder of this run, which need not exist yet.
    `named` is what --name calls its files there.
    Files of walked folders that are not taken are added to `left_out`, unless an option of the user leaves them out.
    `at_once`: the first image of standard input does not wait until it is known whether another one follows.
    Raises UsageError at once if there is nothing to read from or the list cannot be opened.
    """
    inputs = tuple(dict.fromkeys(map(local, options.inputs)))
    if not inputs and options.files_from is None:
        inputs = ("-",)
    from_stdin = max(options.inputs.count("-"), "-" in inputs) + (options.files_from == "-")
    if from_stdin > 1:
        raise UsageError("standard input is named twice: give one '-', or '--files-from -'")
    if from_stdin and stdin is None:
        raise UsageError("nothing to read: name images or folders, or pipe in an image or a list of paths")
    listing: BinaryIO | None = stdin if options.files_from == "-" else None
    if options.files_from not in (None, "-"):
        try:
            listing = _open_list(local(str(options.files_from)))
        except (OSError, ValueError) as error:
            raise UsageError(f"--files-from {escape(str(options.files_from))}: cannot be read ({error})") from error
    search = Search.of(options, out, left_out, named)
    if len(inputs) == 1 and listing is None and folders.is_folder(inputs[0]):
        found = search.walk(inputs[0], "")  # a single root: outputs mirror it, and no name can occur twice
    else:
        found = _once(_all(search, inputs, listing, stdin, at_once), inputs == ("-",) and listing is None)
    found = itertools.chain.from_iterable(expansion.expand(source, options) for source in found)
    index, count = options.shard
    shard = found if count == 1 else (source for source in found if shard_number(_together(source)) % count == index)
    return itertools.islice(shard, options.limit)


def _together(source: Source) -> str:
    """Returns what decides the shard of a source: its output. Neighbouring frames of a file are in the same shard."""
    if source.frame is None:
        return source.output
    return f"{source.output.rpartition('/')[0]}/{source.frame // TOGETHER}"


def _open_list(path: str) -> BinaryIO:
    return io.BytesIO(buckets.read(path)) if is_url(path) else open(path, "rb")  # `_all` closes it


def _all(
    search: Search, inputs: tuple[str, ...], listing: BinaryIO | None, stdin: BinaryIO | None, at_once: bool
) -> Iterator[Source]:
    for path in inputs:
        if path == "-" and stdin is not None:
            yield from _standard_input(search, stdin, at_once)
        elif folders.is_pattern(path):
            yield from search.expand(path)
        else:
            yield from search.named(path)
    if listing is not None:
        try:
            for path in lists.paths(listing, search.options.null):
                yield from search.named(local(path), True)
        finally:
            if listing is not stdin:
                listing.close()


def _once(found: Iterator[Source], streamed: bool) -> Iterator[Source]:
    """Drops repeated names, and renames an output that an earlier source has (`/x/a.jpg` and `x/a.jpg`).

    Remembers 64-bit hashes instead of names, since a list may have a million lines of any length. `streamed`: all
    sources come from standard input. Its images may never end, and are not remembered: their names are numbers.
    """
    seen, outputs = set[int](), set[int]()
    for source in found:
        if streamed and source.data is not None:
            yield source
            continue
        key = hash((path_root(source.name), *path_parts(source.name)))
        if key not in seen:
            seen.add(key)
            if source.error is None and hash(source.output) in outputs:
                source = replace(source, output=renamed(source.output, source.name))
            outputs.add(hash(source.output))
            yield source


def _standard_input(search: Search, stdin: BinaryIO, at_once: bool) -> Iterator[Source]:
    """Yields the images of a stream that begins like one, otherwise those of a list, each as soon as it is complete."""
    head = b""
    if not search.options.null:
        # A line end shows a list. Images that may contain one this early begin with bytes that no text has.
        while len(head) < SNIFF and not sniff(head) and (b"\n" not in head or head[0] in b"\x89\xff\0"):
            if not (more := lists.read(stdin, SNIFF - len(head))):
                break
            head += more
        if sniff(head):
            yield from _numbered(image_stream.images(stdin, head, search.options.decoding.max_pixels), at_once)
            return
    for path in lists.paths(stdin, search.options.null, head):
        yield from search.named(local(path), True)


def _numbered(images: Iterator[bytes | ImageError], at_once: bool) -> Iterator[Source]:
    """Yields the images of a stream: `-` if there is one, otherwise `-#1`, `-#2`, ...

    `at_once`: the first one is `-` in any case.
    """
    head = list(itertools.islice(images, 1 if at_once else 2))
    if len(head) == 1:
        yield _streamed(head.pop(), "-", "stdin")
    for number, image in enumerate(itertools.chain(head, images), 1 if head else 2):
        yield _streamed(image, f"-#{number}", f"stdin/{number:06}")


def _streamed(image: bytes | ImageError, name: str, output: str) -> Source:
    return Source("-", name, output, error=image) if isinstance(image, ImageError) else Source("-", name, output, image)
