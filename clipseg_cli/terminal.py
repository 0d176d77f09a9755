"""What a person sees: notes, progress and failures, all on stderr."""

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from clipseg_cli.manifest import Record
from clipseg_cli.settings import Progress
from clipseg_cli.sources import escape

if TYPE_CHECKING:
    from tqdm import tqdm

PLAIN_SECONDS = 10.0  # between two lines of plain progress: a log of a night stays readable


class Terminal:
    """Progress of one run on stderr: a bar on a terminal, a line now and then otherwise. Use it with `with`."""

    def __init__(self, progress: Progress = "auto", quiet: bool = False, color: bool = True) -> None:
        plain = "bar" if sys.stderr.isatty() else "plain"
        self.mode = "none" if quiet else plain if progress == "auto" else progress
        self.quiet = quiet
        self.color = color and sys.stderr.isatty() and "NO_COLOR" not in os.environ
        self.done = self.failed = 0
        self.total: int | None = None
        self.started = self.last = time.monotonic()
        self.bar: tqdm[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def begin(self, total: int | None) -> None:
        """Starts the clock and the bar; `total` is None where the number of images is not known."""
        self.total, self.started = total, time.monotonic()
        if self.mode == "bar":
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=" images", file=sys.stderr, dynamic_ncols=True, mininterval=0.2)

    def note(self, text: str) -> None:
        """One line, unless --quiet."""
        if not self.quiet:
            self._line(text)

    def record(self, record: Record) -> None:
        """Counts a record; a failure is named at once."""
        self.done += record.ok
        self.failed += not record.ok
        if record.error is not None:
            what = self.paint("failed", "31")
            self._line(f"{what} {escape(record.image)}: {record.error.kind}: {escape(str(record.error))}")
        if self.bar is not None:
            self.bar.update()
        elif self.mode == "plain" and time.monotonic() - self.last > PLAIN_SECONDS:
            self.last = time.monotonic()
            of = f" of {self.total}" if self.total else ""
            rate = (self.done + self.failed) / (self.last - self.started)
            self._line(f"{self.done + self.failed}{of} images, {self.failed} failed, {rate:.1f} images/s")

    def paint(self, text: str, code: str) -> str:
        """The text in an ANSI colour, where colour is wanted."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def _line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)
