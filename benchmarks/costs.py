"""Measures what one image costs, part by part, in the program's own functions: the inputs of the model in `scale.py`.

Each part is measured in a separate process. Parts that run in parallel in a real run do so here too. A real run on Ray
takes longer than the sum of its parts; the difference is measured with such a run.
"""

import itertools
import json
import os
import resource
import tempfile
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.process import Timing, run
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.ledger import Ledger
from clipseg_cli.outputs.manifest import JOURNAL, MANIFEST
from clipseg_cli.outputs.record import Mask, Record
from clipseg_cli.run.engines.workers import Notice, Notify
from clipseg_cli.settings.inputs import DecodeOptions, InputOptions
from clipseg_cli.settings.masks import MaskOptions

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

PROMPT = "a red circle"
STAGED = 24  # images whose stages are timed one by one, in each process
WARM = 8  # images before timing starts
RECORDS = 2000  # written to a manifest
KNOWN = 50_000  # records in a manifest that a run resumes
BATCH = 4  # images; the default of `clipseg` on a CPU
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # Ray sets this for an actor with one CPU


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one image. Seconds are those of one core while all cores are busy."""

    load: float  # seconds to read and decode the file
    resize: float
    encode: float
    decode: float  # of one prompt
    finish: float  # mask, overlay, their files, and the overhead of threads
    actor: float  # seconds of the actor to receive the image's name and to send its record
    driver: float  # seconds of the driver to send the name and to receive the record
    ledger: float  # seconds of the driver for the lines in manifest and journal
    walk: float  # seconds of the driver to find the file
    read: float  # bytes
    written: float  # bytes
    files: float
    lines: float  # bytes in manifest and journal
    known: float  # bytes of the driver's memory per record when a run is resumed
    worker: float  # peak physical memory of an actor in bytes
    contention: float = 0.0  # seconds of a real run on Ray beyond the parts: shared caches, threads, Ray itself
    start: float = 0.0  # seconds per run on Ray, to start and to end

    @property
    def work(self) -> float:
        """Seconds of an actor, in total."""
        return self.load + self.resize + self.encode + self.decode + self.finish + self.actor + self.contention

    @property
    def driven(self) -> float:
        """Seconds of the driver, in total."""
        return self.driver + self.ledger + self.walk


def measure(images: Path, messages: int, count: int) -> Costs:
    """Returns the costs with the bundled model, measured on all cores.

    images: a folder. messages: records that actors without work send. count: images of the real run.
    """
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores) as pool:
        calls = [f"stages({str(images)!r}, {part}, {cores}, {folder!r})" for part in range(cores)]
        per_core = [*pool.map(_in_process, calls)]
        measured: dict[str, float] = {key: sum(each[key] for each in per_core) / cores for key in per_core[0]}
        measured |= _in_process(f"bookkeeping({str(images)!r}, {folder!r})")
        measured |= _in_process(f"messaging({messages}, {cores})")
        real = ray_run(first_images(images, count), Path(folder, "real"), cores)
    costs = Costs(**measured)
    first = count // 4
    per_image = cores * (real.stamps[-1] - real.stamps[first]) / (count - 1 - first)  # seconds of a core
    contention = per_image - costs.work - costs.driven
    return replace(costs, contention=contention, start=real.total - count * per_image / cores)


def ray_run(listed: str, out: Path, actors: int) -> Timing:
    """Runs `clipseg segment` on a local Ray. It prints one record per image. listed: paths, one per line."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as paths:
        paths.write(listed)
        paths.flush()
        command = f"-m clipseg_cli segment --model shapes --engine ray -j {actors} --files-from {paths.name}".split()
        return run([*command, "-q", "--json", "-p", PROMPT, "-o", str(out)])


def first_images(folder: Path, count: int) -> str:
    """Returns the first paths of a folder, one per line."""
    return "".join(f"{path}\n" for path in sorted(folder.iterdir())[:count])


def _in_process(call: str) -> dict[str, float]:
    """Calls a function of this module in a new process with one thread; returns its measurements."""
    code = f"import json; from benchmarks import costs; print(json.dumps(costs.{call}))"
    printed = run(["-c", code], ONE_THREAD).lines[-1]
    return {key: float(value) for key, value in json.loads(printed).items()}


