"""From the name of a model to files on this disk: aliases, hub ids, directories, downloads and the checks on them.

A model that is complete in the Hugging Face cache is used without any request. What is fetched is named here, is
verified by size and digest, and arrives resumable; nothing that is fetched is ever executed.
"""

import hashlib
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_cli.errors import ModelError, UsageError

DEFAULT_THRESHOLD = 0.3  # probability: the paper's choice for PhraseCut, table 3
BUNDLED = Path(__file__).parent / "weights" / "shapes"

CONFIG, SAFETENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")  # transformers 4 and before; 5
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either group is enough
OTHERS = (*PREPROCESSORS, *sum(TOKENIZERS, ()), "tokenizer_config.json", "special_tokens_map.json")

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git blob id of a small file; sha256 of a large one
REPO = re.compile(r"(?=.{3,96}$)(?!.*(--|\.\.))(?!.*\.git$)\w[\w.-]*/\w([\w.-]*\w)?", re.ASCII)
REVISION = re.compile(r"(?=.{1,200}$)(?!.*(\.\.|//|/\.))\w([\w./+-]*\w)?", re.ASCII)

CHUNK = 1 << 16  # bytes: what a broken connection can lose of what it brought
ATTEMPTS = 5  # a download gives up after so many broken connections in a row that brought nothing
TIMEOUT = 10  # seconds without a byte


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
    if model in ALIASES and not ALIASES[model].repo:
        return _checkpoint(model, BUNDLED, None, None)
    if name not in ALIASES and os.path.isdir(model):  # Path.is_dir would raise on an overlong name
        return _checkpoint(model, Path(model), None, None)
    repo = ALIASES[name].repo if name in ALIASES else name
    if not REPO.fullmatch(repo):
        hint = f"neither a directory, nor a hub id like org/name[@revision], nor one of {', '.join(ALIASES)}"
        raise UsageError(f"no model {model!r}: {hint}")
    if at and not REVISION.fullmatch(revision):
        raise UsageError(f"{revision!r} in {model!r} is not a revision: give a branch, tag, commit or refs/pr/N")
    path = _snapshot(repo, revision or "main")
    lacking = path is None or _missing(path) is not None
    if download and not offline and not _constants().HF_HUB_OFFLINE and (refresh or lacking):
        path = _pull(repo, revision or "main", progress, refresh)
    elif path is None or lacking:
        remedy = f"run `clipseg models pull {model}` with a network, or use `--model shapes`"
        raise ModelError(f"the weights of {model} are not in {_cache()}: {remedy}")
    return _checkpoint(model, path, repo, path.name)


def installed() -> tuple[Installed, ...]:
    """Every alias, then other CLIPSeg models in the Hugging Face cache. Reads only small files; makes no request."""
    cached = sorted(folder.name[8:].replace("--", "/", 1) for folder in _cache().glob("models--*--*"))
    asked = [(name, alias.repo, alias.about) for name, alias in ALIASES.items()]
    asked += [(repo, repo, "in the Hugging Face cache") for repo in cached if all(repo != row[1] for row in asked)]
    rows = []
    for name, repo, about in asked:
        path = _snapshot(repo, "main") if repo else BUNDLED
        if path is not None and not _missing(path) and _read_config(path).get("model_type") == "clipseg":
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            rows.append(Installed(name, repo or None, path, size, path.name if repo else None, about))
        elif name in ALIASES:
            rows.append(Installed(name, repo or None, None, 0, None, about))
    return tuple(rows)


def _checkpoint(model: str, path: Path, repo: str | None, revision: str | None) -> Checkpoint:
    """Checks a directory, converting a pickle once. Raises ModelError naming what is wrong and where."""
    try:
        if missing := _missing(path):
            raise ModelError(f"{path} has no {missing}: copy it from the model that this one was made from")
        config = _check_config(path)
        whole = (path / SAFETENSORS).is_file()
        weights = path / SAFETENSORS if whole else _converted(path / PICKLE, repo, revision)
        _check_safetensors(weights, f"run `clipseg models pull {model}`" if repo else "copy it again")
    except OSError as error:
        raise ModelError(f"cannot read {error.filename or path}: {error.strerror}; check its permissions") from error
    return Checkpoint(model, path, weights, repo, revision, _threshold(config))


