"""The search for images below one path: a named file, a folder to walk, or a glob, under the rules of one run."""

import fnmatch
import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from clipseg_cli.errors import ImageError
from clipseg_cli.inputs.finding import folders
from clipseg_cli.inputs.finding.folders import Folder, Named
from clipseg_cli.inputs.georeference import world_suffix
from clipseg_cli.inputs.kinds import EXTENSIONS, KINDS
from clipseg_cli.inputs.names import stem
from clipseg_cli.inputs.source import Source
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.outputs import TOP_NAMES
from clipseg_cli.storage.buckets import Tag
from clipseg_cli.storage.paths import URL, fault, is_url, not_a_file

OUTPUT_NAMES = (*TOP_NAMES.values(), "manifest*.jsonl", "run.json")  # what a run writes at the top of its output folder

MOST_KINDS = 1000  # that are counted apart, so that files like "scan.000001" cannot fill the memory
LITTER = {name.lower(): name for name in (".DS_Store", "Thumbs.db", "desktop.ini")}  # what file managers leave behind
APPLE_DOUBLE = "._"  # begins the names of files in which macOS keeps the attributes of others: "._a.jpg"
# Files that describe an image or a video, or repeat it in small; .thm is a JPEG and .lrv an MP4. Never opened.
SIDECARS = frozenset(
    (".xmp", ".aae", ".thm", ".lrv", ".json", ".txt", ".xml", ".csv", ".pp3", ".dop", ".cos", ".srt", ".md", ".html")
)
# Files that are read with the image beside them, so that no summary counts them.
WORLD_FILES = frozenset((".wld", ".prj", *map(world_suffix, EXTENSIONS)))
Reason = Literal["no_image", "link"]
# The files that walks left out, by reason and kind: a suffix, or what they begin like.
LeftOut = Counter[tuple[Reason, str]]


