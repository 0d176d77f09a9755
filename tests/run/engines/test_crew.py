"""How many worker processes a run uses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipseg_cli.run.engines import gpus
from clipseg_cli.run.engines.crew import Limits, Machine, choose

GB = 1_000_000_000
FULL, SHAPES = 603_000_000, 12_000_000  # bytes of weights


@pytest.mark.parametrize(
    ("cores", "memory", "model", "processes", "threads"),
    [
        (1, 8 * GB, FULL, 1, 1),
        (2, 20 * GB, FULL, 1, 2),  # one process does two images at once, with one copy of the model
        (2, 20 * GB, SHAPES, 2, 1),  # Python's lock is what limits a small model
        (8, 16 * GB, SHAPES, 8, 1),
        (16, 100 * GB, FULL, 2, 8),
        (64, 200 * GB, FULL, 8, 8),
        (12, 100 * GB, FULL, 2, 6),
        (16, 8 * GB, SHAPES, 6, 2),
        (64, 8 * GB, FULL, 2, 32),  # each process needs 1.8 GB, and half of the memory is for images
        (64, 1 * GB, FULL, 1, 64),  # never fewer than one
        (64, None, SHAPES, 64, 1),
    ],
)
def test_a_cpu_run_has_a_process_for_each_eight_cores(
    cores: int, memory: int | None, model: int, processes: int, threads: int
) -> None:
    """For each core if the model is small; as far as the free memory holds their copies of the model."""
    wanted = cores if model == SHAPES else -(-cores // 8)
    chosen = choose(Machine(cores, memory), model, ["cpu"], None)
    assert (chosen.processes, chosen.threads, chosen.patient) == (processes, threads, True)
    assert f"{cores} cores" in chosen.why and ("free memory" in chosen.why) == (processes < wanted)
    assert f"of {threads} thread" in str(chosen)


def test_what_the_user_wants_and_gpus_decide() -> None:
    """-j N is taken at its word, and starts all at once. Each GPU gets a process."""
    machine = Machine(4, 2 * GB)
    assert (choose(machine, FULL, ["cpu"], 8).processes, choose(machine, FULL, ["cpu"], 8).threads) == (8, 1)
    assert not choose(machine, FULL, ["cpu"], 2).patient
    assert choose(machine, FULL, ["cuda:0", "cuda:1"], None).processes == 2
    assert choose(machine, FULL, ["cuda:0", "cuda:1"], 3).processes == 3
    assert str(choose(machine, FULL, ["mps"], None)) == "1 worker process of 4 threads: mps"


@pytest.mark.parametrize(
    ("cores", "devices", "memory", "processes"),
    [
        (16, 1, 80 * GB, 4),  # one for each four cores
        (16, 2, 80 * GB, 4),
        (16, 8, 80 * GB, 8),  # each GPU has one
        (4, 1, 80 * GB, 1),
        (64, 1, 12 * GB, 2),  # as many as the GPU's memory holds
        (16, 1, None, 1),  # it is unknown
    ],
)
def test_a_gpu_has_several_processes(cores: int, devices: int, memory: int | None, processes: int) -> None:
    """Cores, the GPU's memory and the machine's own limit them."""
    names = [f"cuda:{number}" for number in range(devices)]
    gpus = [memory] * devices if memory is not None else []
    assert choose(Machine(cores, 200 * GB), FULL, names, None, gpus).processes == processes
    few = choose(Machine(cores, 4 * GB), FULL, names, None, gpus)
    assert few.processes == devices and ("free memory" in few.why) == (processes > devices)


def test_the_driver_counts_the_gpus(tmp_path: Path) -> None:
    """A library with the functions of NVIDIA's driver stands in for it: two GPUs, or one whose driver fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    code = (
        "int cuInit(unsigned f) { return FAIL; } int cuDeviceGetCount(int *n) { *n = 2; return 0; }\n"
        "int cuDeviceGet(int *d, int i) { *d = i + 7; return i > 1; }\n"
        "int cuDeviceTotalMem_v2(unsigned long *s, int d) { *s = d * 1000000000ul; return 0; }\n"
    )
    (tmp_path / "driver.c").write_text(code)
    for fail, expected in ((0, (7 * GB, 8 * GB)), (100, ())):
        library = str(tmp_path / f"driver{fail}.so")
        subprocess.run([compiler, "-shared", f"-DFAIL={fail}", str(tmp_path / "driver.c"), "-o", library], check=True)
        assert gpus.memories(library) == expected
    assert gpus.memories(str(tmp_path / "none.so")) == ()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has it")
def test_the_affinity_of_the_process_counts() -> None:
    """A process that may use one core counts one."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from clipseg_cli.run.engines.crew import cores; print(cores())"
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert done.stdout.strip() == b"1", done.stderr


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "3000", "memory.current": "1000"}, 2, 2000),
        ({"cpu.max": "max 100000", "memory.max": "max", "memory.current": "1000"}, None, None),
        ({"../cpu.max": "300000 100000", "cpu.max": "max 100000"}, 3, None),
        ({"../../cpu.max": "50000 100000"}, 1, None),
        ({"../memory.max": "9000", "../memory.current": "2000"}, None, 7000),
        ({"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"}, 4, None),
        ({"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, None, None),
        (
            {"../../memory/outer/memory.limit_in_bytes": "5000", "../../memory/outer/memory.usage_in_bytes": "1"},
            None,
            4999,
        ),
        ({}, None, None),
    ],
)
def test_the_limits_of_a_container_count(
    tmp_path: Path, files: dict[str, str], cores: int | None, memory: int | None
) -> None:
    """Of the process's own group, of those above it, and of both versions of cgroups."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for name, text in files.items():
        (inner / name).resolve().parent.mkdir(parents=True, exist_ok=True)
        (inner / name).resolve().write_text(text + "\n")
    assert Limits.of("0::/outer/inner\n4:memory:/outer/inner\n", tmp_path) == Limits(cores, memory)
