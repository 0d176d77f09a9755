"""The engine `ray`, with real actors of a small local Ray: records and bytes of a local run, no process left."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import fake_network
import fake_work
from clipseg_cli import __version__
from clipseg_cli.errors import ClipsegError, OutputError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.record import Record
from clipseg_cli.run.engines import ray_actors
from clipseg_cli.run.engines.workers import Message, Notice, Send
from output_folder import assert_whole, temporary_files, tree
from pictures import Program, Shell, picture, records, save, save_tiny
from process_table import gone, with_mark

MARK = f"ray of {os.getpid()}"  # in the environment of this module's own actors, and of no others
COMMAND = "clipseg segment imgs -p red -f mask -f overlay -b 1 -j 2 --engine ray -o out"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray with room for two actors, which have the fake network. This process is connected to it."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", fake_network.python_path())
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("CLIPSEG_TEST", MARK)
        ray.init(
            "local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=ray_actors.STORE
        )
    yield ray.get_runtime_context().gcs_address  # its actors have the environment of its start
    ray.shutdown()


@pytest.fixture
def ray_environment(quick_environment: dict[str, str], address: str) -> dict[str, str]:
    """An environment in which `clipseg` has the fake network and finds that Ray."""
    return quick_environment | {"RAY_AUTH_MODE": "disabled", "CLIPSEG_RAY_ADDRESS": address}


@pytest.fixture
def local_run(tmp_path: Path, quick_clipseg: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred images in imgs/, and the output folder of a whole run over them without Ray."""
    save_tiny(tmp_path / "imgs", 100)
    out = tmp_path_factory.getbasetemp() / "local"
    if not out.exists():
        quick_clipseg(COMMAND.replace("--engine ray -o out", f"-o {out}"))
    return out


def run(names: Sequence[str], ahead: int = 8, folder: Path = Path()) -> tuple[list[Record], list[str]]:
    """Returns the records of images of these names, done by two actors with `fake_work`, and the lines told."""
    told: list[str] = []
    sources = [Source(str(folder / name), name, name) for name in names]
    found = ray_actors.run(sources, [fake_work.work] * 2, lambda notice: told.append(notice.line), ahead)
    return list(found), told


@pytest.mark.parametrize(
    "amounts, actors, each",
    [([4], 1, 4), ([4], 2, 2), ([4], 3, 1), ([10, 10, 10], 4, 5), ([16, 2], 2, 8), ([2], 3, 0.5), ([1], 3, 0.3333),
     ([8, 8], 17, 0.5), ([0, 0], 2, 0), ([], 2, 0)],
)  # fmt: skip
def test_a_resource_is_shared_evenly(amounts: list[float], actors: int, each: float) -> None:
    """Each actor gets the most that so many can have at once, whole if there is enough. All of them fit."""
    assert ray_actors.share(amounts, actors) == each
    if each:
        assert sum(int(amount / each + 1e-9) for amount in amounts) >= actors


