"""Predicts how long many images take on many machines, from measured costs, and compares it with a real run.

`python -m benchmarks.scale` measures the costs (`costs.py`) on 400 images, predicts a run of 2,000 images on a local
Ray, makes that run, and prints the tables; `--write` puts them into docs/scale.md. It takes about five minutes, in
which the machine should do nothing else.
"""

import argparse
import heapq
import os
import random
import shutil
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.costs import BATCH, Costs, as_rows, first_images, measure, ray_run
from benchmarks.inputs import photographs
from shapes.markdown import replace_section, table

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scale.md"
AHEAD = 8 * BATCH  # images that an actor has in its queue, as in a run of `clipseg`
RD64 = 2 * 0.2614, 2 * 0.0064  # core seconds of rd64-refined's encoder and decoder: RESULTS.md, times two threads
ACTORS = (2, 16, 128, 1024, 4096)  # with one core each
MIN_SIMULATED = 50_000  # images
HOUR = 3600.0  # seconds
NETWORK = 1.25e9  # bytes per second: 10 Gbit/s
GETS, PUTS = 5500, 3500  # requests per second that S3 guarantees for one prefix of a bucket


@dataclass(frozen=True, slots=True)
class Cluster:
    """A driver with its actors, and how often an actor fails."""

    actors: int
    work: float  # seconds of an actor per image
    driven: float  # seconds of the driver per image
    restart: float = 0.0  # seconds until a failed actor is replaced
    failures: float = 0.0  # of an actor, per second of work


def simulate(cluster: Cluster, images: int, seed: int = 0) -> list[float]:
    """Simulates a run; returns when the driver has received each record, in seconds from the start.

    The driver sends an image to an actor for each record that it receives from it, so that at most AHEAD images are in
    an actor's queue. If an actor fails, the images in its queue are done again.
    """
    rng = random.Random(seed)
    driver, left = 0.0, images  # when the driver is idle; images that it has not sent yet
    idle = [0.0] * cluster.actors  # when an actor has done the images in its queue
    records: list[tuple[float, int]] = []

    def send(actor: int) -> None:
        nonlocal driver, left
        left -= 1
        driver += cluster.driven / 2
        idle[actor] = max(idle[actor], driver) + cluster.work
        if cluster.failures and rng.random() < cluster.failures * cluster.work:
            idle[actor] += cluster.restart + AHEAD * cluster.work
        heapq.heappush(records, (idle[actor], actor))

    for _ in range(AHEAD):
        for actor in range(cluster.actors):
            if left:
                send(actor)
    received = []
    while records:
        done, actor = heapq.heappop(records)
        driver = max(driver, done) + cluster.driven / 2
        received.append(driver)
        if left:
            send(actor)
    return received


def rate(cluster: Cluster, images: int) -> float:
    """Returns the images per second in the middle of a run."""
    received = simulate(cluster, images)
    return 0.6 * images / (received[int(0.8 * images) - 1] - received[int(0.2 * images) - 1])


def predict(costs: Costs, images: int, cores: int) -> float:
    """Returns the seconds of a run on this machine, with an actor per core; the driver shares the cores with them."""
    return costs.start + simulate(Cluster(cores, costs.work + costs.driven, costs.driven), images)[-1]


def with_rd64(costs: Costs) -> Costs:
    """Returns the costs with the network of rd64-refined in place of the bundled model's."""
    return replace(costs, encode=RD64[0], decode=RD64[1])


def core_hours(costs: Costs, images: float) -> float:
    """Returns the core hours for a number of images."""
    return images * (costs.work + costs.driven) / HOUR


def machine_hours(models: dict[str, Costs]) -> str:
    """Returns the table of the costs of a million and a billion images, by model."""
    rows = [
        [name, f"{1 / (each.work + each.driven):.2f}", *(f"{core_hours(each, count):,.0f}" for count in (1e6, 1e9))]
        + [f"{count * (each.read + each.written) / 1e12:,.2f}" for count in (1e6, 1e9)]
        for name, each in models.items()
    ]
    head = [
        "model",
        "images per second and core",
        "10⁶: core hours",
        "10⁹: core hours",
        "10⁶: TB moved",
        "10⁹: TB moved",
    ]
    return table(head, rows)


