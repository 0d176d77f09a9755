"""The standard streams: missing, full or closed ones, and their encodings. Processes, pipes and terminals are real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipseg_cli.cli import streams
from clipseg_cli.errors import OutputError, UsageError
from pictures import Program, Shell, records

slow = pytest.mark.slow
FIND = "clipseg find imgs -p circle --print paths"
RUN = "clipseg segment imgs -p circle"
UTF8_NAME, OTHER_NAME = os.fsdecode("imgs/caf\u00e9.jpg".encode()), os.fsdecode(b"imgs/\xff.jpg")
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0"}


def tree(folder: Path) -> dict[str, bytes]:
    """The bytes of every image and of the manifest of a run."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg") or path.name == "manifest.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.mark.parametrize(
    "missing", ["<&- >&- 2>&-", *(pytest.param(each, marks=slow) for each in ("<&-", ">&-", "2>&-"))]
)
def test_a_run_needs_no_standard_streams(
    quick_clipseg: Program, quick_shell: Shell, imgs: Path, tmp_path: Path, missing: str
) -> None:
    """As cron and systemd start it. The worker processes need them neither, and no output file takes their place."""
    quick_clipseg(f"{RUN} -o whole")
    quick_shell(f"{RUN} -o out -j 2 {missing}")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and len(tree(tmp_path / "out")) == 9


@slow
def test_streams_that_are_none_are_done_without(imgs: Path, tmp_path: Path, quick_environment: dict[str, str]) -> None:
    """As pythonw starts it: sys.stdin, sys.stdout and sys.stderr are None."""
    code = (
        f"import sys; sys.argv = {[*RUN.split(), '--json', '-o', 'out']}\n"
        "sys.stdin = sys.stdout = sys.stderr = None\n"
        "from clipseg_cli.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=quick_environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(records(tmp_path / "out/manifest.jsonl")) == 4


def test_nothing_to_read_is_said(quick_shell: Shell) -> None:
    """Without INPUTS, a missing stdin is like a terminal."""
    assert "no input" in quick_shell("clipseg segment -p circle <&-", expect=2).stderr


@slow
def test_what_a_missing_stream_was_needed_for_is_said(quick_shell: Shell, imgs: Path, tmp_path: Path) -> None:
    """Nothing to read is exit 2, and so is `-o -` without stdout. An image on stdin then goes to the folder."""
    assert "missing or a terminal" in quick_shell("clipseg segment imgs --embedding - <&-", expect=2).stderr
    assert "no stdout" in quick_shell("clipseg segment - -p circle -o - < imgs/a.jpg >&-", expect=2).stderr
    quick_shell("clipseg segment -p circle < imgs/a.jpg >&-")
    assert (tmp_path / "clipseg-out/masks/circle/stdin.png").is_file()


@slow
def test_no_embedding_is_lost_without_stdout(shell: Shell) -> None:
    """`clipseg embed` without -o needs stdout."""
    assert "no stdout" in shell("clipseg embed -p red >&-", expect=2).stderr


@slow
def test_a_stdin_that_cannot_be_read_matters_only_if_it_is_read(quick_shell: Shell, imgs: Path) -> None:
    """`nohup` on a terminal gives one that is open for writing only."""
    assert "Bad file descriptor" in quick_shell("clipseg segment -p circle 0>/dev/null", expect=2).stderr
    quick_shell(f"{RUN} 0>/dev/null")


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")


@needs_full
def test_a_full_stdout_ends_the_run_and_says_so(
    quick_clipseg: Program, quick_shell: Shell, imgs: Path, tmp_path: Path
) -> None:
    """Exit 1. What is written is whole, and the same command resumes."""
    message = quick_shell(f"{RUN} -o out > /dev/full", expect=1).stderr
    assert "stdout cannot be written: No space left" in message and "internal" not in message
    before = tree(tmp_path / "out")
    assert len(records(tmp_path / "out/manifest.jsonl")) >= 1
    quick_clipseg(f"{RUN} -o out")
    after = tree(tmp_path / "out")
    assert (
        len(after) == 9 and {name: after[name] for name in before if name != "manifest.jsonl"}.items() <= before.items()
    )


@slow
@needs_full
def test_a_full_stderr_ends_nothing(quick_shell: Shell, imgs: Path) -> None:
    """Messages are dropped."""
    assert len(quick_shell(f"{RUN} 2> /dev/full").stdout.splitlines()) == 4


@slow
@needs_full
@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "find imgs -p circle",
        "segment imgs -p circle --json",
        "segment - -p circle -o - < imgs/a.jpg",
        "segment imgs -p circle -n",
        "models list",
    ],
)
def test_every_command_says_that_stdout_is_full(quick_shell: Shell, imgs: Path, line: str) -> None:
    """Exit 1, one line."""
    message = quick_shell(f"clipseg {line} > /dev/full", expect=1).stderr.splitlines()[-1]
    assert message.startswith("clipseg: stdout cannot be written: No space left on device")


