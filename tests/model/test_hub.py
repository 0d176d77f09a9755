"""Downloads from a real hub server on localhost, each in its own process."""

import hashlib
from pathlib import Path

import pytest

from checkpoints import write_clip
from hub import Files, Hub, read_files
from machine import Forks, Machine

REPO = "CIDAS/clipseg-rd64-refined"


def downloaded(hub: Hub) -> list[str]:
    """Returns the names of the files that were requested with GET, in order."""
    return [request.path.rpartition("/")[2] for request in hub.requests if request.method == "GET"]


def starts(hub: Hub) -> list[int]:
    """Returns the first byte of every request for the weights."""
    requests = [r for r in hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    return [request.start for request in requests if request.start is not None]


# ---- a healthy hub ----


def test_the_second_run_makes_no_request(tmp_path: Path, hub: Hub, files: Files) -> None:
    """The first run downloads only the files that are needed. Neither run imports torch."""
    machine = Machine(tmp_path, hub.url)  # new processes, not forks
    first = machine.find("rd64-refined")
    assert not machine.torch
    assert first["repo"] == REPO and first["revision"] == hub.refs[REPO, "main"] and first["threshold"] == 0.3
    assert Path(first["weights"]).read_bytes() == files["model.safetensors"]
    requested = {request.path.rpartition("/")[2] for request in hub.requests if "/resolve/" in request.path}
    assert requested == set(files)
    assert not [request for request in hub.requests if "agent" in request.path or "telemetry" in request.path]
    hub.requests.clear()
    assert machine.find("rd64-refined") == first
    assert machine.find("rd64-refined", offline=True) == first
    assert hub.requests == []


def test_the_cache_is_shared_with_huggingface_hub(tmp_path: Path, hub: Hub, forks: Forks) -> None:
    """Offline, huggingface_hub finds our downloads. We use its downloads without a request."""
    ours, theirs = Machine(tmp_path / "ours", hub.url, forks), Machine(tmp_path / "theirs", hub.url, forks)
    for machine in (ours, theirs):
        machine.home.mkdir()
    found = ours.find(REPO)
    script = f"import huggingface_hub as h; print(h.snapshot_download({REPO!r}, allow_patterns=['*.json', 'm*']))"
    assert ours.run(script, HF_HUB_OFFLINE="1").strip() == found["path"]
    theirs.run(script)
    hub.requests.clear()
    assert theirs.find(REPO)["revision"] == found["revision"]
    assert hub.requests == []


def test_refresh_follows_the_branch(machine: Machine, hub: Hub, files: Files) -> None:
    """Only a refresh notices that a branch has moved. It does not download unchanged weights again."""
    old = machine.find("rd64-refined")
    commit = hub.push(REPO, "main", {**files, "config.json": files["config.json"] + b"\n"})
    assert machine.find("rd64-refined")["revision"] == old["revision"] != commit
    hub.requests.clear()
    assert machine.find("rd64-refined", refresh=True)["revision"] == commit
    assert downloaded(hub)[1:] == ["config.json"]
    assert machine.find("rd64-refined", offline=True)["revision"] == commit


def test_a_revision_can_be_a_commit_a_tag_or_a_pull_request(machine: Machine, hub: Hub, files: Files) -> None:
    """The checkpoint names the commit of the revision. Offline, all are found again."""
    commit = hub.refs[REPO, "main"]
    other = hub.push(REPO, "refs/pr/5", {**files, "merges.txt": files["merges.txt"] + b"\n"})
    hub.refs[REPO, "v1.0"] = commit
    names, commits = [f"{REPO}@{commit}", "rd64-refined@refs/pr/5", f"{REPO}@v1.0"], [commit, other, commit]
    assert [rows[0]["revision"] for rows in machine.ask(*names)] == commits
    hub.requests.clear()
    assert [rows[0]["revision"] for rows in machine.ask(*names, offline=True)] == commits
    assert hub.requests == []


def test_a_download_continues_after_a_broken_connection(machine: Machine, hub: Hub, files: Files) -> None:
    """Within one call, the next connection continues where the last one broke."""
    hub.cuts["model.safetensors"] = [300_000, 200_000]
    assert Path(machine.find("rd64-refined")["weights"]).read_bytes() == files["model.safetensors"]
    first, second, third = starts(hub)
    assert first == 0 and 230_000 < second <= 300_000 and 430_000 - 70_000 < third <= 500_000


def test_the_next_call_resumes_an_interrupted_download(machine: Machine, hub: Hub, files: Files) -> None:
    """If the network stays away, a call gives up after a few attempts. The next one downloads only what is missing."""
    hub.cuts["model.safetensors"] = [300_000, *[0] * 20]
    message = machine.fail("rd64-refined")
    assert "models pull" in message and hub.url in message
    assert hub.count("GET", "model.safetensors") <= 6
    assert "models pull" in machine.fail("rd64-refined", offline=True)
    hub.cuts.clear()
    hub.requests.clear()
    assert Path(machine.find("rd64-refined")["weights"]).read_bytes() == files["model.safetensors"]
    (start,) = starts(hub)
    assert 230_000 < start <= 300_000
    assert not list(machine.cache.rglob("*.incomplete"))


def test_a_server_without_ranges_sends_the_file_again(machine: Machine, hub: Hub, files: Files) -> None:
    """A broken download then starts from the beginning and is complete in the end."""
    hub.ranges = False
    hub.cuts["model.safetensors"] = [300_000, 600_000]
    assert Path(machine.find("rd64-refined")["weights"]).read_bytes() == files["model.safetensors"]
    assert hub.count("GET", "model.safetensors") == 3


def test_a_partial_download_of_other_bytes_is_discarded(machine: Machine, files: Files) -> None:
    """It fails the digest check and is deleted. The next call succeeds."""
    blobs = machine.cache / f"models--{REPO.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(files['model.safetensors']).hexdigest()}.incomplete").write_bytes(b"?" * 1000)
    assert "damaged" in machine.fail("rd64-refined")
    assert Path(machine.find("rd64-refined")["weights"]).read_bytes() == files["model.safetensors"]


