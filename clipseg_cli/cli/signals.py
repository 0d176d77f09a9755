"""Handles SIGINT, SIGTERM and SIGHUP: the first signal ends the run cleanly, a second one at once."""

import os
import signal
import threading
from typing import NoReturn

from clipseg_cli.cli import streams

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
DEADLINE = 4.0  # seconds to end cleanly after a signal: a hanging decoder must not block the exit


class Closed(SystemExit):
    """The normal end of a command that runs until a signal comes: there is nothing to resume."""


def install() -> None:
    """Installs the handlers in this process."""
    _handle(_stop)


def _handle(handler: object) -> None:
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)  # type: ignore[arg-type]


def _stop(number: int, frame: object) -> None:
    _handle(lambda again, _: os._exit(128 + again))
    deadline = threading.Timer(DEADLINE, leave, [128 + number])
    deadline.daemon = True
    deadline.start()
    raise SystemExit(128 + number)


def leave(code: int) -> NoReturn:
    """Ends the process without waiting for its threads, since a thread may hang."""
    try:
        streams.tell("clipseg: interrupted; run the same command again to resume\n")
        streams.write("")
    finally:  # also if stdout cannot be written
        os._exit(code)
