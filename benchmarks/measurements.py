"""The measurements of `python -m benchmarks`. Each returns a section of the report, as Markdown."""

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import inputs, page
from benchmarks.process import Timing, run
from shapes.markdown import table

HERE = Path(__file__).parent
PROMPTS = ("a cat", "a rocket", "a cup", "a face", "the sky", "a spoon", "a dark background", "fur")
LATER_PROMPTS = ("smoke", "a plate")  # of the runs that use kept features
THRESHOLD = "0.3"
CONTENDERS = ("baseline", "optimised", "clipseg", "clipseg -j 2")
NETWORK_SECONDS = 0.2  # of each measurement of the network beside a workload
PATH = {"PYTHONPATH": str(HERE.parent)}
THROUGHPUT_NOTE = """`baseline` is the script that Hugging Face's documentation suggests (`baseline.py`), `optimised`
the best use of its modules (`optimised.py`). `clipseg -j 2` runs two processes; it is the fourth figure of a list. All
contenders write the masks of the same images at the same threshold. Images per second are those after the first batch,
the median of the rounds. Memory is that of the largest process. IoU compares the masks of `baseline` (float32) and
`clipseg`. The upper bound is the ratio that `clipseg` would reach if the encoder ran at the speed of the largest matrix
product of the same minute, and images, decoder, masks and files took no time."""
PAGE_NOTE = """The images were
encoded before. The limit is half a second with `shapes`, else the decoder passes and 0.3 s."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Images of one size and a number of prompts. Each contender gets as many images as take it a few seconds."""

    width: int
    height: int
    prompts: int
    images: tuple[int, int, int]  # for baseline, optimised and clipseg

    @property
    def counts(self) -> tuple[int, ...]:
        """Images, in the order of CONTENDERS."""
        return (*self.images, self.images[-1])

    @property
    def name(self) -> str:
        """The name of its row."""
        return f"{self.width}x{self.height}, {self.prompts} prompt{'s' * (self.prompts > 1)}"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The checkpoint, the folder of the inputs, and how often each contender runs."""

    model: Path
    work: Path
    rounds: int

    def throughput(self, workloads: Sequence[Workload]) -> str:
        """Runs the contenders in turn on every workload."""
        rows = []
        for workload in workloads:
            rows.append(self._throughput_row(workload))
            print(" | ".join(rows[-1]), flush=True)
        head = (
            *("work", *CONTENDERS[:3], "range", "vs baseline", "vs optimised", "upper bound vs baseline"),
            *("whole process, s", "memory, GB", "IoU"),
        )
        return f"## Images per second\n\n{table(head, rows)}\n\n{THROUGHPUT_NOTE}"

    def _throughput_row(self, workload: Workload) -> list[str]:
        timings, agreement = self._contest(workload)
        network = self._network(NETWORK_SECONDS)
        rate = {name: statistics.median(each.rate for each in timings[name]) for name in CONTENDERS}
        least = min(workload.counts)  # all contenders have done so many images
        seconds = [statistics.median(each.stamps[least - 1] for each in timings[name]) for name in CONTENDERS]
        memory = [max(each.memory for each in timings[name]) / 1e9 for name in CONTENDERS]
        rates = [each.rate for each in timings["clipseg"]]
        return [
            workload.name,
            *(f"{rate[name]:.3g}" for name in CONTENDERS[:3]),
            f"{min(rates):.3g} to {max(rates):.3g}",
            *(f"**{rate['clipseg'] / rate[name]:.1f}**" for name in CONTENDERS[:2]),
            f"{network['peak'] / network['operations'] / rate['baseline']:.1f}",
            f"{least} in " + " / ".join(f"{each:.1f}" for each in seconds),
            " / ".join(f"{each:.2f}" for each in memory),
            f"{agreement:.4f}",
        ]

    def _contest(self, workload: Workload) -> tuple[dict[str, list[Timing]], float]:
        """Returns the timings of each contender, and the IoU of the masks of baseline and clipseg."""
        width, height = workload.width, workload.height
        folders = {count: inputs.photographs(self.work, width, height, count) for count in set(workload.counts)}
        timings: dict[str, list[Timing]] = {name: [] for name in CONTENDERS}
        prompts = PROMPTS[: workload.prompts]
        with tempfile.TemporaryDirectory(dir=self.work) as out:
            for _ in range(self.rounds):
                for name, count in zip(CONTENDERS, workload.counts, strict=True):
                    timing = run(COMMANDS[name](self.model, folders[count], Path(out, name), prompts))
                    assert len(timing.lines) == count, f"{name} did not finish its images"
                    timings[name].append(timing)
            return timings, total_iou(Path(out, "baseline"), Path(out, "clipseg", "masks"))

    def startup(self) -> str:
        """Times fresh processes until their first mask, and the start-up that no program can avoid."""
        images = inputs.photographs(self.work, 640, 480, 1)
        contenders = CONTENDERS[:3] if self.rounds > 1 else CONTENDERS[2:3]
        with tempfile.TemporaryDirectory(dir=self.work) as out:
            commands = {
                "`import torch`": ["-c", "import torch; print()"],
                "`clipseg --help`": ["-m", "clipseg_cli", "--help"],
            }
            for name in contenders:
                given = next(images.iterdir()) if name == "clipseg" else images  # the scripts take a folder
                commands[f"first mask, {name}"] = COMMANDS[name](self.model, given, Path(out, name), PROMPTS[:1])
            timings: dict[str, list[Timing]] = {name: [] for name in commands}
            for _ in range(2 * self.rounds - 1):
                for name, command in commands.items():
                    timings[name].append(run(command))
        seconds = {name: statistics.median(each.stamps[0] for each in rows) for name, rows in timings.items()}
        torch = seconds["`import torch`"]
        rows = [(name, f"{value:.2f}", f"{value / torch:.2f}") for name, value in seconds.items()]
        return f"## Start-up\n\n{table(('process', 'seconds', 'relative to `import torch`'), rows)}"

    def network(self, seconds: float) -> str:
        """Compares the network with the fastest matrix product. seconds: of each measurement."""
        measured = self._network(seconds)
        peak = f"largest matrix product ({measured['dtype']}, {measured['threads']} threads), GFLOP/s"
        rows = [
            (peak, f"{measured['peak'] / 1e9:.0f}"),
            ("encoder, GFLOP/s", f"{measured['encoder'] / 1e9:.0f}"),
            ("**encoder, share of that peak**", f"**{measured['share']:.0%}**"),
            ("encoder, GFLOP per image", f"{measured['operations'] / 1e9:.1f}"),
            ("encoder, ms per image", f"{measured['encoder_ms']:.1f}"),
            ("decoder, ms per prompt (of 8)", f"{measured['decoder_ms']:.1f}"),
        ]
        return f"## The network alone\n\n{table(('measure', 'value'), rows)}"

    def _network(self, seconds: float) -> dict[str, Any]:
        """Returns what `network.py` prints."""
        printed = run([str(HERE / "network.py"), str(self.model), str(seconds)], PATH).lines[-1]
        return json.loads(printed)  # type: ignore[no-any-return]

    def features(self, count: int) -> str:
        """Times a run that keeps features, and a second one with another prompt that reads them."""
        images = inputs.photographs(self.work, 640, 480, count)
        timings: dict[str, list[Timing]] = {"first run": [], "second run": []}
        for turn in range(self.rounds):
            with tempfile.TemporaryDirectory(dir=self.work) as folder:
                for (name, rows), prompt in zip(timings.items(), LATER_PROMPTS, strict=True):
                    command = clipseg(self.model, images, Path(folder, name), [f"{prompt} {turn}"])
                    rows.append(run([*command, "--features", str(Path(folder, "features"))]))
        first, second = (statistics.median(each.rate for each in rows) for rows in timings.values())
        rows = [("first run", f"{first:.3g}", "1"), ("second run", f"{second:.3g}", f"**{second / first:.1f}**")]
        return f"## Kept features: 640x480, masks of 1 prompt\n\n{table(('run', 'images per second', 'ratio'), rows)}"

    def memory(self, counts: Sequence[int]) -> str:
        """Measures the peak memory of runs of few and of many small images."""
        rows = []
        for count in counts:
            images = inputs.photographs(self.work, 160, 120, count)
            with tempfile.TemporaryDirectory(dir=self.work) as folder:
                timing = run(clipseg(self.model, images, Path(folder, "out"), PROMPTS[:1]))
            rows.append((str(count), f"{timing.memory / 1e9:.3f}"))
        return f"## Memory\n\n{table(('images', 'peak, GB'), rows)}"

    def page(self, models: Sequence[str]) -> str:
        """Measures how long someone waits who types on the live page."""
        title = f"## The live page: {page.VISIBLE} images, from the last key to their masks\n\n"
        if page.browser() is None:
            return f"{title}Not measured: there was no Chromium on the path."
        prompts, rows = page.PROMPTS if len(models) > 1 else page.PROMPTS[:2], []
        for model in models:
            waits = page.measure(model, self.work, prompts, PATH)
            limit = 0.5 if model == "shapes" else waits.decoder + 0.3
            name = f"`{model}`" if model == "shapes" else f"random, {Path(model).name.removeprefix('checkpoint-')} size"
            seconds = (statistics.median(waits.prompts), max(waits.prompts), waits.decoder, limit)
            rows.append([name, *(f"{each:.2f}" for each in seconds)])
        head = ("model", "median, s", "slowest, s", f"{page.VISIBLE} decoder passes, s", "limit, s")
        when = f"{len(prompts)} prompts typed in Chromium on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {PAGE_NOTE}"
        return f"{title}{table(head, rows)}\n\n{when}"


Command = Callable[[Path, Path, Path, Sequence[str]], list[str]]  # of a model, a folder, an output folder and prompts


def script(name: str) -> Command:
    """Returns the command line of a script beside this file."""
    return lambda model, images, out, prompts: [
        str(HERE / name), str(model), str(images), str(out), THRESHOLD, *prompts
    ]  # fmt: skip


def clipseg(model: Path, images: Path, out: Path, prompts: Sequence[str], jobs: int | str = 1) -> list[str]:
    """Returns a command line of this program that writes masks only, prints one line per image, and keeps nothing."""
    texts = [word for prompt in prompts for word in ("-p", prompt)]
    flags = f"-t {THRESHOLD} -f mask --json --overwrite -q -j {jobs} --features none".split()
    return ["-m", "clipseg_cli", "segment", str(images), "-m", str(model), "-o", str(out), *texts, *flags]


COMMANDS: dict[str, Command] = {
    "baseline": script("baseline.py"),
    "optimised": script("optimised.py"),
    "clipseg": clipseg,
    "clipseg -j 2": partial(clipseg, jobs=2),
}


def total_iou(expected: Path, masks: Path) -> float:
    """Returns the IoU over the pixels of all masks that both runs wrote."""
    intersection = union = 0
    for path in sorted(expected.rglob("*.png")):
        other = masks / path.parent.name.replace(" ", "-") / path.name
        a, b = (cv2.imread(str(each), cv2.IMREAD_GRAYSCALE) > 0 for each in (path, other))
        intersection += np.count_nonzero(a & b)
        union += np.count_nonzero(a | b)
    return intersection / union if union else 1.0


def replace_sections(report: str, sections: Sequence[str]) -> str:
    """Returns the report with sections replaced by those of the same titles; new ones stand at its end."""
    head, *old = report.strip().split("\n\n## ")
    new = [section.removeprefix("## ") for section in sections]
    by_title = {text.split("\n")[0]: text for text in (*old, *new)}
    return "\n\n## ".join([head, *by_title.values()]) + "\n"
