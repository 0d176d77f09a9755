"""The figures of SOAK.md. SOAK=1 runs them at full size; without it they run at a hundredth, to prove that they still
work. SOAK_WRITE=1 writes the figures into SOAK.md."""

import base64
import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest

import kill_points
from output_folder import assert_whole, temporary_files, tree
from pictures import Program, Shell, records, save_tiny

SCALE = float(os.environ.get("SOAK", "0.01"))
COMMAND = "clipseg segment imgs -p red -f mask -f overlay -o out -b 2"


def size(full: int, least: int) -> int:
    """Returns a number at the scale of this run."""
    return max(least, round(full * SCALE))


def figure(measure: str, ran: str, result: str, began: float) -> None:
    """Reports one row of SOAK.md: the size that ran, the result, and when (monotonic) it began."""
    row = f"{ran}, {time.monotonic() - began:.0f} s, {date.today()} | {result} |"
    print(f"SOAK | {measure} | {row}")
    if "SOAK_WRITE" in os.environ:
        page = Path(__file__).with_name("SOAK.md")
        lines = page.read_text(encoding="utf-8").splitlines()
        (at,) = (index for index, line in enumerate(lines) if line.startswith(f"| {measure} |"))
        lines[at] = f"| {measure} | {lines[at].split(' | ')[1]} | {row}"
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def resident(pid: int) -> int:
    """Returns the kilobytes that a process and its children hold; 0 if it is gone."""
    try:
        own = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, TypeError):
        return 0
    return own + sum(resident(int(child)) for child in children)


@pytest.mark.slow
def test_killed_a_hundred_times(quick_shell: Shell, tmp_path: Path) -> None:
    """100 kills over 1,000 images, at random points: the end is the tree of an uninterrupted run, each image in one
    row."""
    count, kills, rng, start = size(1000, 60), size(100, 4), random.Random(5), time.monotonic()
    save_tiny(tmp_path / "imgs", count)
    quick_shell(COMMAND.replace("-o out", "-o whole"))
    struck, out = 0, tmp_path / "out"
    while struck < kills:
        point = rng.choice(kill_points.POINTS)
        number = rng.randint(1, max(2, 2 * count // kills))
        done = quick_shell(COMMAND, expect=None, TEST_KILL_AT=f"{point}:{number}")
        assert done.returncode in (0, -9, 137), done.stderr
        if done.returncode == 0:
            subprocess.run(["rm", "-r", out], check=True)
        else:
            struck += 1
            if struck % 10 == 0:
                assert_whole(out)
    quick_shell(COMMAND)
    rows = records(out / "manifest.jsonl")
    assert len(rows) == count == len({row["image"] for row in rows})
    assert tree(out) == tree(tmp_path / "whole") and not temporary_files(out)
    result = "same tree byte for byte, no duplicate row, no partial or temporary file"
    figure("kill -9 at random points", f"{kills} kills, {count} images", result, start)


FORMATS = "mask,soft,coco,webdataset,yolo"


def kill_at_random(
    folder: Path, out: str, kills: int, window: float, environment: dict[str, str], expected: dict[str, bytes]
) -> int:
    """Starts a run again and again, and kills its process group `kills` times, at a random moment of `window` seconds.

    These begin in turn with the run itself, often before its first image, and with its first row. A run that ends
    before that must leave the expected tree, which is then deleted. Returns how many kills struck.
    """
    rng, struck = random.Random(out), 0
    command = ["clipseg", "segment", "imgs", "-p", "red", "-f", FORMATS, "-b", "2", "-q", "-o", out]
    for number in range(kills):
        with subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        ) as run:  # fmt: skip
            while run.poll() is None and f'"pid": {run.pid}' not in read(folder / out / "run.json"):
                time.sleep(0.002)
            rows = len(read(folder / out / "manifest.jsonl"))
            while run.poll() is None and number % 2 and len(read(folder / out / "manifest.jsonl")) <= rows:
                time.sleep(0.002)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(rng.uniform(0, window))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            _, told = run.communicate()
        struck += run.returncode == -signal.SIGKILL
        if run.returncode != -signal.SIGKILL:
            assert run.returncode == 0, told
            assert tree(folder / out) == expected and not temporary_files(folder / out)
            shutil.rmtree(folder / out)
    return struck


def read(path: Path) -> str:
    """Returns the content of a file; nothing if there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments(
    quick_shell: Shell, quick_environment: dict[str, str], tmp_path: Path
) -> None:
    """kill -9 of the whole process group, 100 times while a run writes masks, soft maps, coco, webdataset and yolo: at
    least 90 strike while it works. In the end the tree is that of an uninterrupted run, byte for byte. Two folders take
    turns, one for each core."""
    start = time.monotonic()
    save_tiny(tmp_path / "imgs", 600)
    quick_shell(f"clipseg segment imgs -p red -f {FORMATS} -b 2 -q -o whole")
    whole = tree(tmp_path / "whole")
    seconds = json.loads((tmp_path / "whole/run.json").read_text())["seconds"]
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(kill_at_random, tmp_path, out, 50, seconds / 8, quick_environment, whole)
            for out in ("one", "two")
        ]
        struck = sum(job.result() for job in jobs)
    print(f"{struck} of 100 kills struck while the run worked, {time.monotonic() - start:.0f} s")
    for out in ("one", "two"):
        quick_shell(f"clipseg segment imgs -p red -f {FORMATS} -b 2 -q -o {out}")
        assert tree(tmp_path / out) == whole and not temporary_files(tmp_path / out)
    assert struck >= 90
    result = f"{struck} struck while it worked; same tree byte for byte, no temporary file"
    figure("kill -9 of the group at random moments", "100 kills, 600 images, 5 formats", result, start)


@pytest.mark.slow
def test_a_long_run_with_one_per_cent_corrupt(
    quick_shell: Shell, tmp_path: Path, quick_environment: dict[str, str]
) -> None:
    """10,000 images, 1 % corrupt: exactly 1 % failed rows, exit 3, flat memory. A second run takes under 5 s and loads
    no model."""
    count, start = size(10_000, 200), time.monotonic()
    save_tiny(tmp_path / "imgs", count, corrupt=100)
    command = [each if each != "2" else "16" for each in COMMAND.split()]
    samples: list[tuple[int, int]] = []  # images done, kilobytes
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=tmp_path, env=quick_environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
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
    told = quick_shell(" ".join(command), expect=3).stderr
    again = time.monotonic() - began
    assert "model fake" not in told and f"{count - count // 100} before" in told
    assert again < 5 or count < 1000, "seconds"
    flat = (
        f"{slope:.2f} MB more a 1,000 images, {after / 1024:.0f} MB at most" if count >= 5000 else "too few for memory"
    )
    result = f"exactly {len(failed)} failed rows, exit 3, {seconds:.0f} s; {flat}"
    figure("1 % corrupt", f"{count} images", result, start)
    figure("rerun of a finished run", f"{count} images", f"{again:.1f} s, model not loaded", start)


def name_of(row: dict[str, Any]) -> str:
    """Returns a record's image as the operating system gives it."""
    return os.fsdecode(base64.b64decode(row["image_b64"])) if row["image_b64"] else str(row["image"])


def hostile(rng: random.Random) -> str:
    """Returns a name that some program somewhere would stumble over."""
    pieces = [
        "\n", "\t", "\x1b[31m", "\x07", "\u202e", "\udcff", "\udc80", "\u00e9", "e\u0301", "-", "--help", "$(x)", "`x`",
        "*", "%s", "%0A", "\\", "'", '"', "<img src=x onerror=alert(1)>".replace("/", ""), "=cmd|' C'!A0", "&", ";",
        "|", " ", "  ", "\u2028", "\u200b", "\ufeff", "{label}", "~", "#", "?", "[a]", "\u4e2d", "\U0001f600", "NUL",
    ]  # fmt: skip
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 12)))


