"""`python -m benchmarks --against COMMIT`: whether this working tree is slower than a commit, in about three minutes.

Both run the same commands in turn, each in a fresh process, until the time is over. Processor time tells most: it
hardly depends on what else the machine does. Time by the clock also shows waiting.
"""

import io
import os
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import inputs
from benchmarks.process import Timing, run
from shapes.markdown import table

ROOT = Path(__file__).parent.parent
NO_CACHE = {"CLIPSEG_CACHE": os.devnull}  # no run finds what another has kept; older commits keep nothing
SLOWER = 1.10  # more than this is reported as slower
LEAST_ROUNDS = 3
MANY, FEW, KNOWN = 100, 8, 48  # images: of `shapes`, of the full size, and with kept features


@dataclass(frozen=True, slots=True)
class Row:
    """Something to measure: the words after `clipseg`, without the output folder."""

    name: str
    words: tuple[str, ...]
    known: bool = False  # whether the features of its images are kept from an earlier run


def rows(work: Path, model: Path, few: bool) -> list[Row]:
    """Returns what is measured, with its images made. `model`: of full size. `few`: as little as possible."""
    one, known, some, many = (
        str(inputs.photographs(work, 640, 480, 2 if few and count > 1 else count)) for count in (1, KNOWN, FEW, MANY)
    )

    def segment(images: str, model: str, prompts: int) -> tuple[str, ...]:
        texts = [word for number in range(prompts) for word in ("-p", f"thing {number}")]
        return ("segment", images, "-m", model, *texts, "-t", "0.3", "-f", "mask", "-q", "--overwrite")

    large = str(model)
    measured = [
        Row("`--help`", ("--help",)),
        Row("first mask, `shapes`", segment(f"{one}/00000.jpg", "shapes", 1)),
        Row("first mask, full size", segment(f"{one}/00000.jpg", large, 1)),
        Row(f"{MANY} images, 1 prompt, `shapes`", segment(many, "shapes", 1)),
        Row(f"{FEW} images, 8 prompts, full size", segment(some, large, 8)),
        Row(f"{KNOWN} known images, 1 prompt, full size", segment(known, large, 1), True),
    ]
    return [measured[0], measured[-1]] if few else measured


def compare(commit: str, work: Path, model: Path, seconds: float, few: bool = False) -> tuple[str, list[str]]:
    """Returns the report, and the names of the rows that are slower than at the commit.

    `seconds`: how long to measure, beside the first runs, which fill the caches. Raises CalledProcessError if git does
    not know the commit.
    """
    measured = rows(work, model, few)
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder = Path(temporary)
        trees = {"before": checkout(commit, folder / "before"), "now": ROOT}
        timings: dict[str, dict[str, list[Timing]]] = {row.name: {name: [] for name in trees} for row in measured}
        for row in measured:  # files are read and compiled, features are kept
            for name, tree in trees.items():
                timed(row, tree, folder / f"{name}-kept")
        begun, rounds = time.monotonic(), 0
        while rounds < (1 if few else LEAST_ROUNDS) or time.monotonic() - begun < seconds:
            for row in measured:
                for name in (*trees,) if rounds % 2 else reversed((*trees,)):
                    timings[row.name][name].append(timed(row, trees[name], folder / f"{name}-kept"))
            rounds += 1
    return report(commit, timings, rounds)


def checkout(commit: str, folder: Path) -> Path:
    """Returns a folder with the program as it was at a commit."""
    packed = subprocess.run(["git", "archive", commit, "clipseg_cli"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def timed(row: Row, tree: Path, kept: Path) -> Timing:
    """Runs a row with the program of a folder."""
    command = ["-m", "clipseg_cli", *row.words]
    with tempfile.TemporaryDirectory(dir=kept.parent) as out:
        command += ["-o", out] if len(row.words) > 1 else []
        return run([*command, *(["--features", str(kept)] * row.known)], {"PYTHONPATH": str(tree), **NO_CACHE})


def report(commit: str, timings: Mapping[str, Mapping[str, Sequence[Timing]]], rounds: int) -> tuple[str, list[str]]:
    """Returns the table and the verdict, and the names of the slower rows."""
    lines, slower = [], []
    for name, by_tree in timings.items():
        before, now = by_tree["before"], by_tree["now"]
        pairs = [([one.processor for one in before], [one.processor for one in now])]
        pairs += [([one.total for one in before], [one.total for one in now])]
        ratios = [ratio(*pair) for pair in pairs]
        seconds = [f"{statistics.median(times):.2f}" for pair in pairs for times in pair]
        lines.append([name, *seconds[:2], f"**{ratios[0]:.2f}**", *seconds[2:], f"**{ratios[1]:.2f}**"])
        slower += [name] * (max(ratios) > SLOWER)
    head = ("work", "processor time before, s", "now", "ratio", "time before, s", "now", "ratio")
    verdict = f"More than {SLOWER - 1:.0%} slower than {commit}: {', '.join(slower) or 'nothing'}."
    return f"{table(head, lines)}\n\nMedians of {rounds} rounds. {verdict}", slower


def ratio(before: Sequence[float], now: Sequence[float]) -> float:
    """Returns how much longer it takes now: by the medians or by the shortest times, whichever says less.

    Other work on the machine seldom changes both.
    """
    return min(statistics.median(now) / statistics.median(before), min(now) / min(before))
