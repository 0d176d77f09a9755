"""The engines, which carry out the work of a run. Every engine yields the same records and writes the same files."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines import processes, ray_actors
from clipseg_cli.run.engines.workers import Cluster, Notice, Notify, Work

# (items, works, notify, ahead, cluster): one record per item, in order, by one worker for each of `works`, each with
# at most `ahead` pending sources
Engine = Callable[[Iterable[Source | Record], Sequence[Work], Notify, int, Cluster], Iterator[Record]]

ENGINES: dict[str, Engine] = {"local": processes.run, "ray": ray_actors.run}


def inline(
    items: Iterable[Source | Record], works: Sequence[Work], notify: Notify, ahead: int, cluster: Cluster | None = None
) -> Iterator[Record]:
    """Yields one record per item, processed here, image by image: a single image need not wait for a worker's start."""
    for item in items:
        if isinstance(item, Record):
            yield item
        else:
            yield from works[0]([item], lambda message: notify(message) if isinstance(message, Notice) else None)
