"""Output files: written whole or not at all, under names that every file system accepts."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.storage import store


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """`write` makes folders, replaces files, leaves no temporary file, and says what is in the way."""
    store.write(tmp_path / "a/b/c.png", b"one")
    store.write(tmp_path / "a/b/c.png", b"two", fsync=True)
    assert (tmp_path / "a/b/c.png").read_bytes() == b"two" and len(list((tmp_path / "a/b").iterdir())) == 1
    with pytest.raises(ImageError, match="in the way"):
        store.write(tmp_path / "a/b", b"x")
    with pytest.raises(ImageError, match="in the way"):
        store.write(tmp_path / "a/b/c.png/d.png", b"x")
    with pytest.raises(OutputError, match="--out"):
        store.check(tmp_path / "a/b/c.png")


def test_a_file_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process learns that the file is there, and leaves it. So it is on a file system without links."""
    assert store.create(tmp_path / "a", b"one") and not store.create(tmp_path / "a", b"two")

    def refused(*paths: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    assert store.create(tmp_path / "b", b"one") and not store.create(tmp_path / "b", b"two")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"one", "b": b"one"}


def test_temporary_files_of_dead_processes_are_deleted(tmp_path: Path) -> None:
    """Files of dead processes of this host are deleted; those of living processes and of other hosts stay."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = [
        f"{store._prefix(dead.pid)}x",
        f"{store._prefix(os.getppid())}x",
        f"{store.TEMPORARY}00000000-1-x",
        "a.png",
    ]
    for name in names:
        (tmp_path / name).touch()
    store.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_portable_names_are_safe_and_distinct() -> None:
    """They are printable UTF-8, short enough for every file system, and differ if the originals do."""
    names = ["a" * 255, "a" * 254 + "b", "x\ny", "x\ry", "x%0Ay", "\udcff", "\udcfe", "é", "\u202egpj", "ok"]
    made = [store.portable(name) for name in names]
    assert len(set(made)) == len(names) and made[-1] == "ok" and store.portable("é") == "é"
    assert all(len(name.encode()) <= store.NAME_BYTES and name.isprintable() for name in made)
