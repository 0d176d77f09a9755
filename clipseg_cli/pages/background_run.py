"""Runs of `clipseg segment` that the live page starts, each in its own process.

The page stays responsive, and either process may end first.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

from clipseg_cli.outputs.record import readable_name

PATIENCE = 10.0  # seconds to wait for a run or a thread that was told to stop
STREAM_OPTIONS = ("--json", "--progress", "none")  # added to a run, so that its records can be counted


def is_run_of(document: dict[str, Any], command: list[str]) -> bool:
    """Returns whether a run.json is that of this command."""
    words = document.get("command")
    return isinstance(words, list) and [word for word in words if word not in STREAM_OPTIONS] == command


class Run:
    """A run of the program in its own process. `total` is the number of images."""

    def __init__(self, command: list[str], total: int) -> None:
        self.command, self.total, self.done, self.failed = command, total, 0, 0
        self.last_message = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clipseg_cli", *command[1:], *STREAM_OPTIONS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches only the page, which then ends the run cleanly
        )
        self.readers = [
            threading.Thread(target=each, daemon=True) for each in (self._read_records, self._read_messages)
        ]
        for thread in self.readers:
            thread.start()

    def _read_records(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            ok = json.loads(line).get("status") == "ok"
            self.done, self.failed = self.done + ok, self.failed + (not ok)

    def _read_messages(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            message = line.decode("utf-8", "replace").strip()
            # an error message may have several lines
            continued = self.last_message.startswith("clipseg:") and not message.startswith("clipseg:")
            self.last_message = (
                f"{self.last_message}\n{message}" if continued and len(self.last_message) < 2000 else message
            )

    def status(self) -> dict[str, Any]:
        """Returns the state (`running`, `done` or `stopped`), counts, exit code, last message and output folder."""
        code = self.process.poll()
        running = code is None or any(thread.is_alive() for thread in self.readers)  # until all output is read
        state = "running" if running else "done" if code in (0, 3) else "stopped"
        counts = {"done": self.done, "failed": self.failed, "total": self.total}
        out = readable_name(self.command[-1])
        return {"state": state, **counts, "code": code, "message": self.last_message, "out": out}

    def cancel(self) -> None:
        """Interrupts the run. Finished images stay, and the same command resumes it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)

    def end(self) -> None:
        """Cancels the run and waits for its end."""
        self.cancel()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