@slow
@pytest.mark.parametrize("line", ["--help", "segment --help", "models list", "find imgs -p circle"])
def test_a_reader_that_closes_at_once_is_no_error(quick_shell: Shell, imgs: Path, line: str) -> None:
    """Exit 0 and nothing on stderr that speaks of pipes."""
    done = quick_shell(f"clipseg {line} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stdout == "0\n" and "ipe" not in done.stderr


def test_a_stream_fails_once_and_then_drops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed reader ends the program with 0, any other failure with OutputError; nothing is left to write at exit."""
    reader, closed = os.pipe()
    os.close(reader)
    for number, ending in ((closed, SystemExit), (os.open(os.devnull, os.O_RDONLY), OutputError)):
        with open(number, "w") as stream:
            for name in ("stdin", "stdout", "stderr"):
                monkeypatch.setattr(sys, name, None if name == "stdin" else stream)
            streams.open_all()
            with pytest.raises(ending) as caught:
                streams.write("a line\n")
            assert not isinstance(caught.value, SystemExit) or caught.value.code == 0
            streams.write("another\n")
            streams.tell("a message\n")


def awkward(imgs: Path) -> None:
    """Leaves two images, one with a letter outside ASCII in its name and one whose name is not UTF-8."""
    source = (imgs / "a.jpg").read_bytes()
    shutil.rmtree(imgs)
    imgs.mkdir()
    for name in (UTF8_NAME, OTHER_NAME):
        (imgs.parent / name).write_bytes(source)


VARIABLES = (
    NO_UTF8 | {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "ascii:strict"},
    NO_UTF8,
    {"LC_ALL": "C"},
    {},
)


@pytest.mark.parametrize("variables", [VARIABLES[0], *(pytest.param(each, marks=slow) for each in VARIABLES[1:])])
def test_a_pipe_gets_names_as_they_are(quick_shell: Shell, imgs: Path, variables: dict[str, str]) -> None:
    """Whatever the locale: data is UTF-8, and names keep their bytes."""
    awkward(imgs)
    assert quick_shell("clipseg find imgs -p a | LC_ALL=C sort", **variables).stdout.splitlines() == [
        UTF8_NAME, OTHER_NAME,
    ]  # fmt: skip


@slow
@pytest.mark.parametrize("variables", VARIABLES)
def test_a_run_is_the_same_in_every_locale(
    quick_shell: Shell, imgs: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Names in the records and in a list, and folders whose label is in any language."""
    awkward(imgs)
    (tmp_path / "prompts.txt").write_text("\u732b\n", encoding="utf-8")
    done = quick_shell("find imgs -type f | clipseg segment -P prompts.txt -o out --json", **variables)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    kept = records(tmp_path / "out/manifest.jsonl")
    assert [row["masks"][0]["path"] for row in rows] == [f"out/{row['masks'][0]['path']}" for row in kept]
    assert {row["image"] for row in rows} == {UTF8_NAME, "imgs/\\xff.jpg"}
    assert (tmp_path / "out/masks/\u732b/imgs/caf\u00e9.png").is_file()


@pytest.mark.parametrize(
    ("locale", "shown"), [("C", b"caf\\u00e9"), pytest.param("C.UTF-8", "caf\u00e9".encode(), marks=slow)]
)
def test_a_terminal_gets_escapes_for_what_it_cannot_show(
    imgs: Path, tmp_path: Path, quick_environment: dict[str, str], locale: str, shown: bytes
) -> None:
    """Also for names that could alter it. The escapes are those of messages."""
    awkward(imgs)
    (imgs.parent / UTF8_NAME).rename(imgs / "caf\u00e9\x1b[31m.jpg")
    done = subprocess.run(
        ["script", "-qec", f"{FIND} imgs/no\u00e9", "/dev/null"],
        cwd=tmp_path, env=quick_environment | {"LC_ALL": locale, "PYTHONUTF8": "0"}, capture_output=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert b"imgs/" + shown + b"\\x1b[31m.jpg" in lines and b"imgs/\\xff.jpg" in lines, done.stdout
    assert any(b"imgs/no" + shown[3:] + b": vanished" in line for line in lines)


@slow
@pytest.mark.parametrize(
    ("name", "charset", "typed"), [("en_US", "ISO-8859-1", b"\xe9"), ("zh_CN", "GBK", b"\xa8\xa6")]
)
def test_a_prompt_may_be_typed_in_another_encoding(
    quick_environment: dict[str, str], imgs: Path, tmp_path: Path, name: str, charset: str, typed: bytes
) -> None:
    """In a Latin-1 or GBK locale a prompt is text, names keep their bytes, and a terminal gets its own encoding."""
    if shutil.which("localedef") is None or not Path(f"/usr/share/i18n/locales/{name}").exists():
        pytest.skip("this system cannot make locales")
    awkward(imgs)
    made = str(tmp_path / f"{name}.{charset}")
    subprocess.run(["localedef", "--no-archive", "-i", name, "-f", charset, made], check=False, capture_output=True)
    environment = quick_environment | {"LOCPATH": str(tmp_path), "LC_ALL": f"{name}.{charset}"}

    def run(command: list[str | bytes]) -> bytes:
        silent = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.check_output(command, cwd=tmp_path, env=environment, **silent)

    run(["clipseg", "segment", "imgs", "-p", b"caf" + typed, "-o", "out"])
    assert records(tmp_path / "out/manifest.jsonl")[0]["masks"][0]["label"] == "caf\u00e9"
    assert run(["clipseg", "find", "imgs", "-p", "a"]).split(b"\n")[:2] == sorted(
        [b"imgs/caf\xc3\xa9.jpg", b"imgs/\xff.jpg"]
    )
    shown = run(["script", "-qec", FIND, "/dev/null"])
    assert b"imgs/caf" + typed + b".jpg" in shown.splitlines()


def test_bytes_that_are_no_text_are_no_prompt(clipseg: Program, imgs: Path) -> None:
    """They are a usage error."""
    assert "not text" in clipseg("clipseg segment imgs -p '\udce9'", expect=2).stderr


def test_stdin_is_none_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And if it is missing. A folder as stdin is a UsageError once it is read."""
    leader, follower = os.openpty()
    with open(follower, "rb+", buffering=0) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert streams.stdin() is None
    os.close(leader)
    monkeypatch.setattr(sys, "stdin", None)
    assert streams.stdin() is None
    with open(os.devnull, "ab") as unreadable, os.fdopen(os.dup(unreadable.fileno()), "r") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, getattr(sys, name))
        streams.open_all()
        stdin = streams.stdin()
        assert stdin is not None
        with pytest.raises(UsageError, match="cannot be read"):
            stdin.read(1)
