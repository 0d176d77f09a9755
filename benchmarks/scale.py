"""How long many images take on many machines: a model with measured costs, and its test against a real run.

`python -m benchmarks.scale` measures the costs (`costs.py`) on 400 images, predicts a run of 2,000 on a local Ray,
makes that run, and prints the tables; `--write` puts them into docs/scale.md. Some minutes; leave the machine alone.
"""

import argparse
import heapq
import os
import random
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.costs import BATCH, Costs, as_rows, measure, pictures_of, ray_run
from benchmarks.material import pictures

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "scale.md"
AHEAD = 8 * BATCH  # images that an actor has in hand, as the program sends them
CLIP = 2 * 0.2614, 2 * 0.0064  # core seconds of rd64-refined's encoder and decoder: RESULTS.md, times its two threads
ACTORS = (2, 16, 128, 1024, 4096)  # of one core each
SIMULATED = 50_000  # images, at least
HOUR = 3600.0
NETWORK = 1.25e9  # bytes a second of a machine with 10 Gbit/s
GETS, PUTS = 5500, 3500  # requests a second that S3 promises for one prefix of a bucket


@dataclass(frozen=True, slots=True)
class Cluster:
    """Actors, and how often they are lost."""

    actors: int
    pace: float  # seconds of an actor for an image
    driven: float  # seconds of the driver for an image
    restart: float = 0.0  # seconds until another takes the place of a lost one
    losses: float = 0.0  # of an actor, a second of work


def simulate(cluster: Cluster, images: int, seed: int = 0) -> list[float]:
    """When the driver has each record, in seconds from the first image that it hands out, event by event.

    One driver sends images, each to the actor with the fewest, and takes records; an actor has at most AHEAD in hand.
    Where an actor is lost, what it had in hand is done again.
    """
    rng = random.Random(seed)
    driver, left = 0.0, images  # when the driver is free; images that it has not handed out
    until = [0.0] * cluster.actors  # when an actor has done what it has in hand
    records: list[tuple[float, int]] = []

    def send(actor: int) -> None:
        nonlocal driver, left
        left -= 1
        driver += cluster.driven / 2
        until[actor] = max(until[actor], driver) + cluster.pace
        if cluster.losses and rng.random() < cluster.losses * cluster.pace:
            until[actor] += cluster.restart + AHEAD * cluster.pace
        heapq.heappush(records, (until[actor], actor))

    for _ in range(AHEAD):
        for actor in range(cluster.actors):
            if left:
                send(actor)
    taken = []
    while records:
        done, actor = heapq.heappop(records)
        driver = max(driver, done) + cluster.driven / 2
        taken.append(driver)
        if left:
            send(actor)
    return taken


def rate(cluster: Cluster, images: int) -> float:
    """Images a second in the middle of a run."""
    taken = simulate(cluster, images)
    return 0.6 * images / (taken[int(0.8 * images) - 1] - taken[int(0.2 * images) - 1])


def here(costs: Costs, images: int, cores: int) -> float:
    """Seconds of a whole run on this machine, whose cores are shared by an actor each and the driver."""
    return costs.start + simulate(Cluster(cores, costs.work + costs.driven, costs.driven), images)[-1]


def of_clip(costs: Costs) -> Costs:
    """With the network of rd64-refined in place of the bundled one."""
    return replace(costs, encode=CLIP[0], decode=CLIP[1])


def hours(costs: Costs, images: float) -> float:
    """Core hours."""
    return images * (costs.work + costs.driven) / HOUR


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def machine_hours(models: dict[str, Costs]) -> str:
    """What a million and a billion images cost."""
    rows = [
        [name, f"{1 / (each.work + each.driven):.2f}", *(f"{hours(each, count):,.0f}" for count in (1e6, 1e9))]
        + [f"{count * (each.read + each.written) / 1e12:,.2f}" for count in (1e6, 1e9)]
        for name, each in models.items()
    ]
    head = ["model", "images a second and core", "10⁶: core hours", "10⁹: core hours", "10⁶: TB moved", "10⁹: TB moved"]
    return table(head, rows)


def growth(models: dict[str, Costs]) -> str:
    """Images a second of one driver, by the number of its actors; also where every actor is lost once an hour."""
    rows = []
    for actors in ACTORS:
        row: list[object] = [f"{actors:,}"]
        for costs in models.values():
            images = max(SIMULATED, 4 * AHEAD * actors)
            whole = Cluster(actors, costs.work, costs.driven)
            lossy = replace(whole, restart=costs.start, losses=1 / HOUR)
            full = rate(whole, images)
            row += [f"{full:,.1f}", f"{full * costs.driven:.0%}", f"{rate(lossy, images):,.1f}"]
        rows.append(row)
    head = [cell for name in models for cell in (f"{name}: images/s", "driver busy", "with losses")]
    return table(["actors", *head], rows)


def limits(costs: Costs) -> str:
    """Where each resource ends, in images a second, or what 10⁶ images take of it."""
    around = costs.load + costs.resize + costs.finish + costs.actor + costs.crowd
    rows = [
        ["one driver", f"{1 / costs.driven:,.0f} images/s"],
        ["10 Gbit/s of one machine", f"{NETWORK / (costs.read + costs.written):,.0f} images/s"],
        ["one prefix of S3: one GET an image", f"{GETS:,} images/s"],
        [f"one prefix of S3: {costs.files:.0f} PUTs an image", f"{PUTS / costs.files:,.0f} images/s"],
        ["a core around a fast GPU: decode, resize, masks, files", f"{1 / around:,.1f} images/s"],
        ["finding 10⁶ images on a local disk", f"{1e6 * costs.walk:,.0f} s"],
        ["manifest and journal of 10⁶ images", f"{1e6 * costs.lines / 1e9:,.2f} GB"],
        ["memory of a driver that finds 10⁶ records", f"{1e6 * costs.known / 1e9:,.2f} GB"],
    ]
    return table(["resource", "ends at"], rows)


def report(costs: Costs, images: int, measured: float | None) -> str:
    """Everything, as it stands in docs/scale.md."""
    cores = os.cpu_count() or 1
    predicted = here(costs, images, cores)
    words = f"Measured on {datetime.now(UTC):%Y-%m-%d}, {cores} cores, 640x480 JPEG, one prompt, bundled model."
    if measured is not None:
        words += (
            f" A run of {images:,} images on a local Ray with {cores} actors: predicted {predicted:.1f} s, measured "
            f"{measured:.1f} s, {predicted / measured - 1:+.1%}."
        )
    models = {"shapes": costs, "rd64-refined": of_clip(costs)}
    parts = [words, table(["of one image", "cost"], as_rows(costs)), machine_hours(models)]
    return "\n\n".join([*parts, growth(models), limits(costs)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="of the run that is predicted")
    parser.add_argument("--calibration", type=int, default=400, help="images that the costs are measured on")
    parser.add_argument("--messages", type=int, default=8000, help="records that actors without work send")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "benchmark", help="where material is kept")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    few, many = (pictures(given.work, 640, 480, count) for count in (given.calibration, given.images))
    costs = measure(few, given.messages, given.calibration)
    sys.stderr.write(f"{costs}\npredicted: {here(costs, given.images, cores):.1f} s\n")
    out = given.work / "scale"
    shutil.rmtree(out, ignore_errors=True)
    measured = ray_run(pictures_of(many, given.images), out, cores).total
    text = report(costs, given.images, measured)
    if given.write:
        from shapes.evaluate import put

        put(PAGE, text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
