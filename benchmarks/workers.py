"""Compares `-j auto` with fixed numbers of worker processes, and int8 with the other precisions.

`python -m benchmarks.workers --short` takes about three minutes, the long form about twenty; the machine should do
nothing else. `--before FOLDER` adds the default of another checkout of this repository. `--write` puts the tables into
RESULTS.md. The contenders of a row take turns, and each runs in a fresh process.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import inputs
from benchmarks.against import NO_CACHE
from benchmarks.measurements import HERE, PATH, PROMPTS, THRESHOLD, replace_sections, total_iou
from benchmarks.process import Timing, run
from shapes.markdown import table

# what a processor without AVX-512 would use: oneDNN's, torch's own and MKL's kernels
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
JOBS = ("1", "2", "auto")


@dataclass(frozen=True, slots=True)
class Work:
    """Images of one size, a number of prompts, and a number of images for each model."""

    width: int
    height: int
    prompts: int
    images: tuple[int, int]  # for `shapes`, and for the model of full size

    @property
    def name(self) -> str:
        """The name of its row."""
        return f"{self.width}x{self.height}, {self.prompts} prompt{'s' * (self.prompts > 1)}"


LONG = (Work(640, 480, 1, (320, 64)), Work(640, 480, 8, (160, 48)), Work(4000, 3000, 1, (80, 48)))
LONG += (Work(4000, 3000, 8, (48, 32)),)
SHORT = (Work(640, 480, 1, (160, 48)),)
TINY = (Work(160, 120, 2, (6, 6)),)


@dataclass(frozen=True, slots=True)
class Contender:
    """A command of `clipseg`, as further words, and the environment that it runs in."""

    words: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: PATH)


def contest(
    contenders: Mapping[str, Contender], model: str, images: Path, prompts: int, rounds: int, out: Path
) -> dict[str, list[Timing]]:
    """Returns the timings of each contender, in turn. Its masks are in a folder of its name below `out`."""
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    texts = [word for prompt in PROMPTS[:prompts] for word in ("-p", prompt)]
    flags = f"-t {THRESHOLD} -f mask --json --overwrite -q".split()
    for _ in range(rounds):
        for name, contender in contenders.items():
            command = ["-m", "clipseg_cli", "segment", str(images), "-m", model, "-o", str(out / name), *texts, *flags]
            timings[name].append(run([*command, *contender.words], {**contender.environment, **NO_CACHE}))
    return timings


def rates(timings: Mapping[str, Sequence[Timing]], rate: Callable[[Timing], float]) -> dict[str, float]:
    """Returns the median images per second of each contender."""
    return {name: statistics.median(map(rate, rows)) for name, rows in timings.items()}


def after_first_batches(timing: Timing) -> float:
    """Returns the images per second of a run once it has warmed up."""
    return timing.rate


def whole_run(timing: Timing) -> float:
    """Returns the images per second of a run from its start to its end.

    Lines come in the order of the images, so processes that are ahead of others seem to take no time for theirs.
    """
    return len(timing.lines) / timing.total


def jobs_section(works: Sequence[Work], models: Mapping[str, str], work: Path, rounds: int, before: str | None) -> str:
    """Returns the table of `-j auto` and fixed numbers of processes."""
    contenders = {f"-j {jobs}": Contender(("-j", jobs)) for jobs in JOBS}
    if before is not None:
        contenders["before"] = Contender(environment={"PYTHONPATH": before})
    rows = []
    for name, model in models.items():
        for each in works:
            images = inputs.photographs(work, each.width, each.height, each.images[model != "shapes"])
            with tempfile.TemporaryDirectory(dir=work) as out:
                timings = contest(contenders, model, images, each.prompts, rounds, Path(out))
            rate, auto = rates(timings, whole_run), "-j auto"
            fixed = max(value for key, value in rate.items() if key not in (auto, "before"))
            memory = [max(one.memory for one in timings[key]) / 1e9 for key in contenders]
            compared = f"**{rate[auto] / rate['before']:.2f}**" if before is not None else "-"
            rows.append(
                [
                    f"{name}: {each.name}",
                    *(f"{rate[key]:.3g}" for key in contenders),
                    f"**{rate[auto] / fixed:.2f}**",
                    compared,
                    " / ".join(f"{value:.2f}" for value in memory),
                ]
            )
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    head = (
        "images per second, whole runs",
        *contenders,
        "auto vs best fixed",
        "auto vs before",
        "memory of one process, GB",
    )
    return f"## Worker processes\n\n{table(head, rows)}"


def int8_section(count: int, models: Mapping[str, str], work: Path, rounds: int) -> str:
    """Returns the table of precisions: the speed of whole runs, and how well the masks agree with those of fp32."""
    contenders = {
        "fp32": Contender(("--dtype", "fp32")),
        "int8": Contender(("--dtype", "int8")),
        "bf16": Contender(("--dtype", "bf16")),
        "fp32, AVX2": Contender(("--dtype", "fp32"), PATH | AVX2),
        "int8, AVX2": Contender(("--dtype", "int8"), PATH | AVX2),
    }
    rows = []
    for name, model in models.items():
        images = inputs.photographs(work, 640, 480, count if model != "shapes" else 8 * count)
        with tempfile.TemporaryDirectory(dir=work) as out:
            rate = rates(contest(contenders, model, images, 1, rounds, Path(out)), after_first_batches)
            for key in contenders:
                base = "fp32" + key[4:]
                iou = total_iou(Path(out, base, "masks"), Path(out, key, "masks"))
                rows.append([name, key, f"{rate[key]:.3g}", f"**{rate[key] / rate[base]:.2f}**", f"{iou:.4f}"])
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    head = ("model, 640x480, 1 prompt", "precision", "images per second", "vs fp32", "IoU with the masks of fp32")
    note = "AVX2: torch's libraries were told not to use AVX-512, as on a processor without it."
    return f"## Precisions\n\n{table(head, rows)}\n\n{note}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few images of one size")
    parser.add_argument("--tiny", action="store_true", help="a tiny network and few images: checks that it works")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--before", help="folder of another checkout, whose default is a further contender")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "benchmark", help="folder for the inputs")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    large = inputs.checkpoint(given.work, "tiny" if given.tiny else "full")
    models = {"full size": str(large)} if given.tiny else {"shapes": "shapes", "full size": str(large)}
    works = TINY if given.tiny else SHORT if given.short else LONG
    rounds = 1 if given.tiny else given.rounds
    before = None if given.before is None else os.path.abspath(given.before)
    sections = [
        jobs_section(works, models, given.work, rounds, before),
        int8_section(6 if given.tiny else 16, models, given.work, rounds),
    ]
    if given.write:
        report = HERE / "RESULTS.md"
        report.write_text(replace_sections(report.read_text("utf-8"), sections), encoding="utf-8")
    print("\n\n".join(sections))


if __name__ == "__main__":
    main()
