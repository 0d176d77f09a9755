"""Downloads models from the Hugging Face hub into the cache of the huggingface_hub library.

Only the files that a run needs are downloaded. Every file is verified by size and digest, an interrupted download
resumes, and nothing that is downloaded is ever executed.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipseg_cli.errors import ModelError
from clipseg_cli.model.checkpoint_files import CARD, CONFIG, OTHERS, PICKLE, SAFETENSORS, Kind, check_config

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git blob id of a small file; sha256 of a large one

CHUNK = 1 << 16  # bytes: the most that is lost when a connection breaks
ATTEMPTS = 5  # a download fails after this many connections in a row that brought no byte
PAUSE = 0.5  # seconds before a new attempt, times the number of failures so far
TIMEOUT = 10  # seconds without a byte


def constants() -> Any:
    """Returns huggingface_hub's settings from the environment, without importing its HTTP client."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # otherwise its user agent costs an extra request
    import huggingface_hub.constants

    return huggingface_hub.constants


def cache(repo: str = "") -> Path:
    """Returns the library's cache folder, or the folder of one repository in it."""
    return Path(constants().HF_HUB_CACHE, f"models--{repo.replace('/', '--')}" if repo else "")


def cached_repos() -> list[str]:
    """Returns the ids `org/name` of all models in the cache, complete or not, sorted by folder name."""
    return sorted(folder.name[8:].replace("--", "/", 1) for folder in cache().glob("models--*--*"))


def snapshot(repo: str, revision: str) -> Path | None:
    """Returns the cached directory of a revision, complete or not; None if there is none."""
    folder = cache(repo)
    try:
        commit = revision if COMMIT.fullmatch(revision) else (folder / "refs" / revision).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    path = folder / "snapshots" / commit
    return path if COMMIT.fullmatch(commit) and path.is_dir() else None


def pull(repo: str, revision: str, progress: bool, refresh: bool, kinds: tuple[Kind, ...]) -> Path:
    """Downloads a revision of a model of one of these kinds into the cache and returns its directory.

    `refresh` verifies files that are already there. The ref is updated last, so that the old revision stays usable
    if a refresh is interrupted. Raises ModelError.
    """
    library = _library()
    library.logging.set_verbosity_error()
    with _plain_errors(repo, revision, kinds[0]):
        info = library.HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
        commit, offered = str(info.sha), {file.rfilename for file in info.siblings or ()}
        path = cache(repo) / "snapshots" / commit
        if not COMMIT.fullmatch(commit) or CONFIG not in offered or not {SAFETENSORS, PICKLE} & offered:
            raise ModelError(
                f"{repo}@{revision} has no {CONFIG} with {SAFETENSORS}: choose a {kinds[0].name} checkpoint"
            )
        _fetch(repo, commit, CONFIG, progress, refresh)
        check_config(path, kinds)  # before 600 MB of another kind of model are downloaded
        for name in (CARD, *OTHERS, SAFETENSORS if SAFETENSORS in offered else PICKLE):
            if name in offered:
                _fetch(repo, commit, name, progress, refresh)
        if revision != commit:
            ref = cache(repo) / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
            temporary.write_text(commit, encoding="ascii")
            temporary.replace(ref)
    return path


