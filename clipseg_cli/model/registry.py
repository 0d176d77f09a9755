"""Finds the files of a model by its name: an alias, a hub id, or a directory.

A model that is complete in the Hugging Face cache is used without any request to the network.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from clipseg_cli.errors import ModelError, UsageError
from clipseg_cli.model import hub, pickles
from clipseg_cli.model.checkpoint_files import (
    CLIPSEG,
    CONFIG,
    DEFAULT_THRESHOLD,
    KINDS,
    PICKLE,
    SAFETENSORS,
    SAM,
    Kind,
    check_config,
    check_safetensors,
    default_threshold,
    first_missing,
    kind_of,
    read_config,
)

WEIGHTS = Path(__file__).parent / "weights"  # of the models that ship inside the package, by alias
BUNDLED = WEIGHTS / "shapes"

REPO = re.compile(r"(?=.{3,96}$)(?!.*(--|\.\.))(?!.*\.git$)\w[\w.-]*/\w([\w.-]*\w)?", re.ASCII)
REVISION = re.compile(r"(?=.{1,200}$)(?!.*(\.\.|//|/\.))\w([\w./+-]*\w)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Alias:
    """A short model name. `repo` is empty for a model that ships inside the package."""

    repo: str
    threshold: float  # default, a probability
    about: str
    licence: str
    kind: Kind = CLIPSEG


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model whose files are on this machine and have passed the checks."""

    name: str  # as the user wrote it
    path: Path  # directory of config.json, the tokenizer files and the preprocessor file
    weights: Path  # one safetensors file
    repo: str | None  # hub id; None for a directory and a bundled model
    revision: str | None  # commit, 40 hex digits; None for a directory and a bundled model
    threshold: float  # default, a probability

    @property
    def bundled(self) -> bool:
        """Whether it ships inside the package."""
        return self.path.parent == WEIGHTS


@dataclass(frozen=True, slots=True)
class Installed:
    """One row of `clipseg models list`. If not installed, `path` and `revision` are None and `size` is 0."""

    name: str  # the alias, or the hub id of another CLIPSeg or SAM in the cache
    repo: str | None
    path: Path | None
    size: int  # bytes
    revision: str | None
    about: str


_SHAPES = default_threshold(read_config(BUNDLED))  # read from config.json, so that the number is in one place
_TERMS = "released for research; the authors state no licence for the weights"
ALIASES: dict[str, Alias] = {
    "rd64-refined": Alias("CIDAS/clipseg-rd64-refined", DEFAULT_THRESHOLD, "default: the finest masks", _TERMS),
    "rd64": Alias("CIDAS/clipseg-rd64", DEFAULT_THRESHOLD, "the paper's decoder, 64 channels", _TERMS),
    "rd16": Alias("CIDAS/clipseg-rd16", DEFAULT_THRESHOLD, "the small decoder, 16 channels, less accurate", _TERMS),
    "shapes": Alias("", _SHAPES, "demonstration: knows drawn shapes, not photographs", "as this program"),
} | {
    name: Alias(repo, 0.0, f"for --refine sam: {about}", licence, SAM)
    for name, repo, about, licence in (
        ("sam2.1-tiny", "facebook/sam2.1-hiera-tiny", "the default", "Apache-2.0"),
        ("sam2.1-small", "facebook/sam2.1-hiera-small", "46 million parameters", "Apache-2.0"),
        ("sam2.1-base-plus", "facebook/sam2.1-hiera-base-plus", "81 million parameters", "Apache-2.0"),
        ("sam2.1-large", "facebook/sam2.1-hiera-large", "224 million parameters, the most accurate", "Apache-2.0"),
        ("edgetam", "yonigozlan/EdgeTAM-hf", "a small encoder; needs timm", "Apache-2.0"),
        ("shapes-sam", "", "demonstration: knows drawn shapes, not photographs", "as this program"),
    )
}


