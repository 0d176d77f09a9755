"""How many worker processes a run uses, and how many threads each of them."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

SIDE_BY_SIDE = 8  # images that one process works on at once: with more, its threads wait for Python's one lock
SMALL = 100_000_000  # bytes of weights: with fewer, one image is enough to make the threads wait for the lock
BASE = 600_000_000  # bytes of a worker process without a model
COPIES = 2  # of the weights file that a process holds at most: its own, and that in float32 while it loads
SHARE = 0.5  # of the free memory that the models may take: the rest is for images
# Of each process on a GPU. One process alone cannot decode and write as fast as a large GPU computes, because of
# Python's one lock; and while one waits, the GPU works for another. Both numbers are estimates.
GPU_CORES = 4
GPU_MEMORY = 5_000_000_000  # bytes: CUDA itself, the network and a batch


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use of the machine. Affinity and cgroups (containers, batch systems) limit it."""

    cores: int
    memory: int | None  # free bytes; None: unknown, as on systems other than Linux

    @classmethod
    @cache
    def here(cls) -> Self:
        """Returns what is available at the first call: what run.json says is then what was done."""
        return cls(cores(), _free_memory())


@dataclass(frozen=True, slots=True)
class Crew:
    """The worker processes of a run."""

    processes: int
    threads: int  # of each process
    why: str  # in words, for the user
    patient: bool = False  # processes after the first start only if there are more images than the first ones can queue

    def document(self) -> dict[str, Any]:
        """Returns it as JSON types, for run.json."""
        return {"processes": self.processes, "threads": self.threads, "why": self.why}

    def __str__(self) -> str:
        count = f"{self.processes} worker process{'es' * (self.processes > 1)}"
        count = f"up to {count}" if self.patient and self.processes > 1 else count
        return f"{count} of {self.threads} thread{'s' * (self.threads > 1)}: {self.why}"


def choose(machine: Machine, model: int, devices: Sequence[str], jobs: int | None, gpus: Sequence[int] = ()) -> Crew:
    """Returns the processes for a model of `model` bytes on `devices`. `jobs`: what the user wants; None: choose.

    On a CPU, one process works on as many images at once as it has threads. Several processes hold the model several
    times; they are for small models and many cores. `gpus`: bytes of memory of each GPU; without them, a GPU gets one
    process.
    """
    if jobs is not None:
        processes, why = max(jobs, len(devices)), f"-j {jobs}"
    else:
        each, why = 1, f"{machine.cores} cores"
        if tuple(devices) == ("cpu",):
            each = machine.cores if model < SMALL else -(-machine.cores // SIDE_BY_SIDE)
        elif all(device.startswith("cuda") for device in devices):
            each = max(1, min(machine.cores // (GPU_CORES * len(devices)), min(gpus, default=0) // GPU_MEMORY))
        if tuple(devices) != ("cpu",):
            why = f"{each} for each of {len(devices)} devices" if len(devices) > 1 else devices[0]
        wanted = each * len(devices)
        room = wanted if machine.memory is None else int(machine.memory * SHARE) // (BASE + COPIES * model)
        processes = max(len(devices), min(wanted, room))
        if processes < wanted:
            why += f", and free memory for {processes} of {wanted} processes"
    return Crew(processes, max(1, machine.cores // processes), why, patient=jobs is None)


@cache
def cores() -> int:
    """Returns the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    most = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return min(most, Limits.here().cores or most)


def pool_size() -> int:
    """Returns the number of threads that read images, and as many that write masks, beside the network."""
    return max(2, min(8, cores()))


def _free_memory() -> int | None:
    """Returns the bytes that can be had without swapping; None if unknown."""
    lines = _read(Path("/proc/meminfo")).splitlines()
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit = Limits.here().memory
    return min(free if limit is None else [*free, limit], default=None)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the cgroups that this process is in, of both versions; None: no limit."""

    cores: int | None
    memory: int | None  # bytes that are left

    @classmethod
    def here(cls) -> Self:
        """Returns those of this process. On other systems than Linux there are none."""
        return cls.of(_read(Path("/proc/self/cgroup")), Path("/sys/fs/cgroup"))

    @classmethod
    def of(cls, groups: str, root: Path) -> Self:
        """Returns the limits of groups in lines like 0::/outer/inner, below `root`. Groups above them limit them too.

        Inside a container, `root` may be the group itself, whatever the lines say.
        """
        folders = []
        for line in groups.splitlines():
            _, controllers, path = line.split(":", 2)
            top = root / controllers
            inner = top / path.strip("/")
            folders += [inner, *(above for above in inner.parents if above == top or top in above.parents)]
        cores, memory = [], []
        for folder in folders:
            new = _read(folder / "cpu.max").split() or ["max", "max"]
            old = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            for share, whole in (new, old):
                if share.isdigit() and whole.isdigit():  # not "max" or "-1"
                    cores.append(max(1, math.ceil(int(share) / int(whole))))
            for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
                most, used = (_read(folder / name).strip() for name in names)
                if most.isdigit() and used.isdigit():
                    memory.append(max(0, int(most) - int(used)))
        return cls(min(cores, default=None), min(memory, default=None))


def _read(file: Path) -> str:
    """Returns the text of a small file of the system; "" if there is none."""
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
