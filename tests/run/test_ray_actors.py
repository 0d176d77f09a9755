"""The engine `ray`: real actors of a small local Ray. Same records and bytes as here, and nobody is left behind."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import hands
import red
from clipseg_cli.errors import ClipsegError, OutputError
from clipseg_cli.inputs.source import Source
from clipseg_cli.outputs.manifest import Record
from clipseg_cli.run import ray_actors, workers
from pictures import Shell, picture, records, save
from test_crash import images, leftovers, whole
from test_engines import gone
from test_resume import tree

SWIFT = str(Path(red.__file__).parent / "swift")
MARK = f"ray of {os.getpid()}"  # in the environment of this module's own actors, and of no other's
COMMAND = "clipseg segment imgs -p red -f mask -f overlay -b 1 -j 2 --engine ray -o out"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray with room for two actors, to which this process is connected. Its actors have `red`'s network."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([SWIFT, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("CLIPSEG_TEST", MARK)
        ray.init(
            "local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=ray_actors.STORE
        )
    yield ray.get_runtime_context().gcs_address  # its actors have the environment of its start, and nobody else
    ray.shutdown()


@pytest.fixture
def swift(environment: dict[str, str], address: str) -> dict[str, str]:
    """An environment in which `clipseg` has `red`'s network and finds that Ray."""
    path = os.pathsep.join([SWIFT, os.environ.get("PYTHONPATH", "")])
    return environment | {"PYTHONPATH": path, "RAY_AUTH_MODE": "disabled", "CLIPSEG_RAY_ADDRESS": address}


