"""Finding, fetching and checking weights, against a real hub server on localhost and in fresh processes.

A fresh process each time, because huggingface_hub reads its environment once, and because what matters is what a
second run of the program does.
"""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checkpoints import write_checkpoint
from hub import Files, Hub, read_files

ROOT = Path(__file__).parents[2]
REPO = "CIDAS/clipseg-rd64-refined"
SCRIPT = """
import dataclasses, json, sys
from clipseg_cli.model import registry
from clipseg_cli.errors import ClipsegError
answers = []
for model in json.loads(sys.argv[1]):
    try:
        if model == "?":
            found = registry.installed()
        else:
            found = (registry.locate(model, **json.loads(sys.argv[2])),)
        answers.append([dataclasses.asdict(row) for row in found])
    except ClipsegError as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
print(json.dumps({"answers": answers, "torch": "torch" in sys.modules}, default=str))
"""


class Machine:
    """A home directory of its own, and the endpoint it talks to. `url` may be a port where nobody listens."""

    def __init__(self, home: Path, url: str = "http://127.0.0.1:9", **environment: str) -> None:
        """`environment` is added to this process's, less its HF_ and XDG_ variables."""
        self.home = home
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
        places = {"HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "xdg"), "HF_ENDPOINT": url}
        self.environment = {**keep, "PYTHONPATH": str(ROOT), **places, **environment}
        self.file_limit: int | None = None  # bytes that a file may have, as on a full disk
        self.torch = False  # whether the last process had loaded it
        self.stderr = ""

    @property
    def cache(self) -> Path:
        """Where the hub's library keeps models."""
        return self.home / "hf" / "hub"

    def ask(self, *models: str, **options: Any) -> list[Any]:
        """What `locate` gives for each model in one fresh process; "?" asks for `installed`."""
        command = [sys.executable, "-c", SCRIPT, json.dumps(models), json.dumps(options)]
        if self.file_limit is not None:
            command = ["bash", "-c", f'ulimit -f {self.file_limit // 1024}; exec "$@"', "-", *command]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, cwd=self.home, check=False
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        self.torch, self.stderr = answer["torch"], done.stderr
        return list(answer["answers"])

    def find(self, model: str, **options: Any) -> dict[str, Any]:
        """The checkpoint that is found, without a word on stderr."""
        (rows,) = self.ask(model, **options)
        assert isinstance(rows, list), rows
        assert options.get("progress") or not self.stderr
        return dict(rows[0])

    def fail(self, model: str, **options: Any) -> str:
        """The message of the ModelError, which is one line, without a word on stderr."""
        (answer,) = self.ask(model, **options)
        assert isinstance(answer, dict) and answer["error"] == "ModelError", answer
        assert "\n" not in answer["message"] and not self.stderr
        return str(answer["message"])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like the released repositories."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as pytorch_model.bin only."""
    return write_checkpoint(tmp_path_factory.mktemp("pickled"), weights="bin")


@pytest.fixture(scope="session")
def files(checkpoint: Path) -> Files:
    """The checkpoint's files, ready to be served."""
    return read_files(checkpoint)


@pytest.fixture
def hub(files: Files) -> Iterator[Hub]:
    """A hub that serves the checkpoint as rd64-refined, with files that nobody needs."""
    extra = {"README.md": b"# card", "tf_model.h5": b"x" * 20_000, "pytorch_model.bin": b"y" * 20_000}
    with Hub({REPO: {"main": {**files, **extra}}}) as running:
        yield running


def sha256(path: Path) -> str:
    """A file's digest."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- from the hub ----


def test_download_then_nothing(tmp_path: Path, hub: Hub, files: Files) -> None:
    """The first run fetches the needed files only, the second makes no request and neither loads torch."""
    machine = Machine(tmp_path, hub.url)
    first = machine.find("rd64-refined")
    assert not machine.torch
    assert first["repo"] == REPO and first["revision"] == hub.refs[REPO, "main"] and first["threshold"] == 0.3
    assert Path(first["weights"]).read_bytes() == files["model.safetensors"]
    fetched = {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path}
    assert fetched == set(files)
    assert not [request for request in hub.requests if "agent" in request.path or "telemetry" in request.path]
    hub.requests.clear()
    assert machine.find("rd64-refined") == first
    assert machine.find("rd64-refined", offline=True) == first
    assert hub.requests == []


def test_cache_is_shared_with_the_library(tmp_path: Path, hub: Hub) -> None:
    """huggingface_hub finds what we fetched, offline, and we use what it fetched without a request."""
    ours, theirs = Machine(tmp_path / "ours", hub.url), Machine(tmp_path / "theirs", hub.url)
    for machine in (ours, theirs):
        machine.home.mkdir()
    found = ours.find(REPO)
    script = f"import huggingface_hub as h; print(h.snapshot_download({REPO!r}, allow_patterns=['*.json', 'm*']))"
    command = [sys.executable, "-c", script]
    offline = {**ours.environment, "HF_HUB_OFFLINE": "1"}
    seen = subprocess.run(command, env=offline, capture_output=True, text=True, check=True).stdout
    assert seen.strip() == found["path"]
    subprocess.run(command, env=theirs.environment, capture_output=True, check=True)
    hub.requests.clear()
    assert theirs.find(REPO)["revision"] == found["revision"]
    assert hub.requests == []


def test_refresh_follows_the_branch(tmp_path: Path, hub: Hub, files: Files) -> None:
    """A moved branch is noticed on refresh only, and unchanged weights are not fetched again."""
    machine = Machine(tmp_path, hub.url)
    old = machine.find("rd64-refined")
    commit = hub.push(REPO, "main", {**files, "config.json": files["config.json"] + b"\n"})
    assert machine.find("rd64-refined")["revision"] == old["revision"] != commit
    hub.requests.clear()
    assert machine.find("rd64-refined", refresh=True)["revision"] == commit
    bodies = [request.path.rpartition("/")[2] for request in hub.requests if request.method == "GET"][1:]
    assert bodies == ["config.json"]
    assert machine.find("rd64-refined", offline=True)["revision"] == commit


def test_revisions(tmp_path: Path, hub: Hub, files: Files) -> None:
    """A commit, a tag and a pull request are found, and the commit that was used is recorded."""
    machine = Machine(tmp_path, hub.url)
    commit = hub.refs[REPO, "main"]
    other = hub.push(REPO, "refs/pr/5", {**files, "merges.txt": files["merges.txt"] + b"\n"})
    hub.refs[REPO, "v1.0"] = commit
    assert machine.find(f"{REPO}@{commit}")["revision"] == commit
    assert machine.find("rd64-refined@refs/pr/5")["revision"] == other
    assert machine.find(f"{REPO}@v1.0")["revision"] == commit
    hub.requests.clear()
    names = [f"{REPO}@{commit}", "rd64-refined@refs/pr/5", f"{REPO}@v1.0"]
    assert [rows[0]["revision"] for rows in machine.ask(*names, offline=True)] == [commit, other, commit]
    assert hub.requests == []


def test_broken_connection_is_taken_up(tmp_path: Path, hub: Hub, files: Files) -> None:
    """A connection cut in the middle is taken up where it broke, within one call."""
    hub.cuts["model.safetensors"] = [300_000, 200_000]
    found = Machine(tmp_path, hub.url).find("rd64-refined")
    assert Path(found["weights"]).read_bytes() == files["model.safetensors"]
    starts = [r.start for r in hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert starts[0] == 0 and 230_000 < starts[1] <= 300_000 and 430_000 - 70_000 < starts[2] <= 500_000


def test_interrupted_download_resumes(tmp_path: Path, hub: Hub, files: Files) -> None:
    """A network that stays away ends the call within bounds; the next call fetches only what is missing."""
    hub.cuts["model.safetensors"] = [300_000, *[0] * 20]
    machine = Machine(tmp_path, hub.url)
    message = machine.fail("rd64-refined")
    assert "models pull" in message and hub.url in message
    assert hub.count("GET", "model.safetensors") <= 6
    assert "models pull" in machine.fail("rd64-refined", offline=True)
    hub.cuts.clear()
    hub.requests.clear()
    found = machine.find("rd64-refined")
    assert Path(found["weights"]).read_bytes() == files["model.safetensors"]
    (start,) = [r.start for r in hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert start is not None and 230_000 < start <= 300_000
    assert not list(machine.cache.rglob("*.incomplete"))


def test_server_without_ranges(tmp_path: Path, hub: Hub, files: Files) -> None:
    """Where the rest cannot be asked for, a broken download begins again and is whole."""
    hub.ranges = False
    hub.cuts["model.safetensors"] = [300_000, 600_000]
    found = Machine(tmp_path, hub.url).find("rd64-refined")
    assert Path(found["weights"]).read_bytes() == files["model.safetensors"]
    assert hub.count("GET", "model.safetensors") == 3


def test_wrong_partial_data_is_noticed(tmp_path: Path, hub: Hub, files: Files) -> None:
    """Partial data that does not belong to the file fails the digest, is dropped, and the next call succeeds."""
    blobs = tmp_path / "hf" / "hub" / f"models--{REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(files['model.safetensors']).hexdigest()}.incomplete").write_bytes(b"?" * 1000)
    machine = Machine(tmp_path, hub.url)
    assert "damaged" in machine.fail("rd64-refined")
    assert Path(machine.find("rd64-refined")["weights"]).read_bytes() == files["model.safetensors"]


def test_token_stays_with_the_hub(tmp_path: Path, files: Files) -> None:
    """Large files come from another host by redirect, and the user's token is not shown to it."""
    repos = {REPO: {"main": files}}
    with Hub(repos) as cdn, Hub(repos, cdn=cdn.url.replace("127.0.0.1", "localhost")) as hub:
        found = Machine(tmp_path, hub.url, HF_TOKEN="hf_secret").find("rd64-refined")
    assert Path(found["weights"]).read_bytes() == files["model.safetensors"]
    assert {request.token for request in hub.requests} == {"Bearer hf_secret"}
    assert cdn.requests and {request.token for request in cdn.requests} == {None}


def test_progress_only_on_request(tmp_path: Path, hub: Hub) -> None:
    """A bar on stderr with progress=True; `find` has asserted silence everywhere else."""
    machine = Machine(tmp_path, hub.url)
    machine.find("rd64-refined", progress=True)
    assert "model.safetensors" in machine.stderr and "100%" in machine.stderr


# ---- what can be wrong with the hub ----


def test_offline_makes_no_request(tmp_path: Path, hub: Hub) -> None:
    """offline, download=False and HF_HUB_OFFLINE make no request, and the message names both ways out."""
    machine = Machine(tmp_path, hub.url)
    messages = [machine.fail("rd64-refined", offline=True), machine.fail("rd64-refined", download=False)]
    messages.append(Machine(tmp_path, hub.url, HF_HUB_OFFLINE="1").fail("rd64-refined"))
    for message in messages:
        assert "clipseg models pull rd64-refined" in message and "--model shapes" in message
    assert hub.requests == []


def test_no_network(tmp_path: Path) -> None:
    """Nobody answers and nothing is here: one line with both ways out."""
    message = Machine(tmp_path).fail("rd64-refined")
    assert "clipseg models pull" in message and "--model shapes" in message


def test_unknown_names(tmp_path: Path, hub: Hub) -> None:
    """An unknown id and an unknown revision are told apart; a gated repo says how to get in."""
    machine = Machine(tmp_path, hub.url)
    assert "no model nobody/nothing" in machine.fail("nobody/nothing")
    assert "no revision 'v9'" in machine.fail(f"{REPO}@v9")
    assert f"no revision {'0' * 40!r}" in machine.fail(f"{REPO}@{'0' * 40}")
    hub.gated = frozenset({REPO})
    assert "hf auth login" in machine.fail(REPO)


def test_sick_hub(tmp_path: Path, hub: Hub) -> None:
    """A 503, a file name in the ETag, and a server that is no hub each end in one line; nothing escapes the cache."""
    machine = Machine(tmp_path, hub.url)
    hub.broken["model.safetensors"] = 503
    assert "503" in machine.fail("rd64-refined")
    hub.broken.clear()
    hub.etags["model.safetensors"] = "../../../../../escaped"
    assert "ETag" in machine.fail("rd64-refined")
    assert not list(tmp_path.rglob("*escaped*"))
    assert "HF_ENDPOINT" in Machine(tmp_path, hub.url + "/elsewhere").fail("rd64-refined")


@pytest.mark.parametrize("path", ["/dev/null/hf", "file/hf"])
def test_cache_that_cannot_be_written(tmp_path: Path, hub: Hub, path: str) -> None:
    """A cache under a regular file cannot be written: one line that names HF_HOME."""
    (tmp_path / "file").touch()
    message = Machine(tmp_path, hub.url, HF_HOME=str(tmp_path / path)).fail("rd64-refined")
    assert "HF_HOME" in message and "cannot write" in message


def test_disk_that_fills_up(tmp_path: Path, hub: Hub, files: Files) -> None:
    """A write that fails for want of space ends in one line, and the download resumes once there is room."""
    machine = Machine(tmp_path, hub.url)
    machine.file_limit = 400 * 1024
    assert "free space" in machine.fail("rd64-refined")
    machine.file_limit = None
    hub.requests.clear()
    assert Path(machine.find("rd64-refined")["weights"]).read_bytes() == files["model.safetensors"]
    (start,) = [r.start for r in hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert start is not None and start > 300 * 1024


def test_two_at_once(tmp_path: Path, hub: Hub, files: Files) -> None:
    """Processes that start together on an empty cache wait for each other: all succeed, one downloads."""
    machine = Machine(tmp_path, hub.url)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: machine.ask("rd64-refined"), range(3)))
    assert found[0] == found[1] == found[2]
    assert Path(found[0][0][0]["weights"]).read_bytes() == files["model.safetensors"]
    assert hub.count("GET", "model.safetensors") == 1


