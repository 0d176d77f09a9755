"""What has a URL: buckets and any other file system that fsspec knows. Whole objects only.

fsspec is imported where a URL is met and nowhere else. Credentials are found by each store's own library, where its
other tools find them too; nothing here takes any. A request that fails is tried again by that library, with back-off;
what has failed for good is raised as an OSError, whatever the library raises.
"""

import contextlib
import errno
import fnmatch
import functools
import io
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from clipseg_cli.errors import ClipsegError, UsageError

READ_WHOLE = 1 << 26  # bytes; larger objects are read from a temporary file, for the sake of memory
TOGETHER = 32  # requests under way at once
TAGS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "updated", "created", "Last-Modified")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
WHOLE = {*EXTRAS, "memory"}  # file systems that have an object whole or not at all; others must be able to rename
# botocore's own number is 5 attempts; 8 with its standard back-off last about half a minute. One at a time: an object
# in several requests might be parts of two versions, and is not tried again where its body breaks off.
S3 = {"max_concurrency": 1, "config_kwargs": {"max_pool_connections": TOGETHER}}
S3_RETRIES = {"mode": "standard", "total_max_attempts": 8}
S3_OWN_RETRIES = ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE")  # variables of a user who knows better

LOUD = ("fsspec", "s3fs", "aiobotocore", "botocore", "gcsfs", "google", "adlfs", "azure", "asyncio")  # loggers

Tag = tuple[int | str, ...]  # what tells one state of an object from another: size, and ETag or time

_making = threading.Lock()


def system(url: str) -> Any:
    """The file system of a URL, one a process. Raises UsageError where fsspec does not know it or lacks a package."""
    with _making:
        return _system(url.partition("://")[0])


@functools.cache
def _system(scheme: str) -> Any:
    options: dict[str, Any] = {"use_listings_cache": False}
    if EXTRAS.get(scheme) == "s3":
        options |= S3
        if not any(name in os.environ for name in S3_OWN_RETRIES):
            options["config_kwargs"] = S3["config_kwargs"] | {"retries": S3_RETRIES}  # type: ignore[operator]
    for name in LOUD:  # or their complaints, tracebacks among them, would go to stderr; what matters is raised
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        import fsspec

        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        line = f"pip install 'clipseg-cli[{EXTRAS[scheme]}]'" if scheme in EXTRAS else str(error)
        raise UsageError(f"{scheme}:// needs a package that is not here: {line}") from error
    except ValueError as error:
        raise UsageError(f"{scheme}:// cannot be used: {error}") from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns whatever a file system raises into an OSError with a number and a reason."""
    try:
        yield
    except ClipsegError:
        raise
    except Exception as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        kinds = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES, IsADirectoryError: errno.EISDIR}
        number = next((number for kind, number in kinds.items() if isinstance(error, kind)), errno.EIO)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            number = error.errno
        raise OSError(number, " ".join(said.split())) from error  # of the kind that the number means


def read(url: str, size: int | None = None) -> bytes:
    """An object's content, or its first `size` bytes. Raises OSError."""
    with _told():
        return bytes(system(url).cat_file(url) if size is None else system(url).cat_file(url, start=0, end=size))


def read_all(urls: Sequence[str]) -> Iterator[bytes | None]:
    """The contents of objects in their order, some asked for at once; None for one that is gone. Raises OSError."""

    def found(url: str) -> bytes | None:
        try:
            return read(url)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(TOGETHER) as pool:
        for start in range(0, len(urls), 4 * TOGETHER):
            yield from pool.map(found, urls[start : start + 4 * TOGETHER])


@contextlib.contextmanager
def opened(url: str, size: int) -> Iterator[BinaryIO]:
    """An object of about `size` bytes, to be read here and there. Raises OSError."""
    if size <= READ_WHOLE:
        yield io.BytesIO(read(url))
        return
    with tempfile.NamedTemporaryFile(prefix="clipseg-") as file:
        with _told():
            system(url).get_file(url, file.name)
        yield file  # type: ignore[misc]


def entries(url: str) -> Iterator[tuple[str, Tag | None]]:
    """(name, tag) of all that a folder holds; the tag of a folder is None. Raises OSError."""
    if url.startswith(("http:", "https:")):  # a page of links is no folder
        raise NotADirectoryError(errno.ENOTDIR, "the web has no folders")
    with _told():
        files = system(url)
        own = files._strip_protocol(url).rstrip("/")
        for info in files.ls(url, detail=True):
            name = info["name"].rstrip("/")
            if name != own:  # some stores keep an empty object for a folder
                yield name.rpartition("/")[2], None if info["type"] == "directory" else _tag(info)


def tag(url: str) -> Tag | None:
    """What tells the state of an object; None for a folder. Raises OSError."""
    with _told():
        info = system(url).info(url)
        return None if info["type"] == "directory" else _tag(info)


def _tag(info: dict[str, Any]) -> Tag:
    return int(info.get("size") or 0), next((str(info[key]).strip('"') for key in TAGS if info.get(key)), "")


def glob(pattern: str) -> list[str]:
    """The URLs that a pattern matches, in no order. Raises OSError."""
    scheme, _, rest = pattern.partition("://")
    with _told():
        names = system(pattern).glob(pattern)
    return [f"{scheme}://{name if rest.startswith('/') else name.lstrip('/')}" for name in names]


@dataclass(frozen=True, slots=True)
class Url:
    """An object or a folder to write to, with those of pathlib's names that a run needs. Methods raise OSError."""

    text: str  # without a slash at its end

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, other: str) -> "Url":
        return Url(f"{self.text}/{other}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The folder that it is in."""
        return Url(self.text.rpartition("/")[0])

    def read_bytes(self) -> bytes:
        """The content."""
        return read(self.text)

    def exists(self) -> bool:
        """Whether there is an object or a folder of this name."""
        try:
            tag(self.text)
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        try:
            return tag(self.text) is not None
        except FileNotFoundError:
            return False

    def glob(self, pattern: str) -> list["Url"]:
        """What is in this folder and has a name like this, sorted."""
        try:
            names = sorted(name for name, _ in entries(self.text) if fnmatch.fnmatchcase(name, pattern))
        except FileNotFoundError:
            return []
        return [self / name for name in names]

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            with _told():
                system(self.text).rm_file(self.text)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def takes_whole(self) -> bool:
        """Whether its file system has an object whole or not at all; False where a new file must be renamed to be so.

        Raises UsageError where neither can be."""
        scheme = self.text.partition("://")[0]
        if scheme not in WHOLE and type(system(self.text)).mv is _base().mv:
            raise UsageError(f"{scheme}:// holds half-written files; choose s3://, gs://, az:// or a folder")
        return scheme in WHOLE

    def write(self, data: bytes | Iterable[bytes]) -> None:
        """Puts an object of this content, or of its pieces in turn: at no time is a part of it there."""
        at_once = self.takes_whole()
        files = system(self.text)
        with _told():
            if at_once:
                _put(files, self.text, data)
                return
            files.makedirs(self.parent.text, exist_ok=True)
            temporary = (self.parent / f".clipseg-tmp-{secrets.token_hex(8)}").text
            _put(files, temporary, data)
            files.mv(temporary, self.text)


def _base() -> Any:
    from fsspec import AbstractFileSystem

    return AbstractFileSystem


def _put(files: Any, url: str, data: bytes | Iterable[bytes]) -> None:
    if isinstance(data, bytes):
        files.pipe_file(url, data)
        return
    with tempfile.NamedTemporaryFile(prefix="clipseg-") as file:
        file.writelines(data)
        file.flush()
        files.put_file(file.name, url)