def test_the_token_is_sent_to_the_hub_only(tmp_path: Path, files: Files, forks: Forks) -> None:
    """The hub redirects large files to another host, which does not receive the user's token."""
    repos = {REPO: {"main": files}}
    with Hub(repos) as cdn, Hub(repos, cdn=cdn.url.replace("127.0.0.1", "localhost")) as hub:
        found = Machine(tmp_path, hub.url, forks, HF_TOKEN="hf_secret").find("rd64-refined")
    assert Path(found["weights"]).read_bytes() == files["model.safetensors"]
    assert {request.token for request in hub.requests} == {"Bearer hf_secret"}
    assert cdn.requests and {request.token for request in cdn.requests} == {None}


def test_progress_is_shown_on_request_only(machine: Machine) -> None:
    """With progress=True there is a bar on stderr. All other tests assert that stderr is empty."""
    machine.find("rd64-refined", progress=True)
    assert "model.safetensors" in machine.stderr and "100%" in machine.stderr


def test_processes_that_start_together_download_once(machine: Machine, hub: Hub, files: Files) -> None:
    """They wait for each other, and all succeed."""
    first, *others = machine.ask_together("rd64-refined", times=3)
    assert others == [first, first]
    assert Path(first[0][0]["weights"]).read_bytes() == files["model.safetensors"]
    assert hub.count("GET", "model.safetensors") == 1


# ---- errors ----


def test_offline_makes_no_request(machine: Machine, hub: Hub, forks: Forks) -> None:
    """offline, download=False and HF_HUB_OFFLINE make no request. The message names both remedies."""
    messages = [machine.fail("rd64-refined", offline=True), machine.fail("rd64-refined", download=False)]
    messages.append(Machine(machine.home, hub.url, forks, HF_HUB_OFFLINE="1").fail("rd64-refined"))
    for message in messages:
        assert "clipseg models pull rd64-refined" in message and "--model shapes" in message
    assert hub.requests == []