def test_other_models_are_refused_before_their_weights(tmp_path: Path, hub: Hub, files: Files) -> None:
    """A repository of another kind of model is refused after its config.json; its weights are not fetched."""
    hub.push("org/clip", "main", {**files, "config.json": b'{"model_type": "clip"}'})
    assert "'clip'" in Machine(tmp_path, hub.url).fail("org/clip")
    assert hub.count("GET", "model.safetensors") == 0
    hub.push("org/empty", "main", {"README.md": b""})
    assert "choose a CLIPSeg" in Machine(tmp_path, hub.url).fail("org/empty")


HOSTILE = [
    "../x/y",
    "/no/such",
    "a/..",
    "org/na\nme",
    "org/name@../../x",
    "x" * 5000,
    "org/name@",
    "org/name@a b",
    "org/name@/etc",
]
HOSTILE += [
    "org/name@-x\n",
    "org/name@x/../y",
    "rd65",
    "",
    "shapes@main",
    "org/a/b",
    "org--x/name",
    "org/\x1b[2J",
    "a/b\0",
]


def test_hostile_names(tmp_path: Path, hub: Hub) -> None:
    """Names that cannot be a model are usage errors, printed harmlessly, before any request."""
    for name, answer in zip(HOSTILE, Machine(tmp_path, hub.url).ask(*HOSTILE), strict=True):
        assert isinstance(answer, dict) and answer["error"] == "UsageError", (name, answer)
        assert answer["message"].isprintable()
    assert hub.requests == []


