"""What a person sees on stderr, and what stdout gets. The records are made here."""

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from clipseg_cli.cli import terminal
from clipseg_cli.cli.terminal import Terminal, present, ranking
from clipseg_cli.errors import ImageError
from clipseg_cli.outputs.record import Mask, Record
from clipseg_cli.settings.outputs import OutputOptions, PrintOptions
from clipseg_cli.settings.run import ConsoleOptions
from pictures import Shell, picture, save

Captured = pytest.CaptureFixture[str]
CAT = Mask("cat", "a cat", 0.5, 0.9, 0.1, 12, 0.5, (3, 0, 3, 4), 0.8, files=(("mask", "masks/cat/a.png"),))
CATS = (CAT, replace(CAT, label="dog", presence=0.3, files=()))
DONE = Record(
    "a.jpg",
    6,
    4,
    masks=CATS,
    files=(("overlay", "overlays/a.jpg"),),
    outputs=(("overlays/a.jpg", 9),),
    formats=("mask", "overlay"),
)
FAILED = Record("b\n\x1b[31m.jpg", error=ImageError("corrupt", "load", "it is \x1b[31m broken"))


class Screen(io.TextIOWrapper):
    """A standard stream that is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        """Yes."""
        return True

    def text(self) -> str:
        """Returns what was written."""
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined,no-any-return]


def test_a_failure_is_shown_at_once_and_cannot_alter_the_terminal(capsys: Captured) -> None:
    """Even with --quiet. Escape sequences and newlines of names and messages are escaped."""
    for options in (ConsoleOptions(), ConsoleOptions(quiet=True)):
        with Terminal(options) as shown:
            shown.note("a note")
            shown.record(DONE)
            shown.record(FAILED)
        assert (shown.done, shown.failed) == (1, 1)
        lines = capsys.readouterr().err.splitlines()
        assert lines[:-1] == ([] if options.quiet else ["a note"])
        assert lines[-1].startswith("failed b") and "corrupt" in lines[-1] and "\x1b" not in lines[-1]


def test_plain_progress_is_a_line_now_and_then(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, the total where it is known, and the rate."""
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", -1)
    for total, start in ((7, "1 of 7 images, 0 failed, "), (None, "1 images, 0 failed, ")):
        with Terminal(ConsoleOptions(progress="plain")) as shown:
            shown.begin(total)
            shown.record(DONE)
        line = capsys.readouterr().err
        assert line.startswith(start) and line.endswith(" images/s\n")
    with Terminal(ConsoleOptions(progress="none")) as shown:
        shown.record(DONE)
    assert capsys.readouterr().err == ""


def test_a_bar_shows_the_total(capsys: Captured) -> None:
    """Notes stand above it."""
    with Terminal(ConsoleOptions(progress="bar")) as shown:
        shown.begin(7)
        shown.record(DONE)
        shown.note("a note")
    assert "1/7" in (written := capsys.readouterr().err) and "a note\n" in written