def _library() -> Any:
    """Imports huggingface_hub with its HTTP client."""
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _fetch(repo: str, commit: str, name: str, progress: bool, refresh: bool) -> None:
    """Downloads one file into the cache and resumes a partial download. The library's own function would start over."""
    library, folder = _library(), cache(repo)
    pointer = folder / "snapshots" / commit / name
    if pointer.is_file() and not refresh:
        return
    url = library.hf_hub_url(repo, name, revision=commit)
    metadata = library.get_hf_file_metadata(url, timeout=TIMEOUT)
    etag, size = metadata.etag or "", metadata.size
    if not DIGEST.fullmatch(etag) or size is None:  # the ETag becomes a file name
        raise ModelError(f"{url} is not served like a hub file (ETag {etag!r}): check HF_ENDPOINT")
    blob, partial = folder / "blobs" / etag, folder / "blobs" / f"{etag}.incomplete"
    lock = cache() / ".locks" / folder.name / f"{etag}.lock"
    for directory in (blob.parent, pointer.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with library.utils.WeakFileLock(lock):
        if not _intact(blob, etag, size):
            _download(url, partial, size, name, progress)
            if not _intact(partial, etag, size):
                partial.unlink()
                raise ModelError(f"the download of {name} of {repo} is damaged: run `clipseg models pull {repo}` again")
            partial.replace(blob)
        if pointer.is_file() and pointer.samefile(blob):
            return
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without links
            blob.replace(pointer)


def _intact(path: Path, etag: str, size: int) -> bool:
    """Returns whether a file has this size and digest: sha256 for a large file, git's blob id for a small one."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest() == etag


def _download(url: str, partial: Path, size: int, name: str, progress: bool) -> None:
    """Appends to `partial` until it has `size` bytes. Reconnects when the connection breaks, up to ATTEMPTS times.

    On a redirect to another host, the library's client does not send the user's token.
    """
    library, failures = _library(), 0
    headers = {**library.utils.build_hf_headers(), "Accept-Encoding": "identity"}
    with (
        partial.open("ab") as file,
        library.utils.tqdm(
            None, name, size, initial=file.tell(), unit="B", unit_scale=True, disable=not progress
        ) as bar,
    ):
        while (before := file.tell()) < size and failures < ATTEMPTS:
            time.sleep(PAUSE * failures)
            part = headers | {"Range": f"bytes={before}-"}
            try:
                with library.get_session().stream("GET", url, headers=part, timeout=TIMEOUT) as response:
                    library.utils.hf_raise_for_status(response)
                    if response.status_code != 206 and before:  # a server without ranges sends the whole file
                        file.seek(0)
                        file.truncate()
                        bar.reset()
                    for chunk in response.iter_raw(CHUNK):
                        bar.update(file.write(chunk))
                        if file.tell() > size:
                            break  # the server sends without end
            except library.errors.HTTPError as error:
                if isinstance(error, library.errors.HfHubHTTPError) or failures == ATTEMPTS - 1:
                    raise
            failures = 0 if file.tell() > before else failures + 1


@contextmanager
def _plain_errors(repo: str, revision: str, kind: Kind) -> Iterator[None]:
    """Turns errors of the library and the disk into a one-line ModelError that says what to try."""
    errors, endpoint = _library().errors, constants().ENDPOINT
    try:
        yield
    except (errors.HTTPError, OSError, ValueError, TypeError, KeyError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, errors.GatedRepoError):
            line = f"{repo} is gated: accept its terms at {endpoint}/{repo}, then run `hf auth login`"
        elif isinstance(error, errors.RepositoryNotFoundError):
            line = f"{endpoint} has no model {repo}: check the spelling; a private model needs `hf auth login`"
        elif isinstance(error, errors.RevisionNotFoundError):
            line = f"{repo} has no revision {revision!r}: see {endpoint}/{repo}/commits/main"
        elif isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            advice = "run `hf auth login`" if status in (401, 403) else "try again later, or check HF_ENDPOINT"
            line = f"{endpoint} answered {status} for {repo}: {advice}"
        elif isinstance(error, errors.HTTPError):
            remedy = f"run `clipseg models pull {repo}` with a network (the part already downloaded is kept)"
            line = f"cannot download {repo} from {endpoint} ({text}): {remedy}, or {kind.instead}"
        elif isinstance(error, OSError):
            line = f"cannot write the model cache {cache()} ({error.strerror or text}): free space, or set HF_HOME"
        else:  # a web page instead of the hub's JSON
            line = f"{endpoint} does not answer like a model hub: check HF_ENDPOINT"
        raise ModelError(line) from error
