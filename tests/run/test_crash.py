"""Killed at every point at which it hurts: nothing partial, nothing lost, nothing twice. The network is `red`'s."""

import io
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from PIL import Image

import red
from clipseg_cli.inputs.source import Source
from clipseg_cli.run import segment
from clipseg_cli.storage import store
from pictures import picture, records, save
from test_engines import gone
from test_resume import tree

Swift = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = "clipseg segment imgs -p red -f mask -f overlay -o out -b 2"


@pytest.fixture
def swift_environment(environment: dict[str, str]) -> dict[str, str]:
    """An environment in which `clipseg` has `red`'s network in place of the real one: a second a run, not ten."""
    return environment | {"PYTHONPATH": swift_path()}


def swift_path() -> str:
    """The PYTHONPATH with which every `clipseg` has `red`'s network."""
    return os.pathsep.join([str(Path(red.__file__).parent / "swift"), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def swift(tmp_path: Path, swift_environment: dict[str, str]) -> Swift:
    """Runs a shell line with `red`'s network."""

    def run(line: str, expect: int | None = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=swift_environment | extra, capture_output=True,
            text=True, errors="surrogateescape", timeout=600, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if expect is not None:
            assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def images(folder: Path, count: int, corrupt: int = 0) -> None:
    """Tiny pictures, of which every `corrupt`-th is cut short."""
    small = [picture(48, 40, seed) for seed in range(16)]
    for index in range(count):
        path = save(folder / f"{index % 7}/{index:05}.png", small[index % len(small)])
        if corrupt and index % corrupt == corrupt - 1:
            path.write_bytes(path.read_bytes()[:100])


def whole(out: Path, but: tuple[str, ...] = ()) -> None:
    """Every file under a final name can be read to its last byte."""
    for name, data in tree(out).items():
        if name.endswith((".png", ".jpg")) and name not in but:
            Image.open(io.BytesIO(data)).load()
            assert data.endswith((b"IEND\xaeB`\x82", b"\xff\xd9")), name


def leftovers(out: Path) -> list[Path]:
    """Temporary files."""
    return [*out.rglob(".clipseg-tmp-*")]


@pytest.mark.parametrize("point", [*red.FILE_POINTS, *red.LINE_POINTS])
def test_killed_at_a_point_and_resumed_it_is_the_same_tree(swift: Swift, tmp_path: Path, point: str) -> None:
    """kill -9 at this point of the 1st and of the 9th file or line: no partial file, at most what was in hand is done
    again, no temporary file remains, and the tree is an uninterrupted run's byte for byte."""
    images(tmp_path / "imgs", 12, corrupt=6)
    swift(COMMAND.replace("-o out", "-o whole"), expect=3)
    for number in (1, 9):
        out = tmp_path / "out"
        assert swift(COMMAND, expect=None, RED_CRASH=f"{point}:{number}").returncode in (-9, 137)
        whole(out)
        lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True) if out.exists() else []
        finished = sum(line.endswith("\n") and '"ok"' in line for line in lines)
        last = swift(COMMAND, expect=3).stderr
        before = re.search(r"\((\d+) before\)", last)
        assert int(before[1] if before else 0) == finished
        assert tree(out) == tree(tmp_path / "whole") and not leftovers(out)
        subprocess.run(["rm", "-r", out], check=True)


@pytest.mark.parametrize("point", ["mid-write", "after-rename"])
def test_a_worker_killed_while_it_writes_leaves_nothing(swift: Swift, tmp_path: Path, point: str) -> None:
    """Only the worker dies: the same run ends with everything done and no temporary file."""
    images(tmp_path / "imgs", 12)
    swift(COMMAND.replace("-o out", "-o whole"))
    done = swift(COMMAND, RED_CRASH=f"{point}:7", RED_ONCE=str(tmp_path / "once"))
    assert "SIGKILL" in done.stderr and (tmp_path / "once").exists()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole") and not leftovers(tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_its_workers(
    tmp_path: Path, swift_environment: dict[str, str], number: signal.Signals
) -> None:
    """The first signal: exit 130, 143 or 129 in under 5 s, what is finished in the manifest, no process left behind."""
    images(tmp_path / "imgs", 1500)
    command = [*COMMAND.split(), "-j", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=swift_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        began = time.monotonic()
        run.send_signal(number)
        printed, told = run.communicate()
    assert run.returncode == 128 + number and time.monotonic() - began < 5
    assert "does what is missing" in told and "Traceback" not in told
    assert len(children) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in children)
    whole(tmp_path / "out")
    assert 1 + len(printed.splitlines()) <= len(records(tmp_path / "out/manifest.jsonl")) < 1500


@pytest.mark.parametrize(
    ("pictures", "signals"),
    [
        (1, [signal.SIGTERM]),
        (9, [signal.SIGINT]),
        (9, [signal.SIGINT, signal.SIGINT]),
        (9, [signal.SIGTERM, signal.SIGTERM]),
        (9, [signal.SIGINT, signal.SIGTERM]),
    ],
)
def test_a_run_that_hangs_ends_by_signals(
    tmp_path: Path, swift_environment: dict[str, str], pictures: int, signals: list[signal.Signals]
) -> None:
    """Held by a picture that never loads, in a worker or (a single one) in its own process. The first signal ends the
    run with its line; a second one ends it at once, with its own code and no line. No process is left behind."""
    images(tmp_path / "imgs", pictures)
    environment = swift_environment | {"RED_STUCK": f"{pictures - 1:05}"}
    with subprocess.Popen(COMMAND.split(), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while "stuck" not in run.stderr.readline():  # two processes write there: their lines may mingle
            assert run.poll() is None
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        threads = len(os.listdir(f"/proc/{run.pid}/task"))
        run.send_signal(signals[0])
        if len(signals) > 1:
            while len(os.listdir(f"/proc/{run.pid}/task")) <= threads:  # one more will see to the end
                assert run.poll() is None
            run.send_signal(signals[1])
        _, told = run.communicate()
    assert run.returncode == 128 + signals[-1]
    assert told.count("does what is missing") == (len(signals) == 1) and "Traceback" not in told
    assert len(children) == (pictures > 1) and gone([int(pid) for pid in children])


def test_a_decoder_that_hangs_costs_one_image(swift: Swift, tmp_path: Path) -> None:
    """The run ends by itself: that image is `worker_died` at its load, and all others are done."""
    images(tmp_path / "imgs", 9)
    told = swift(COMMAND + " -j 2", expect=3, RED_STUCK="00003", RED_PATIENCE="1").stderr
    assert "still loading after 1 s" in told
    rows = records(tmp_path / "out/manifest.jsonl")
    (bad,) = (row for row in rows if row["status"] == "failed")
    assert len(rows) == 9 and bad["image"] == "imgs/3/00003.png"
    assert (bad["error"]["class"], bad["error"]["stage"]) == ("worker_died", "load")


def test_two_images_never_share_an_output(swift: Swift, tmp_path: Path) -> None:
    """`a.jpg` beside `a.png`, an absolute and a relative path of one spelling, a folder called like a picture's mask:
    every image has a mask of its own, and the same command again changes nothing."""
    names = ["sub.jpg", "sub.png/a.jpg", "sub.jpg.png/b.jpg", "a.jpg", "a.png", "A.jpg"]
    for seed, name in enumerate(names):
        save(tmp_path / "imgs" / name, picture(48, 40, seed))
    swift("clipseg segment imgs -p red -o out")
    masks = [row["masks"][0]["path"] for row in records(tmp_path / "out/manifest.jsonl")]
    assert len(set(masks)) == len(names) and all((tmp_path / "out" / path).is_file() for path in masks)
    inner = tmp_path / "imgs" / str(tmp_path).lstrip("/")  # named from imgs/, it looks like the absolute path
    save(inner / "imgs/a.jpg", picture(48, 40, 9))
    line = f"cd imgs && clipseg segment {tmp_path}/imgs/a.jpg {inner.relative_to(tmp_path / 'imgs')}/imgs/a.jpg"
    for _ in range(2):
        swift(f"{line} a.jpg ./a.jpg -p red -o ../two")
        rows = records(tmp_path / "two/manifest.jsonl")
        assert len(rows) == 3 == len({row["masks"][0]["path"] for row in rows})


def test_two_folders_done_into_one_share_no_output(swift: Swift, tmp_path: Path) -> None:
    """Two folders with a picture of one name, an absolute and a relative path of one spelling, one run after the other:
    every picture has its own mask, keeps it, and a further run finds all done."""
    relative = f"b/{tmp_path}/a/x.png".replace("//", "/")
    for seed, name in enumerate(["a/x.png", "b/x.png", relative]):
        save(tmp_path / name, picture(48 + seed, 40, seed))
    lines = [f"clipseg segment {place} -p red -o {tmp_path}/out" for place in ("a", "b -d 1")]
    lines += [f"clipseg segment {tmp_path}/a/x.png -p red -o {tmp_path}/out"]
    lines += [f"cd b && clipseg segment {relative.removeprefix('b/')} -p red -o {tmp_path}/out"]
    for turn in range(2):
        told = swift(" && ".join(f"({line})" for line in lines)).stderr
        assert told.count("(1 before)") == 4 * turn
    rows = records(tmp_path / "out/manifest.jsonl")
    paths = [tmp_path / "out" / row["masks"][0]["path"] for row in rows]
    assert len(rows) == 4 == len({row["image"] for row in rows}) == len(set(paths))
    assert [cv2.imread(str(path)).shape for path in paths] == [(40, row["width"], 3) for row in rows]


def test_a_mask_does_not_outlive_its_picture(swift: Swift, tmp_path: Path) -> None:
    """A picture that is replaced by a broken one, or by one without the object and --empty skip, loses the files that
    were made of the former; those of others stay."""
    line = "clipseg segment imgs -p red -f mask -f overlay -f yolo --empty skip -o out"
    for name in "abc":
        save(tmp_path / f"imgs/{name}.png", picture(48, 40, 3))
    swift(line)
    files = sorted((tmp_path / "out").rglob("a.*"))
    assert [path.suffix for path in files] == [".png", ".jpg", ".jpg", ".txt"]
    (tmp_path / "imgs/a.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    save(tmp_path / "imgs/b.png", 0 * picture(48, 40, 3))
    swift(line, expect=3)
    assert not any(path.exists() for path in files)
    assert {path.parent.name for path in (tmp_path / "out").rglob("b.*")} == {"overlays", "images", "labels"}
    assert len([*(tmp_path / "out").rglob("c.*")]) == len(files)


def test_a_folding_file_system_gets_names_that_stay_apart(tmp_path: Path) -> None:
    """Where `A.png` and `a.png` are one file, or the two spellings of é, the second image's output is marked; this file
    system is asked and does not fold."""
    names = ["a", "A", "caf\u00e9", "cafe\u0301", "Stra\u00dfe", "STRASSE", "b"]
    found = list(segment._unfolded(Source(name, name, name) for name in names))
    assert [source.output == source.name for source in found] == [True, False, True, False, True, False, True]
    assert len({store.folded(source.output) for source in found}) == len(names)
    assert not store.folds(tmp_path) and not [*tmp_path.iterdir()]
