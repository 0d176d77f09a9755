"""The program as a whole: its commands, and how errors are shown."""

from pathlib import Path

import pytest

from clipseg_cli import __version__
from clipseg_cli.cli import main
from clipseg_cli.run import segment
from pictures import Program

COMMANDS = (
    "segment oneshot find post embed report status merge eval calibrate train protocol ui layouts doctor models cache"
)


def test_the_help_lists_the_commands(clipseg: Program) -> None:
    """In a fixed order, each with one line; without arguments too."""
    lines = clipseg("clipseg --help").stdout.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in lines if line[:2] == "  " and line[2:3] != " "] == COMMANDS.split()
    assert all(len(line) < 90 for line in lines)
    assert "segment" in clipseg("clipseg", None).stdout + clipseg("clipseg", None).stderr
    assert clipseg("clipseg --version").stdout == f"clipseg {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("imgs", 2, "no prompt"),
        ("imgs -p ''", 2, "empty prompt"),
        ("imgs -p a -p a", 2, "twice"),
        ("imgs -p a -t 2", 2, "0 to 1"),
        ("imgs -p a -f gif", 2, "choose from mask, soft"),
        ("imgs -p a --no-such-flag", 2, "No such option"),
        ("imgs -p a -e tiff", 4, "no image"),
        ("none -p a", 4, "no image"),
        (f"imgs -p '{'word ' * 90}' -o out", 2, "77"),
        ("imgs -p a -m /nowhere/at/all", 2, "shapes"),
        ("imgs -p a -m rd64", 1, "clipseg models pull"),
        ("imgs -p a -o imgs/a.jpg/out", 1, "cannot write"),
        ("imgs -p a --device cuda:7", 2, "cuda"),
        ("imgs -p a --background 0.2", 2, "--mode labels"),
    ],
)
def test_errors_say_what_is_wrong(clipseg: Program, imgs: Path, arguments: str, code: int, message: str) -> None:
    """One clear message, the contract's exit code, no traceback."""
    Path("none").mkdir()
    done = clipseg(f"clipseg segment {arguments}", expect=code)
    assert message in done.stderr and "Traceback" not in done.stderr and not done.stdout


def test_a_bug_is_an_internal_error(clipseg: Program, imgs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It exits with 1 and one line. With --debug the exception is shown."""

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(segment, "segment", broken)
    message = clipseg("clipseg segment imgs -p a", expect=1).stderr
    assert message == "clipseg: internal error: ZeroDivisionError: a bug (run with --debug)\n"
    with pytest.raises(ZeroDivisionError):
        clipseg("clipseg segment imgs -p a --debug")


def test_every_command_is_a_function_of_few_parameters() -> None:
    """At most eight, which are groups of options."""
    for command in main.app.registered_commands:
        assert command.cls is not None
        function = command.cls.function  # type: ignore[attr-defined]
        assert function.__code__.co_argcount <= 8, function.__name__