def throughput(models: dict[str, Costs]) -> str:
    """Returns the table of images per second by the number of actors, also with one failure per actor and hour."""
    rows = []
    for actors in ACTORS:
        row: list[object] = [f"{actors:,}"]
        for costs in models.values():
            images = max(MIN_SIMULATED, 4 * AHEAD * actors)
            stable = Cluster(actors, costs.work, costs.driven)
            failing = replace(stable, restart=costs.start, failures=1 / HOUR)
            full = rate(stable, images)
            row += [f"{full:,.1f}", f"{full * costs.driven:.0%}", f"{rate(failing, images):,.1f}"]
        rows.append(row)
    head = [cell for name in models for cell in (f"{name}: images/s", "driver busy", "with failures")]
    return table(["actors", *head], rows)


def limits(costs: Costs) -> str:
    """Returns the table of what each resource allows: images per second, or what a million images need of it."""
    around = costs.load + costs.resize + costs.finish + costs.actor + costs.contention
    rows = [
        ["one driver", f"{1 / costs.driven:,.0f} images/s"],
        ["10 Gbit/s of one machine", f"{NETWORK / (costs.read + costs.written):,.0f} images/s"],
        ["one prefix of S3: one GET per image", f"{GETS:,} images/s"],
        [f"one prefix of S3: {costs.files:.0f} PUTs per image", f"{PUTS / costs.files:,.0f} images/s"],
        ["one CPU core beside a fast GPU: decode, resize, masks, files", f"{1 / around:,.1f} images/s"],
        ["find 10⁶ images on a local disk", f"{1e6 * costs.walk:,.0f} s"],
        ["manifest and journal of 10⁶ images", f"{1e6 * costs.lines / 1e9:,.2f} GB"],
        ["memory of a driver that resumes 10⁶ records", f"{1e6 * costs.known / 1e9:,.2f} GB"],
    ]
    return table(["resource", "limit"], rows)


def report(costs: Costs, images: int, measured: float | None) -> str:
    """Returns the figures section of docs/scale.md. measured: seconds of the real run."""
    cores = os.cpu_count() or 1
    predicted = predict(costs, images, cores)
    words = f"Measured on {datetime.now(UTC):%Y-%m-%d}, {cores} cores, 640x480 JPEG, one prompt, bundled model."
    if measured is not None:
        words += (
            f" A run of {images:,} images on a local Ray with {cores} actors: predicted {predicted:.1f} s, measured "
            f"{measured:.1f} s, {predicted / measured - 1:+.1%}."
        )
    models = {"shapes": costs, "rd64-refined": with_rd64(costs)}
    sections = [words, table(["per image", "cost"], as_rows(costs)), machine_hours(models)]
    return "\n\n".join([*sections, throughput(models), limits(costs)])


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="of the run that is predicted (default: 2000)")
    parser.add_argument("--calibration", type=int, default=400, help="images for measuring the costs (default: 400)")
    parser.add_argument("--messages", type=int, default=8000, help="records for measuring messages (default: 8000)")
    parser.add_argument(
        "--work", type=Path, default=HERE.parent / "runs" / "benchmark", help="folder for the inputs, which are reused"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    few, many = (photographs(arguments.work, 640, 480, count) for count in (arguments.calibration, arguments.images))
    costs = measure(few, arguments.messages, arguments.calibration)
    sys.stderr.write(f"{costs}\npredicted: {predict(costs, arguments.images, cores):.1f} s\n")
    out = arguments.work / "scale"
    shutil.rmtree(out, ignore_errors=True)
    measured = ray_run(first_images(many, arguments.images), out, cores).total
    text = report(costs, arguments.images, measured)
    if arguments.write:
        replace_section(PAGE, text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