@dataclass(frozen=True, slots=True)
class Search:
    """The rules of one `discover` call, and the inodes that it has visited."""

    options: InputOptions
    out: str | None  # the output folder of this run
    excluded: Callable[[str], bool]  # of a path below a root
    neighbours: Callable[[str], tuple[frozenset[str], dict[str, Tag]]]  # of a folder, as `folders.neighbours`
    visited: set[int]  # inodes, only with --follow
    left_out: LeftOut = field(default_factory=Counter)  # counted here
    patterns: tuple[re.Pattern[str], ...] = ()  # what --name calls the outputs of this run, as paths below `out`

    @classmethod
    def of(
        cls,
        options: InputOptions,
        out: str | None,
        left_out: LeftOut | None = None,
        named: tuple[re.Pattern[str], ...] = (),
    ) -> "Search":
        """Returns the search of a run that writes to `out`. It adds the files that it does not take to `left_out`."""
        patterns = [re.compile(fnmatch.translate(pattern.rstrip("/"))) for pattern in options.exclude]

        def excluded(inner: str) -> bool:
            last = inner.rpartition("/")[2]
            return any(pattern.match(inner) or pattern.match(last) for pattern in patterns)

        # Few folders: the paths of a list mostly come folder by folder, and a cached folder may hold a million names.
        neighbours = functools.lru_cache(maxsize=8)(folders.neighbours)
        return cls(options, out, excluded, neighbours, set(), Counter() if left_out is None else left_out, named)

    def named(self, path: str, listed: bool = False) -> Iterator[Source]:
        """Yields what the user named: a file with any extension, or the images of a folder.

        `listed`: the path comes from a list, so others probably are in the same folder.
        """
        above, name = os.path.split(path)
        try:
            tag = self.neighbours(above)[1].get(name) if listed and is_url(path) else None
            kind, tag = ("file", tag) if tag is not None else folders.look_up(path)
        except (OSError, ValueError) as error:
            yield _failed(path, fault(error, "discover"))
            return
        parts = path_parts(slashes(path))
        if kind == "folder":
            yield from self.walk(path, "".join(f"{part}/" for part in _inside(parts)))
        elif kind == "odd":
            yield _failed(path, not_a_file("discover"))
        elif not self.excluded("/".join(parts)):
            last = name if name in self.neighbours(above or os.curdir)[0] else stem(name)
            yield Source(path, slashes(path), "/".join([*_inside(parts)[:-1], last]), tag=tag)

    def expand(self, pattern: str) -> Iterator[Source]:
        """Yields what a glob matches, except links and outputs of a run that only its wildcards reach."""
        parts = slashes(pattern).split("/")
        fixed = next(index for index, part in enumerate(parts) if any(letter in part for letter in "*?["))
        try:
            matches = folders.matches(pattern, self.options.hidden)
        except OSError as error:
            yield _failed(pattern, fault(error, "discover"))
            return
        last: str | None = None
        named: Named = ()
        for path in matches:
            pieces = slashes(path).split("/")
            above = ["".join(f"{piece}/" for piece in pieces[:index]) or "./" for index in range(len(pieces))]
            steps = list(zip(above, pieces, strict=True))[fixed:]
            own = any(_is_output(name) and self._is_run(folder) for folder, name in steps)
            if above[-1] != last:
                last, named = above[-1], (*self._named_in(above[-1]), *self._named_above(above[-1]))
            own = own or folders.is_named(path, named)
            link = any(os.path.islink(os.path.join(folder, name)) for folder, name in steps)
            if link and not own and not self.options.follow:
                self._leave_out("link", _suffix(path))
            elif not own:
                yield from self.named(path)

    def walk(self, root: str, prefix: str) -> Iterator[Source]:
        """Yields every image below `root`, depth first; output paths begin with `prefix`.

        It is a loop, not a recursion, so a deep tree cannot exhaust the stack.
        """
        base = slashes(root) if root.endswith(("/", os.sep)) else slashes(root) + "/"
        stack: list[Folder] = []
        pending: tuple[str, str] | None = (root, "")
        while stack or pending:
            if pending:
                path, inner = pending
                pending = None
                try:
                    stack.append(self._enter(path, inner, stack[-1].named if stack else self._named_above(path)))
                except OSError as error:
                    name = (base + inner).rstrip("/")
                    yield Source(path, name, (prefix + inner).rstrip("/"), error=fault(error, "discover"))
                continue
            folder = stack[-1]
            if not folder.names:
                stack.pop()
                continue
            name = folder.names.pop()
            path, inner = folder.path + name, folder.inner + name
            if self.excluded(inner) or (folder.own and _is_output(name)):
                continue
            if name not in folder.folders and (litter := _litter(name)):
                self._leave_out("no_image", litter)
                continue
            if name.startswith(".") and not self.options.hidden:
                continue
            last = name if name in folder.whole else stem(name)
            source = Source(path, base + inner, prefix + folder.inner + last, tag=folder.tags.get(name))
            kind = self._classify(folder, name, path)
            if isinstance(kind, ImageError):
                if self._has_extension(name):
                    yield Source(path, source.name, source.output, error=kind)
                else:
                    self._leave_out("no_image", _suffix(name))
            elif kind == "folder":
                if self.options.max_depth is None or len(stack) < self.options.max_depth:
                    pending = (path, inner + "/")
            elif kind == "link":
                self._leave_out("link", _suffix(name))
            elif self._takes(name, path):
                yield source

    def _enter(self, path: str, inner: str, named: Named) -> Folder:
        """Lists a folder, without the outputs that are `named` above it. Raises OSError if it cannot be read."""
        folder = folders.list_folder(path, inner)
        if self.options.follow and not self._first_visit(path):
            return Folder(folder.path, inner)
        folder.own = self._is_run(path, "run.json" in folder.names)
        folder.named = (*named, *self._named_in(path)) if folder.own else named
        if folder.named:
            folder.names = [
                name
                for name in folder.names
                if name in folder.folders or not folders.is_named(folder.path + name, folder.named)
            ]
        folder.whole = folder.keeping()
        folder.names.sort(reverse=True)
        return folder

    def _classify(self, folder: Folder, name: str, path: str) -> Literal["folder", "file", "link"] | ImageError:
        """Returns what an entry is, or why it cannot be used. With --follow a link counts as its target."""
        if name in folder.folders:
            return "folder"
        if name in folder.odd:
            return not_a_file("discover")
        if name not in folder.links:
            return "file"
        if not self.options.follow:
            return "link"
        try:
            kind, _ = folders.look_up(path)
        except OSError as error:
            return fault(error, "discover")
        return not_a_file("discover") if kind == "odd" else kind

    def _takes(self, name: str, path: str) -> bool:
        """Returns whether a walk takes a file: by its extension, or if that says nothing, by its first bytes."""
        if not self._has_extension(name):
            suffix = _suffix(name)
            if suffix in WORLD_FILES and not self.options.extensions:
                return False
            kind = self._kind(path, suffix)
            if kind is None or KINDS[kind].document:
                self._leave_out("no_image", suffix or kind or "")
                return False
        return not self.options.follow or self._first_visit(path)

    def _kind(self, path: str, suffix: str) -> str | None:
        """Returns the kind that a file begins like; None if that does not count, and the file is not opened.

        With --ext the user has chosen. Objects in buckets are opened only if they have no suffix: each costs a request.
        """
        if self.options.extensions or suffix in SIDECARS or (suffix and is_url(path)):
            return None
        return folders.sniffed(path, binary=bool(suffix))

    def _has_extension(self, name: str) -> bool:
        return _suffix(name) in (self.options.extensions or EXTENSIONS)

    def _leave_out(self, reason: Reason, kind: str) -> None:
        """Counts a file that is not taken. What --ext leaves out is the user's choice and is not counted."""
        if reason == "no_image" and self.options.extensions:
            return
        key = reason, kind or "without extension"
        known = key in self.left_out or len(self.left_out) < MOST_KINDS
        self.left_out[key if known else (reason, "of other kinds")] += 1

    def _first_visit(self, path: str) -> bool:
        """Returns whether this inode is new. A path that was just deleted is new too: opening it will report that."""
        try:
            info = os.stat(path)
        except OSError:
            return True
        key = info.st_dev << 64 | info.st_ino
        first = key not in self.visited
        self.visited.add(key)
        return first

    def _named_above(self, folder: str) -> Named:
        """Returns what --name calls the outputs of the runs above a folder. In a bucket it does not look."""
        found: Named = ()
        below, above = "", "" if is_url(folder) else os.path.dirname(os.path.abspath(folder))
        while below != above:
            found += self._named_in(above)
            below, above = above, os.path.dirname(above)
        return found

    def _named_in(self, folder: str) -> Named:
        own = self.patterns if self.out is not None and folders.same(folder, self.out) else ()
        base = os.path.join(folder if is_url(folder) else os.path.abspath(folder), "")
        return tuple((base, each) for each in (*own, *folders.named_by_run(folder)))

    def _is_run(self, folder: str, has_run_file: bool = True) -> bool:
        """Returns whether `folder` is the output folder of this run or of an earlier one."""
        if has_run_file and folders.is_run_file(os.path.join(folder, "run.json")):
            return True
        return self.out is not None and folders.same(folder, self.out)


