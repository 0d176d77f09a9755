"""What tests ask of the processes of this machine."""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path


def alive(pid: int) -> bool:
    """Returns whether a process runs. A zombie does not: it waits for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: Iterable[int], seconds: float = 10.0) -> bool:
    """Waits until all of these processes have ended. Returns whether they did within the time."""
    pids, end = [*pids], time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


def children(pid: int) -> list[int]:
    """Returns the processes that a process's main thread has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def with_mark(word: str, mark: str) -> list[int]:
    """Returns the processes with this word in their command line and this mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found += [int(entry.name)] if mark.encode() in (entry / "environ").read_bytes() else []
    return sorted(found)