def test_hostile_names_and_prompts(quick_clipseg: Program, tmp_path: Path) -> None:
    """500 hostile strings as names and as prompts: each image has one row under its exact name, stdout and stderr have
    only printable text, and every output is a file inside the folder."""
    rng, start = random.Random(8), time.monotonic()
    names = {hostile(rng)[:60] + ".png" for _ in range(size(500, 60))}
    save_tiny(tmp_path / "one", 1)
    data = (tmp_path / "one/0/00000.png").read_bytes()
    (tmp_path / "imgs").mkdir()
    for name in names:
        Path(os.fsencode(tmp_path / "imgs").decode() + "/" + name).write_bytes(data)
    done = quick_clipseg("clipseg segment imgs -p red -o out --hidden")
    rows = records(tmp_path / "out/manifest.jsonl")
    assert {name_of(row) for row in rows} == {f"imgs/{name}" for name in names} and len(rows) == len(names)
    assert len({row["masks"][0]["path"] for row in rows}) == len(names)
    assert all((tmp_path / "out" / row["masks"][0]["path"]).is_file() for row in rows)
    assert all(letter.isprintable() or letter == "\n" for letter in done.stderr + done.stdout)
    prompts = sorted(
        {text for text in (hostile(rng) for _ in range(size(500, 60))) if text.strip() and "=" not in text}
    )
    prompts = [text for text in prompts if not any("\ud800" <= letter <= "\udfff" for letter in text)][:200]
    options = [each for number, text in enumerate(prompts) for each in ("--prompt", f"{number}={text}")]
    quick_clipseg(shlex.join(["clipseg", "segment", "one", "-o", "two", *options]))
    found = [mask["prompt"] for mask in records(tmp_path / "two/manifest.jsonl")[0]["masks"]]
    assert found == [text.strip() for text in prompts]
    ran = f"{len(names)} and {len(prompts)}"
    figure("hostile names and prompts", ran, "exact JSON round trip, printable terminal", start)


@pytest.mark.slow
def test_a_walk_over_a_million_files(tmp_path: Path) -> None:
    """1,000,000 files in under 200 MB. The first image comes before the walk ends."""
    count, start = size(1_000_000, 10_000), time.monotonic()
    code = """
import sys, time
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.inputs.finding.discovery import discover
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


@pytest.mark.slow
def test_a_disk_that_fills_at_any_size(quick_shell: Shell, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk, at ten sizes. A run that it strikes exits with 1 and leaves
    nothing partial. Without it the run completes."""
    start, struck = time.monotonic(), 0
    save_tiny(tmp_path / "imgs", 300)
    sizes = (1, 3, 8, 20, 40, 60, 80, 100, 150, 200) if SCALE >= 0.1 else (3, 40)  # kilobytes
    for blocks in sizes:
        done = quick_shell(f"ulimit -f {blocks}; {COMMAND}", expect=None)
        assert done.returncode in (0, 1), done.stderr
        if done.returncode:
            assert "same command again" in done.stderr
            struck += 1
        if (tmp_path / "out").exists():
            assert_whole(tmp_path / "out")
            assert not temporary_files(tmp_path / "out")
        quick_shell(COMMAND)
        assert len(records(tmp_path / "out/manifest.jsonl")) == 300
        subprocess.run(["rm", "-r", tmp_path / "out"], check=True)
    result = f"{struck} runs struck: exit 1, nothing partial, completes afterwards"
    figure("disk full (limit on file size)", f"{len(sizes)} sizes", result, start)
