"""What one image costs, part by part, in the program's own functions: the inputs of the model in `scale.py`.

Each part is measured in a process of its own; those that run side by side in a real run do so here. What their sum
lacks of a real run is measured by a real run.
"""

import itertools
import json
import os
import resource
import tempfile
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.process import Timing, run
from clipseg_cli.inputs.discovery import discover
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import JOURNAL, MANIFEST, Ledger, Mask, Record
from clipseg_cli.run.workers import Notice, Notify
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions

PROMPT = "a red circle"
STAGED = 24  # images whose stages are looked at one by one, in each process
WARM = 8  # images before the clock starts
KNOWN = 50_000  # records of a manifest that a run finds
BATCH = 4  # the program's own on a CPU
ALONE = {"OMP_NUM_THREADS": "1"}  # as Ray sets for an actor of one CPU


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one image; seconds are of one core, while every core works."""

    load: float  # seconds to read and decode it
    resize: float
    encode: float
    decode: float  # of one prompt
    finish: float  # mask, overlay, their files, and the threads' own cost
    actor: float  # seconds to receive it and to send its record back
    driver: float  # seconds of the one driver to hand it out and take its record
    ledger: float  # seconds of the driver for its lines in manifest and journal
    walk: float  # seconds of the driver to find it
    read: float  # bytes
    written: float  # bytes
    files: float
    lines: float  # bytes of manifest and journal
    known: float  # bytes of the driver's memory when a run begins that finds its record
    worker: float  # bytes of physical memory of an actor, at most
    crowd: float = 0.0  # seconds that a real run on Ray takes more than the parts: caches, threads, Ray's own
    start: float = 0.0  # seconds of a run on Ray beside its images

    @property
    def work(self) -> float:
        """Seconds of an actor."""
        return self.load + self.resize + self.encode + self.decode + self.finish + self.actor + self.crowd

    @property
    def driven(self) -> float:
        """Seconds of the driver."""
        return self.driver + self.ledger + self.walk


def measure(pictures: Path, messages: int, count: int) -> Costs:
    """All of it, on as many cores as there are, with the bundled model; `crowd` by a run of `count` pictures."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(cores) as pool:
        parts = [f"costs.stages({str(pictures)!r}, {part}, {cores}, {place!r})" for part in range(cores)]
        each = [*pool.map(_told, parts)]
        found: dict[str, float] = {key: sum(one[key] for one in each) / cores for key in each[0]}
        found |= _told(f"costs.bookkeeping({str(pictures)!r}, {place!r})")
        found |= _told(f"costs.traffic({messages}, {cores})")
        real = ray_run(pictures_of(pictures, count), Path(place, "real"), cores)
    costs = Costs(**found)
    whole = cores * (real.stamps[-1] - real.stamps[count // 4]) / (count - 1 - count // 4)  # of the cores, an image
    crowd = whole - costs.work - costs.driven
    return replace(costs, crowd=crowd, start=real.total - count * whole / cores)


def ray_run(listed: str, out: Path, actors: int) -> Timing:
    """The program itself on a Ray of its own, on the images of a list of paths. It prints their records."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as paths:
        paths.write(listed)
        paths.flush()
        command = f"-m clipseg_cli segment --model shapes --engine ray -j {actors} --files-from {paths.name}".split()
        return run([*command, "-q", "--json", "-p", PROMPT, "-o", str(out)])


def pictures_of(folder: Path, count: int) -> str:
    """The first pictures of a folder, one path a line."""
    return "".join(f"{path}\n" for path in sorted(folder.iterdir())[:count])


def _told(call: str) -> dict[str, float]:
    """What a function of this file measured in a process of its own."""
    told = run(["-c", f"from benchmarks import costs; {call}"], ALONE).lines[-1]
    return {key: float(value) for key, value in json.loads(told).items()}


def stages(folder: str, part: int, of: int, out: str) -> None:
    """Prints the costs of loading, of the network and of what follows, for every `of`-th picture."""
    from clipseg_cli.inputs import decode
    from clipseg_cli.model.segmenter import Segmenter
    from clipseg_cli.prompts.text import Prompt
    from clipseg_cli.run import pipeline
    from clipseg_cli.run.finish import MaskPlan
    from clipseg_cli.storage import store

    sources = [*discover(InputOptions((folder,)), None)][part::of]
    segmenter = Segmenter.load("shapes", device="cpu")
    embeddings = segmenter.embed([PROMPT])
    spent = dict.fromkeys(("load", "resize", "encode", "decode"), 0.0)

    def timed(name: str, begun: float) -> None:
        spent[name] += time.process_time() - begun

    for index, source in enumerate(sources[: WARM + STAGED]):
        if index == WARM:
            spent = dict.fromkeys(spent, 0.0)
        begun = time.process_time()
        pixels = decode.load(source, max_pixels=10**9).pixels
        timed("load", begun)
        begun = time.process_time()
        small = segmenter.resize(pixels)
        timed("resize", begun)
        begun = time.process_time()
        features = segmenter.encode([small])
        timed("encode", begun)
        begun = time.process_time()
        segmenter.logits(features, embeddings)
        timed("decode", begun)
    costs = {name: seconds / STAGED for name, seconds in spent.items()}

    sizes: list[int] = []

    def write(path: str, data: bytes) -> None:
        store.write(Path(out, path), data)
        sizes.append(len(data))

    plan = MaskPlan((Prompt(PROMPT, PROMPT),), (segmenter.threshold,), MaskOptions(), ("mask", "overlay"))
    job = pipeline.Job(plan, (0,), (PROMPT,), BATCH, max_pixels=10**9)
    records = pipeline.run(sources, job, lambda: (segmenter, embeddings), write)
    for _ in itertools.islice(records, WARM):
        pass
    begun, count = time.process_time(), len(sources) - WARM
    assert all(record.ok for record in records)
    whole = (time.process_time() - begun) / count
    read = sum(os.path.getsize(source.path) for source in sources) / len(sources)
    costs |= {"finish": whole - sum(costs.values()), "read": read, "written": sum(sizes) / len(sources)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(costs | {"files": len(sizes) / len(sources), "worker": peak}))


def sample(source: Source) -> Record:
    """A record as an image with one mask and an overlay has it."""
    path, overlay = f"masks/a-red-circle/{source.output}.png", f"overlays/{source.output}.jpg"
    mask = Mask(PROMPT, PROMPT, 0.5, 0.9321, 0.1234, 10233, 0.033311, (12, 40, 200, 310), 0.8765, path)
    sizes = ((path, 4321), (overlay, 87654))
    whole = Record(source.name, 640, 480, "JPEG", masks=(mask,), overlay=overlay, outputs=sizes)
    return replace(whole, identity=[123456, 1_790_000_000_000_000_000])


def bookkeeping(folder: str, place: str) -> None:
    """Prints the driver's costs of finding images, of their lines in the manifest, and of remembering them."""
    begun, count = time.process_time(), 0
    for _ in range(10):
        count += sum(1 for _ in discover(InputOptions((folder,)), None))
    walk = (time.process_time() - begun) / count
    out = Path(place, "ledger")
    out.mkdir()
    records = [sample(Source(f"imgs/{index:09}.jpg", f"imgs/{index:09}.jpg", f"{index:09}")) for index in range(2000)]
    begun = time.process_time()
    with Ledger(out) as ledger:
        for record in records:
            ledger.add(record)
    added = (time.process_time() - begun) / len(records)
    lines = ((out / MANIFEST).stat().st_size + (out / JOURNAL).stat().st_size) / len(records)
    for name in (MANIFEST, JOURNAL):
        text = (out / name).read_text().splitlines()
        more = (line.replace("000", f"{copy:03}", 1) for copy in range(KNOWN // len(text)) for line in text)
        (out / name).write_text("".join(f"{line}\n" for line in more))
    tracemalloc.start()
    with Ledger(out) as ledger:
        known = tracemalloc.get_traced_memory()[0] / len(ledger.known)
    print(json.dumps({"walk": walk, "ledger": added, "lines": lines, "known": known}))


def echo(sources: Iterable[Source], tell: Notify) -> Iterator[Record]:
    """Work that is none: the record tells the process and, in microseconds, the time that it has used."""
    tell(Notice("echo"))
    for source in sources:
        yield replace(sample(source), width=os.getpid(), height=int(time.process_time() * 1e6))


def traffic(count: int, actors: int) -> None:
    """Prints what it costs to send images to actors and to have their records back."""
    import ray

    from clipseg_cli.run import ray_actors

    ray.init("local", include_dashboard=False, log_to_driver=False, object_store_memory=ray_actors.STORE)
    sources = (Source(f"imgs/{index:09}.jpg", f"imgs/{index:09}.jpg", f"{index:09}") for index in range(count))
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    begun = 0.0
    for number, record in enumerate(ray_actors.run(sources, [echo] * actors, lambda news: None, 8 * BATCH)):
        if number == count // 4:
            begun = time.process_time()
            first = {}
        first.setdefault(record.width, record.height)
        last[record.width] = record.height
    driver = (time.process_time() - begun) / (count - count // 4)
    used = sum(last[pid] - first[pid] for pid in first) / 1e6 / (count - count // 4)
    ray.shutdown()
    print(json.dumps({"driver": driver, "actor": used}))


def as_rows(costs: Costs) -> list[tuple[str, Any]]:
    """The table of costs: what, and how much."""
    ms = 1000
    return [
        ("read and decode, ms", f"{costs.load * ms:.2f}"),
        ("resize, ms", f"{costs.resize * ms:.2f}"),
        ("encode, ms", f"{costs.encode * ms:.2f}"),
        ("decode one prompt, ms", f"{costs.decode * ms:.2f}"),
        ("mask, overlay, files, threads, ms", f"{costs.finish * ms:.2f}"),
        ("messages, actor's side, ms", f"{costs.actor * ms:.2f}"),
        ("beside another, on Ray, ms", f"{costs.crowd * ms:.2f}"),
        ("**a worker in all, ms**", f"**{costs.work * ms:.2f}**"),
        ("walk, driver, ms", f"{costs.walk * ms:.3f}"),
        ("schedule and messages, driver, ms", f"{costs.driver * ms:.2f}"),
        ("manifest and journal, driver, ms", f"{costs.ledger * ms:.2f}"),
        ("**the driver in all, ms**", f"**{costs.driven * ms:.2f}**"),
        ("read, kB", f"{costs.read / 1e3:.1f}"),
        ("written, kB", f"{costs.written / 1e3:.1f}"),
        ("files written", f"{costs.files:.0f}"),
        ("manifest and journal, bytes", f"{costs.lines:.0f}"),
        ("memory of the driver when a run finds its record, bytes", f"{costs.known:.0f}"),
        ("memory of a worker, MB", f"{costs.worker / 1e6:.0f}"),
        ("a run's start and end on Ray, s", f"{costs.start:.1f}"),
    ]
