"""Points at which a run may be killed while it writes a file or a line of the manifest."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipseg_cli.outputs.manifest import MANIFEST
from clipseg_cli.storage import lines, store

FILE_POINTS = ("before-temp", "mid-write", "after-write", "before-rename", "after-rename")
LINE_POINTS = ("before-line", "mid-line", "after-line")
POINTS = (*FILE_POINTS, *LINE_POINTS)

_WRITE, _APPEND = store.write, lines.Lines.append


def arm(point: str, number: int, die: Callable[[], None]) -> None:
    """Calls `die` at a point of the `number`-th image file or manifest line that this process writes."""
    if point in FILE_POINTS:
        files = _Files(point, number, die)
        store.write, store.open, store.os = files.write, files.open, _System(files)  # type: ignore
    else:
        lines.Lines.append = _dying_append(point, number, die)  # type: ignore


def disarm() -> None:
    """Undoes `arm`."""
    store.write, lines.Lines.append, store.os = _WRITE, _APPEND, os
    store.__dict__.pop("open", None)


class _Files:
    """Stands for the functions with which `store` writes a file."""

    def __init__(self, point: str, number: int, die: Callable[[], None]) -> None:
        self.point, self.number, self.die = point, number, die
        self.count, self.thread = itertools.count(1), threading.local()

    def at(self, point: str) -> bool:
        """Returns whether this thread is writing the chosen file and the chosen point is this one."""
        return self.point == point and getattr(self.thread, "armed", False)

    def reach(self, point: str) -> None:
        """Dies here if this is the chosen point."""
        if self.at(point):
            self.die()

    def write(self, path: Path, data: bytes, fsync: bool = False) -> None:
        """Stands for `store.write`."""
        image = store.TEMPORARY not in str(path) and path.suffix in (".png", ".jpg")
        self.thread.armed = image and next(self.count) == self.number
        try:
            _WRITE(path, data, fsync)
        finally:
            self.thread.armed = False

    def open(self, name: Any, mode: str, **options: Any) -> Any:
        """Stands for `open`."""
        self.reach("before-temp")
        file = open(name, mode, **options)  # noqa: SIM115
        return _File(file, self) if self.at("mid-write") or self.at("after-write") else file


class _File:
    """Stands for an open file."""

    def __init__(self, file: Any, files: _Files) -> None:
        self.file, self.files = file, files

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def write(self, data: memoryview) -> int:
        if self.files.at("mid-write"):
            self.file.write(data[: len(data) // 2])
            self.files.die()
        written = self.file.write(data)
        self.files.reach("after-write")
        return int(written)

    def fileno(self) -> int:
        return int(self.file.fileno())


class _System:
    """Stands for the module `os`."""

    def __init__(self, files: _Files) -> None:
        self.files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def replace(self, source: Any, target: Any) -> None:
        self.files.reach("before-rename")
        os.replace(source, target)
        self.files.reach("after-rename")


def _dying_append(point: str, number: int, die: Callable[[], None]) -> Callable[[lines.Lines, str], list[lines.Line]]:
    """Returns what stands for `Lines.append`."""
    count = itertools.count(1)

    def append(own: lines.Lines, line: str) -> list[lines.Line]:
        chosen = own.path.name == MANIFEST and next(count) == number
        if chosen and point == "before-line":
            die()
        if chosen and point == "mid-line":
            with own._locked() as file:
                file.seek(0, os.SEEK_END)
                file.write(line.encode()[: len(line) // 2])
                die()
        news = _APPEND(own, line)
        if chosen:
            die()
        return news

    return append