@pytest.fixture
def once(tmp_path: Path, swift: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred images in imgs/, and the directory of one whole run over them on this machine."""
    images(tmp_path / "imgs", 100)
    done = tmp_path_factory.getbasetemp() / "whole"
    if not done.exists():
        line = COMMAND.replace("--engine ray -o out", f"-o {done}")
        here = {key: value for key, value in swift.items() if key != "CLIPSEG_RAY_ADDRESS"}
        subprocess.run(line.split(), cwd=tmp_path, env=here, check=True, stdout=subprocess.DEVNULL)
    return done


def run(names: Sequence[str], ahead: int = 8, folder: Path = Path()) -> tuple[list[Record], list[str]]:
    """The records of images of these names, done by two actors with `hands`, and what was told meanwhile."""
    told: list[str] = []
    sources = [Source(str(folder / name), name, name) for name in names]
    found = ray_actors.run(sources, [hands.work] * 2, lambda news: told.append(news.line), ahead)
    return list(found), told


def processes(word: str, mark: str) -> set[int]:
    """The numbers of the processes whose command line has this word, and whose environment this mark."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found |= {int(entry.name)} if mark.encode() in (entry / "environ").read_bytes() else set()
    return found


@pytest.mark.parametrize(
    "amounts, actors, each",
    [([4], 1, 4), ([4], 2, 2), ([4], 3, 1), ([10, 10, 10], 4, 5), ([16, 2], 2, 8), ([2], 3, 0.5), ([1], 3, 0.3333),
     ([8, 8], 17, 0.5), ([0, 0], 2, 0), ([], 2, 0)],
)  # fmt: skip
def test_a_resource_is_shared_evenly(amounts: list[float], actors: int, each: float) -> None:
    """The most that so many actors can have at once, whole where there is enough; that many always fit."""
    assert ray_actors.share(amounts, actors) == each
    if each:
        assert sum(int(amount / each + 1e-9) for amount in amounts) >= actors


def test_gpus_go_to_who_needs_them() -> None:
    """`cuda`, and `auto` where there is one, ask for GPUs, at most one an actor, on nodes that have them, and fractions
    where actors are more; `cpu` asks for none; a cluster that has none yet (it may grow) is asked for a whole one."""
    nodes: list[Mapping[str, float]] = [{"CPU": 64}, {"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}]
    assert ray_actors.actor_resources(nodes, 4, "auto") == {"num_cpus": 8, "num_gpus": 1}
    assert ray_actors.actor_resources(nodes, 2, "cuda") == {"num_cpus": 16, "num_gpus": 1}
    assert ray_actors.actor_resources(nodes, 6, "cuda") == {"num_cpus": 5, "num_gpus": 0.5}
    assert ray_actors.actor_resources(nodes, 4, "cpu") == {"num_cpus": 16, "num_gpus": 0}
    assert ray_actors.actor_resources(nodes[:1], 4, "auto") == {"num_cpus": 16, "num_gpus": 0}
    assert ray_actors.actor_resources(nodes[:1], 4, "cuda") == {"num_cpus": 0, "num_gpus": 1}


@pytest.mark.parametrize("ahead", [1, 8])
def test_records_come_in_the_order_of_the_images(address: str, ahead: int) -> None:
    """One record an image in the images' order; what is a record already keeps its place; news are told once."""
    names = [f"{index}" for index in range(50)]
    items = [Record(name) if int(name) % 7 == 0 else Source(name, name, name) for name in names]
    told: list[workers.Notice] = []
    found = list(ray_actors.run(items, [hands.work] * 2, told.append, ahead))
    assert [record.image for record in found] == names
    assert [(news.line, news.facts) for news in told] == [("at work", {"worker": "told"})]
    assert gone([record.width for record in found if record.width])


def test_the_image_that_kills_is_found_and_the_others_are_done(address: str, tmp_path: Path) -> None:
    """Actors die of SIGKILL and of a bug: each guilty image is `worker_died`, all others are done, also one that an
    actor had in hand when it died by chance."""
    names = ["a", "b", "kill-a", "c", "wrong", "d"]
    found, told = run(names)
    assert [record.image for record in found] == names
    failed = {record.image: record.error.kind for record in found if record.error is not None}
    assert failed == dict.fromkeys(("kill-a", "wrong"), "worker_died")
    assert any("a bug" in line for line in told) and any("one by one" in line for line in told)
    assert all(record.ok for record in run(["a", "once", "c"], folder=tmp_path)[0])


def test_what_ends_the_run_comes_through(address: str) -> None:
    """An OutputError of an actor is raised here. An actor that cannot be what it should be is told once."""
    with pytest.raises(OutputError, match="no space left"):
        run(["a", "full", "b"])
    actor = ray_actors.WorkerActor(b"", ".", [], "0.0.1")
    (error,) = actor.pull()
    assert isinstance(error, ClipsegError) and "install the same on all nodes" in str(error)


def test_leaving_early_leaves_no_actor(address: str) -> None:
    """A reader that stops in the middle, while an actor is busy for a minute, ends the actors within seconds."""
    sources = [Source("x", name, "x") for name in ("a", "b", "c", "d", "e", "slow")]
    stream = ray_actors.run(sources, [hands.work], lambda news: None, 8)
    pid = next(stream).width
    stream.close()  # type: ignore[attr-defined]
    assert gone([pid])


def test_leaving_while_actors_begin_leaves_their_places_free(address: str) -> None:
    """A list that ends in an error ends the run at once; the actors that it asked for end within seconds, and what they
    were given of the cluster is free again."""
    import ray

    def torn() -> Iterator[Source]:
        yield Source("x", "a", "x")
        raise ValueError("torn")

    began = time.monotonic()
    for _ in range(5):
        with pytest.raises(ValueError, match="torn"):
            list(ray_actors.run(torn(), [hands.work] * 2, lambda news: None, 8))
    assert time.monotonic() - began < 5 * ray_actors.START_GRACE + 10
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() - began < 60, ray.available_resources()
        time.sleep(0.1)


def test_local_ray_equals_a_local_run(shell: Shell, tmp_path: Path) -> None:
    """40 images, some corrupt: two actors of a Ray of the run's own give the same files, byte for byte, the same
    records, mask paths alone on stdout and no word of Ray's on stderr; nothing of Ray stays behind. Once more it has
    nothing to do, and starts no Ray."""
    images(tmp_path / "imgs", 40, corrupt=10)
    shell("clipseg segment imgs -p circle -o one", expect=3)
    done = shell("clipseg segment imgs -p circle -o two --engine ray -j 2", expect=3)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(records(tmp_path / "two/manifest.jsonl")) == 40
    assert [line[:10] for line in done.stdout.splitlines()] == ["two/masks/"] * 36
    stages = ("model shapes", "failed imgs/", "36 of 40", "images, ")
    assert all(any(stage in line for stage in stages) for line in done.stderr.splitlines()), done.stderr
    assert gone([*processes("ray", str(tmp_path))])
    for index in range(9, 40, 10):
        (tmp_path / f"imgs/{index % 7}/{index:05}.png").unlink()
    again = shell("clipseg segment imgs -p circle -o two --engine ray -j 2 --ray-address 192.0.2.1:1")
    assert "36 of 36 images done (36 before)" in again.stderr


def test_an_actor_killed_in_mid_run_costs_nothing(tmp_path: Path, swift: dict[str, str], once: Path) -> None:
    """SIGKILL of an actor: its images are done by another; the same files as without, and exit 0."""
    with subprocess.Popen(COMMAND.split(), cwd=tmp_path, env=swift, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        os.kill(min(processes("ray::WorkerActor", MARK)), signal.SIGKILL)
        rest, _ = driver.communicate()
    assert driver.returncode == 0 and len(rest.splitlines()) == 99
    assert all(line.startswith("out/masks/red/") for line in rest.splitlines())
    assert tree(tmp_path / "out") == tree(once) and not leftovers(tmp_path / "out")
    assert json.loads((tmp_path / "out/run.json").read_text())["workers_died"] == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_driver_ended_in_mid_run_and_started_again(
    tmp_path: Path, swift: dict[str, str], once: Path, number: int
) -> None:
    """Killed, or interrupted by Ctrl-C (130): no actor stays, no file is partial; the same command again does what is
    missing, and the files are those of one run."""
    with subprocess.Popen(COMMAND.split(), cwd=tmp_path, env=swift, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        driver.send_signal(number)
    assert driver.returncode == (130 if number == signal.SIGINT else -9)
    whole(tmp_path / "out")
    before = len(records(tmp_path / "out/manifest.jsonl"))
    done = subprocess.run(COMMAND.split(), cwd=tmp_path, env=swift, capture_output=True, text=True, check=True)
    assert 0 < before < 100 and f"100 of 100 images done ({before} before)" in done.stderr
    assert tree(tmp_path / "out") == tree(once)
    assert gone([*processes("ray::WorkerActor", MARK)])


def test_what_cannot_run_is_refused(shell: Shell, tmp_path: Path) -> None:
    """Without the extra: the pip line, exit 2. No cluster at the address: exit 1. A device of its own, an address
    without the engine: exit 2."""
    save(tmp_path / "imgs/a.png", picture(48, 48))
    (tmp_path / "bare/sitecustomize.py").parent.mkdir()
    (tmp_path / "bare/sitecustomize.py").write_text("import sys; sys.modules['ray'] = None")
    path = os.pathsep.join([str(tmp_path / "bare"), os.environ.get("PYTHONPATH", "")])
    line = "clipseg segment imgs -p circle --engine ray"
    assert "pip install 'clipseg-cli[ray]'" in shell(line, expect=2, PYTHONPATH=path).stderr
    assert not (tmp_path / "clipseg-out").exists()
    nobody = shell(f"{line} -p square --ray-address 127.0.0.1:9", expect=1).stderr
    assert "no Ray cluster answers at 127.0.0.1:9" in nobody and "leave out --ray-address" in nobody
    assert "--device cuda" in shell(f"{line} --device cuda:0,1", expect=2).stderr
    assert "--engine ray" in shell("clipseg find imgs -p circle --ray-address auto", expect=2).stderr
