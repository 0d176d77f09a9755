"""One whole process under the clock. It is told from outside: from its start to each line that it prints."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BATCH = 4  # lines that may come at once


@dataclass(frozen=True, slots=True)
class Timing:
    """When a process printed its lines, and what it took."""

    lines: tuple[str, ...]
    stamps: tuple[float, ...]  # seconds from the start of the process to each line
    total: float  # seconds from its start to its end
    memory: float  # bytes of physical memory at most

    @property
    def rate(self) -> float:
        """Lines a second after the first batch, which warms up."""
        first = BATCH - 1 if len(self.stamps) >= 2 * BATCH else 0
        return (len(self.stamps) - 1 - first) / (self.stamps[-1] - self.stamps[first])


def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Timing:
    """Runs Python with `arguments` to its end. Raises RuntimeError with its last words where it fails."""
    begun = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **OFFLINE, **(environment or {})},
    )
    assert child.stdout is not None and child.stderr is not None
    lines, stamps = [], []
    for line in child.stdout:
        stamps.append(time.perf_counter() - begun)
        lines.append(line.rstrip("\n"))
    words = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    total = time.perf_counter() - begun
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {child.returncode}:\n{words[-2000:]}")
    return Timing(tuple(lines), tuple(stamps), total, usage.ru_maxrss * 1024)


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
