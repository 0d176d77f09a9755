"""Measures a GPU: `python -m benchmarks.gpu`, within eight minutes, without a network. It prints Markdown.

Whole runs from JPEG to mask PNG beside Hugging Face's code on the same GPU, the network beside the largest matrix
product of the same minute, what each stage of an image costs, and how the masks differ from those of a CPU in fp32.
`--device cpu --tiny --images 16` tries it on any machine. The inputs are made once in `runs/benchmark`, or lie there.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import inputs
from benchmarks.measurements import HERE, PATH, PROMPTS, THRESHOLD, clipseg, script, total_iou
from benchmarks.network import seconds_per_call
from benchmarks.process import Timing, run
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.masks import soft_maps
from clipseg_cli.model.devices import to_device, to_host
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.outputs.writers import raster
from clipseg_cli.run.engines.crew import cores
from clipseg_cli.settings.inputs import DecodeOptions, InputOptions
from clipseg_cli.settings.model import GPU_BATCH
from clipseg_cli.storage import store
from shapes.markdown import table

WIDTH, HEIGHT = 640, 480
BUDGET = 400.0  # seconds: after that, no other contender starts
COMPARED = 48  # images whose masks are compared with those of the CPU
LONGEST = 15.0  # seconds of a run of clipseg, if the encoder were all of it
LEAST_IMAGES = 16  # of such a run
LEAST = 0.5  # seconds that a measurement of the network lasts
STAGED = 64  # images whose stages are timed
# prompts, contender, flags, and by how much fewer images it gets than clipseg: each should run for ten seconds or more
RUNS: tuple[tuple[int, str, tuple[str, ...], int], ...] = (
    (1, "baseline", (), 80),
    (1, "optimised", (), 10),
    (1, "clipseg", (), 1),
    (1, "clipseg", ("-j", "1"), 2),
    (1, "clipseg", ("-b", "64"), 1),
    (8, "optimised", (), 40),
    (8, "clipseg", (), 4),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, and where."""

    model: Path
    images: Path
    count: int  # images of a run of clipseg with one prompt
    device: str
    begun: float = field(default_factory=time.monotonic)

    def run(self, prompts: int, name: str, flags: Sequence[str], part: int, out: Path) -> Timing | None:
        """Runs a contender, which prints a line per image, to its end. None: there is no time left."""
        if time.monotonic() - self.begun > BUDGET:
            return None
        count, texts = str(max(8, self.count // part)), PROMPTS[:prompts]
        if name == "clipseg":
            command = clipseg(self.model, self.images, out, texts, "auto")
            return run([*command, "--device", self.device, "--limit", count, *flags], PATH)
        command = script({"baseline": "baseline.py", "optimised": "optimised_gpu.py"}[name])(
            self.model, self.images, out, texts
        )
        return run(command, {"DEVICE": self.device, "LIMIT": count})

    def rates(self, out: Path) -> tuple[str, dict[int, float]]:
        """Returns the table of whole runs, and images per second of clipseg by the number of prompts."""
        rows, rates, optimised = [], dict[int, float](), 0.0
        for number, (prompts, name, flags, part) in enumerate(RUNS):
            timing = self.run(prompts, name, flags, part, out / str(number))
            rate = 0.0 if timing is None else steady_rate(timing)
            optimised = rate if name == "optimised" else optimised
            if name == "clipseg":
                rates.setdefault(prompts, rate)
            measured = ("no time left", "", "") if timing is None else (
                f"{rate:.1f}", f"{rate / optimised:.1f}" if optimised else "", f"{timing.memory / 1e9:.1f}"
            )  # fmt: skip
            rows.append((str(prompts), " ".join((name, *flags)), *measured))
        return table(
            ("prompts", "contender", "images per second", "vs optimised", "memory of a process, GB"), rows
        ), rates

    def overlap(self, out: Path) -> str:
        """Returns a sentence about the masks of the device and those of the CPU in fp32."""
        count, prompts = min(COMPARED, self.count), PROMPTS[:2]
        for name, flags in (("cpu", ("--device", "cpu", "--dtype", "fp32")), ("device", ("--device", self.device))):
            run([*clipseg(self.model, self.images, out / name, prompts), *flags, "--limit", str(count)], PATH)
        iou = total_iou(out / "cpu/masks", out / "device/masks")
        return f"IoU of {count * len(prompts)} masks with those of the CPU in fp32: {iou:.4f}."

    def network(self, batch: int) -> dict[str, Any]:
        """Returns the measurements of `network.py` for batches of one size."""
        command = [str(HERE / "network.py"), str(self.model), str(LEAST / 5), self.device, str(batch)]
        measured: dict[str, Any] = json.loads(run(command, PATH).lines[-1])
        return measured


def steady_rate(timing: Timing) -> float:
    """Returns lines per second after the first third, while processes start."""
    first = len(timing.stamps) // 3
    return (len(timing.stamps) - 1 - first) / (timing.stamps[-1] - timing.stamps[first])


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage costs, while nothing else runs."""

    name: str
    on: str  # "core", "device"
    seconds: float  # of an image
    prompts: tuple[int, int]  # how often a run with 1 prompt does it for an image, and one with 8


def stages(bench: Bench, segmenter: Segmenter, out: Path) -> list[Stage]:
    """Returns the stages of an image. They follow one another here, on one thread; in a run they overlap."""
    sources = [*discover(InputOptions((str(bench.images),), limit=min(STAGED, bench.count)), None)]
    embeddings, n = segmenter.embed(PROMPTS), segmenter.batch if segmenter.batch > 1 else 4
    options, threshold, all_sources = DecodeOptions(), float(THRESHOLD), len(sources)
    photos = [decode.load(source, options).pixels for source in sources]
    small = [segmenter.resize(photo) for photo in (photos * n)[:n]]
    pixels = segmenter.pixels(small)
    passes = segmenter.encode(pixels).tensor.split(segmenter.batch)
    on_device = torch.from_numpy(embeddings.values).to(segmenter.device)
    logits = segmenter.logits(segmenter.encode(pixels), embeddings[:1])
    soft = soft_maps.LogitMap(logits[0, 0], photos[0].shape[:2])
    sent, mask = to_device(torch.from_numpy(logits), segmenter.device), soft.cut(threshold)
    data = raster.mask_png(mask)

    def decoded(prompts: int) -> None:
        for each in passes:
            segmenter.network.decode(each, on_device[:prompts])

    def scored() -> None:
        probability = soft_maps.sigmoid(soft.logits)
        probability.max(), probability.mean(), soft_maps.presence(soft.logits)

    def stage(name: str, on: str, work: Callable[[], object], images: int, prompts: tuple[int, int]) -> Stage:
        seconds_per_call(work, 0.0, segmenter.device)  # warms up
        return Stage(name, on, seconds_per_call(work, LEAST / 2, segmenter.device) / images, prompts)

    return [
        stage("read, decode", "core", lambda: [decode.load(each, options) for each in sources], all_sources, (1, 1)),
        stage("resize", "core", lambda: [segmenter.resize(photo) for photo in photos], all_sources, (1, 1)),
        stage("send and normalise", "device", lambda: segmenter.pixels(small), n, (1, 1)),
        stage("encode", "device", lambda: segmenter.encode(pixels), n, (1, 1)),
        stage("decode 1 prompt", "device", lambda: decoded(1), n, (1, 0)),
        stage("decode 8 prompts", "device", lambda: decoded(8), n, (0, 1)),
        stage("take back the logits of a prompt", "device", lambda: to_host(sent), n, (1, 8)),
        stage("scores of a mask", "core", scored, 1, (1, 8)),
        stage("cut a mask", "core", lambda: soft.cut(threshold), 1, (1, 8)),
        stage("encode a mask as PNG", "core", lambda: raster.mask_png(mask), 1, (1, 8)),
        stage("write a file", "core", lambda: store.write(out / "mask.png", data, False), 1, (1, 8)),
    ]  # fmt: skip


def busy(found: Sequence[Stage], rate: float, many: bool, devices: int) -> str:
    """Returns a sentence on how busy device and cores are in a run of so many images per second."""
    total = {on: sum(each.seconds * each.prompts[many] for each in found if each.on == on) for on in ("device", "core")}
    shares = {
        on: rate * seconds / count for (on, seconds), count in zip(total.items(), (devices, cores()), strict=True)
    }
    return (
        f"With {8 if many else 1} prompts: an image takes {total['device'] * 1000:.2f} ms of the device and "
        f"{total['core'] * 1000:.2f} ms of a core. In the run, these fill {shares['device']:.0%} of the device's "
        f"time, which waits for the rest, and {shares['core']:.0%} of the cores' time, without what Python adds."
    )


def report(bench: Bench, out: Path) -> str:
    """Returns the measurements as Markdown."""
    networks = [(batch, bench.network(batch)) for batch in ((GPU_BATCH, 64) if bench.device != "cpu" else (4,))]
    head = (
        "batch",
        "dtype",
        "peak, TFLOP/s",
        "encoder, TFLOP/s",
        "share",
        "encoder, ms an image",
        "decoder, ms a prompt",
    )
    network = table(head, [
        (batch, m["dtype"], f"{m['peak'] / 1e12:.2f}", f"{m['encoder'] / 1e12:.2f}", f"{m['share']:.0%}",
         f"{m['encoder_ms']:.3f}", f"{m['decoder_ms']:.3f}")
        for batch, m in networks
    ])  # fmt: skip
    bound = max(1000 / measured["encoder_ms"] for _, measured in networks)
    bench = replace(bench, count=min(bench.count, max(LEAST_IMAGES, round(LONGEST * bound))))
    (runs, rates), overlap = bench.rates(out), bench.overlap(out)
    segmenter = Segmenter.load(str(bench.model), device=bench.device)
    found = stages(bench, segmenter, out)
    costs = table(("stage", "on", "ms"), [(each.name, each.on, f"{each.seconds * 1000:.3f}") for each in found])
    card, memory, devices = "none", "", 1
    if segmenter.device.startswith("cuda"):
        devices = torch.cuda.device_count() if bench.device == "cuda" else 1
        card = f"{devices} x {torch.cuda.get_device_name(segmenter.device)}"
        memory = f" The stages took {torch.cuda.max_memory_reserved(segmenter.device) / 1e9:.1f} GB of its memory."
    waits = "\n".join(busy(found, rates[prompts], prompts > 1, devices) for prompts in rates if rates[prompts])
    return (
        f"## GPU: {card}\n\n{cores()} cores, torch {torch.__version__}, {WIDTH}x{HEIGHT} JPEG to mask PNG, "
        f"{bench.count} images, {time.monotonic() - bench.begun:.0f} s in all.{memory}\n\n"
        f"{runs}\n\n{network}\n\n{costs}\n\n{waits}\n\n{overlap}"
    )


def main() -> None:
    """Measures, and prints the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda: all GPUs; cuda:0; cpu")
    parser.add_argument("--images", type=int, default=16_000, help="at most, of a run of clipseg with one prompt")
    parser.add_argument("--tiny", action="store_true", help="a tiny network: checks that the benchmark works")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs/benchmark", help="folder of the inputs")
    words = parser.parse_args()
    words.work.mkdir(parents=True, exist_ok=True)
    model = inputs.checkpoint(words.work, "tiny" if words.tiny else "full")
    images = inputs.photographs(words.work, WIDTH, HEIGHT, words.images)
    out = Path(tempfile.mkdtemp(dir=words.work))
    try:
        print(report(Bench(model, images, words.images, words.device), out))
    finally:
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
