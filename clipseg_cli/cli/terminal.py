"""Output on a terminal: notes, progress and failures on stderr, results on stdout."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clipseg_cli.cli import streams, summary
from clipseg_cli.errors import ImageError
from clipseg_cli.settings.inputs import MAX_PIXELS, DecodeOptions
from clipseg_cli.settings.outputs import OutputOptions, PrintOptions
from clipseg_cli.settings.run import ConsoleOptions

if TYPE_CHECKING:
    from rich.table import Table
    from tqdm import tqdm

    from clipseg_cli.outputs.record import Record
    from clipseg_cli.storage.store import AnyPath

PLAIN_SECONDS = 10.0  # seconds between two lines of plain progress: the log of a long run stays readable


class Terminal:
    """Progress of one run on stderr: a bar on a terminal, otherwise a line now and then. Use it with `with`."""

    def __init__(self, options: ConsoleOptions) -> None:
        auto = "bar" if streams.stderr().isatty() else "plain"
        self.mode = "none" if options.quiet else auto if options.progress == "auto" else options.progress
        self.quiet, self.verbose = options.quiet, options.verbose and not options.quiet
        self.color = not options.no_color and streams.stderr().isatty() and "NO_COLOR" not in os.environ
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
        """Starts the clock and the bar; `total` is the number of images, None if unknown."""
        self.total, self.started = total, time.monotonic()
        if self.mode == "bar":
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=" images", file=streams.stderr(), dynamic_ncols=True, mininterval=0.2)

    def note(self, text: str, passing: bool = False) -> None:
        """Prints a line on stderr, unless --quiet. A `passing` one says how far something is: it is part of the bar."""
        if passing:
            self._progress(text)
        elif not self.quiet:
            self._line(text)

    def _progress(self, text: str) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif self.mode == "plain" and time.monotonic() - self.last > PLAIN_SECONDS:
            self.last = time.monotonic()
            self._line(text)

    def notes(self, lines: Iterable[str]) -> None:
        """Prints lines on stderr, unless --quiet."""
        for line in lines:
            self.note(line)

    def record(self, record: "Record") -> None:
        """Counts a record, updates the progress, and prints the error if there is one; with --verbose, any result."""
        self.done += record.ok
        self.failed += not record.ok
        if record.error is not None:
            from clipseg_cli.storage.paths import escape

            what = self.paint("failed", "31")
            self._line(f"{what} {escape(record.shown)}: {record.error.kind}: {escape(str(record.error))}")
        elif self.verbose:
            self._line(summary.line(record))
        if self.bar is not None:
            self.bar.update()
        elif self.mode == "plain" and time.monotonic() - self.last > PLAIN_SECONDS:
            self.last = time.monotonic()
            of = f" of {self.total}" if self.total else ""
            rate = (self.done + self.failed) / (self.last - self.started)
            self._line(f"{self.done + self.failed}{of} images, {self.failed} failed, {rate:.1f} images/s")

    def paint(self, text: str, code: str) -> str:
        """Returns the text in an ANSI colour, or unchanged if colours are off."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def _line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=streams.stderr())
        else:
            streams.tell(f"{text}\n")


def say(text: str) -> None:
    """Prints a line on stdout, with any bytes a path may hold, and flushes it."""
    streams.write(f"{text}\n")


def say_path(path: str, null: bool = False) -> None:
    """Prints a path on stdout: with its own bytes for a program, escaped on a terminal, which it cannot alter.

    `null` ends it with NUL in place of a line end.
    """
    from clipseg_cli.storage.paths import escape

    streams.write((escape(path) if streams.stdout_is_terminal() else path) + ("\0" if null else "\n"))


