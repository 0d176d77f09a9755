"""The table of engines, and the engine without a worker."""

from typing import get_args

from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines import table as engines
from clipseg_cli.run.engines.workers import Notice, Progress, Send
from clipseg_cli.settings.run import Engine


def test_the_table_has_the_engines_of_the_command_line() -> None:
    """Every value of `--engine` is a key."""
    assert [*engines.ENGINES] == [*get_args(Engine)]


def test_inline_works_in_this_process() -> None:
    """One record per item in their order. An item that is a record keeps its place. Notices are passed on."""
    told: list[Notice] = []

    def work(sources: list[Source], send: Send) -> list[Record]:
        send(Progress("a", "load"))
        send(Notice("at work"))
        return [Record(source.name) for source in sources]

    items = [Record("a"), Source("b", "b", "b"), Record("c"), Source("d", "d", "d")]
    found = list(engines.inline(items, [work], told.append, 1))  # type: ignore[list-item]
    assert [record.image for record in found] == ["a", "b", "c", "d"] and told == [Notice("at work")] * 2
