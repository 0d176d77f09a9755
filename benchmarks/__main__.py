"""`python -m benchmarks`: this program, the plain script and the fair opponent in turn, A B C A B C, whole processes.

Writes `benchmarks/RESULTS.md`. `--only page` measures one part and leaves the others there as they are. `--short` is
the same on a tiny network, which proves only that it runs. What is made for it (a checkpoint of 603 MB, photographs) is
kept in runs/benchmark.
"""

import argparse
import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import material, page
from benchmarks.process import Timing, run

HERE = Path(__file__).parent
PROMPTS = ("a cat", "a rocket", "a cup", "a face", "the sky", "a spoon", "a dark background", "fur")
OTHERS = ("smoke", "a plate")  # asked for later, of kept features
THRESHOLD = "0.3"
CONTENDERS = ("plain", "fair", "clipseg", "clipseg -j 2")


@dataclass(frozen=True, slots=True)
class Work:
    """Pictures of one size for one number of prompts, as many for each contender as take it some seconds."""

    width: int
    height: int
    prompts: int
    images: tuple[int, int, int]  # for plain, fair and clipseg

    @property
    def counts(self) -> tuple[int, ...]:
        """Images, in the order of CONTENDERS."""
        return (*self.images, self.images[-1])

    @property
    def name(self) -> str:
        """Of its row."""
        return f"{self.width}x{self.height}, {self.prompts} prompt{'s' * (self.prompts > 1)}"


FULL = (
    Work(640, 480, 1, (8, 12, 32)),
    Work(640, 480, 8, (3, 8, 16)),
    Work(1920, 1080, 1, (6, 8, 24)),
    Work(4000, 3000, 1, (4, 8, 24)),
    Work(4000, 3000, 8, (2, 4, 16)),
)
SHORT = (Work(480, 360, 2, (2, 2, 3)),)  # larger than the logits: where they shrink, this program averages
FLAT = (100, 600)  # small images, whose peak memory should be equal
FEW = (5, 20)
SPELL = 0.2  # seconds of each part of the network beside a race