def test_gpus_go_to_the_actors_that_need_them() -> None:
    """`cuda`, and `auto` if there is a GPU, request at most one GPU per actor, on nodes that have GPUs, and fractions
    if there are more actors. `cpu` requests none. From a cluster without GPUs, which may grow, `cuda` requests one."""
    nodes: list[Mapping[str, float]] = [{"CPU": 64}, {"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}]
    assert ray_actors.actor_resources(nodes, 4, "auto") == {"num_cpus": 8, "num_gpus": 1}
    assert ray_actors.actor_resources(nodes, 2, "cuda") == {"num_cpus": 16, "num_gpus": 1}
    assert ray_actors.actor_resources(nodes, 6, "cuda") == {"num_cpus": 5, "num_gpus": 0.5}
    assert ray_actors.actor_resources(nodes, 4, "cpu") == {"num_cpus": 16, "num_gpus": 0}
    assert ray_actors.actor_resources(nodes[:1], 4, "auto") == {"num_cpus": 16, "num_gpus": 0}
    assert ray_actors.actor_resources(nodes[:1], 4, "cuda") == {"num_cpus": 0, "num_gpus": 1}


def instant_work(sources: Iterator[Source | None], send: Send) -> Iterator[Record]:
    """Yields a record per source; `full` ends the run and `bug` is one."""
    send(Notice("at work"))
    for source in filter(None, sources):
        if source.name == "full":
            raise OutputError("no space left")
        if source.name == "bug":
            raise RuntimeError("a bug")
        yield Record(source.name)


@pytest.mark.parametrize("last", ["stop", "full", "bug"])
def test_an_actor_works_in_the_order_of_the_numbers(last: str) -> None:
    """The code of an actor, without Ray: calls may overtake each other, and records come in order. Its last message is
    None, after a stop and after an error alike."""
    actor = ray_actors.WorkerActor(pickle.dumps(instant_work), ".", [], __version__)
    names = ["a", "b", "c", last] if last != "stop" else ["a", "b", "c"]
    for number in (1, 0, *range(2, len(names))):
        actor.push(number, Source(names[number], names[number], names[number]))
    messages: list[Message] = []
    while sum(isinstance(message, Record) for message in messages) < 3:
        messages += actor.pull()
    if last == "stop":
        actor.stop()
    while messages[-1] is not None:
        messages += actor.pull()
    done = [message.image for message in messages if isinstance(message, Record)]
    assert done == ["a", "b", "c"] and messages[0] == Notice("at work")
    assert isinstance(messages[-2], {"stop": Record, "full": OutputError, "bug": Notice}[last])


def test_an_actor_that_cannot_work_says_why() -> None:
    """Another version of clipseg is an error."""
    (error,) = ray_actors.WorkerActor(b"", ".", [], "0.0.1").pull()
    assert isinstance(error, ClipsegError) and "install the same on all nodes" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [1, 8])
def test_records_come_in_the_order_of_the_images(address: str, ahead: int) -> None:
    """One record per image in their order. An item that is a record keeps its place. A notice is told once."""
    names = [f"{index}" for index in range(50)]
    items = [Record(name) if int(name) % 7 == 0 else Source(name, name, name) for name in names]
    told: list[Notice] = []
    found = list(ray_actors.run(items, [fake_work.work] * 2, told.append, ahead))
    assert [record.image for record in found] == names
    assert [(notice.line, notice.facts) for notice in told] == [("at work", {"worker": "told"})]
    assert gone([record.width for record in found if record.width])


@pytest.mark.slow
def test_the_image_that_kills_is_found_and_the_others_are_done(address: str, tmp_path: Path) -> None:
    """Actors die of SIGKILL and of a bug: the images to blame are `worker_died`. All others are done, also one that was
    pending when its actor died by chance."""
    names = ["a", "b", "kill-a", "c", "bug", "d"]
    found, told = run(names)
    assert [record.image for record in found] == names
    failed = {record.image: record.error.kind for record in found if record.error is not None}
    assert failed == dict.fromkeys(("kill-a", "bug"), "worker_died")
    assert any("a bug" in line for line in told) and any("one by one" in line for line in told)
    assert all(record.ok for record in run(["a", "once", "c"], folder=tmp_path)[0])


@pytest.mark.slow
def test_an_error_of_an_actor_is_raised_in_the_driver(address: str) -> None:
    """An OutputError of an actor ends the run."""
    with pytest.raises(OutputError, match="no space left"):
        run(["a", "full", "b"])


@pytest.mark.slow
def test_leaving_early_leaves_no_actor(address: str) -> None:
    """A reader that stops in the middle, while an actor is busy for a minute, ends the actors within seconds."""
    sources = [Source("x", name, "x") for name in ("a", "b", "c", "d", "e", "slow")]
    stream = ray_actors.run(sources, [fake_work.work], lambda notice: None, 8)
    pid = next(stream).width
    stream.close()  # type: ignore[attr-defined]
    assert gone([pid])


@pytest.mark.slow
def test_leaving_while_actors_start_frees_their_resources(address: str) -> None:
    """If reading the inputs fails, the run ends at once. The actors that it requested end within seconds, and their
    resources are free again."""
    import ray

    def torn() -> Iterator[Source]:
        yield Source("x", "a", "x")
        raise ValueError("torn")

    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(ValueError, match="torn"):
            list(ray_actors.run(torn(), [fake_work.work] * 2, lambda notice: None, 8))
    assert time.monotonic() - began < 5 * ray_actors.START_GRACE + 10
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() - began < 60, ray.available_resources()
        time.sleep(0.1)


@pytest.mark.slow
def test_local_ray_equals_a_local_run(shell: Shell, quick_shell: Shell, clipseg: Program, tmp_path: Path) -> None:
    """40 images, some corrupt: two actors of the run's own Ray write the same files and records, byte for byte. stdout
    has only mask paths, stderr no line of Ray's, and no process of Ray stays behind. A second run has nothing to do and
    starts no Ray."""
    save_tiny(tmp_path / "imgs", 40, corrupt=10)
    clipseg("clipseg segment imgs -p circle -o one", expect=3)
    done = shell("clipseg segment imgs -p circle -o two --engine ray -j 2", expect=3)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(records(tmp_path / "two/manifest.jsonl")) == 40
    assert [line[:10] for line in done.stdout.splitlines()] == ["two/masks/"] * 36
    expected = ("model shapes", "failed imgs/", "36 of 40", "images, ", "circle: found", "failed: 4", "next: clipseg")
    assert all(any(part in line for part in expected) for line in done.stderr.splitlines()), done.stderr
    assert gone(with_mark("ray", str(tmp_path)))
    for index in range(9, 40, 10):
        (tmp_path / f"imgs/{index % 7}/{index:05}.png").unlink()
    again = quick_shell("clipseg segment imgs -p circle -o two --engine ray -j 2 --ray-address 192.0.2.1:1")
    assert "36 of 36 images done (36 before)" in again.stderr


@pytest.mark.slow
def test_an_actor_killed_in_mid_run_costs_nothing(
    tmp_path: Path, ray_environment: dict[str, str], local_run: Path
) -> None:
    """SIGKILL of an actor: its images are done by another; the files are the same, and the run exits with 0."""
    with subprocess.Popen(
        COMMAND.split(), cwd=tmp_path, env=ray_environment, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        os.kill(with_mark("ray::WorkerActor", MARK)[0], signal.SIGKILL)
        rest = driver.stdout.read()  # communicate() would lose the lines that readline() had read ahead
    assert driver.returncode == 0 and len(rest.splitlines()) == 99
    assert all(line.startswith("out/masks/red/") for line in rest.splitlines())
    assert tree(tmp_path / "out") == tree(local_run) and not temporary_files(tmp_path / "out")
    assert json.loads((tmp_path / "out/run.json").read_text())["workers_died"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_ended_and_started_again(
    tmp_path: Path, ray_environment: dict[str, str], local_run: Path, number: int
) -> None:
    """Killed, or interrupted by Ctrl-C (130): no actor stays and no file is partial. The same command again resumes,
    and the files are those of one run."""
    with subprocess.Popen(
        COMMAND.split(), cwd=tmp_path, env=ray_environment, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        driver.send_signal(number)
    assert driver.returncode == (130 if number == signal.SIGINT else -9)
    assert_whole(tmp_path / "out")
    before = len(records(tmp_path / "out/manifest.jsonl"))
    done = subprocess.run(
        COMMAND.split(), cwd=tmp_path, env=ray_environment, capture_output=True, text=True, check=True
    )
    assert 0 < before < 100 and f"100 of 100 images done ({before} before)" in done.stderr
    assert tree(tmp_path / "out") == tree(local_run)
    assert gone(with_mark("ray::WorkerActor", MARK))


def test_options_that_do_not_fit_ray_are_refused(
    clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of its own, an address without the engine, and a missing extra (with its pip line) exit with 2."""
    save_tiny(tmp_path / "imgs", 1)
    line = "clipseg segment imgs -p circle --engine ray"
    assert "--device cuda" in clipseg(f"{line} --device cuda:0,1", expect=2).stderr
    assert "--engine ray" in clipseg("clipseg find imgs -p circle --ray-address auto", expect=2).stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'clipseg-cli[ray]'" in clipseg(line, expect=2).stderr
    assert not (tmp_path / "clipseg-out").exists()


@pytest.mark.slow
def test_an_address_without_a_cluster_is_refused(quick_shell: Shell, tmp_path: Path) -> None:
    """It exits with 1 and says what to try."""
    save_tiny(tmp_path / "imgs", 2)
    told = quick_shell("clipseg segment imgs -p circle --engine ray --ray-address 127.0.0.1:9", expect=1).stderr
    assert "no Ray cluster answers at 127.0.0.1:9" in told and "leave out --ray-address" in told


@pytest.mark.slow
def test_actors_refine_with_sam(shell: Shell, clipseg: Program, tmp_path: Path) -> None:
    """Each loads the SAM of the run. Masks and records are those of a local run."""
    for index in range(3):
        save(tmp_path / f"imgs/{index}.png", picture(150, 110 + 10 * index, index))
    line = "clipseg segment imgs -p 'a red circle' --refine sam -f mask -o"
    clipseg(f"{line} one")
    shell(f"{line} two --engine ray -j 2")
    assert tree(tmp_path / "one/masks") == tree(tmp_path / "two/masks")
    one, two = (records(tmp_path / name / "manifest.jsonl") for name in ("one", "two"))
    assert one == two and all(record["masks"][0]["refined"] for record in one)
    assert gone(with_mark("ray", str(tmp_path)))
