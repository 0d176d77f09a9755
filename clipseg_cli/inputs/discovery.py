"""Which images: files, folders, globs, lists and standard input become a stream of `Source`. Any path may be a URL.

Nothing here decodes a pixel. A path that cannot be used is a `Source` with an `error`, so that it becomes a record.

    - Files and lists are taken as named; folders are walked: entries sorted by name, one folder in memory at a time.
    - A walk takes the extensions in `EXTENSIONS`, and files without any extension that begin like an image.
    - A run's own outputs (`OUTPUT_NAMES` beside its `run.json`) are never taken by a walk or a glob.
    - A file's output name depends only on the path and on the files beside it, so that parallel runs agree.

Paths are strings handled by os.path, which keeps them as they were typed, with any bytes in them; pathlib would not.
"""

import fnmatch
import functools
import hashlib
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import folders
from clipseg_cli.inputs.folders import Folder
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.storage import buckets, files
from clipseg_cli.storage.buckets import Tag
from clipseg_cli.storage.files import EXTENSIONS, SNIFF, URL, apart, fault, is_url, not_a_file, part, sniff, stem

CHUNK = 65_536  # bytes read at once from a list
LONGEST_LINE = 1 << 20  # bytes; 256 times the longest path of Linux: beyond it the list is something else

# What a run writes at the top of its output directory.
# fmt: off
OUTPUT_NAMES = (
    "masks", "soft", "soft16", "overlays", "cutouts", "labels", "coco.json", "yolo", "voc", "labelme", "svg",
    "webdataset", "npz", "manifest*.jsonl", "run.json",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Source:
    """One image to read, or the reason why it cannot be."""

    path: str  # what open() takes, or a URL; undecodable bytes are kept as surrogates
    name: str  # how the manifest names it: the path as typed joined with the walk's part, "/"-separated
    output: str  # output path without folder prefix and extension, "/"-separated: "sub/a"
    data: bytes | None = None  # the whole file, where it came through standard input
    error: ImageError | None = None  # what discovery met
    tag: Tag | None = None  # of an object, when it was listed


def identify(source: Source, checksum: bool) -> list[int | str]:
    """What tells one state of a source from another: as `files.identity`, with the ETag of an object for the time.

    Raises OSError or ValueError where it cannot be read.
    """
    if not is_url(source.path):
        return files.identity(source.path, checksum)
    if checksum:
        data = buckets.read(source.path)
        return [len(data), hashlib.sha256(data).hexdigest()]
    return list(source.tag or buckets.tag(source.path) or ())


def escape(name: str) -> str:
    r"""Makes a path safe to print on one line of a terminal; readable Unicode stays as it is.

    Control characters, line and paragraph ends, bidirectional overrides and other invisible marks become backslash
    escapes, bytes that are not UTF-8 become ``\xff``, and a backslash is doubled, so two names never look the same.
    """
    return "".join(_visible(letter) for letter in name)


def discover(options: InputOptions, stdin: BinaryIO | None, out: str | None = None) -> Iterator[Source]:
    """Yields the images of a run lazily, in a fixed order, each recorded name once.

    `stdin` is None where it is a terminal. `out` is this run's output directory, whether or not it exists yet.
    Raises UsageError at once where there is nothing to read from or the list cannot be opened.
    """
    inputs = tuple(dict.fromkeys(map(files.local, options.inputs)))
    if not inputs and options.files_from is None:
        inputs = ("-",)
    from_stdin = ("-" in inputs) + (options.files_from == "-")
    if from_stdin == 2:
        raise UsageError("standard input is named twice: give either '-' or '--files-from -'")
    if from_stdin and stdin is None:
        raise UsageError("nothing to read: name images or folders, or pipe in an image or a list of paths")
    listing: BinaryIO | None = stdin if options.files_from == "-" else None
    if options.files_from not in (None, "-"):
        try:
            listing = _open_list(files.local(str(options.files_from)))
        except (OSError, ValueError) as error:
            raise UsageError(f"--files-from {escape(str(options.files_from))}: cannot be read ({error})") from error
    search = _Search.of(options, out)
    if len(inputs) == 1 and listing is None and folders.is_folder(inputs[0]):
        found = search.walk(inputs[0], "")  # one root: outputs mirror it, and no name can come twice
    else:
        found = _once(_all(search, inputs, listing, stdin))
    index, count = options.shard
    mine = found if count == 1 else (source for source in found if part(source.output) % count == index)
    return itertools.islice(mine, options.limit)


def _open_list(path: str) -> BinaryIO:
    return io.BytesIO(buckets.read(path)) if is_url(path) else open(path, "rb")  # closed where the stream ends


def _all(
    search: "_Search", inputs: tuple[str, ...], listing: BinaryIO | None, stdin: BinaryIO | None
) -> Iterator[Source]:
    for path in inputs:
        if path == "-" and stdin is not None:
            yield from _standard_input(search, stdin)
        elif folders.is_pattern(path):
            yield from search.expand(path)
        else:
            yield from search.named(path)
    if listing is not None:
        try:
            for path in _lines(listing, b"", search.options.null):
                yield from search.named(files.local(path), True)
        finally:
            if listing is not stdin:
                listing.close()


def _once(found: Iterator[Source]) -> Iterator[Source]:
    """Drops repeated names, and parts outputs that are equal (`/x/a.jpg` and `x/a.jpg`). 64-bit hashes, not names: a
    list may have a million lines of any length."""
    seen, outputs = set[int](), set[int]()
    for source in found:
        key = hash((_root(source.name), *_parts(source.name)))
        if key not in seen:
            seen.add(key)
            if source.error is None and hash(source.output) in outputs:
                source = replace(source, output=apart(source.output, source.name))
            outputs.add(hash(source.output))
            yield source


def _standard_input(search: "_Search", stdin: BinaryIO) -> Iterator[Source]:
    """One image, where it begins like one; otherwise a list of paths, the first yielded as soon as it is complete."""
    head = b""
    if not search.options.null:
        # A list is known by its first line end; the images that may hold one earlier begin with bytes no text has.
        while len(head) < SNIFF and (b"\n" not in head or head[0] in b"\x89\xff\0"):
            if not (more := _read(stdin, SNIFF - len(head))):
                break
            head += more
        if sniff(head):
            yield Source("-", "-", "stdin", data=head + stdin.read())
            return
    for path in _lines(stdin, head, search.options.null):
        yield from search.named(files.local(path), True)


def _read(stream: BinaryIO, size: int) -> bytes:
    """Reads what is there, without waiting for `size` bytes. b"" at the end."""
    return bytes(getattr(stream, "read1", stream.read)(size) or b"")


def _lines(stream: BinaryIO, head: bytes, null: bool) -> Iterator[str]:
    """Splits a list into paths as it arrives: only the line end is removed, empty lines are skipped."""
    separator, tail = (b"\0", b"") if null else (b"\n", b"\r")
    rest = head
    while True:
        *lines, rest = rest.split(separator)
        for line in lines:
            if path := line.removesuffix(tail):
                yield os.fsdecode(path)
        if len(rest) > LONGEST_LINE:
            raise UsageError("the list of paths has no line end in a megabyte; for a NUL-separated list use --null")
        if not (more := _read(stream, CHUNK)):
            break
        rest += more
    if rest := rest.removesuffix(tail):
        yield os.fsdecode(rest)


@dataclass(frozen=True, slots=True)
class _Search:
    """The rules of one `discover` call, and what links already led to."""

    options: InputOptions
    out: str | None
    excluded: Callable[[str], bool]
    beside: Callable[[str], tuple[frozenset[str], dict[str, Tag]]]  # of a folder, as `folders.beside`
    visited: set[int]  # inodes, only with --follow

    @classmethod
    def of(cls, options: InputOptions, out: str | None) -> "_Search":
        patterns = [re.compile(fnmatch.translate(pattern.rstrip("/"))) for pattern in options.exclude]

        def excluded(inner: str) -> bool:
            last = inner.rpartition("/")[2]
            return any(pattern.match(inner) or pattern.match(last) for pattern in patterns)

        # A few directories: a list comes mostly in their order, and a cached one may hold a million names.
        return cls(options, out, excluded, functools.lru_cache(maxsize=8)(folders.beside), set())

    def named(self, path: str, listed: bool = False) -> Iterator[Source]:
        """A path that the user gave: a file whatever its extension, or a folder to walk. `listed` with many others,
        most of them in few folders."""
        above, name = os.path.split(path)
        try:
            tag = self.beside(above)[1].get(name) if listed and is_url(path) else None
            kind, tag = ("file", tag) if tag is not None else folders.found(path)
        except (OSError, ValueError) as error:
            yield _failed(path, fault(error, "discover"))
            return
        parts = _parts(_slashes(path))
        if kind == "folder":
            yield from self.walk(path, "".join(f"{part}/" for part in _plain(parts)))
        elif kind == "odd":
            yield _failed(path, not_a_file("discover"))
        elif not self.excluded("/".join(parts)):
            last = name if name in self.beside(above or os.curdir)[0] else stem(name)
            yield Source(path, _slashes(path), "/".join([*_plain(parts)[:-1], last]), tag=tag)

    def expand(self, pattern: str) -> Iterator[Source]:
        """A quoted glob: what it matches is named, but for links and a run's outputs that the wildcards walked into."""
        parts = _slashes(pattern).split("/")
        fixed = next(index for index, part in enumerate(parts) if any(letter in part for letter in "*?["))
        try:
            matches = folders.matches(pattern, self.options.hidden)
        except OSError as error:
            yield _failed(pattern, fault(error, "discover"))
            return
        for path in matches:
            pieces = _slashes(path).split("/")
            above = ["".join(f"{piece}/" for piece in pieces[:index]) or "./" for index in range(len(pieces))]
            steps = list(zip(above, pieces, strict=True))[fixed:]
            own = any(_is_output(name) and self._is_run(folder) for folder, name in steps)
            link = any(os.path.islink(os.path.join(folder, name)) for folder, name in steps)
            if not own and (self.options.follow or not link):
                yield from self.named(path)

    def walk(self, root: str, prefix: str) -> Iterator[Source]:
        """Every image below `root`, depth first; outputs begin with `prefix`. Iterative: depth costs no stack."""
        base = _slashes(root) if root.endswith(("/", os.sep)) else _slashes(root) + "/"
        stack: list[Folder] = []
        pending: tuple[str, str] | None = (root, "")
        while stack or pending:
            if pending:
                path, inner = pending
                pending = None
                try:
                    stack.append(self._enter(path, inner))
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
            if name.startswith(".") and not self.options.hidden:
                continue
            if self.excluded(inner) or (folder.own and _is_output(name)):
                continue
            last = name if name in folder.whole else stem(name)
            source = Source(path, base + inner, prefix + folder.inner + last, tag=folder.tags.get(name))
            kind = self._classify(folder, name, path)
            if isinstance(kind, ImageError):
                if self._has_extension(name):
                    yield Source(path, source.name, source.output, error=kind)
            elif kind == "folder":
                if self.options.max_depth is None or len(stack) < self.options.max_depth:
                    pending = (path, inner + "/")
            elif kind == "file" and self._takes(name, path):
                yield source

    def _enter(self, path: str, inner: str) -> Folder:
        """Opens one folder. OSError where it cannot be read."""
        folder = folders.listed(path, inner)
        if self.options.follow and not self._first_visit(path):
            return Folder(folder.path, inner)
        folder.whole = folder.keeping()
        folder.own = self._is_run(path, "run.json" in folder.names)
        folder.names.sort(reverse=True)
        return folder

    def _classify(self, folder: Folder, name: str, path: str) -> Literal["folder", "file", "link"] | ImageError:
        """What an entry is, through a link with --follow ("link": not to be followed), or why it is of no use."""
        if name in folder.folders:
            return "folder"
        if name in folder.odd:
            return not_a_file("discover")
        if name not in folder.links:
            return "file"
        if not self.options.follow:
            return "link"
        try:
            kind, _ = folders.found(path)
        except OSError as error:
            return fault(error, "discover")
        return not_a_file("discover") if kind == "odd" else kind

    def _takes(self, name: str, path: str) -> bool:
        """Whether a walk takes this regular file: by its extension, or by its first bytes where it has none."""
        bare = not self.options.extensions and not os.path.splitext(name)[1]
        wanted = self._has_extension(name) or (bare and folders.begins_like_image(path))
        return wanted and (not self.options.follow or self._first_visit(path))

    def _has_extension(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in (self.options.extensions or EXTENSIONS)

    def _first_visit(self, path: str) -> bool:
        """Whether no name visited so far led to this inode. A path just deleted is new: opening it will say so."""
        try:
            info = os.stat(path)
        except OSError:
            return True
        key = info.st_dev << 64 | info.st_ino
        first = key not in self.visited
        self.visited.add(key)
        return first

    def _is_run(self, folder: str, has_run_file: bool = True) -> bool:
        """Whether `folder` is this run's output directory, or that of an earlier run."""
        if has_run_file and folders.is_run_file(os.path.join(folder, "run.json")):
            return True
        return self.out is not None and folders.same(folder, self.out)


def _is_output(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in OUTPUT_NAMES)


def _failed(path: str, error: ImageError) -> Source:
    name = _slashes(path)
    return Source(path, name, "/".join(_plain(_parts(name))), error=error)


def _slashes(path: str) -> str:
    return path.replace(os.sep, "/")


def _parts(name: str) -> list[str]:
    inner = name.partition("://")[2] if is_url(name) else name
    return [part for part in inner.split("/") if part not in ("", ".")]


def _root(name: str) -> str:
    """What a name starts from: "/", a URL's scheme, or nothing."""
    url = URL.match(name)
    return url[0] if url else name[:1] if name.startswith("/") else ""


def _plain(parts: list[str]) -> list[str]:
    """Parts that stay inside an output directory: no drive or scheme, and "__" for the folder above."""
    return ["__" if part == ".." else part for part in parts if not (os.name == "nt" and part.endswith(":"))]


def _visible(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    if not hidden or letter in "\u200c\u200d":  # the joiners that Persian and emoji are spelt with
        return letter
    if "\x80" <= letter <= "\xff":  # not \\x80, which is how a byte that is not UTF-8 is shown
        return f"\\u{ord(letter):04x}"
    return letter.encode("unicode_escape", "surrogatepass").decode()