def _check_config(path: Path) -> dict[str, Any]:
    config = _read_config(path)
    if (kind := config.get("model_type")) != "clipseg":
        raise ModelError(f"{path / CONFIG} describes a {kind!r} model, not 'clipseg': choose a CLIPSeg checkpoint")
    return config


def _missing(path: Path) -> str | None:
    """The first thing that a run needs and a directory lacks; None where it is complete."""
    have = {file.name for file in path.glob("*") if file.is_file()}
    needs = {
        CONFIG: CONFIG in have,
        PREPROCESSORS[0]: not have.isdisjoint(PREPROCESSORS),
        "tokenizer.json, nor vocab.json with merges.txt": any(have.issuperset(group) for group in TOKENIZERS),
        f"{SAFETENSORS} or {PICKLE}": not have.isdisjoint((SAFETENSORS, PICKLE)),
    }
    return next((need for need, met in needs.items() if not met), None)


def _check_safetensors(path: Path, again: str) -> None:
    """The header parses and the file has exactly the bytes that it promises. Raises ModelError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 2 <= length <= 100_000_000 else b""
    try:
        entries = json.loads(header) if len(header) == length else {}
        end = 8 + length + max((e["data_offsets"][1] for k, e in entries.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        header = b""
    if header[:1] != b"{":
        raise ModelError(f"{path} is not a safetensors file: remove it and {again}")
    if size != end or not entries:
        state = "truncated" if size < end else "damaged"
        raise ModelError(f"{path} is {state}: has {size} bytes of {end}; remove it and {again}")


def _converted(pickle: Path, repo: str | None, revision: str | None) -> Path:
    """The safetensors twin of a pickle, written on first use, beside the cache and never beside the pickle."""
    stat = pickle.stat()
    mark = os.fsencode(f"{pickle.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}")
    key = f"{repo.replace('/', '--')}/{revision}" if repo else f"directory/{hashlib.sha256(mark).hexdigest()[:40]}"
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipseg"
    targets = [root / "clipseg-converted" / key / SAFETENSORS for root in (_cache(), user_cache)]
    if made := next((target for target in targets if target.is_file()), None):
        return made
    from safetensors import SafetensorError

    tensors = _read_pickle(pickle)
    for target in targets:
        try:
            _write_safetensors(tensors, target)
            return target
        except (OSError, SafetensorError) as error:
            reason = str(error)
    raise ModelError(f"cannot keep {pickle} as safetensors ({reason}): free space, or set HF_HOME to a writable place")


def _read_pickle(path: Path) -> dict[str, Any]:
    """The tensors of a state dict. Anything else in the file is refused and never executed: raises ModelError."""
    import torch

    refusal = ModelError(f"{path} is refused, unexecuted: it holds more than tensors, or is damaged; use safetensors")
    try:
        # weights_only admits tensor constructors alone; mmap keeps the file out of memory, and needs the zip format
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a hostile or broken pickle raises anything; its text is not worth a line
        raise refusal from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise refusal
    for x in state.values():
        if not isinstance(x, torch.Tensor) or x.layout != torch.strided or x.is_quantized or not x.is_cpu:
            raise refusal
    # a view with stride 0 claims terabytes in a few bytes; an honest state dict has about the size of its file
    if not 0 < sum(x.nbytes for x in state.values()) <= 2 * path.stat().st_size:
        raise refusal
    return {name: x for name, x in state.items() if not name.endswith(".position_ids")}


def _write_safetensors(tensors: dict[str, Any], target: Path) -> None:
    """Atomic. Raises OSError or SafetensorError where the place is not writable or full."""
    from safetensors.torch import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:  # clones share nothing, which the format asks for
        save_file({name: x.detach().clone().contiguous() for name, x in tensors.items()}, temporary, {"format": "pt"})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _constants() -> Any:
    """The library's reading of the environment, which does not cost the import of an HTTP client."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # its user agent would cost a request of its own
    import huggingface_hub.constants

    return huggingface_hub.constants


def _hub() -> Any:
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _cache(repo: str = "") -> Path:
    """The library's cache, or the folder of one repository in it."""
    return Path(_constants().HF_HUB_CACHE, f"models--{repo.replace('/', '--')}" if repo else "")


def _snapshot(repo: str, revision: str) -> Path | None:
    """The cached directory of a revision, complete or not."""
    folder = _cache(repo)
    try:
        commit = revision if COMMIT.fullmatch(revision) else (folder / "refs" / revision).read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    path = folder / "snapshots" / commit
    return path if COMMIT.fullmatch(commit) and path.is_dir() else None