def main() -> None:
    """Measures everything and tells it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a tiny network and few pictures: does it run?")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone; repeatable")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender has its turn")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "benchmark", help="where material is kept")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="the report; - prints it")
    arguments = parser.parse_args()
    short, rounds = arguments.short, 1 if arguments.short else arguments.rounds
    arguments.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(material.checkpoint(arguments.work, "tiny" if short else "full"), arguments.work, rounds)
    parts: dict[str, Callable[[], str]] = {
        "race": lambda: bench.race(SHORT if short else FULL),
        "start": bench.start,
        "network": lambda: bench.network(0.05 if short else 1.5),
        "later": lambda: bench.later(8 if short else 32),
        "memory": lambda: bench.memory(FEW if short else FLAT),
        "page": lambda: bench.page([str(bench.model)] if short else ["shapes", str(bench.model)]),
    }
    found = [parts[name]() for name in PARTS if name in (arguments.only or PARTS)]
    report = "\n\n".join([machine(), *found]) + "\n"
    if short or str(arguments.out) == "-":
        print(report)
    elif arguments.only and arguments.out.exists():
        arguments.out.write_text(renewed(arguments.out.read_text("utf-8"), found), encoding="utf-8")
    else:
        arguments.out.write_text(report, encoding="utf-8")


def renewed(report: str, sections: Sequence[str]) -> str:
    """The report with these sections in the place of those of the same titles, or at its end."""
    head, *kept = report.strip().split("\n\n## ")
    by_title = {text.split("\n")[0]: text for text in kept}
    by_title |= {text.split("\n")[0]: text for text in (section.removeprefix("## ") for section in sections)}
    return "\n\n## ".join([head, *by_title.values()]) + "\n"


@dataclass(frozen=True, slots=True)
class Bench:
    """The measurements; each method returns its part of the report."""

    model: Path
    folder: Path
    rounds: int

    def race(self, works: Sequence[Work]) -> str:
        """The contenders in turn on every work."""
        rows = []
        for work in works:
            pictures = {n: material.pictures(self.folder, work.width, work.height, n) for n in set(work.counts)}
            timings: dict[str, list[Timing]] = {name: [] for name in CONTENDERS}
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                for _ in range(self.rounds):
                    for name, count in zip(CONTENDERS, work.counts, strict=True):
                        command = COMMANDS[name](
                            self.model, pictures[count], Path(place, name), PROMPTS[: work.prompts]
                        )
                        timings[name].append(run(command))
                        assert len(timings[name][-1].lines) == count, f"{name} did not finish its images"
                agreement = agree(Path(place, "plain"), Path(place, "clipseg", "masks"))
            alone = self.kernels(SPELL)
            rate = {name: middle(each.rate for each in timings[name]) for name in CONTENDERS}
            few = min(work.counts) - 1
            whole = {name: middle(each.stamps[few] for each in timings[name]) for name in CONTENDERS}
            spread = [each.rate for each in timings["clipseg"]]
            memory = [max(each.memory for each in timings[name]) / 1e9 for name in CONTENDERS]
            rows.append(
                [
                    work.name,
                    *(f"{rate[name]:.3g}" for name in CONTENDERS[:3]),
                    f"{min(spread):.3g} to {max(spread):.3g}",
                ]
                + [f"**{rate['clipseg'] / rate[name]:.1f}**" for name in CONTENDERS[:2]]
                + [f"{alone['peak'] / alone['operations'] / rate['plain']:.1f}"]
                + [f"{few + 1} in " + " / ".join(f"{whole[name]:.1f}" for name in CONTENDERS)]
                + [" / ".join(f"{each:.2f}" for each in memory), f"{agreement:.4f}"]
            )
            say(" | ".join(rows[-1]))
        head = [
            "work",
            *CONTENDERS[:3],
            "range",
            "against plain",
            "against fair",
            "against plain at most",
            "whole process, s",
            "memory, GB",
            "IoU",
        ]
        return "## Images a second\n\n" + table(head, rows) + "\n\n" + RACE

    def start(self) -> str:
        """From the start of a fresh process to its first mask, in turn with what cannot be avoided."""
        picture = material.pictures(self.folder, 640, 480, 1)
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            commands = {
                "`import torch`": ["-c", "import torch; print()"],
                "`clipseg --help`": ["-m", "clipseg_cli", "--help"],
                **{
                    f"first mask, {name}": COMMANDS[name](self.model, picture, Path(place, name), PROMPTS[:1])
                    for name in (CONTENDERS[:3] if self.rounds > 1 else CONTENDERS[2:3])
                },
            }
            spent: dict[str, list[Timing]] = {name: [] for name in commands}
            for _ in range(2 * self.rounds - 1):
                for name, command in commands.items():
                    spent[name].append(run(command))
        times = {name: middle(each.stamps[0] for each in timings) for name, timings in spent.items()}
        base = times["`import torch`"]
        rows = [[name, f"{value:.2f}", f"{value / base:.2f}"] for name, value in times.items()]
        return "## Start\n\n" + table(["what", "seconds", "of `import torch`"], rows)

    def network(self, seconds: float) -> str:
        """The network alone, beside the matrix peak."""
        found = self.kernels(seconds)
        rows = [
            [
                f"largest matrix product ({found['dtype']}, {found['threads']} threads), GFLOP/s",
                f"{found['peak'] / 1e9:.0f}",
            ],
            ["encoder, GFLOP/s", f"{found['encoder'] / 1e9:.0f}"],
            ["**encoder, share of that peak**", f"**{found['share']:.0%}**"],
            ["encoder, GFLOP an image", f"{found['operations'] / 1e9:.1f}"],
            ["encoder, ms an image", f"{found['encoder_ms']:.1f}"],
            ["decoder, ms a prompt (of 8)", f"{found['decoder_ms']:.1f}"],
        ]
        return "## The network alone\n\n" + table(["what", "figure"], rows)

    def kernels(self, seconds: float) -> dict[str, Any]:
        """What `kernels.py` prints, of parts that last so long."""
        return json.loads(run([str(HERE / "kernels.py"), str(self.model), str(seconds)], PATH).lines[-1])

    def later(self, count: int) -> str:
        """A run that keeps features, then one with other prompts that finds them, in turn."""
        pictures = material.pictures(self.folder, 640, 480, count)
        rates: dict[str, list[Timing]] = {"first run": [], "second run": []}
        for turn in range(self.rounds):
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                for (name, timings), prompt in zip(rates.items(), OTHERS, strict=True):
                    command = clipseg(self.model, pictures, Path(place, name), [f"{prompt} {turn}"])
                    timings.append(run([*command, "--features", str(Path(place, "features"))]))
        first, second = (middle(each.rate for each in timings) for timings in rates.values())
        rows = [["first run", f"{first:.3g}", "1"], ["second run", f"{second:.3g}", f"**{second / first:.1f}**"]]
        return "## Kept features: 640x480, 1 prompt\n\n" + table(["what", "images a second", "ratio"], rows)

    def memory(self, counts: Sequence[int]) -> str:
        """Peak memory of a run of few and of many small images; of its largest process."""
        rows = []
        for count in counts:
            pictures = material.pictures(self.folder, 160, 120, count)
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                timing = run(clipseg(self.model, pictures, Path(place, "out"), PROMPTS[:1]))
            rows.append([str(count), f"{timing.memory / 1e9:.3f}"])
            say(" | ".join(rows[-1]))
        return "## Memory\n\n" + table(["images", "peak, GB"], rows)

    def page(self, models: Sequence[str]) -> str:
        """What someone waits for who types on the live page."""
        title = f"## The live page: {page.VISIBLE} pictures, from the last key to their masks\n\n"
        if page.browser() is None:
            return f"{title}Not measured: there was no Chromium on the path."
        phrases, rows = page.PHRASES if len(models) > 1 else page.PHRASES[:2], []
        for model in models:
            waits = page.measure(model, self.folder, phrases, PATH)
            bound = 0.5 if model == "shapes" else waits.passes + 0.3
            name = f"`{model}`" if model == "shapes" else f"random, {Path(model).name.removeprefix('checkpoint-')} size"
            times = [f"{middle(iter(waits.phrases)):.2f}", f"{max(waits.phrases):.2f}", f"{waits.passes:.2f}"]
            rows.append([name, *times, f"{bound:.2f}"])
            say(" | ".join(rows[-1]))
        head = ["model", "median, s", "slowest, s", f"{page.VISIBLE} decoder passes, s", "at most, s"]
        when = f"\n\n{len(phrases)} phrases typed in Chromium on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {PAGE}"
        return title + table(head, rows) + when


def opponent(script: str) -> Callable[[Path, Path, Path, Sequence[str]], list[str]]:
    """The command line of a script beside this file."""
    return lambda model, pictures, out, prompts: [
        str(HERE / script), str(model), str(pictures), str(out), THRESHOLD, *prompts
    ]  # fmt: skip


def clipseg(model: Path, pictures: Path, out: Path, prompts: Sequence[str], jobs: int = 1) -> list[str]:
    """The command line of this program: masks only, a line an image."""
    words = [part for prompt in prompts for part in ("-p", prompt)]
    settings = [
        "-m",
        str(model),
        "-t",
        THRESHOLD,
        "-f",
        "mask",
        "-o",
        str(out),
        "--json",
        "--overwrite",
        "-q",
        "-j",
        str(jobs),
    ]
    return ["-m", "clipseg_cli", "segment", str(pictures), *words, *settings]


COMMANDS = {
    "plain": opponent("plain.py"),
    "fair": opponent("fair.py"),
    "clipseg": clipseg,
    "clipseg -j 2": partial(clipseg, jobs=2),
}
PARTS = ("race", "start", "network", "later", "memory", "page")
PATH = {"PYTHONPATH": str(HERE.parent)}
PAGE = """the pictures are
encoded. At most: half a second with `shapes`, else the decoder's passes and 0.3 s."""
RACE = """`plain` is what the documentation of Hugging Face leads to (`plain.py`), `fair` the best use of its modules
(`fair.py`); the fourth figure of a list is `clipseg -j 2`, two processes.
All write the masks of the same images at the same threshold. Images
a second are those after the first batch, the median of the rounds; memory is that of the largest process. IoU is of the
masks of `plain` (float32) and `clipseg`. At most: what the ratio would be if the encoder ran as fast as the largest
matrix product of the same minute, and pictures, decoder, masks and files took no time at all."""


def agree(expected: Path, found: Path) -> float:
    """Intersection over union of all masks of two runs together, of the images that both did."""
    both = either = 0
    for path in sorted(expected.rglob("*.png")):
        label = path.parent.name.replace(" ", "-")
        first, second = (cv2.imread(str(each), cv2.IMREAD_GRAYSCALE) > 0 for each in (path, found / label / path.name))
        both += np.count_nonzero(first & second)
        either += np.count_nonzero(first | second)
    return both / either if either else 1.0


def machine() -> str:
    """When, where and with what."""
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, value in cpu.items()}
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in fields["flags"].split()]
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy", "pillow"))
    today = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return (
        f"# Results\n\nWritten by `python -m benchmarks` on {today}. "
        f"{cores} cores of {fields['model name']} (family {fields['cpu family']}, model {fields['model']}; "
        f"{', '.join(fast)}), Python {platform.python_version()}, {libraries}. "
        "`README.md` beside this file says how to read it. No GPU was measured."
    )


def middle(values: Iterator[float]) -> float:
    """The median."""
    return statistics.median(values)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def say(line: str) -> None:
    """Progress."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
