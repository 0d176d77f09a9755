"""Incomplete and damaged checkpoint directories are refused with the name of the file."""

from pathlib import Path

import pytest

from clipseg_cli.errors import ModelError
from clipseg_cli.model.checkpoint_files import check_safetensors, first_missing
from clipseg_cli.model.registry import locate
from hub import Files
from machine import Machine


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "merges.txt", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, files: Files, missing: str) -> None:
    """Each file that a run needs."""
    for name, content in files.items():
        if name != missing:
            (tmp_path / name).write_bytes(content)
    assert missing in str(first_missing(tmp_path))
    with pytest.raises(ModelError, match=f" has no .*{missing}"):
        locate(str(tmp_path))


def test_another_kind_of_model_is_named(tmp_path: Path, files: Files) -> None:
    """config.json must describe a CLIPSeg model. One that is not a JSON object cannot be read."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for content, message in [
        (b'{"model_type": "clip"}', "describes a 'clip' model, not 'clipseg'"),
        (b"[]", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"", "cannot be read"),
    ]:
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ModelError, match=message):
            locate(str(tmp_path))


def test_damaged_safetensors_are_refused(tmp_path: Path, released: Path) -> None:
    """Truncated at any place, too long, or replaced by other content."""
    whole, file = (released / "model.safetensors").read_bytes(), tmp_path / "model.safetensors"
    header = 8 + int.from_bytes(whole[:8], "little")
    for size in (0, 1, 7, 8, 9, 500, header - 1, header, header + 1, len(whole) - 1):
        truncated = f"truncated: it has {size} bytes, expected {len(whole)}"
        expected = truncated if size >= header else "truncated" if size > 8 else "remove it and copy it again"
        file.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=expected):
            check_safetensors(file, "copy it again")
    pages = b"<!DOCTYPE html><html>Sign in</html>" * 100
    for content in (whole + b"\0", pages, b"\2\0\0\0\0\0\0\0{}", b"\x10\0\0\0\0\0\0\0" + b"[" * 16, b"\xff" * 100):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="remove it and copy it again"):
            check_safetensors(file, "copy it again")
    file.write_bytes(whole)
    check_safetensors(file, "copy it again")


def test_the_checks_do_not_import_torch(tmp_path: Path, lonely: Machine, files: Files) -> None:
    """A damaged file in a directory is refused before anything is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content[:-1] if name == "model.safetensors" else content)
    assert "truncated" in lonely.fail(str(folder)) and not lonely.torch
