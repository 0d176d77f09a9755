"""Runs a process and measures it from outside: the time of each line that it prints, and its peak memory."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARM = 16  # lines during which programs start and warm up: clipseg prints four at once, two processes twice as many
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}  # as pip leaves an installed program
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True, slots=True)
class Timing:
    """Measurements of a process."""

    lines: tuple[str, ...]
    stamps: tuple[float, ...]  # seconds from the start of the process to each line
    total: float  # seconds from its start to its end
    memory: float  # peak physical memory in bytes
    processor: float = 0.0  # seconds of processor time, with its worker processes

    @property
    def rate(self) -> float:
        """Lines per second after the first WARM lines, or after half of them if there are fewer than twice as many.

        Two processes finish their first batches together, so the line that ends the first of them is no beginning: the
        others' images would seem to take no time.
        """
        first = max(0, min(WARM, len(self.stamps) // 2) - 1)
        return (len(self.stamps) - 1 - first) / (self.stamps[-1] - self.stamps[first])


def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Timing:
    """Runs Python with `arguments` to its end. Raises RuntimeError with the end of its stderr if it fails."""
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **COMPILED, **OFFLINE, **(environment or {})},
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        lines, stamps = [], []
        for line in child.stdout:
            stamps.append(time.perf_counter() - begun)
            lines.append(line.rstrip("\n"))
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        total = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(arguments)} exited with {child.returncode}:\n{errors[-2000:]}")
    return Timing(tuple(lines), tuple(stamps), total, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)