def _suffix(name: str) -> str:
    """Returns the extension of a file's name, in lower case and with its dot; "" if it has none."""
    return os.path.splitext(name)[1].lower()


def _litter(name: str) -> str:
    """Returns the kind of a file that is none of the user's, whatever its suffix; "" for all others."""
    return f"{APPLE_DOUBLE}*" if name.startswith(APPLE_DOUBLE) else LITTER.get(name.lower(), "")


def _is_output(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in OUTPUT_NAMES)


def _failed(path: str, error: ImageError) -> Source:
    name = slashes(path)
    return Source(path, name, "/".join(_inside(path_parts(name))), error=error)


def slashes(path: str) -> str:
    """Returns a path with "/" as its separator."""
    return path.replace(os.sep, "/")


def path_parts(name: str) -> list[str]:
    """Returns the parts of a path or URL without its root, and without empty parts and "."."""
    inner = name.partition("://")[2] if is_url(name) else name
    return [part for part in inner.split("/") if part not in ("", ".")]


def path_root(name: str) -> str:
    """Returns "/" for an absolute path, the scheme of a URL, otherwise ""."""
    url = URL.match(name)
    return url[0] if url else name[:1] if name.startswith("/") else ""


def _inside(parts: list[str]) -> list[str]:
    """Returns parts that cannot leave an output folder: without a drive, and with "__" for the folder above."""
    return ["__" if part == ".." else part for part in parts if not (os.name == "nt" and part.endswith(":"))]
