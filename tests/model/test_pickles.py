"""pytorch_model.bin becomes safetensors, and nothing in it is executed."""

import io
import os
import pickle
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from clipseg_cli.errors import ModelError
from clipseg_cli.model import pickles
from clipseg_cli.model.registry import locate
from hub import Hub, read_files
from machine import Machine


def test_a_pickle_is_converted_once(lonely: Machine, released: Path, pickled: Path) -> None:
    """A repository with only pytorch_model.bin gives the same tensors. The second run does not import torch."""
    with Hub({"org/old": {"main": read_files(pickled)}}) as hub:
        lonely.environment["HF_ENDPOINT"] = hub.url
        first = lonely.find("org/old")
        assert lonely.torch
    stamp = Path(first["weights"]).stat().st_mtime_ns
    assert lonely.find("org/old") == first
    assert not lonely.torch and Path(first["weights"]).stat().st_mtime_ns == stamp
    ours, theirs = load_file(first["weights"]), load_file(released / "model.safetensors")
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert Path(first["weights"]).is_relative_to(lonely.cache / "clipseg-converted" / "org--old")


def test_the_converted_file_is_not_written_into_the_directory(
    tmp_path: Path, pickled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the hub's cache is not writable either, it is written to the user's cache, and found there."""

    def contents() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in pickled.iterdir()}

    before = contents()
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = locate(str(pickled))
    assert found.path == pickled and found.revision is None
    assert found.weights.is_relative_to(tmp_path / "xdg" / "clipseg")
    stamp = found.weights.stat().st_mtime_ns
    assert locate(str(pickled)) == found and found.weights.stat().st_mtime_ns == stamp
    assert contents() == before


def test_without_a_writable_cache_the_message_names_hf_home(
    tmp_path: Path, pickled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both caches are below a regular file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot store .* HF_HOME"):
        pickles.convert(pickled / "pytorch_model.bin", None, None, tmp_path / "file")


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        """`path` is the folder."""
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns a call, which unpickling makes."""
        return os.mkdir, (str(self.path),)


def test_pickles_with_a_payload_are_refused_and_not_executed(
    tmp_path: Path, pickled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw, zip, legacy and tar pickles with a payload, and files that are not a state dict."""
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(tmp_path / "control")))
    assert (tmp_path / "control").is_dir()  # the payload works
    bomb = {"weight": torch.zeros(3), "other": Payload(ran)}
    wide = {"weight": torch.zeros(1).expand(1 << 40)}
    cases = {"raw": pickle.dumps(Payload(ran)), "raw dict": pickle.dumps({"a": Payload(ran)}, protocol=0)}
    cases |= {"zip": saved(bomb), "legacy": saved(bomb, zipped=False), "tar": tarred(pickle.dumps(Payload(ran)))}
    cases |= {"list": saved([torch.zeros(3)]), "nested": saved({"a": {"b": torch.zeros(3)}}), "number": saved({"a": 1})}
    cases |= {"key": saved({1: torch.zeros(3)}), "no tensor": saved({}), "wide": saved(wide)}
    cases |= {"empty": b"", "text": b"hi", "truncated": (pickled / "pytorch_model.bin").read_bytes()[:100_000]}
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    file = tmp_path / "pytorch_model.bin"
    for name, content in cases.items():
        file.write_bytes(content)
        with warnings.catch_warnings(), pytest.raises(ModelError, match="refused") as refusal:
            warnings.simplefilter("ignore")  # as errors, they would end the load before torch refuses the file
            pickles.convert(file, None, None, tmp_path / "cache")
        assert "\n" not in str(refusal.value), name
    assert not ran.exists()
    assert not (tmp_path / "cache").exists() and not (tmp_path / "xdg").exists()


def saved(value: Any, zipped: bool = True) -> bytes:
    """Returns the bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    """Returns torch's oldest format: a tar of three pickles."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
