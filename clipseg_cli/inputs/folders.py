"""What discovery asks of a file system, of this machine's and of a bucket's: what is in a folder, what is at a path."""

import functools
import glob
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from clipseg_cli.inputs.kinds import MAGIC, SNIFF, sniff
from clipseg_cli.inputs.names import keeps_extension
from clipseg_cli.storage import buckets
from clipseg_cli.storage.buckets import Tag
from clipseg_cli.storage.paths import is_url

LARGEST_RUN_FILE = 1 << 24  # bytes; a bigger run.json is not one

Kind = Literal["folder", "file", "odd"]


@dataclass(slots=True)
class Folder:
    """One open level of a walk; `names` is sorted backwards and shrinks as it is used."""

    path: str  # with a trailing separator
    inner: str  # below the root, "/"-separated, with a trailing "/" or empty
    names: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    odd: set[str] = field(default_factory=set)  # neither file, folder nor link
    tags: dict[str, Tag] = field(default_factory=dict)  # of a bucket's objects
    whole: frozenset[str] = frozenset()  # names whose output keeps the extension
    own: bool = False  # a run's output directory

    def keeping(self) -> frozenset[str]:
        """The names whose output keeps the extension."""
        return keeps_extension(name for name in self.names if name not in self.folders)


def listed(path: str, inner: str) -> Folder:
    """What is in one folder, unsorted. Names, not entries: a million of them must fit in memory. Raises OSError."""
    folder = Folder(os.path.join(path, ""), inner)
    if is_url(path):
        for name, tag in buckets.entries(path):
            if name in ("", ".", ".."):  # a bucket may have such keys; as a path they would lead elsewhere
                continue
            folder.names.append(name)
            if tag is None:
                folder.folders.add(name)
            else:
                folder.tags[name] = tag
        return folder
    with os.scandir(path) as entries:
        for entry in entries:
            folder.names.append(entry.name)
            try:
                if entry.is_symlink():
                    folder.links.add(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    folder.folders.add(entry.name)
                elif not entry.is_file(follow_symlinks=False):
                    folder.odd.add(entry.name)
            except OSError:  # gone between listing and asking: opening it will say so
                continue
    return folder


def neighbours(path: str) -> tuple[frozenset[str], dict[str, Tag]]:
    """Of a folder: the names whose output keeps the extension, and the objects; nothing where it cannot be listed."""
    try:
        folder = listed(path, "")
    except OSError:
        return frozenset(), {}
    return folder.keeping(), folder.tags


def found(path: str) -> tuple[Kind, Tag | None]:
    """What is at a path, and the tag of an object. Raises OSError or ValueError where nothing is."""
    if is_url(path):
        tag = buckets.tag(path)
        return "folder" if tag is None else "file", tag
    mode = os.stat(path).st_mode
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "odd", None


def is_folder(path: str) -> bool:
    """Whether there is a folder at a path."""
    try:
        return found(path)[0] == "folder"
    except (OSError, ValueError):
        return False


def is_pattern(path: str) -> bool:
    """Whether a path is a glob, and not the plain name of something that is there."""
    if not any(letter in path for letter in "*?[") or path.startswith(("http:", "https:")):
        return False
    if not is_url(path):
        return not os.path.lexists(path)
    try:
        buckets.tag(path)
    except OSError:
        return True
    return False


def matches(pattern: str, hidden: bool) -> Iterable[str]:
    """The paths that a glob matches, sorted; without `hidden` no wildcard stands for a name that begins with a dot.

    Raises OSError where a bucket cannot be listed."""
    if not is_url(pattern):
        return sorted(glob.iglob(pattern, recursive=True, include_hidden=hidden))
    asked = {part for part in pattern.split("/") if part.startswith(".")}
    found = buckets.glob(pattern)
    return sorted(path for path in found if hidden or all(part[:1] != "." or part in asked for part in path.split("/")))


def same(path: str, other: str) -> bool:
    """Whether two paths name the same folder."""
    if is_url(path) or is_url(other):
        return path.rstrip("/") == other.rstrip("/")
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def begins_like_image(path: str) -> bool:
    """Whether a file's first bytes are an image's; False where it cannot be read."""
    try:
        return sniff(_head(path, SNIFF)) in MAGIC
    except OSError:
        return False


@functools.lru_cache(maxsize=64)
def _is_remote_run(path: str) -> bool:
    return _is_run(path)


def is_run_file(path: str) -> bool:
    """Whether this is a run.json of this program: a JSON object with the key "clipseg"."""
    return _is_remote_run(path) if is_url(path) else _is_run(path)


def _is_run(path: str) -> bool:
    try:
        content = json.loads(_head(path, LARGEST_RUN_FILE))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "clipseg" in content


def _head(path: str, size: int) -> bytes:
    """The first bytes of a file, without waiting for a FIFO's writer. Raises OSError."""
    if is_url(path):
        return buckets.read(path, size)
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        return file.read(size)
