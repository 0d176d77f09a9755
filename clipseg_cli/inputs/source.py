"""`Source`: one image to read, as discovery finds it and decoding takes it."""

import hashlib
from dataclasses import dataclass

from clipseg_cli.errors import ImageError
from clipseg_cli.storage import buckets, paths
from clipseg_cli.storage.buckets import Tag


@dataclass(frozen=True, slots=True)
class Source:
    """One image to read, or the reason why it cannot be read."""

    path: str  # for open(), or a URL; bytes that are not UTF-8 are kept as surrogates
    name: str  # in the manifest: the path as typed, joined with the path below a walked folder; "/"-separated
    output: str  # output path without format folder and extension, "/"-separated: "sub/a"
    data: bytes | None = None  # the whole file, if it came through standard input
    error: ImageError | None = None  # why discovery refused it
    tag: Tag | None = None  # of an object in a bucket, when it was listed
    frame: int | None = None  # the number of the frame in its file, from 0; None: the file is taken as one image
    time: float = 0.0  # of the frame, in seconds


def identify(source: Source, checksum: bool) -> list[int | str]:
    """Returns what changes when a source changes: see `paths.identity`; for an object its size and ETag.

    Raises OSError or ValueError if it cannot be read.
    """
    if not paths.is_url(source.path):
        return paths.identity(source.path, checksum)
    if checksum:
        data = buckets.read(source.path)
        return [len(data), hashlib.sha256(data).hexdigest()]
    return list(source.tag or buckets.tag(source.path) or ())
