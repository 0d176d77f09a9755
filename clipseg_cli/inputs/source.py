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

    @property
    def key(self) -> str:
        """What tells this image from all others of a run: see `key`."""
        return key(self.name, self.frame)


def key(name: str, frame: int | None) -> str:
    """Returns what tells an image from all others of a run: its name and, after the first frame, the frame's number.

    Keys sort by name, then by number. `readable` makes them fit to be shown.
    """
    return name if not frame else f"{name}\0{frame:09}"  # no file's name contains a NUL


def readable(key: str) -> str:
    """Returns a key as it is shown: `clip.mp4#12` for frame 12 of clip.mp4."""
    name, _, number = key.rpartition("\0")
    return f"{name}#{int(number)}" if name and len(number) >= 9 and number.isdecimal() else key


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
