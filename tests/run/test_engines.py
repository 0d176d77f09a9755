"""Workers that die: what they had in hand is tried again, the guilty image is found, and nobody is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clipseg_cli.run.embeddings import Wanted
from numpy.typing import NDArray

import hands
from clipseg_cli.errors import ClipsegError, ImageError, OutputError, UsageError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import Record
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import pipeline, processes, segment, workers
from clipseg_cli.run.exemplars import Show
from clipseg_cli.run.workers import Notice
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.model import ModelOptions, devices
from clipseg_cli.settings.outputs import OutputOptions
from clipseg_cli.settings.run import RunOptions
from pictures import Shell, picture, records, save
from test_resume import tree

# imported by every Python that has it on its path: the decoder crashes on pictures of a certain name
POISON = """
import signal, sys
def load(source, *, max_pixels, _load=None):
    if "poison" in source.name:
        signal.raise_signal(signal.SIGSEGV)
    return original(source, max_pixels=max_pixels)
if "from clipseg_cli.run.processes import serve" in " ".join(sys.orig_argv):
    sys.path[:] = sys.orig_argv[3:]
    from clipseg_cli.inputs import decode
    original, decode.load = decode.load, load
"""


def run(
    names: Sequence[str], workers: int = 1, ahead: int = 8, folder: Path = Path()
) -> tuple[list[Record], list[str]]:
    """The records of images of these names, done by `hands`, and what was told meanwhile."""
    sources = [Source(str(folder / name), name, name) for name in names]
    told: list[str] = []
    found = list(processes.run(sources, [hands.work] * workers, lambda news: told.append(news.line), ahead))
    return found, told


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie, whose parent has yet to look, does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: Sequence[int], seconds: float = 10.0) -> bool:
    """Whether all of these processes end within the time."""
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("ahead", [1, 8])
def test_records_come_in_the_order_of_the_images(count: int, ahead: int) -> None:
    """One record an image in the images' order, also where a pipeline holds more than it is sent ahead; what is a
    record already keeps its place; a worker that prints disturbs nothing; what all workers tell is told once."""
    names = [f"{index}" for index in range(50)]
    items = [Record(name) if int(name) % 7 == 0 else Source(name, name, name) for name in names]
    told: list[Notice] = []
    found = list(processes.run(items, [hands.work] * count, told.append, ahead))
    assert [record.image for record in found] == names
    assert len({record.width for record in found} - {0}) == count
    assert [(news.line, news.facts) for news in told] == [("at work", {"worker": "told"})]
    assert gone([record.width for record in found if record.width])


def test_what_is_done_already_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records alone pass through without a process."""
    monkeypatch.setattr(processes, "START", "raise SystemExit('started')")
    assert len(list(processes.run([Record("a")] * 5, [hands.work], lambda news: None, 4))) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_the_image_that_kills_is_found_and_the_others_are_done(workers: int) -> None:
    """Workers die of SIGKILL, of an abort and of a bug: each guilty image is `worker_died`, all others are done."""
    names = [f"{index}" for index in range(12)]
    names[2], names[3], names[9], names[11] = "kill-a", "kill-b", "crash", "wrong"
    found, told = run(names, workers)
    assert [record.image for record in found] == names
    failed = {record.image: str(record.error) for record in found if not record.ok}
    assert failed.keys() == {"kill-a", "kill-b", "crash", "wrong"}
    assert all((record.error.kind, record.error.stage) == ("worker_died", "mask") for record in found if record.error)
    assert "SIGKILL" in failed["kill-a"] and "SIGABRT" in failed["crash"]
    assert any("a bug" in line for line in told) and any("one by one" in line for line in told)