# ---- from a directory ----


def test_directory(tmp_path: Path, checkpoint: Path) -> None:
    """A directory is used in place, without a revision; its own threshold is honoured."""
    found = Machine(tmp_path).find(str(checkpoint))
    assert (found["repo"], found["revision"], found["threshold"]) == (None, None, 0.3)
    assert found["path"] == str(checkpoint) and found["weights"] == str(checkpoint / "model.safetensors")
    copy = write_checkpoint(tmp_path / "copy", layout="saved")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "clipseg_threshold": 0.45}))
    assert Machine(tmp_path).find(str(copy))["threshold"] == 0.45


def test_missing_files_are_named(tmp_path: Path, files: Files) -> None:
    """Each file that is needed and absent is named, and so is a wrong kind of model."""
    cases = ["config.json", "preprocessor_config.json", "merges.txt", "model.safetensors"]
    names = []
    for missing in cases:
        (tmp_path / missing).mkdir()
        names.append(str(tmp_path / missing))
        for name, data in files.items():
            if name != missing:
                (tmp_path / missing / name).write_bytes(data)
    for answer, missing in zip(Machine(tmp_path).ask(*names), cases, strict=True):
        assert answer["error"] == "ModelError" and " has no " in answer["message"] and missing in answer["message"]


def test_damaged_safetensors(tmp_path: Path, checkpoint: Path) -> None:
    """Cut anywhere, lengthened, or swapped for a web page: refused before anything is loaded."""
    whole = (checkpoint / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = {cut: whole[:cut] for cut in (0, 1, 7, 8, 9, 500, header - 1, header, header + 1, len(whole) - 1)}
    damaged |= {-1: whole + b"\0", -2: b"<!DOCTYPE html><html>Sign in</html>" * 100, -3: b"\2\0\0\0\0\0\0\0{}"}
    damaged |= {-4: b"\x10\0\0\0\0\0\0\0" + b"[[[[[[[[[[[[[[[[", -5: b"\xff" * 100}
    names = []
    for key, data in damaged.items():
        folder = tmp_path / str(key)
        folder.mkdir()
        for file in checkpoint.iterdir():
            (folder / file.name).write_bytes(data if file.suffix == ".safetensors" else file.read_bytes())
        names.append(str(folder))
    machine = Machine(tmp_path)
    for key, answer in zip(damaged, machine.ask(*names), strict=True):
        assert isinstance(answer, dict) and answer["error"] == "ModelError", (key, answer)
        truncated = f"truncated: has {key} bytes of {len(whole)}"
        expected = truncated if key >= header else "truncated" if key > 8 else "remove it and copy it again"
        assert expected in answer["message"], (key, answer)
    assert not machine.torch


def test_damaged_cache_is_mended_by_refresh(tmp_path: Path, hub: Hub, files: Files) -> None:
    """Truncated weights in the cache are refused with the command that mends them, and it does."""
    machine = Machine(tmp_path, hub.url)
    weights = Path(machine.find("rd64-refined")["weights"])
    weights.resolve().write_bytes(files["model.safetensors"][:1000])
    assert "clipseg models pull rd64-refined" in machine.fail("rd64-refined")
    machine.find("rd64-refined", refresh=True)
    assert weights.read_bytes() == files["model.safetensors"]


# ---- pickles ----


def test_pickle_is_converted_once(tmp_path: Path, checkpoint: Path, pickled: Path) -> None:
    """A repository with only pytorch_model.bin gives the same tensors as safetensors, converted once."""
    from safetensors.numpy import load_file

    machine = Machine(tmp_path)
    with Hub({"org/old": {"main": read_files(pickled)}}) as hub:
        machine.environment["HF_ENDPOINT"] = hub.url
        first = machine.find("org/old")
        assert machine.torch
    stamp = Path(first["weights"]).stat().st_mtime_ns
    assert machine.find("org/old") == first
    assert not machine.torch and Path(first["weights"]).stat().st_mtime_ns == stamp
    ours, theirs = load_file(first["weights"]), load_file(checkpoint / "model.safetensors")
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert Path(first["weights"]).is_relative_to(machine.cache / "clipseg-converted" / "org--old")


def test_pickle_in_a_directory(tmp_path: Path, pickled: Path) -> None:
    """A directory is never written to; where the cache is not writable the user's cache directory is used."""
    before = {file: sha256(file) for file in pickled.iterdir()}
    (tmp_path / "file").touch()
    machine = Machine(tmp_path, HF_HOME=str(tmp_path / "file" / "hf"))
    found = machine.find(str(pickled))
    assert found["path"] == str(pickled) and found["revision"] is None
    assert Path(found["weights"]).is_relative_to(tmp_path / "xdg" / "clipseg")
    assert machine.find(str(pickled)) == found and not machine.torch
    assert {file: sha256(file) for file in pickled.iterdir()} == before


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        """`path` is what unpickling would create."""
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """A call that a pickle makes when it is read."""
        return os.mkdir, (str(self.path),)


def test_payloads_are_refused_unexecuted(tmp_path: Path, pickled: Path) -> None:
    """Raw, zip, legacy and tar pickles with a payload are refused with 0 executions; so is what is no state dict."""
    import torch

    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(tmp_path / "control")))
    assert (tmp_path / "control").is_dir()  # the payload works
    bomb = {"weight": torch.zeros(3), "other": Payload(ran)}
    wide = {"weight": torch.zeros(1).expand(1 << 40)}
    cases = {"raw": pickle.dumps(Payload(ran)), "raw_dict": pickle.dumps({"a": Payload(ran)}, protocol=0)}
    cases |= {"zip": saved(bomb), "legacy": saved(bomb, zipped=False), "tar": tarred(pickle.dumps(Payload(ran)))}
    cases |= {"list": saved([torch.zeros(3)]), "nested": saved({"a": {"b": torch.zeros(3)}}), "number": saved({"a": 1})}
    cases |= {
        "keys": saved({1: torch.zeros(3)}),
        "empty": saved({}),
        "wide": saved(wide),
        "nothing": b"",
        "text": b"hi",
    }
    cases |= {"cut": (pickled / "pytorch_model.bin").read_bytes()[:100_000]}
    for name, data in cases.items():
        (tmp_path / name).mkdir()
        for file in pickled.iterdir():
            (tmp_path / name / file.name).write_bytes(data if file.suffix == ".bin" else file.read_bytes())
    machine = Machine(tmp_path, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    for name, answer in zip(cases, machine.ask(*(str(tmp_path / name) for name in cases)), strict=True):
        assert isinstance(answer, dict) and answer["error"] == "ModelError", (name, answer)
        assert "refused" in answer["message"] and "\n" not in answer["message"]
    assert not ran.exists()
    assert not machine.cache.exists()


def saved(value: Any, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    """The oldest format of torch: a tar of three pickles."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


# ---- the list ----


def test_installed(tmp_path: Path, hub: Hub, files: Files) -> None:
    """Each alias in order, with path, bytes and commit where it is here; other CLIPSeg models in the cache follow."""
    machine = Machine(tmp_path, hub.url)
    (empty,) = machine.ask("?")
    assert [row["name"] for row in empty[:3]] == ["rd64-refined", "rd64", "rd16"] and empty[3]["name"] == "shapes"
    assert all(row["path"] is None and row["size"] == 0 and row["revision"] is None for row in empty[:3])
    assert hub.requests == [] and not machine.torch
    hub.push("org/mine", "main", files)
    machine.ask("rd64-refined", "org/mine")
    (rows,) = machine.ask("?")
    assert rows[0]["revision"] == hub.refs[REPO, "main"] and rows[0]["size"] == sum(map(len, files.values()))
    assert rows[-1]["name"] == "org/mine" and rows[-1]["path"]