@pytest.mark.parametrize(
    ("options", "variables", "coloured"),
    [
        (ConsoleOptions(), {}, True),
        (ConsoleOptions(no_color=True), {}, False),
        (ConsoleOptions(), {"NO_COLOR": "1"}, False),
    ],
)
def test_colour_is_for_terminals(
    options: ConsoleOptions, variables: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless --no-color or NO_COLOR forbids it. A terminal gets a bar."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Terminal(options).paint("x", "31") == "x", "stderr is no terminal"
    monkeypatch.setattr(sys, "stderr", Screen())
    shown = Terminal(options)
    assert (shown.paint("x", "31") == "\x1b[31mx\x1b[0m") == coloured and shown.mode == "bar"


@pytest.mark.parametrize(
    ("printing", "on_a_terminal", "out", "lines"),
    [
        (PrintOptions(), False, "out", ["out/masks/cat/a.png", "out/overlays/a.jpg"]),
        (PrintOptions(), True, "out", []),
        (PrintOptions(print_="paths"), True, "out", ["out/masks/cat/a.png", "out/overlays/a.jpg"]),
        (PrintOptions(print_="none"), False, "out", []),
        (PrintOptions(json=True), True, "", [DONE.line(), FAILED.line()]),
        (PrintOptions(), False, "a.png", ["a.png"]),
        (PrintOptions(print_="none"), False, "a.png", []),
        (PrintOptions(json=True), False, "-", []),
    ],
)
def test_stdout_gets_what_was_chosen(
    printing: PrintOptions, on_a_terminal: bool, out: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths that a pipe may use, JSON, or nothing. A label without a mask file has the path of the overlay."""
    screen = Screen()
    monkeypatch.setattr(screen, "isatty", lambda: on_a_terminal)
    monkeypatch.setattr(sys, "stdout", screen)
    with Terminal(ConsoleOptions(quiet=True)) as shown:
        present([DONE, FAILED], shown, OutputOptions(printing=printing), out, single=out != "out")
    assert screen.text().splitlines() == lines


def assert_drawn(text: str, overlay: np.ndarray) -> None:
    """Asserts that an overlay is drawn in half blocks of its mean colour, in at most 60 columns and 18 lines."""
    drawn = [line for line in text.splitlines() if "▀" in line]
    assert 5 <= len(drawn) <= 18 and max(line.count("▀") for line in drawn) <= 60
    colours = np.array(re.findall(r"38;2;(\d+);(\d+);(\d+)", "".join(drawn)), float)
    assert np.abs(colours.mean(0) - overlay[..., ::-1].reshape(-1, 3).mean(0)).max() < 12


def test_a_preview_is_drawn_in_half_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, with 24-bit colours, no wider and no higher than it. A missing or damaged overlay is not drawn."""
    save(tmp_path / "overlays/a.jpg", picture())
    (tmp_path / "overlays/cut.jpg").write_bytes((tmp_path / "overlays/a.jpg").read_bytes()[:-500])
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    options = OutputOptions(preview=True, printing=PrintOptions(print_="none"))
    with Terminal(ConsoleOptions(quiet=True)) as shown:
        for isatty in (True, False):
            screen = Screen()
            monkeypatch.setattr(screen, "isatty", lambda answer=isatty: answer)
            monkeypatch.setattr(sys, "stdout", screen)
            others = [replace(DONE, files=(("overlay", f"overlays/{name}.jpg"),)) for name in ("gone", "cut")]
            present([DONE, FAILED, *others], shown, options, str(tmp_path))
            if isatty:
                assert_drawn(screen.text(), cv2.imread(str(tmp_path / "overlays/a.jpg")))
                assert screen.text().splitlines()[-1] == "a.jpg"
            else:
                assert screen.text() == ""


@pytest.mark.slow
def test_a_preview_is_drawn_on_a_real_terminal(shell: Shell, tmp_path: Path) -> None:
    """`--preview` draws there, and draws nothing in a pipe."""
    save(tmp_path / "imgs/a.jpg", picture())
    line = "script -qec 'stty cols 60 rows 20; clipseg segment imgs -p red -o out --preview -q' /dev/null"
    assert_drawn(shell(line).stdout, cv2.imread(str(tmp_path / "out/overlays/a.jpg")))
    assert "▀" not in shell("clipseg segment imgs/a.jpg -p red -o piped --preview -q").stdout


def test_a_ranking_has_a_column_per_label() -> None:
    """If there are several: the highest presence score first."""
    table = ranking([DONE]).splitlines()
    assert table[0].split() == ["presence", "image", "cat", "dog"]
    assert table[1].split() == ["0.80", "a.jpg", "0.80", "0.30"]
    assert ranking([replace(DONE, masks=(CAT,))]).split() == ["presence", "image", "0.80", "a.jpg"]
    assert ranking([]).split() == ["presence", "image"]
