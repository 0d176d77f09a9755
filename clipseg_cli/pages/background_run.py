"""Runs of the program that the live page starts: beside it, so that the page stays quick and either may end first."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from clipseg_cli.outputs.manifest import MANIFEST, RUN, readable_name

PATIENCE = 10.0  # seconds for what is told to end to put its things in order
SPOKEN = ("--json", "--progress", "none")  # of a run that is listened to


def free(out: str, command: list[str]) -> bool:
    """Whether nothing is in the way of a run there: no run at all, or what this same command left."""
    try:
        before = json.loads((Path(out) / RUN).read_bytes())["command"]
    except FileNotFoundError:
        return not (Path(out) / MANIFEST).exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return [word for word in before if word not in SPOKEN] == command


class Run:
    """A run of the program beside the page."""

    def __init__(self, command: list[str], total: int) -> None:
        self.command, self.total, self.done, self.failed = command, total, 0, 0
        self.last = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clipseg_cli", *command[1:], *SPOKEN],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the page's terminal is the page's: it ends the run in order
        )
        self.listening = [threading.Thread(target=each, daemon=True) for each in (self._records, self._notes)]
        for thread in self.listening:
            thread.start()

    def _records(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            ok = json.loads(line).get("status") == "ok"
            self.done, self.failed = self.done + ok, self.failed + (not ok)

    def _notes(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            said = line.decode("utf-8", "replace").strip()
            error = self.last.startswith("clipseg:") and not said.startswith("clipseg:")  # it may have several lines
            self.last = f"{self.last}\n{said}" if error and len(self.last) < 2000 else said

    def status(self) -> dict[str, Any]:
        """State (`running`, `done` or `stopped`), counts, exit code, and what the program said last."""
        code = self.process.poll()
        busy = code is None or any(thread.is_alive() for thread in self.listening)  # all it said is known at its end
        state = "running" if busy else "done" if code in (0, 3) else "stopped"
        counts = {"done": self.done, "failed": self.failed, "total": self.total}
        return {"state": state, **counts, "code": code, "last": self.last, "out": shown(self.command[-1])}

    def cancel(self) -> None:
        """Interrupts it; what is finished stays, and the same command again does the rest."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)

    def end(self) -> None:
        """Cancels it and waits for its end."""
        self.cancel()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
