"""The figures of the fault table at length. SOAK=1 is the full size; without it they run at a hundredth, so that the
ordinary test run proves that they still work. SOAK_WRITE=1 puts the figures into tests/SOAK.md."""

import base64
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import red
from pictures import records
from test_crash import COMMAND, images, leftovers, swift, swift_environment, whole
from test_resume import tree

SCALE = float(os.environ.get("SOAK", "0.01"))
pytestmark = pytest.mark.soak
__all__ = ["swift", "swift_environment"]  # fixtures

Swift = Callable[..., subprocess.CompletedProcess[str]]


def size(full: int, least: int) -> int:
    """A figure at the scale of this run."""
    return max(least, round(full * SCALE))


def figure(measure: str, ran: str, result: str, began: float) -> None:
    """One row of tests/SOAK.md: the size that ran, what came out, and since when (monotonic) it took."""
    row = f"{ran}, {time.monotonic() - began:.0f} s, {date.today()} | {result} |"
    print(f"SOAK | {measure} | {row}")
    if "SOAK_WRITE" in os.environ:
        page = Path(__file__).with_name("SOAK.md")
        lines = page.read_text(encoding="utf-8").splitlines()
        (at,) = (index for index, line in enumerate(lines) if line.startswith(f"| {measure} |"))
        lines[at] = f"| {measure} | {lines[at].split(' | ')[1]} | {row}"
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def resident(pid: int) -> int:
    """Kilobytes that a process and its children hold; 0 where it is gone."""
    try:
        own = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, TypeError):
        return 0
    return own + sum(resident(int(child)) for child in children)