def locate(
    model: str,
    *,
    offline: bool = False,
    download: bool = True,
    progress: bool = False,
    refresh: bool = False,
    kinds: tuple[Kind, ...] = (CLIPSEG,),
) -> Checkpoint:
    """Returns the checked files of a model, and downloads them first if necessary.

    `model`: a directory, or an alias or `org/name`, optionally with `@revision` (branch, tag, commit or refs/pr/N).
    `offline` and `download=False` make no request. `refresh` asks the hub even if the model is complete here.
    `kinds` are the kinds of network that are accepted.
    Raises UsageError for an invalid name, ModelError for weights that are missing, damaged or refused.
    """
    path, repo, revision = resolve(model, kinds)
    if repo is None:
        assert path is not None
        return _check(model, path, None, None, kinds)
    incomplete = path is None or first_missing(path) is not None
    if download and not offline and not hub.constants().HF_HUB_OFFLINE and (refresh or incomplete):
        path = hub.pull(repo, revision, progress, refresh, kinds)
    elif path is None or incomplete:
        remedy = f"run `clipseg models pull {model}` with a network, or {kinds[0].instead}"
        raise ModelError(f"the weights of {model} are not in {hub.cache()}: {remedy}")
    return _check(model, path, repo, path.name, kinds)


def resolve(model: str, kinds: tuple[Kind, ...] = KINDS) -> tuple[Path | None, str | None, str]:
    """Returns the folder of a model, complete or not, or None if it is not on this machine; hub id; revision.

    The hub id is None for a directory and a bundled model. Makes no request. Raises UsageError for an invalid name, and
    for an alias of another kind.
    """
    name, at, revision = model.partition("@")
    if name in ALIASES and ALIASES[name].kind not in kinds:
        raise UsageError(f"{model} is a {ALIASES[name].kind.name} model; a {kinds[0].name} model is needed here")
    if model in ALIASES and not ALIASES[model].repo:
        return WEIGHTS / model, None, ""
    if name not in ALIASES and os.path.isdir(model):  # Path.is_dir would raise on an overlong name
        return Path(model), None, ""
    repo = ALIASES[name].repo if name in ALIASES else name
    if not REPO.fullmatch(repo):
        known = (alias for alias, one in ALIASES.items() if one.kind in kinds)
        hint = f"neither a directory, nor a hub id like org/name[@revision], nor one of {', '.join(known)}"
        raise UsageError(f"no model {model!r}: {hint}")
    if at and not REVISION.fullmatch(revision):
        raise UsageError(f"{revision!r} in {model!r} is not a revision: give a branch, tag, commit or refs/pr/N")
    revision = revision or "main"
    return hub.snapshot(repo, revision), repo, revision


def installed() -> tuple[Installed, ...]:
    """Returns a row for every alias, then one for every other CLIPSeg or SAM in the Hugging Face cache.

    Reads small files only and makes no request.
    """
    candidates = [(name, alias.repo, alias.about) for name, alias in ALIASES.items()]
    others = (repo for repo in hub.cached_repos() if all(repo != alias.repo for alias in ALIASES.values()))
    candidates += [(repo, repo, "in the Hugging Face cache") for repo in others]
    rows = []
    for name, repo, about in candidates:
        path = hub.snapshot(repo, "main") if repo else WEIGHTS / name
        if path is not None and not first_missing(path) and kind_of(read_config(path)) is not None:
            size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            rows.append(Installed(name, repo or None, path, size, path.name if repo else None, about))
        elif name in ALIASES:
            rows.append(Installed(name, repo or None, None, 0, None, about))
    return tuple(rows)


def _check(model: str, path: Path, repo: str | None, revision: str | None, kinds: tuple[Kind, ...]) -> Checkpoint:
    """Checks a directory and converts its pickle if it has no safetensors. Raises ModelError."""
    try:
        missing = first_missing(path)
        config = {} if missing == CONFIG else check_config(path, kinds)
        if missing:
            raise ModelError(f"{path} has no {missing}: copy it from the model that this one was made from")
        weights = path / SAFETENSORS
        if not weights.is_file():
            weights = pickles.convert(path / PICKLE, repo, revision, hub.cache())
        check_safetensors(weights, f"run `clipseg models pull {model}`" if repo else "copy it again")
    except OSError as error:
        raise ModelError(f"cannot read {error.filename or path}: {error.strerror}; check its permissions") from error
    return Checkpoint(model, path, weights, repo, revision, default_threshold(config))
