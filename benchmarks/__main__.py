"""`python -m benchmarks` times `clipseg` against code that uses Hugging Face's modules, and writes RESULTS.md.

The contenders take turns (A B C A B C), each in a fresh process. `--only page` measures one section and leaves the
others in RESULTS.md as they are. `--against COMMIT` tells in three minutes what has become slower since a commit, and
then exits with 1. `--short` uses a tiny network and few images, to check that the benchmarks work. The
inputs (a checkpoint of 603 MB, photographs) are created once, in runs/benchmark.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import against, inputs, workers
from benchmarks.measurements import HERE, Benchmark, Workload, replace_sections

SECTIONS = ("throughput", "startup", "network", "features", "workers", "precisions", "memory", "page")
FULL = (
    Workload(640, 480, 1, (8, 12, 64)),
    Workload(640, 480, 8, (3, 8, 48)),
    Workload(1920, 1080, 1, (6, 8, 48)),
    Workload(4000, 3000, 1, (4, 8, 48)),
    Workload(4000, 3000, 8, (2, 4, 32)),
)
SHORT = (
    Workload(480, 360, 2, (2, 2, 3)),
)  # larger than the logits: for smaller images clipseg averages, others do not
MEMORY_COUNTS, SHORT_MEMORY_COUNTS = (100, 600), (5, 20)  # images; the peaks should be equal


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="use a tiny network and few images; print the report")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="measure this section alone; repeatable")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "benchmark", help="folder for the inputs")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="the report; - prints it")
    parser.add_argument("--against", metavar="COMMIT", help="only compare the speed with that of a commit")
    parser.add_argument("--seconds", type=float, default=180, help="how long --against measures (default: 180)")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    model = inputs.checkpoint(given.work, "tiny" if given.short else "full")
    if given.against is not None:
        table, slower = against.compare(given.against, given.work, model, given.seconds, given.short)
        print(table)
        sys.exit(1 if slower else 0)
    benchmark = Benchmark(model, given.work, 1 if given.short else given.rounds)
    measure = measurements(benchmark, given.short)
    sections = [measure[name]() for name in SECTIONS if name in (given.only or SECTIONS)]
    report = "\n\n".join([introduction(), *sections]) + "\n"
    if given.short or str(given.out) == "-":
        print(report)
    elif given.only and given.out.exists():
        given.out.write_text(replace_sections(given.out.read_text("utf-8"), sections), encoding="utf-8")
    else:
        given.out.write_text(report, encoding="utf-8")


def measurements(benchmark: Benchmark, short: bool) -> dict[str, Callable[[], str]]:
    """Returns the function that measures each section."""
    models = {"full size": str(benchmark.model)} if short else {"shapes": "shapes", "full size": str(benchmark.model)}
    works, count = (workers.TINY, 6) if short else (workers.SHORT, 16)
    place = models, benchmark.work, benchmark.rounds
    return {
        "throughput": lambda: benchmark.throughput(SHORT if short else FULL),
        "startup": benchmark.startup,
        "network": lambda: benchmark.network(0.05 if short else 1.5),
        "features": lambda: benchmark.features(8 if short else 96),
        "workers": lambda: workers.jobs_section(works, *place, None),
        "precisions": lambda: workers.int8_section(count, *place),
        "memory": lambda: benchmark.memory(SHORT_MEMORY_COUNTS if short else MEMORY_COUNTS),
        "page": lambda: benchmark.page([str(benchmark.model)] if short else ["shapes", str(benchmark.model)]),
    }


def introduction() -> str:
    """Returns the head of the report: date, machine and versions."""
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, value in cpu.items()}
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in fields["flags"].split()]
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy", "pillow"))
    return (
        f"# Results\n\nWritten by `python -m benchmarks` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. "
        f"{cores} cores of {fields['model name']} (family {fields['cpu family']}, model {fields['model']}; "
        f"{', '.join(extensions)}), Python {platform.python_version()}, {libraries}. "
        "`README.md` in this folder explains the measurements. No GPU was measured."
    )


if __name__ == "__main__":
    main()