def test_killed_a_hundred_times(swift: Swift, tmp_path: Path) -> None:
    """100 kills over 1,000 images, at random points: in the end the uninterrupted run's tree, each image in one row."""
    count, kills, rng, start = size(1000, 60), size(100, 4), random.Random(5), time.monotonic()
    images(tmp_path / "imgs", count)
    swift(COMMAND.replace("-o out", "-o whole"))
    struck, out = 0, tmp_path / "out"
    while struck < kills:
        point = rng.choice([*red.FILE_POINTS, *red.LINE_POINTS])
        number = rng.randint(1, max(2, 2 * count // kills))
        done = swift(COMMAND, expect=None, RED_CRASH=f"{point}:{number}")
        assert done.returncode in (0, -9, 137), done.stderr
        if done.returncode == 0:
            subprocess.run(["rm", "-r", out], check=True)
        else:
            struck += 1
            if struck % 10 == 0:
                whole(out)
    swift(COMMAND)
    rows = records(out / "manifest.jsonl")
    assert len(rows) == count == len({row["image"] for row in rows})
    assert tree(out) == tree(tmp_path / "whole") and not leftovers(out)
    result = "same tree byte for byte, no duplicate row, no partial or temporary file"
    figure("kill -9 at random points", f"{kills} kills, {count} images", result, start)


def test_a_night_with_one_per_cent_corrupt(swift: Swift, tmp_path: Path, swift_environment: dict[str, str]) -> None:
    """10,000 images, 1 % corrupt: exactly 1 % failed rows, exit 3, flat memory; then again in under 5 s, no model."""
    count, start = size(10_000, 200), time.monotonic()
    images(tmp_path / "imgs", count, corrupt=100)
    command = [each if each != "2" else "16" for each in COMMAND.split()]
    samples: list[tuple[int, int]] = []  # images done, kilobytes
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=tmp_path, env=swift_environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout is not None
        for index, _ in enumerate(run.stdout):
            if index % max(1, count // 40) == 0:
                samples.append((index, resident(run.pid)))
    seconds = time.monotonic() - began
    assert run.returncode == 3
    rows = records(tmp_path / "out/manifest.jsonl")
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(rows) == count and len(failed) == count // 100
    assert {row["error"]["class"] for row in failed} == {"corrupt"}
    assert len([*(tmp_path / "out/masks").rglob("*.png")]) == count - count // 100
    (first, before), (last, after) = samples[len(samples) // 4], max(samples[len(samples) // 2 :], key=lambda s: s[1])
    slope = (after - before) / max(1, last - first) * 1000 / 1024
    if count >= 5000:
        assert slope < 1, "megabytes a thousand images"
    began = time.monotonic()
    told = swift(" ".join(command), expect=3).stderr
    again = time.monotonic() - began
    assert "model red" not in told and f"{count - count // 100} before" in told
    assert again < 5 or count < 1000, "seconds"
    flat = (
        f"{slope:.2f} MB more a 1,000 images, {after / 1024:.0f} MB at most" if count >= 5000 else "too few for memory"
    )
    result = f"exactly {len(failed)} failed rows, exit 3, {seconds:.0f} s; {flat}"
    figure("1 % corrupt", f"{count} images", result, start)
    figure("rerun of a finished run", f"{count} images", f"{again:.1f} s, model not loaded", start)


def name_of(row: dict[str, Any]) -> str:
    """A record's image as the operating system gives it."""
    return os.fsdecode(base64.b64decode(row["image_b64"])) if "image_b64" in row else str(row["image"])


def hostile(rng: random.Random) -> str:
    """A name that some program somewhere would stumble over."""
    pieces = [
        "\n", "\t", "\x1b[31m", "\x07", "\u202e", "\udcff", "\udc80", "\u00e9", "e\u0301", "-", "--help", "$(x)", "`x`",
        "*", "%s", "%0A", "\\", "'", '"', "<img src=x onerror=alert(1)>".replace("/", ""), "=cmd|' C'!A0", "&", ";",
        "|", " ", "  ", "\u2028", "\u200b", "\ufeff", "{label}", "~", "#", "?", "[a]", "\u4e2d", "\U0001f600", "NUL",
    ]  # fmt: skip
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 12)))


def test_hostile_names_and_phrases(swift: Swift, tmp_path: Path) -> None:
    """500 hostile strings as names and as phrases: each image one row under its own name, exactly; the terminal gets
    printable text only; every output is a file inside the directory."""
    rng, start = random.Random(8), time.monotonic()
    names = {hostile(rng)[:60] + ".png" for _ in range(size(500, 60))}
    images(tmp_path / "one", 1)
    data = (tmp_path / "one/0/00000.png").read_bytes()
    (tmp_path / "imgs").mkdir()
    for name in names:
        Path(os.fsencode(tmp_path / "imgs").decode() + "/" + name).write_bytes(data)
    done = swift("clipseg segment imgs -p red -o out --hidden")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert {name_of(row) for row in rows} == {f"imgs/{name}" for name in names} and len(rows) == len(names)
    assert len({row["masks"][0]["path"] for row in rows}) == len(names)
    assert all((tmp_path / "out" / row["masks"][0]["path"]).is_file() for row in rows)
    assert all(letter.isprintable() or letter == "\n" for letter in done.stderr + done.stdout)
    phrases = sorted(
        {text for text in (hostile(rng) for _ in range(size(500, 60))) if text.strip() and "=" not in text}
    )
    phrases = [text for text in phrases if not any("\ud800" <= letter <= "\udfff" for letter in text)][:200]
    code = (
        "import sys, json; from clipseg_cli.cli.main import main; sys.argv[1:] = json.load(open('args.json')); main()"
    )
    spoken = [each for number, text in enumerate(phrases) for each in ("--prompt", f"{number}={text}")]
    arguments = ["segment", "one", "-o", "two", *spoken]
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    swift(f'{sys.executable} -c "{code}" clipseg')
    found = [mask["prompt"] for mask in records(tmp_path / "two/manifest.jsonl")[0]["masks"]]
    assert found == [text.strip() for text in phrases]
    ran = f"{len(names)} and {len(phrases)}"
    figure("hostile names and phrases", ran, "exact JSON round trip, printable terminal", start)


def test_a_walk_over_a_million_files(tmp_path: Path) -> None:
    """1,000,000 files under 200 MB; the first image comes before the walk ends."""
    count, start = size(1_000_000, 10_000), time.monotonic()
    code = """
import sys, time
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.inputs.discovery import discover
began = time.monotonic()
found = discover(InputOptions((sys.argv[1],)), None)
next(found)
first = time.monotonic() - began
number = 1 + sum(1 for _ in found)
# not ru_maxrss, which a process inherits from the one that starts it
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(number, first, time.monotonic() - began, peak)
"""
    for index in range(count // 1000):
        folder = tmp_path / f"{index // 100}/{index}"
        folder.mkdir(parents=True)
        for number in range(1000):
            os.close(os.open(folder / f"{number:08}.jpg", os.O_CREAT | os.O_WRONLY))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    number, first, seconds, memory = map(float, done.stdout.split())
    assert number == count // 1000 * 1000 and first < seconds / 2 and memory < 200_000
    result = f"{memory / 1000:.0f} MB in all, first image after {first:.2f} s of {seconds:.1f} s"
    figure("walk", f"{number:.0f} files", result, start)


def test_a_disk_that_fills_at_any_size(swift: Swift, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk, at ten sizes: exit 1 and nothing partial where it strikes;
    without it the run completes."""
    start, struck = time.monotonic(), 0
    images(tmp_path / "imgs", 300)
    sizes = (1, 3, 8, 20, 40, 60, 80, 100, 150, 200) if SCALE >= 0.1 else (3, 40)  # kilobytes
    for blocks in sizes:
        done = swift(f"ulimit -f {blocks}; {COMMAND}", expect=None)
        assert done.returncode in (0, 1), done.stderr
        if done.returncode:
            assert "same command again" in done.stderr
            struck += 1
        if (tmp_path / "out").exists():
            whole(tmp_path / "out")
            assert not leftovers(tmp_path / "out")
        swift(COMMAND)
        assert len(records(tmp_path / "out/manifest.jsonl")) == 300
        subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
    result = f"{struck} runs struck: exit 1, nothing partial, completes afterwards"
    figure("disk full (limit on file size)", f"{len(sizes)} sizes", result, start)
