"""Work for workers, as `engines` takes it: no network, and deaths by name. Workers import it by its name."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipseg_cli.errors import OutputError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import Record
from clipseg_cli.run.workers import Notice, Progress, Send


def work(sources: Iterable[Source], send: Send) -> Iterator[Record]:
    """A record a source; holds a few back until it must give them, as the pipeline does. Names say what happens:
    `kill` and `crash` end the process, `once` does so the first time, `full` ends the run, `slow` takes a minute,
    `stuck` never loads."""
    send(Notice("at work", {"worker": "told"}))
    held: list[Record] = []
    for source in sources:
        print("a library that prints")
        send(Progress(source.name, "load"))
        if "stuck" in source.name:
            threading.Event().wait()
        send(Progress(source.name, "mask"))
        if "kill" in source.name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "crash" in source.name:
            os.abort()
        if "wrong" in source.name:
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
    """A parent that a test may kill: does `slow` images with two workers, telling their process numbers first."""
    from clipseg_cli.run.processes import run

    sources = [Source("x", name, "x") for name in sys.argv[1:]]
    for record in run(sources, [work, work], lambda news: None, 8):
        print(record.image, record.width, flush=True)


if __name__ == "__main__":
    sys.modules["hands"] = sys.modules["__main__"]
    work.__module__ = "hands"
    main()
