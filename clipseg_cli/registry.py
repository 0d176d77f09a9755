"""From the name of a model to files on this disk: aliases, hub ids, directories, downloads and the checks on them.

A model that is complete in the Hugging Face cache is used without any request. What is fetched is named here, is
verified by size and digest, and arrives resumable; nothing that is fetched is ever executed.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from clipseg_cli.errors import ModelError, UsageError

DEFAULT_THRESHOLD = 0.3  # probability: the paper's choice for PhraseCut, table 3
BUNDLED = Path(__file__).parent / "weights" / "shapes"

CONFIG, SAFETENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")  # transformers 4 and before; 5
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either group is enough
OTHERS = (*PREPROCESSORS, *sum(TOKENIZERS, ()), "tokenizer_config.json", "special_tokens_map.json")
WANTED = (CONFIG, SAFETENSORS, PICKLE, *OTHERS)

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git blob id of a small file; sha256 of a large one
REPO = re.compile(r"(?=.{3,96}$)(?!.*(--|\.\.))(?!.*\.git$)\w[\w.-]*/\w([\w.-]*\w)?", re.ASCII)
REVISION = re.compile(r"(?=.{1,200}$)(?!.*(\.\.|//|/\.))\w([\w./+-]*\w)?", re.ASCII)

CHUNK = 1 << 16  # bytes: what a broken connection can lose of what it brought
ATTEMPTS = 5  # a download gives up after so many broken connections in a row that brought nothing
TIMEOUT = 10  # seconds without a byte
HEADER_LIMIT = 100_000_000  # bytes: the safetensors format's own limit


@dataclass(frozen=True, slots=True)
class Alias:
    """A short name. `repo` is empty for the model inside the package."""

    repo: str
    threshold: float
    about: str
    licence: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model whose files are on this disk and were checked. `threshold` is its default, a probability."""

    name: str  # as the user wrote it
    path: Path  # config.json, tokenizer and preprocessor files
    weights: Path  # one safetensors file
    repo: str | None  # hub id; None for a directory and the bundled model
    revision: str | None  # the commit that was used, 40 hex digits; None where there is none
    threshold: float


@dataclass(frozen=True, slots=True)
class Installed:
    """One line of `clipseg models list`. `path` and `revision` are None and `size` is 0 where it is not here."""

    name: str  # the alias, or the hub id of another CLIPSeg in the cache
    repo: str | None
    path: Path | None
    size: int  # bytes
    revision: str | None
    about: str


def _read_config(path: Path) -> dict[str, Any]:
    """config.json of a directory; empty where it is not a JSON object."""
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _threshold(config: dict[str, Any]) -> float:
    """A checkpoint's own default threshold, or the paper's."""
    value = config.get("clipseg_threshold")
    return float(value) if isinstance(value, int | float) and 0 < value < 1 else DEFAULT_THRESHOLD


_SHAPES = _threshold(_read_config(BUNDLED))  # the number lives beside the weights, and only there
_TERMS = "released for research; the authors state no licence for the weights"
ALIASES: dict[str, Alias] = {
    "rd64-refined": Alias("CIDAS/clipseg-rd64-refined", DEFAULT_THRESHOLD, "default: the finest masks", _TERMS),
    "rd64": Alias("CIDAS/clipseg-rd64", DEFAULT_THRESHOLD, "the paper's decoder, 64 channels", _TERMS),
    "rd16": Alias("CIDAS/clipseg-rd16", DEFAULT_THRESHOLD, "the small decoder, 16 channels, less exact", _TERMS),
    "shapes": Alias("", _SHAPES, "demonstration: knows drawn shapes, not photographs", "as this program"),
}


def locate(
    model: str, *, offline: bool = False, download: bool = True, progress: bool = False, refresh: bool = False
) -> Checkpoint:
    """The files of a model, fetched if need be.

    `model`: an alias, `org/name`, either with `@revision` (branch, tag, commit or refs/pr/N), or a directory.
    `offline` and `download=False` never make a request. `refresh` asks the hub even for a model that is complete here.
    Raises UsageError for a name that cannot be one, ModelError for weights that are missing, damaged or refused.
    """
    name, at, revision = model.partition("@")
    if name in ALIASES and not (at and not ALIASES[name].repo):
        if not (repo := ALIASES[name].repo):
            return _checkpoint(model, BUNDLED, None, None)
    elif os.path.isdir(model):
        return _checkpoint(model, Path(model), None, None)
    elif REPO.fullmatch(name):
        repo = name
    else:
        raise UsageError(
            f"no model {model!r}: neither a directory, nor a hub id like org/name[@revision], "
            f"nor one of {', '.join(ALIASES)}"
        )
    if at and not REVISION.fullmatch(revision):
        raise UsageError(f"{revision!r} in {model!r} is not a revision: give a branch, tag, commit or refs/pr/N")
    return _locate_hub(model, repo, revision or "main", offline, download, progress, refresh)