def _pull(repo: str, revision: str, progress: bool, refresh: bool) -> Path:
    """Brings a revision into the cache. Its ref moves last, so an interrupted refresh leaves the old one usable."""
    hub = _hub()
    hub.logging.set_verbosity_error()
    with _plain_errors(repo, revision):
        info = hub.HfApi().model_info(repo, revision=revision, timeout=TIMEOUT)
        commit, offered = str(info.sha), {file.rfilename for file in info.siblings or ()}
        path = _cache(repo) / "snapshots" / commit
        if not COMMIT.fullmatch(commit) or CONFIG not in offered or not {SAFETENSORS, PICKLE} & offered:
            raise ModelError(f"{repo}@{revision} has no {CONFIG} with {SAFETENSORS}: choose a CLIPSeg checkpoint")
        _fetch(repo, commit, CONFIG, progress, refresh)
        _check_config(path)  # before 600 MB of something else are fetched
        for name in (*OTHERS, SAFETENSORS if SAFETENSORS in offered else PICKLE):
            if name in offered:
                _fetch(repo, commit, name, progress, refresh)
        if revision != commit:
            ref = _cache(repo) / "refs" / revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
            temporary.write_text(commit, encoding="ascii")
            temporary.replace(ref)
    return path


def _fetch(repo: str, commit: str, name: str, progress: bool, refresh: bool) -> None:
    """One file into the cache, going on from what an earlier call left; the library's own download begins again."""
    hub, folder = _hub(), _cache(repo)
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
        return hashlib.file_digest(file, lambda: digest).hexdigest() == etag


def _download(url: str, partial: Path, size: int, name: str, progress: bool) -> None:
    """Appends to `partial` until it has `size` bytes, reconnecting where the connection breaks, within bounds.

    The library's client shows the user's token to no other host that it is redirected to.
    """
    hub, failures = _hub(), 0
    with (
        partial.open("ab") as file,
        hub.utils.tqdm(None, name, size, initial=file.tell(), unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        while (before := file.tell()) < size and failures < ATTEMPTS:
            time.sleep(0.5 * failures)
            headers = {**hub.utils.build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={before}-"}
            try:
                with hub.get_session().stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
                    hub.utils.hf_raise_for_status(response)
                    if response.status_code != 206 and before:  # a server without ranges sends everything
                        file.seek(0)
                        file.truncate()
                        bar.reset()
                    for chunk in response.iter_raw(CHUNK):
                        bar.update(file.write(chunk))
                        if file.tell() > size:
                            break  # it would never end
            except hub.errors.HTTPError as error:
                if isinstance(error, hub.errors.HfHubHTTPError) or failures == ATTEMPTS - 1:
                    raise
            failures = 0 if file.tell() > before else failures + 1


@contextmanager
def _plain_errors(repo: str, revision: str) -> Iterator[None]:
    """Turns what the library and the disk raise into one line that says what to try."""
    errors, endpoint = _hub().errors, _constants().ENDPOINT
    try:
        yield
    except (errors.HTTPError, OSError, ValueError, TypeError, KeyError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, errors.GatedRepoError):
            line = f"{repo} is gated: accept its terms at {endpoint}/{repo}, then run `hf auth login`"
        elif isinstance(error, errors.RepositoryNotFoundError):
            line = f"{endpoint} has no model {repo}: check the spelling; a private one needs `hf auth login`"
        elif isinstance(error, errors.RevisionNotFoundError):
            line = f"{repo} has no revision {revision!r}: see {endpoint}/{repo}/commits/main"
        elif isinstance(error, errors.HfHubHTTPError):
            status = error.response.status_code
            advice = "run `hf auth login`" if status in (401, 403) else "try again later, or check HF_ENDPOINT"
            line = f"{endpoint} answered {status} for {repo}: {advice}"
        elif isinstance(error, errors.HTTPError):
            remedy = f"run `clipseg models pull {repo}` with a network (what has arrived is kept)"
            line = f"cannot get {repo} from {endpoint} ({text}): {remedy}, or use `--model shapes`"
        elif isinstance(error, OSError):
            line = f"cannot write the model cache {_cache()} ({error.strerror or text}): free space, or set HF_HOME"
        else:  # a web page instead of the hub's JSON
            line = f"{endpoint} does not answer like a model hub: check HF_ENDPOINT"
        raise ModelError(line) from error