def _show_overlay(out: "AnyPath", record: "Record") -> None:
    """Prints the overlay of a record on stdout as half blocks, two pixels per character, if it has one."""
    import cv2

    from clipseg_cli.inputs.decode import load
    from clipseg_cli.inputs.source import Source
    from clipseg_cli.storage.paths import escape

    document = record.document()
    overlay = document["files"].get("overlay")
    if not overlay:
        return
    try:
        source = Source(overlay, overlay, "", data=(out / overlay).read_bytes())
        pixels = load(source, DecodeOptions(max_pixels=4 * MAX_PIXELS)).pixels
    except (OSError, ImageError):
        return
    columns, lines = shutil.get_terminal_size()
    scale = min(columns / pixels.shape[1], 2 * (lines - 2) / pixels.shape[0], 1)
    size = max(1, int(pixels.shape[1] * scale)), max(2, int(pixels.shape[0] * scale) // 2 * 2)
    block = "▀" if streams.stdout_shows("▀") else " "  # without half blocks, every other line of pixels is left out
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).tolist()
    for above, below in zip(small[::2], small[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{r};{g};{b};48;2;{x};{y};{z}m{block}" for (r, g, b), (x, y, z) in zip(above, below, strict=True)
        )
        say("".join(cells) + "\x1b[0m")
    say(escape(record.shown))


def ranking(found: Sequence["Record"]) -> str:
    """Returns a table of records: each image's highest presence score and, if there are several labels, all scores."""
    from rich.table import Table
    from rich.text import Text

    from clipseg_cli.storage.paths import escape

    labels = [mask.label for mask in found[0].masks] if found else []
    rows = Table("presence", "image", *(labels if len(labels) > 1 else []), box=None, pad_edge=False)
    for record in found:
        each = [f"{mask.presence:.2f}" for mask in record.masks] if len(labels) > 1 else []
        rows.add_row(f"{record.presence:.2f}", Text(escape(record.shown)), *each)
    return as_text(rows)


def as_text(table: "Table", width: int = 160, markup: bool = True) -> str:
    """Returns a table as text, as wide as the terminal, or `width` columns if stdout is no terminal."""
    from rich.console import Console

    console = Console(width=None if streams.stdout_is_terminal() else width, highlight=False, markup=markup)
    with console.capture() as text:
        console.print(table)
    return "\n".join(line.rstrip() for line in text.get().rstrip().splitlines())


def present(
    records: Iterable["Record"],
    terminal: Terminal,
    options: OutputOptions,
    out: str,
    single: bool = False,
    null: bool = False,
) -> str:
    """Shows each record on stderr and stdout as it comes, then writes the report if --report is given.

    Returns the report's path, or "". `single`: `out` is a file or stdout, not a folder. `null`: printed paths end with
    NUL.
    """
    from clipseg_cli.storage import store

    emit = _emitter(options.printing, out, single, null)
    for record in records:
        terminal.record(record)
        emit(record)
        if options.preview and streams.stdout_is_terminal():
            _show_overlay(store.as_path(out), record)
    if options.report and not single:
        from clipseg_cli.pages import report

        return str(report.write(store.as_path(out), terminal.note))
    return ""


def _shown_files(document: dict[str, Any]) -> Iterable[str]:
    """Returns the paths that show the masks of a record: one per label, each once.

    It is that of the mask or the joined mask. Without one, it is the label's other file, or one of the image, such as
    the overlay.
    """
    from clipseg_cli.outputs.names import USUAL
    from clipseg_cli.outputs.record import PER_LABEL

    files = document["files"]
    joined = [files[form] for form in ("joined", "alpha") if form in files]
    others = [path for form, path in files.items() if form in USUAL]
    each = (
        [mask["path"], *joined, *(mask.get(key, "") for key in PER_LABEL.values()), *others]
        for mask in document["masks"]
    )
    return dict.fromkeys(path for found in each if (path := next(filter(None, found), "")))


def _emitter(options: PrintOptions, out: str, single: bool, null: bool) -> Callable[["Record"], None]:
    """Returns a function that prints a record on stdout: as JSON, as paths of its masks, or not at all.

    Paths are those that exist from the working directory.
    """
    from clipseg_cli.outputs.record import dumps, relocated

    before: list[str] = []  # of the last record: the frames of a video share a file, which is printed once

    def paths(record: "Record") -> None:
        nonlocal before
        files = list(_shown_files(record.document()))
        for path in files:
            if path not in before:
                say_path(os.path.join(out, path), null)
        before = files

    wanted = options.print_ == "paths" or (options.print_ is None and not streams.stdout_is_terminal())
    if out == "-":
        return lambda record: None
    if options.json:
        return lambda record: say(record.line() if single else dumps(relocated(record.document(), out)))
    if single:
        quiet = options.print_ == "none" or streams.stdout_is_terminal()
        return lambda record: say_path(out, null) if record.outputs and not quiet else None
    return paths if wanted else lambda record: None