def installed() -> tuple[Installed, ...]:
    """Every alias, then other CLIPSeg models in the Hugging Face cache. Reads only small files; makes no request."""
    rows = [_installed(name, alias.repo, alias.about) for name, alias in ALIASES.items()]
    known = {alias.repo for alias in ALIASES.values()}
    for folder in sorted(_cache().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/")
        if repo not in known and (row := _installed(repo, repo, "in the Hugging Face cache")).path is not None:
            rows.append(row)
    return tuple(rows)


def _installed(name: str, repo: str, about: str) -> Installed:
    path = _snapshot(repo, "main") if repo else BUNDLED
    if path is None or _missing(path) or _read_config(path).get("model_type") != "clipseg":
        return Installed(name, repo or None, None, 0, None, about)
    size = sum((path / file).stat().st_size for file in WANTED if (path / file).is_file())
    return Installed(name, repo or None, path, size, path.name if repo else None, about)


def _locate_hub(
    model: str, repo: str, revision: str, offline: bool, download: bool, progress: bool, refresh: bool
) -> Checkpoint:
    path = _snapshot(repo, revision)
    lacking = path is None or _missing(path) is not None
    if download and not offline and not _constants().HF_HUB_OFFLINE and (refresh or lacking):
        path = _pull(repo, revision, progress, refresh)
    elif path is None or lacking:
        raise ModelError(
            f"the weights of {model} are not in {_cache()}: run `clipseg models pull {model}` with a network, "
            "or use `--model shapes`"
        )
    return _checkpoint(model, path, repo, path.name)


# ---- the checks ----


def _checkpoint(model: str, path: Path, repo: str | None, revision: str | None) -> Checkpoint:
    """Checks a directory, converting a pickle once. Raises ModelError naming what is wrong and where."""
    config = _check_config(path)
    if missing := _missing(path):
        raise ModelError(f"{path} has no {missing}: copy it from the model that this one was made from")
    weights = path / SAFETENSORS
    if not weights.is_file():
        weights = _converted(path / PICKLE, repo, revision)
    _check_safetensors(weights, f"run `clipseg models pull {model}`" if repo else "copy it again")
    return Checkpoint(model, path, weights, repo, revision, _threshold(config))


def _check_config(path: Path) -> dict[str, Any]:
    if not (path / CONFIG).is_file():
        raise ModelError(f"{path} has no {CONFIG}: it is not a CLIPSeg model directory")
    config = _read_config(path)
    if (kind := config.get("model_type")) != "clipseg":
        raise ModelError(f"{path / CONFIG} describes a {kind!r} model, not 'clipseg': choose a CLIPSeg checkpoint")
    return config


def _missing(path: Path) -> str | None:
    """The first thing that a run needs and a directory lacks; None where it is complete."""

    def has(*names: str) -> bool:
        return all((path / name).is_file() for name in names)

    needs = {
        CONFIG: has(CONFIG),
        PREPROCESSORS[0]: any(map(has, PREPROCESSORS)),
        "tokenizer.json, nor vocab.json with merges.txt": any(has(*group) for group in TOKENIZERS),
        f"{SAFETENSORS} or {PICKLE}": has(SAFETENSORS) or has(PICKLE),
    }
    return next((need for need, met in needs.items() if not met), None)


def _check_safetensors(path: Path, again: str) -> None:
    """The header parses and the file has exactly the bytes that it promises. Raises ModelError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 2 <= length <= HEADER_LIMIT else b""
    try:
        entries = json.loads(header) if len(header) == length else {}
        end = 8 + length + max((e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        header = b""
    if header[:1] != b"{":
        raise ModelError(f"{path} is not a safetensors file: remove it and {again}")
    if size < end:
        raise ModelError(f"{path} is truncated: has {size} bytes of {end}; remove it and {again}")
    if size > end or not entries:
        raise ModelError(f"{path} is damaged: has {size} bytes, its header promises {end}; remove it and {again}")


# ---- pickles ----


def _converted(pickle: Path, repo: str | None, revision: str | None) -> Path:
    """The safetensors twin of a pickle, written on first use, beside the cache and never beside the pickle."""
    if repo and revision:
        key = f"{repo.replace('/', '--')}/{revision}"
    else:
        stat = pickle.stat()
        mark = f"{pickle.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
        key = f"directory/{hashlib.sha256(os.fsencode(mark)).hexdigest()[:40]}"
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipseg"
    targets = [root / "clipseg-converted" / key / SAFETENSORS for root in (_cache(), user_cache)]
    if made := next((target for target in targets if target.is_file()), None):
        return made
    tensors = _read_pickle(pickle)
    for target in targets:
        try:
            _write_safetensors(tensors, target)
            return target
        except OSError as error:
            reason = _line(error)
    raise ModelError(f"cannot keep {pickle} as safetensors ({reason}): free space, or set HF_HOME to a writable place")


def _read_pickle(path: Path) -> dict[str, Any]:
    """The tensors of a state dict. Anything else in the file is refused and never executed: raises ModelError."""
    import zipfile

    import torch

    refusal = ModelError(
        f"{path} is refused: it holds more than tensors, or is damaged; nothing in it was run. Use safetensors instead"
    )
    try:
        # weights_only admits tensor constructors alone; mmap keeps the file out of memory, and needs the zip format
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a hostile or broken pickle raises anything; its text is not worth a line
        raise refusal from error
    if not isinstance(state, dict) or not state:
        raise refusal
    for name, tensor in state.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain or tensor.device.type != "cpu":
            raise refusal
    # a view with stride 0 claims terabytes in a few bytes; an honest state dict has about the size of its file
    if sum(tensor.nbytes for tensor in state.values()) > 2 * path.stat().st_size:
        raise refusal
    return {name: tensor for name, tensor in state.items() if not name.endswith(".position_ids")}


def _write_safetensors(tensors: dict[str, Any], target: Path) -> None:
    """Atomic. Raises OSError where the place is not writable or full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:  # clones share nothing, which the format asks for
        owned = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        save_file(owned, temporary, {"format": "pt"})
        temporary.replace(target)
    except SafetensorError as error:
        raise OSError(_line(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


# ---- the hub ----


def _constants() -> Any:
    """The library's reading of the environment, which does not cost the import of an HTTP client."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # its user agent would cost a request of its own
    import huggingface_hub.constants

    return huggingface_hub.constants


def _hub() -> Any:
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _cache() -> Path:
    return Path(_constants().HF_HUB_CACHE)


def _folder(repo: str) -> Path:
    return _cache() / f"models--{repo.replace('/', '--')}"


def _snapshot(repo: str, revision: str) -> Path | None:
    """The cached directory of a revision, complete or not."""
    commit = revision
    if not COMMIT.fullmatch(revision):
        try:
            commit = (_folder(repo) / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    path = _folder(repo) / "snapshots" / commit
    return path if COMMIT.fullmatch(commit) and path.is_dir() else None


def _pull(repo: str, revision: str, progress: bool, refresh: bool) -> Path:
    """Brings a revision into the cache. Its ref moves last, so an interrupted refresh leaves the old one usable."""
    hub = _hub()
    hub.logging.set_verbosity_error()
    with _plain_errors(repo, revision):
        info = hub.HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
        commit, offered = str(info.sha), {file.rfilename for file in info.siblings or ()}
        if not COMMIT.fullmatch(commit):
            raise ModelError(f"{hub.constants.ENDPOINT} gave {commit!r} as a commit of {repo}: check HF_ENDPOINT")
        path = _folder(repo) / "snapshots" / commit
        if CONFIG not in offered or not {SAFETENSORS, PICKLE} & offered:
            raise ModelError(f"{repo}@{revision} has no {CONFIG} with {SAFETENSORS}: choose a CLIPSeg checkpoint")
        _fetch(repo, commit, CONFIG, progress, refresh)
        _check_config(path)  # before 600 MB of something else are fetched
        for name in (*OTHERS, SAFETENSORS if SAFETENSORS in offered else PICKLE):
            if name in offered:
                _fetch(repo, commit, name, progress, refresh)
        if revision != commit:
            ref = _folder(repo) / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
            temporary.write_text(commit, encoding="ascii")
            temporary.replace(ref)
    return path


def _fetch(repo: str, commit: str, name: str, progress: bool, refresh: bool) -> None:
    """One file into the cache's blobs and snapshot. Partial data stays, and the next call goes on from it.

    The library's own download forgets a partial file when it fails, which 600 MB are too dear for.
    """
    hub, folder = _hub(), _folder(repo)
    pointer = folder / "snapshots" / commit / name
    if pointer.is_file() and not refresh:
        return
    url = hub.hf_hub_url(repo, name, revision=commit)
    metadata = hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    etag, size = metadata.etag or "", metadata.size
    if not DIGEST.fullmatch(etag) or size is None:  # it becomes a file name
        raise ModelError(f"{url} is not served like a hub file (ETag {etag!r}): check HF_ENDPOINT")
    blob, partial = folder / "blobs" / etag, folder / "blobs" / f"{etag}.incomplete"
    lock = _cache() / ".locks" / folder.name / f"{etag}.lock"
    for directory in (blob.parent, pointer.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with hub.utils.WeakFileLock(lock):
        if not _intact(blob, etag, size):
            _download(url, partial, size, name, progress)
            if not _intact(partial, etag, size):
                partial.unlink()
                raise ModelError(f"{name} of {repo} arrived damaged: run `clipseg models pull {repo}` again")
            partial.replace(blob)
        if pointer.is_file() and pointer.samefile(blob):
            return
        pointer.unlink(missing_ok=True)
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:  # a file system without links
            blob.replace(pointer)


def _intact(path: Path, etag: str, size: int) -> bool:
    """The file has this size and digest: sha256 of a large file, git's blob id of a small one."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == etag


def _download(url: str, partial: Path, size: int, name: str, progress: bool) -> None:
    """Appends to `partial` until it has `size` bytes, reconnecting where the connection breaks, within bounds."""
    hub = _hub()
    if partial.is_file() and partial.stat().st_size > size:
        partial.unlink()
    with partial.open("ab") as file:
        needed, free = size - file.tell(), shutil.disk_usage(partial.parent).free
        if free < needed:
            raise ModelError(
                f"{name} needs {needed >> 20} MB and {partial.parent} has {free >> 20} MB: "
                "free some, or set HF_HOME to another disk"
            )
        bar = hub.utils.tqdm(
            desc=name, total=size, initial=file.tell(), unit="B", unit_scale=True, disable=not progress
        )
        failures = 0
        with bar:
            while (before := file.tell()) < size and failures < ATTEMPTS:
                time.sleep(0.5 * failures)
                try:
                    _append(url, file, size, bar)
                except hub.errors.HfHubHTTPError:
                    raise
                except hub.errors.HTTPError:
                    if failures == ATTEMPTS - 1:
                        raise
                failures = 0 if file.tell() > before else failures + 1


def _append(url: str, file: IO[bytes], size: int, bar: Any) -> None:
    """What one connection brings of the bytes after those in `file`. On a redirect to another host the library's
    client leaves the token behind."""
    hub = _hub()
    headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={file.tell()}-"}
    with hub.get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
        hub.utils.hf_raise_for_status(response)
        if response.status_code != 206 and file.tell():  # a server without ranges sends everything
            bar.update(-file.tell())
            file.seek(0)
            file.truncate()
        for chunk in response.iter_raw(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > size:
                return  # it would never end


@contextmanager
def _plain_errors(repo: str, revision: str) -> Iterator[None]:
    """Turns what the library and the disk raise into one line that says what to try."""
    hub = _hub()
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError as error:
        line = f"{repo} is gated: accept its terms at {endpoint}/{repo}, then run `hf auth login`"
        raise ModelError(line) from error
    except errors.RepositoryNotFoundError as error:
        line = f"{endpoint} has no model {repo}: check the spelling; a private one needs `hf auth login`"
        raise ModelError(line) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repo} has no revision {revision!r}: see {endpoint}/{repo}/commits/main") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = "run `hf auth login`" if status in (401, 403) else "try again later, or check HF_ENDPOINT"
        raise ModelError(f"{endpoint} answered {status} for {repo}: {advice}") from error
    except errors.HTTPError as error:
        raise ModelError(
            f"cannot get {repo} from {endpoint} ({_line(error)}): run `clipseg models pull {repo}` with a network "
            "(what has arrived is kept), or use `--model shapes`"
        ) from error
    except OSError as error:
        place = f"{_cache()} ({error.strerror or _line(error)})"
        line = f"cannot write the model cache {place}: free space there, or set HF_HOME to a writable directory"
        raise ModelError(line) from error
    except (ValueError, TypeError, KeyError) as error:  # a web page instead of the hub's JSON
        raise ModelError(f"{endpoint} does not answer like a model hub: check HF_ENDPOINT") from error


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