def stages(folder: str, part: int, parts: int, out: str) -> dict[str, float]:
    """Measures every `parts`-th image: the stages up to the decoder one by one, the rest in a run of the pipeline."""
    from clipseg_cli.model.segmenter import Segmenter

    sources = [*discover(InputOptions((folder,)), None)][part::parts]
    segmenter = Segmenter.load("shapes", device="cpu")
    costs = network_stages(sources[: WARM + STAGED], segmenter)
    whole, sizes = pipeline_run(sources, segmenter, Path(out))
    read = sum(os.path.getsize(source.path) for source in sources) / len(sources)
    costs |= {"finish": whole - sum(costs.values()), "read": read, "written": sum(sizes) / len(sources)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return costs | {"files": len(sizes) / len(sources), "worker": peak}


def network_stages(sources: Sequence[Source], segmenter: "Segmenter") -> dict[str, float]:
    """Returns the CPU seconds per image to load, resize, encode and decode it. The first WARM images do not count."""
    from clipseg_cli.inputs import decode

    embeddings = segmenter.embed([PROMPT])
    clocks: list[tuple[float, ...]] = []
    for source in sources:
        clock = [time.process_time()]
        pixels = decode.load(source, DecodeOptions(max_pixels=10**9)).pixels
        clock.append(time.process_time())
        small = segmenter.resize(pixels)
        clock.append(time.process_time())
        features = segmenter.encode([small])
        clock.append(time.process_time())
        segmenter.logits(features, embeddings)
        clocks.append((*clock, time.process_time()))
    means = np.diff(clocks[WARM:], axis=1).mean(0)
    return dict(zip(("load", "resize", "encode", "decode"), means.tolist(), strict=True))


def pipeline_run(sources: Sequence[Source], segmenter: "Segmenter", out: Path) -> tuple[float, list[int]]:
    """Runs the pipeline; returns its CPU seconds per image, without the first WARM ones, and the sizes of all files."""
    from clipseg_cli.prompts.text import Prompt
    from clipseg_cli.run import pipeline
    from clipseg_cli.run.finish import MaskPlan
    from clipseg_cli.run.job import Job
    from clipseg_cli.storage import store

    sizes: list[int] = []

    def write(path: str, data: bytes) -> None:
        store.write(out / path, data)
        sizes.append(len(data))

    plan = MaskPlan((Prompt(PROMPT, PROMPT),), (segmenter.threshold,), MaskOptions(), ("mask", "overlay"))
    job = Job(plan, (0,), (PROMPT,), BATCH, decoding=DecodeOptions(max_pixels=10**9))
    embeddings = segmenter.embed([PROMPT])
    records = pipeline.run(sources, job, lambda: (segmenter, embeddings), write)
    for _ in itertools.islice(records, WARM):
        pass
    begun = time.process_time()
    assert all(record.ok for record in records)
    return (time.process_time() - begun) / (len(sources) - WARM), sizes


def example_record(source: Source) -> Record:
    """Returns a record of an image with one mask and an overlay."""
    path, overlay = f"masks/a-red-circle/{source.output}.png", f"overlays/{source.output}.jpg"
    mask = Mask(
        PROMPT, PROMPT, 0.5, 0.9321, 0.1234, 10233, 0.033311, (12, 40, 200, 310), 0.8765, files=(("mask", path),)
    )
    sizes = ((path, 4321), (overlay, 87654))
    record = Record(
        source.name,
        640,
        480,
        "JPEG",
        masks=(mask,),
        files=(("overlay", overlay),),
        formats=("mask", "overlay"),
        outputs=sizes,
    )
    return replace(record, identity=[123456, 1_790_000_000_000_000_000])


def example_source(number: int) -> Source:
    """Returns a source whose file does not exist."""
    return Source(f"imgs/{number:09}.jpg", f"imgs/{number:09}.jpg", f"{number:09}")


def bookkeeping(folder: str, work: str, count: int = RECORDS, known_count: int = KNOWN) -> dict[str, float]:
    """Measures the driver: finding the images of `folder`, writing `count` records, resuming `known_count` records."""
    begun, images = time.process_time(), 0
    for _ in range(10):
        images += sum(1 for _ in discover(InputOptions((folder,)), None))
    walk = (time.process_time() - begun) / images
    out = Path(work, "ledger")
    out.mkdir()
    records = [example_record(example_source(number)) for number in range(count)]
    begun = time.process_time()
    with Ledger(out) as ledger:
        for record in records:
            ledger.add(record)
    added = (time.process_time() - begun) / count
    lines = ((out / MANIFEST).stat().st_size + (out / JOURNAL).stat().st_size) / count
    for name in (MANIFEST, JOURNAL):
        text = (out / name).read_text().splitlines()
        copies = (line.replace("000", f"{copy:03}", 1) for copy in range(known_count // len(text)) for line in text)
        (out / name).write_text("".join(f"{line}\n" for line in copies))
    tracemalloc.start()
    with Ledger(out) as ledger:
        known = tracemalloc.get_traced_memory()[0] / len(ledger.known)
    tracemalloc.stop()
    return {"walk": walk, "ledger": added, "lines": lines, "known": known}


def echo(sources: Iterable[Source], notify: Notify) -> Iterator[Record]:
    """Yields a record per source without any work. Its width is the process id, its height the CPU time used in µs."""
    notify(Notice("echo"))
    for source in sources:
        yield replace(example_record(source), width=os.getpid(), height=int(time.process_time() * 1e6))


def messaging(count: int, actors: int) -> dict[str, float]:
    """Measures the CPU seconds per image to send names to actors and to receive records, with `count` messages."""
    import ray

    from clipseg_cli.run.engines import ray_actors

    ray.init("local", include_dashboard=False, log_to_driver=False, object_store_memory=ray_actors.STORE)
    sources = map(example_source, range(count))
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    begun = 0.0
    for number, record in enumerate(ray_actors.run(sources, [echo] * actors, lambda notice: None, 8 * BATCH)):
        if number == count // 4:  # all actors have started
            begun = time.process_time()
            first = {}
        first.setdefault(record.width, record.height)
        last[record.width] = record.height
    driver = (time.process_time() - begun) / (count - count // 4)
    used = sum(last[pid] - first[pid] for pid in first) / 1e6 / (count - count // 4)
    ray.shutdown()
    return {"driver": driver, "actor": used}


def as_rows(costs: Costs) -> list[tuple[str, str]]:
    """Returns the rows of the table of costs."""
    ms = 1000
    return [
        ("read and decode, ms", f"{costs.load * ms:.2f}"),
        ("resize, ms", f"{costs.resize * ms:.2f}"),
        ("encode, ms", f"{costs.encode * ms:.2f}"),
        ("decode one prompt, ms", f"{costs.decode * ms:.2f}"),
        ("mask, overlay, files, threads, ms", f"{costs.finish * ms:.2f}"),
        ("messages of the actor, ms", f"{costs.actor * ms:.2f}"),
        ("contention on Ray, ms", f"{costs.contention * ms:.2f}"),
        ("**actor in total, ms**", f"**{costs.work * ms:.2f}**"),
        ("find the image, driver, ms", f"{costs.walk * ms:.3f}"),
        ("scheduling and messages, driver, ms", f"{costs.driver * ms:.2f}"),
        ("manifest and journal, driver, ms", f"{costs.ledger * ms:.2f}"),
        ("**driver in total, ms**", f"**{costs.driven * ms:.2f}**"),
        ("read, kB", f"{costs.read / 1e3:.1f}"),
        ("written, kB", f"{costs.written / 1e3:.1f}"),
        ("files written", f"{costs.files:.0f}"),
        ("manifest and journal, bytes", f"{costs.lines:.0f}"),
        ("memory of the driver per record of a resumed run, bytes", f"{costs.known:.0f}"),
        ("memory of an actor, MB", f"{costs.worker / 1e6:.0f}"),
        ("start and end of a run on Ray, s", f"{costs.start:.1f}"),
    ]
