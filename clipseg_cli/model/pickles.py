"""Converts pytorch_model.bin to safetensors without executing anything that the pickle contains."""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipseg_cli.errors import ModelError
from clipseg_cli.model.checkpoint_files import SAFETENSORS


def convert(pickle: Path, repo: str | None, revision: str | None, hub_cache: Path) -> Path:
    """Returns the safetensors version of a pickle, which is written on first use.

    It is written to the hub's cache or, if that is read-only, to the user's cache; never next to the pickle.
    Raises ModelError if the pickle is refused or neither cache is writable.
    """
    stat = pickle.stat()
    identity = os.fsencode(f"{pickle.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}")
    key = f"{repo.replace('/', '--')}/{revision}" if repo else f"directory/{hashlib.sha256(identity).hexdigest()[:40]}"
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipseg"
    targets = [root / "clipseg-converted" / key / SAFETENSORS for root in (hub_cache, user_cache)]
    if existing := next((target for target in targets if target.is_file()), None):
        return existing
    return _write_first(_read_tensors(pickle), targets, pickle)


def _write_first(tensors: dict[str, Any], targets: Sequence[Path], pickle: Path) -> Path:
    """Writes the tensors to the first target that is writable and returns it. Raises ModelError if none is."""
    from safetensors import SafetensorError

    for target in targets:
        try:
            _write(tensors, target)
            return target
        except (OSError, SafetensorError) as error:
            reason = str(error)
    raise ModelError(
        f"cannot store {pickle} as safetensors ({reason}): free space, or set HF_HOME to a writable folder"
    )


def _read_tensors(path: Path) -> dict[str, Any]:
    """Returns the tensors of a state dict by name.

    Raises ModelError if the file contains anything else; none of it is executed.
    """
    import torch

    refusal = ModelError(
        f"{path} is refused and was not executed: it is damaged or holds more than tensors; use safetensors"
    )
    try:
        # weights_only admits tensor constructors only; mmap avoids reading the file into memory, and needs zip format
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a hostile or broken pickle can raise anything, and its text does not help the user
        raise refusal from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise refusal
    for tensor in state.values():
        if not isinstance(tensor, torch.Tensor):
            raise refusal
        if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_cpu:
            raise refusal
    # a view with stride 0 can claim terabytes in a few bytes; a valid state dict has about the size of its file
    if not 0 < sum(tensor.nbytes for tensor in state.values()) <= 2 * path.stat().st_size:
        raise refusal
    return {name: tensor for name, tensor in state.items() if not name.endswith(".position_ids")}


def _write(tensors: dict[str, Any], target: Path) -> None:
    """Writes a safetensors file atomically. Raises OSError or SafetensorError if the disk is read-only or full."""
    from safetensors.torch import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:  # clones share no memory, as the format requires
        save_file({name: x.detach().clone().contiguous() for name, x in tensors.items()}, temporary, {"format": "pt"})
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
