"""Objects with a URL: those in buckets, and files of any other file system that fsspec knows. Whole objects only.

fsspec is imported only when a URL is used. Each file system's own library finds the credentials, in the same places as
its other tools; this module handles none. That library also retries failed requests, with back-off. A final failure is
raised as an OSError, whatever the library raises.
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

READ_WHOLE = 1 << 26  # bytes; larger objects are copied to a temporary file, to save memory
CONCURRENT = 32  # requests at the same time
TAGS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified", "updated", "created", "Last-Modified")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}
ATOMIC = {*EXTRAS, "memory"}  # schemes that never show a partial object; others must be able to rename
# 8 attempts with botocore's standard back-off take about half a minute; its default is 5. max_concurrency 1: an object
# read by several requests could mix two versions, and is not retried if its body breaks off.
S3 = {"max_concurrency": 1, "config_kwargs": {"max_pool_connections": CONCURRENT}}
S3_RETRIES = {"mode": "standard", "total_max_attempts": 8}
S3_OWN_RETRIES = ("AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE")  # a user's own settings take precedence

LOGGERS = ("fsspec", "s3fs", "aiobotocore", "botocore", "gcsfs", "google", "adlfs", "azure", "asyncio")

Tag = tuple[int | str, ...]  # changes when an object changes: its size, and its ETag or time

_making = threading.Lock()


def system(url: str) -> Any:
    """Returns the file system of a URL, the same one each time. Raises UsageError if fsspec lacks it or its package."""
    with _making:
        return _system(url.partition("://")[0])


@functools.cache
def _system(scheme: str) -> Any:
    options: dict[str, Any] = {"use_listings_cache": False}
    if EXTRAS.get(scheme) == "s3":
        options |= S3
        if not any(name in os.environ for name in S3_OWN_RETRIES):
            options["config_kwargs"] = S3["config_kwargs"] | {"retries": S3_RETRIES}  # type: ignore[operator]
    for name in LOGGERS:  # otherwise their tracebacks go to stderr; what matters is raised
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        import fsspec

        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        line = f"pip install 'clipseg-cli[{EXTRAS[scheme]}]'" if scheme in EXTRAS else str(error)
        raise UsageError(f"{scheme}:// needs a package that is not installed: {line}") from error
    except ValueError as error:
        raise UsageError(f"{scheme}:// cannot be used: {error}") from error


@contextlib.contextmanager
def _as_oserror() -> Iterator[None]:
    """Converts whatever a file system raises to an OSError with a number and a reason."""
    try:
        yield
    except ClipsegError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        kinds = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES, IsADirectoryError: errno.EISDIR}
        number = next((number for kind, number in kinds.items() if isinstance(error, kind)), errno.EIO)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            number = error.errno
        raise OSError(number, " ".join(reason.split())) from error  # OSError picks the subclass by the number


def read(url: str, size: int | None = None) -> bytes:
    """Returns the content of an object, or its first `size` bytes. Raises OSError."""
    with _as_oserror():
        return bytes(system(url).cat_file(url) if size is None else system(url).cat_file(url, start=0, end=size))


def read_all(urls: Sequence[str]) -> Iterator[bytes | None]:
    """Yields the contents of objects in their order, None for a missing one. Reads ahead. Raises OSError."""

    def content(url: str) -> bytes | None:
        try:
            return read(url)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(CONCURRENT) as pool:
        for start in range(0, len(urls), 4 * CONCURRENT):
            yield from pool.map(content, urls[start : start + 4 * CONCURRENT])


@contextlib.contextmanager
def opened(url: str, size: int) -> Iterator[BinaryIO]:
    """Opens an object of about `size` bytes for random access. Raises OSError."""
    if size <= READ_WHOLE:
        yield io.BytesIO(read(url))
        return
    with tempfile.NamedTemporaryFile(prefix="clipseg-") as file:
        with _as_oserror():
            system(url).get_file(url, file.name)
        yield file  # type: ignore[misc]


def entries(url: str) -> Iterator[tuple[str, Tag | None]]:
    """Yields (name, tag) of every entry of a folder; the tag of a folder is None. Raises OSError."""
    if url.startswith(("http:", "https:")):  # a web page of links is no folder
        raise NotADirectoryError(errno.ENOTDIR, "the web has no folders; name the images")
    with _as_oserror():
        files = system(url)
        own = files._strip_protocol(url).rstrip("/")
        for info in files.ls(url, detail=True):
            name = info["name"].rstrip("/")
            if name != own:  # some stores keep an empty object in place of a folder
                yield name.rpartition("/")[2], None if info["type"] == "directory" else _tag(info)


def tag(url: str) -> Tag | None:
    """Returns a value that changes when the object changes; None for a folder. Raises OSError."""
    with _as_oserror():
        info = system(url).info(url)
        return None if info["type"] == "directory" else _tag(info)


def _tag(info: dict[str, Any]) -> Tag:
    return int(info.get("size") or 0), next((str(info[key]).strip('"') for key in TAGS if info.get(key)), "")


def glob(pattern: str) -> list[str]:
    """Returns the URLs that a pattern matches, in any order. Raises OSError."""
    scheme, _, rest = pattern.partition("://")
    with _as_oserror():
        names = system(pattern).glob(pattern)
    return [f"{scheme}://{name if rest.startswith('/') else name.lstrip('/')}" for name in names]


@dataclass(frozen=True, slots=True)
class Url:
    """An object or folder, with the methods of pathlib.Path that a run needs. The methods raise OSError."""

    text: str  # without a trailing slash

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, other: str) -> "Url":
        return Url(f"{self.text}/{other}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The folder that contains it."""
        return Url(self.text.rpartition("/")[0])

    def read_bytes(self) -> bytes:
        """Returns the content."""
        return read(self.text)

    def exists(self) -> bool:
        """Returns whether there is an object or a folder."""
        try:
            tag(self.text)
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Returns whether there is an object."""
        try:
            return tag(self.text) is not None
        except FileNotFoundError:
            return False

    def glob(self, pattern: str) -> list["Url"]:
        """Returns the entries of this folder whose names match, sorted."""
        try:
            names = sorted(name for name, _ in entries(self.text) if fnmatch.fnmatchcase(name, pattern))
        except FileNotFoundError:
            return []
        return [self / name for name in names]

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the object."""
        try:
            with _as_oserror():
                system(self.text).rm_file(self.text)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def is_atomic(self) -> bool:
        """Returns whether the file system never shows a partial object; False if a new file must be renamed instead.

        Raises UsageError if it can do neither.
        """
        scheme = self.text.partition("://")[0]
        if scheme not in ATOMIC and type(system(self.text)).mv is _base().mv:
            raise UsageError(f"{scheme}:// would show half-written files; choose s3://, gs://, az:// or a folder")
        return scheme in ATOMIC

    def write(self, data: bytes | Iterable[bytes]) -> None:
        """Writes an object with this content, or with its pieces in turn. A partial object is never visible."""
        atomic = self.is_atomic()
        files = system(self.text)
        with _as_oserror():
            if atomic:
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