def test_an_image_is_tried_again_before_it_is_blamed(tmp_path: Path) -> None:
    """A worker that dies by chance costs nothing: every image of it is done."""
    found, _ = run(["a", "b", "once", "c"], folder=tmp_path)
    assert [record.image for record in found if record.ok] == ["a", "b", "once", "c"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_image_that_never_loads_is_given_up(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A decoder that hangs: its worker is killed when the time is over, and again; the others are done, and nobody is
    left behind."""
    monkeypatch.setattr(workers, "LOAD_TIMEOUT", 1)
    names = ["a", "b", "c", "stuck", "d", "e"]
    found, told = run(names, count)
    assert [record.image for record in found] == names
    (bad,) = (record.error for record in found if record.error)
    assert (bad.kind, bad.stage) == ("worker_died", "load") and "still loading after 1 s" in str(bad)
    assert any("still loading after 1 s" in line for line in told)
    assert gone([record.width for record in found if record.width])


def test_what_ends_the_run_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OutputError of a worker is raised by its parent; so is the end of hope where no worker ever does an image."""
    with pytest.raises(OutputError, match="no space left"):
        run(["a", "full", "b"])
    monkeypatch.setattr(workers, "MAX_DEATHS", 5)
    with pytest.raises(ClipsegError, match="died in a row"):
        run(["kill"] * 40)


def test_leaving_early_leaves_no_process() -> None:
    """A reader that stops in the middle, while a worker is busy for a minute, ends the workers within seconds."""
    sources = [Source("x", name, "x") for name in ("a", "b", "c", "d", "e", "slow")]
    stream = processes.run(sources, [hands.work], lambda news: None, 8)
    pid = next(stream).width
    started = time.monotonic()
    stream.close()  # type: ignore[attr-defined]
    assert not alive(pid) and time.monotonic() - started < workers.GRACE + 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(number: signal.Signals) -> None:
    """Whatever ends the parent, its workers notice by themselves."""
    command = [sys.executable, hands.__file__, *"abcdefghij"]
    with subprocess.Popen([*command, "slow", "slow"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = {int(parent.stdout.readline().split()[1]) for _ in range(4)}
        assert len(pids) == 2
        parent.send_signal(number)
    assert gone([*pids], workers.GRACE + 2)


def test_a_crashing_decoder_costs_one_image(shell: Shell, tmp_path: Path) -> None:
    """A segmentation fault in the midst of a folder: that image is `worker_died`, all others are as without it, with
    one worker and with two, and no temporary file is left."""
    for index in range(9):
        save(tmp_path / f"imgs/p{index}.jpg", picture(96, 96, index))
    shell("clipseg segment imgs -p circle -o whole")
    save(tmp_path / "imgs/p3-poison.jpg", picture(96, 96, 99))
    (tmp_path / "sitecustomize.py").write_text(POISON)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    for jobs in (1, 2):
        done = shell(f"clipseg segment imgs -p circle -o out{jobs} -j {jobs}", expect=3, PYTHONPATH=path)
        assert "SIGSEGV" in done.stderr and "model shapes" in done.stderr
        rows = records(tmp_path / f"out{jobs}/manifest.jsonl")
        bad = rows.pop(3)
        assert bad["image"] == "imgs/p3-poison.jpg" and bad["error"]["class"] == "worker_died"
        assert rows == records(tmp_path / "whole/manifest.jsonl")
        found, whole = tree(tmp_path / f"out{jobs}"), tree(tmp_path / "whole")
        del found["manifest.jsonl"], whole["manifest.jsonl"]
        assert found == whole
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")


def test_a_worker_killed_from_outside_costs_nothing(shell: Shell, tmp_path: Path, environment: dict[str, str]) -> None:
    """The out-of-memory killer strikes in the midst of a run: the run ends with 0 and the same tree."""
    for index in range(12):
        save(tmp_path / f"imgs/p{index:02}.jpg", picture(96, 96, index))
    shell("clipseg segment imgs -p circle -o whole")
    command = ["clipseg", "segment", "imgs", "-p", "circle", "-o", "out", "-b", "1"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        rest, _ = parent.communicate()
    assert parent.returncode == 0 and len(rest.splitlines()) == 11
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    "text, each",
    [("auto", ["auto"]), ("cuda:1", ["cuda:1"]), ("cuda:0,1", ["cuda:0", "cuda:1"]), ("cpu,cpu", ["cpu", "cpu"]),
     ("cuda:0,cuda:3,5,cpu", ["cuda:0", "cuda:3", "cuda:5", "cpu"])],
)  # fmt: skip
def test_a_list_of_devices_is_read(text: str, each: list[str]) -> None:
    """`cuda:0,1` is short for `cuda:0,cuda:1`; a device may stand there twice."""
    assert [*devices(text)] == each


@pytest.mark.parametrize("text", ["cuda:0,", "0,1", "cpu,1", "auto,cpu", "cuda:0,x", "gpu", "", "cuda:\u0661"])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    """With the form that it should have."""
    with pytest.raises(UsageError, match="like cuda:0,1"):
        devices(text)


def test_each_device_has_a_worker() -> None:
    """One worker a device, or as many as -j says, the devices in turn; each gets the request with its device alone."""
    mask = MaskOptions((), (), (), ())
    for jobs, plan in ((1, ["cuda:0", "cuda:1"]), (3, ["cuda:0", "cuda:1", "cuda:0"])):
        request = segment.Request(
            ModelOptions(device="cuda:0,1"), Wanted((), (), ()), (), mask, False, OutputOptions(), InputOptions(), (),
            Show(), RunOptions(jobs=jobs),
        )  # fmt: skip
        assert [one.model.device for one in segment._crew(request)] == plan


def test_several_devices_do_one_run(shell: Shell, tmp_path: Path) -> None:
    """Two workers of two devices give the files of one, and run.json tells the devices; a wrong list is refused, and so
    is a device that is not there."""
    for index in range(6):
        save(tmp_path / f"imgs/p{index}.png", picture(96, 96, index))
    shell("clipseg segment imgs -p circle -o one; clipseg segment imgs -p circle -o two --device cpu,cpu")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert json.loads((tmp_path / "two/run.json").read_text())["device"] == "cpu"
    assert "like cuda:0,1" in shell("clipseg segment imgs -p circle --device cuda:0,", expect=2).stderr
    assert "no device 'cuda:9" in shell("clipseg find imgs -p circle --device cuda:98,99", expect=2).stderr


@pytest.mark.parametrize("flag", ["--fail-fast", "--max-errors 2"])
def test_a_run_stops_at_so_many_errors(shell: Shell, tmp_path: Path, flag: str) -> None:
    """The run ends with 1 once so many images failed; each is in the manifest, and nothing was loaded for them."""
    for index in range(60):
        (tmp_path / f"{index:02}.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    done = shell(f"clipseg segment . -p circle {flag}", expect=1)
    allowed = 1 if flag == "--fail-fast" else 2
    assert f"stopped: {allowed} images failed" in done.stderr and "model shapes" not in done.stderr
    rows = records(tmp_path / "clipseg-out/manifest.jsonl")
    assert [row["error"]["class"] for row in rows] == ["corrupt"] * allowed


class Small:
    """A segmenter whose device has memory for so many pictures at once, and none for a grey one."""

    side = 8

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.tried = room, error, list[int]()

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The colour of the picture's corner."""
        return np.broadcast_to(image[:1, :1], (8, 8, 3))

    def encode(self, images: Sequence[NDArray[np.uint8]], *, pooled: bool) -> SimpleNamespace:
        """The same, or the device's refusal."""
        self.tried.append(len(images))
        if len(images) > self.room or any(image.max() == image.min() for image in images):
            raise self.error
        return SimpleNamespace(images=images, pooled=None)

    def logits(self, features: SimpleNamespace, embeddings: object) -> NDArray[np.float32]:
        """(N, 1, 8, 8): above 0 where the corner is redder than 35."""
        return np.stack([image[None, :, :, 0].astype(np.float32) - 35 for image in features.images])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("std::bad_alloc")],
    ids=lambda error: str(error)[:12],
)  # fmt: skip
def test_a_batch_too_big_for_the_memory_is_halved(tmp_path: Path, error: Exception) -> None:
    """Eight pictures where three fit are tried as 8, 4, 2, 2, 4, 2, 2; one that never fits fails as `out_of_memory`,
    and each of the others gets its own answer. Any other error is not taken for a lack of memory."""
    sources = []
    for index in range(8):
        image = np.full((8, 8, 3), (10 * index, 0, 200), np.uint8) if index != 5 else np.full((8, 8, 3), 7, np.uint8)
        path = save(tmp_path / f"{index}.png", image)
        sources.append(Source(str(path), path.name, path.stem))
    options = MaskOptions((Prompt("x", "x"),), (0.5,), (0,), ("x",))
    job = pipeline.Job(options, (), 10**6, 8)
    small = Small(3, error)
    found = list(pipeline.run(sources, job, lambda: (small, None), lambda path, data: None))  # type: ignore[arg-type]
    assert small.tried == [8, 4, 2, 2, 4, 2, 1, 1, 2]
    assert [record.error.kind for record in found if isinstance(record.error, ImageError)] == ["out_of_memory"]
    assert not found[5].ok and [record.masks[0].area for record in found if record.ok] == [0] * 4 + [64] * 3
    small.error = RuntimeError("an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        list(pipeline.run(sources, job, lambda: (small, None), lambda path, data: None))  # type: ignore[arg-type]