def test_without_a_network_the_message_names_both_remedies(lonely: Machine) -> None:
    """No server answers and the cache is empty: one line."""
    message = lonely.fail("rd64-refined")
    assert "clipseg models pull" in message and "--model shapes" in message


def test_unknown_models_and_revisions_have_different_messages(machine: Machine, hub: Hub) -> None:
    """For a gated model, the message says how to get access."""
    assert "no model nobody/nothing" in machine.fail("nobody/nothing")
    assert "no revision 'v9'" in machine.fail(f"{REPO}@v9")
    assert f"no revision {'0' * 40!r}" in machine.fail(f"{REPO}@{'0' * 40}")
    hub.gated = frozenset({REPO})
    assert "hf auth login" in machine.fail(REPO)


def test_a_broken_hub_is_one_line(machine: Machine, hub: Hub, forks: Forks) -> None:
    """A 503, a file name in the ETag, and a server that is not a hub. Nothing is written outside the cache."""
    hub.broken["model.safetensors"] = 503
    assert "503" in machine.fail("rd64-refined")
    hub.broken.clear()
    hub.etags["model.safetensors"] = "../../../../../escaped"
    assert "ETag" in machine.fail("rd64-refined")
    assert not list(machine.home.rglob("*escaped*"))
    assert "HF_ENDPOINT" in Machine(machine.home, hub.url + "/elsewhere", forks).fail("rd64-refined")


@pytest.mark.parametrize("path", ["/dev/null/hf", "file/hf"])
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, hub: Hub, forks: Forks, path: str) -> None:
    """The cache is below a regular file: one line that names HF_HOME."""
    (tmp_path / "file").touch()
    message = Machine(tmp_path, hub.url, forks, HF_HOME=str(tmp_path / path)).fail("rd64-refined")
    assert "HF_HOME" in message and "cannot write" in message


def test_a_download_resumes_after_a_full_disk(machine: Machine, hub: Hub, files: Files) -> None:
    """A full disk is an error of one line. Once there is space, the download continues."""
    machine.file_limit = 400 * 1024
    assert "free space" in machine.fail("rd64-refined")
    machine.file_limit = None
    hub.requests.clear()
    assert Path(machine.find("rd64-refined")["weights"]).read_bytes() == files["model.safetensors"]
    (start,) = starts(hub)
    assert start > 300 * 1024


def test_another_kind_of_model_is_refused_before_its_weights(machine: Machine, hub: Hub, files: Files) -> None:
    """Its config.json is downloaded, its weights are not."""
    hub.push("org/clip", "main", {**files, "config.json": b'{"model_type": "clip"}'})
    assert "'clip'" in machine.fail("org/clip")
    assert hub.count("GET", "model.safetensors") == 0
    hub.push("org/empty", "main", {"README.md": b""})
    assert "choose a CLIPSeg" in machine.fail("org/empty")


def test_a_plain_clip_is_downloaded_for_a_new_decoder(machine: Machine, hub: Hub, tmp_path: Path) -> None:
    """Where a CLIP is asked for, it is found on the hub like a CLIPSeg; a CLIPSeg is refused there."""
    files = read_files(write_clip(tmp_path / "clip"))
    hub.push("org/clip", "main", files)
    found = machine.find("org/clip", kinds=["CLIP"])
    assert Path(found["weights"]).read_bytes() == files["model.safetensors"]
    assert found["revision"] == hub.refs["org/clip", "main"] and not machine.torch
    assert "choose a CLIP checkpoint" in machine.fail("CIDAS/clipseg-rd64-refined", kinds=["CLIP"])


def test_refresh_repairs_damaged_weights_in_the_cache(machine: Machine, files: Files) -> None:
    """Truncated weights are refused with the command that repairs them."""
    weights = Path(machine.find("rd64-refined")["weights"])
    weights.resolve().write_bytes(files["model.safetensors"][:1000])
    assert "clipseg models pull rd64-refined" in machine.fail("rd64-refined")
    machine.find("rd64-refined", refresh=True)
    assert weights.read_bytes() == files["model.safetensors"]
