"""Folders and paths on this machine and in buckets: what a folder holds, what is at a path, what a glob matches."""

import functools
import glob
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.kinds import SNIFF, sniff
from clipseg_cli.inputs.names import keeps_extension
from clipseg_cli.settings.names import patterns
from clipseg_cli.storage import buckets
from clipseg_cli.storage.buckets import Tag
from clipseg_cli.storage.paths import is_url

LARGEST_RUN_FILE = 1 << 24  # bytes: a larger file is not a run.json

TEXT = re.compile(rb"[\t\n\f\r -~]*")  # plain ASCII
Entry = Literal["folder", "file", "odd"]


Named = tuple[tuple[str, re.Pattern[str]], ...]  # a run's folder with a separator, and what its files are called there


@dataclass(slots=True)
class Folder:
    """A folder that a walk is in."""

    path: str  # with a trailing separator
    inner: str  # below the root, "/"-separated, with a trailing "/" or empty
    names: list[str] = field(default_factory=list)  # still to visit, the next one last
    folders: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    odd: set[str] = field(default_factory=set)  # neither file, folder nor link
    tags: dict[str, Tag] = field(default_factory=dict)  # of objects in a bucket
    whole: frozenset[str] = frozenset()  # names whose output name is the full name
    own: bool = False  # it is the output folder of a run
    named: "Named" = ()  # what --name calls the outputs of runs to which it, or a folder above it, belongs

    def keeping(self) -> frozenset[str]:
        """Returns the names of files whose output name is the full name."""
        return keeps_extension(name for name in self.names if name not in self.folders)


def list_folder(path: str, inner: str) -> Folder:
    """Lists a folder, unsorted. Keeps only names, since a million of them must fit in memory. Raises OSError."""
    folder = Folder(os.path.join(path, ""), inner)
    if is_url(path):
        for name, tag in buckets.entries(path):
            if name in ("", ".", ".."):  # keys may contain them; as a path they would lead elsewhere
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
            except OSError:  # deleted since it was listed: opening it will report that
                continue
    return folder


def neighbours(path: str) -> tuple[frozenset[str], dict[str, Tag]]:
    """Returns the names in a folder whose output name is the full name, and the tags of its objects.

    Both are empty if the folder cannot be listed.
    """
    try:
        folder = list_folder(path, "")
    except OSError:
        return frozenset(), {}
    return folder.keeping(), folder.tags


def look_up(path: str) -> tuple[Entry, Tag | None]:
    """Returns what is at a path, and the tag of an object. Raises OSError or ValueError if nothing is there."""
    if is_url(path):
        tag = buckets.tag(path)
        return "folder" if tag is None else "file", tag
    mode = os.stat(path).st_mode
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "odd", None


def is_folder(path: str) -> bool:
    """Returns whether there is a folder at a path."""
    try:
        return look_up(path)[0] == "folder"
    except (OSError, ValueError):
        return False


def is_pattern(path: str) -> bool:
    """Returns whether a path is a glob, and not the name of an existing file that contains such characters."""
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
    """Returns the paths that a glob matches, sorted. Without `hidden`, no wildcard matches a leading dot.

    Raises OSError if a bucket cannot be listed.
    """
    if not is_url(pattern):
        return sorted(glob.iglob(pattern, recursive=True, include_hidden=hidden))
    dotted = {part for part in pattern.split("/") if part.startswith(".")}
    found = buckets.glob(pattern)
    return sorted(
        path for path in found if hidden or all(part[:1] != "." or part in dotted for part in path.split("/"))
    )


def same(path: str, other: str) -> bool:
    """Returns whether two paths name the same folder."""
    if is_url(path) or is_url(other):
        return path.rstrip("/") == other.rstrip("/")
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def sniffed(path: str, binary: bool = False) -> str | None:
    """Returns the kind that a file begins like, a key of KINDS; None if it is no known image or cannot be read.

    With `binary`, text is no image, although "P2 10 20" or "DDS " may begin one.
    """
    try:
        head = _head(path, SNIFF)
    except OSError:
        return None
    return None if binary and TEXT.fullmatch(head) else sniff(head)


@functools.lru_cache(maxsize=64)
def _is_remote_run(path: str) -> bool:
    return _is_run(path)


def is_run_file(path: str) -> bool:
    """Returns whether this is a run.json of this program: a JSON object with the key "clipseg"."""
    return _is_remote_run(path) if is_url(path) else _is_run(path)


def _is_run(path: str) -> bool:
    return "clipseg" in _run_file(path)


def _run_file(path: str) -> dict[str, Any]:
    try:
        content = json.loads(_head(path, LARGEST_RUN_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def named_by_run(folder: str) -> tuple[re.Pattern[str], ...]:
    """Returns what the run in a folder, if there is one, calls outputs by --name or --layout, below the folder."""
    try:
        settings = _run_file(os.path.join(folder, "run.json")).get("settings", {})
        labels = [prompt["label"] for prompt in settings["prompts"]]
        return patterns(settings.get("name", ()), labels, settings.get("formats", ()), settings.get("images", "link"))
    except (AttributeError, KeyError, TypeError, ValueError, UsageError):  # not written by this program
        return ()


def is_named(path: str, named: Named) -> bool:
    """Returns whether a path is one of these outputs."""
    if not named:
        return False
    path = path if is_url(path) else os.path.abspath(path)
    return any(
        path.startswith(base) and pattern.fullmatch(path[len(base) :].replace(os.sep, "/")) is not None
        for base, pattern in named
    )


def _head(path: str, size: int) -> bytes:
    """Returns the first `size` bytes of a file, without waiting for the writer of a FIFO. Raises OSError."""
    if is_url(path):
        return buckets.read(path, size)
    # without a file object: a walk reads this of every file whose suffix says nothing
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        return os.read(file, size)
    finally:
        os.close(file)
