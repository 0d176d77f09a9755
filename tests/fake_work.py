"""Work for workers without a network, which fails by the names of images. Worker processes import it by its name."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipseg_cli.errors import OutputError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines.workers import Notice, Progress, Send


def work(sources: Iterable[Source | None], send: Send) -> Iterator[Record]:
    """Yields a record per source, whose width is the process number. Like the pipeline, it holds a few records back.

    A name that contains `kill`, `crash` or `bug` ends the process; `once` does so the first time; `full` ends the run;
    `slow` takes a minute; `stuck` never loads.
    """
    send(Notice("at work", {"worker": "told"}))
    held: list[Record] = []
    for source in sources:
        if source is None:  # a pause
            yield from held
            held.clear()
            continue
        print("a library that prints")
        send(Progress(source.name, "load"))
        if "stuck" in source.name:
            threading.Event().wait()
        send(Progress(source.name, "mask"))
        if "kill" in source.name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "crash" in source.name:
            os.abort()
        if "bug" in source.name:
            raise RuntimeError("a bug")
        if "once" in source.name and not Path(source.path).exists():
            Path(source.path).touch()
            signal.raise_signal(signal.SIGSEGV)
        if "full" in source.name:
            raise OutputError("no space left")
        if "slow" in source.name:
            time.sleep(60)
        held.append(Record(source.name, width=os.getpid()))
        if len(held) > 3:
            yield held.pop(0)
    yield from held


def main() -> None:
    """Runs two workers as a main process that a test may kill. Prints each image and its worker's process number."""
    from clipseg_cli.run.engines import processes

    sources = [Source("x", name, "x") for name in sys.argv[1:]]
    for record in processes.run(sources, [work, work], lambda notice: None, 8):
        print(record.image, record.width, flush=True)


if __name__ == "__main__":
    sys.modules["fake_work"] = sys.modules["__main__"]
    work.__module__ = "fake_work"
    main()
