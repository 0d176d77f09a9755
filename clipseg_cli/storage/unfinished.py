"""Files that are written in parts. What is finished of them survives the end of the process, so work can go on there.

    state.npz    what is finished: arrays of the caller, and how many bytes each part of each file has
    0, 1, ...    the parts of each file, one after another

The state is replaced whole, after the parts that it names. Parts behind them are cut off when the folder is opened.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.storage import store

FOLDER = ".clipseg-unfinished"  # in an output folder
STATE = "state.npz"
PIECE = 1 << 20  # bytes that are read at once


class Unfinished:
    """The unfinished files of one image, in a folder of their own. Use it with `with`."""

    def __init__(self, folder: Path, key: str, files: int, mark: str) -> None:
        """`key` tells the image from all others of the folder. `mark` tells everything that the parts depend on: parts
        with another one are deleted."""
        self.folder, self.mark = _of(folder, key), mark
        self.sizes: list[list[int]] = [[] for _ in range(files)]
        self.state: dict[str, NDArray[Any]] = {}  # as it was saved last; empty: nothing is finished

    def __enter__(self) -> Self:
        with store.failing(self.folder):
            found = self._found()
            if found is None:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True, exist_ok=True)
            else:
                self.state = found
                self.sizes = [found.pop(f"sizes{index}").tolist() for index in range(len(self.sizes))]
            self.files = [open(self.folder / str(index), "ab") for index in range(len(self.sizes))]  # noqa: SIM115
            for file, sizes in zip(self.files, self.sizes, strict=True):
                file.truncate(sum(sizes))
        return self

    def _found(self) -> dict[str, NDArray[Any]] | None:
        """Returns what is saved; None if it is nothing, or not sound."""
        try:
            with np.load(self.folder / STATE, allow_pickle=False) as saved:
                found = dict(saved)
            right = str(found.pop("mark")) == self.mark
            whole = all(
                (self.folder / str(index)).stat().st_size >= found[f"sizes{index}"].sum()
                for index in range(len(self.sizes))
            )
        except (OSError, ValueError, KeyError, EOFError):
            return None
        return found if right and whole else None

    def __exit__(self, *exception: object) -> None:
        for file in self.files:
            with contextlib.suppress(OSError):  # a full disk, which has been told
                file.close()

    def add(self, index: int, parts: Iterable[bytes]) -> None:
        """Adds parts to a file. Raises OutputError."""
        with store.failing(self.folder):
            for part in parts:
                self.files[index].write(part)
                self.sizes[index].append(len(part))

    def save(self, state: Mapping[str, NDArray[Any]], fsync: bool = False) -> None:
        """Saves that everything until now is finished. Raises OutputError."""
        with store.failing(self.folder):
            for file in self.files:
                file.flush()
                if fsync:
                    os.fsync(file.fileno())
            sizes = {f"sizes{index}": np.array(each, np.int64) for index, each in enumerate(self.sizes)}
            new = self.folder / f"new-{STATE}"
            np.savez(new, mark=np.array(self.mark), **sizes, **state)  # type: ignore[arg-type]
            os.replace(new, self.folder / STATE)

    def content(self, index: int) -> Iterator[bytes]:
        """Yields the parts of a file, in pieces. Raises OutputError."""
        self.files[index].flush()
        with store.failing(self.folder), open(self.folder / str(index), "rb") as file:
            while piece := file.read(PIECE):
                yield piece


def delete(folder: Path, key: str = "") -> None:
    """Deletes the unfinished files of an image, or without `key` those of all."""
    if folder.is_dir():
        shutil.rmtree(_of(folder, key) if key else folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds those of others
            folder.rmdir()


def _of(folder: Path, key: str) -> Path:
    return folder / hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
