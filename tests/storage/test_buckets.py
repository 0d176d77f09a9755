"""Buckets as input and output: the same bytes as with folders, in memory and on a real S3 server that may fail."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_network
from clipseg_cli.errors import OutputError, UsageError
from clipseg_cli.inputs.finding.discovery import discover
from clipseg_cli.settings.inputs import InputOptions
from clipseg_cli.storage import buckets, store
from clipseg_cli.storage.buckets import Url
from pictures import Program, Shell, picture, save, save_tiny
from s3 import Bucket, Server

ASK = "clipseg segment {} -p red -f mask -f soft -f overlay -f coco -o {}"
POST = "clipseg post {}/out -t 0.4 -f mask -f overlay -o {}/post"
TWICE = {"AWS_MAX_ATTEMPTS": "2"}  # so that a failing request fails soon


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A running S3 server."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(server: Server, quick_environment: dict[str, str]) -> Iterator[Bucket]:
    """An empty bucket on that server, which `quick_shell` uses."""
    quick_environment |= server.environment
    yield server.bucket()
    server.trouble()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 images, every ninth truncated, with a run of them and a run of `post`."""
    folder = tmp_path_factory.mktemp("here")
    save_tiny(folder / "imgs", 40, corrupt=9)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"CLIPSEG_MODEL": "shapes", "PYTHONPATH": fake_network.python_path(), "PATH": path}
    line = f"{ASK.format('imgs', 'out')} -q; {POST.format('.', '.')} -q"
    subprocess.run(["bash", "-c", line], cwd=folder, env=environment, check=False)
    assert (folder / "post/manifest.jsonl").is_file()
    return folder


def local(out: Path) -> dict[str, bytes]:
    """Returns every file of a run by name, except run.json and the program's own records."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return _plain(found)


def distant(bucket: Bucket, prefix: str = "out") -> dict[str, bytes]:
    """Returns the same of a run in a bucket, with its images named as if they were in a folder."""
    found = bucket.down(prefix)
    named = (name for name in found if name.endswith((".json", ".jsonl")))
    return _plain(found | {name: found[name].replace(f"{bucket.url}/".encode(), b"") for name in named})


def _plain(found: dict[str, bytes]) -> dict[str, bytes]:
    found = {name: data for name, data in found.items() if name != "run.json" and not name.startswith(".clipseg-")}
    lines = found.pop("manifest.jsonl", b"").splitlines(keepends=True)
    return found | {"manifest.jsonl": b"".join(sorted(lines))}


@pytest.mark.slow
def test_a_run_from_bucket_to_bucket_gives_the_same_bytes(quick_shell: Shell, bucket: Bucket, here: Path) -> None:
    """The tree equals that of a run from folder to folder. Repeated, it does not load the model, and processes again
    only what was changed or deleted. Other settings are refused. `status`, `post` and `report` read it."""
    bucket.up(here / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out/")
    first = quick_shell(ask + " -j 2", expect=3)
    assert distant(bucket) == local(here / "out")
    assert f"36 of 40 images done, 4 failed (see {bucket.url}" in first.stderr
    assert first.stdout.splitlines()[0].startswith(f"{bucket.url}/out/masks/red/")
    again = quick_shell(ask, expect=3)
    assert "36 before" in again.stderr and "model red" not in again.stderr and again.stdout == first.stdout
    assert distant(bucket) == local(here / "out")
    assert "other settings" in quick_shell(ask.replace("-p red", "-p red -t 0.7"), expect=1).stderr
    quick_shell(POST.format(bucket.url, bucket.url), expect=3)
    assert distant(bucket, "post") == local(here / "post")
    assert quick_shell(f"clipseg report {bucket.url}/out").stdout.strip() == f"{bucket.url}/out/report.html"
    assert len(bucket.down("out")["report.html"]) > 10_000
    bucket.put("imgs/0/00000.png", (here / "imgs/1/00001.png").read_bytes())
    bucket.client.delete_object(Bucket=bucket.name, Key="out/masks/red/2/00002.png")
    assert "34 before" in quick_shell(ask, expect=3).stderr
    done = json.loads(quick_shell(f"clipseg status {bucket.url}/out --json", expect=3).stdout)
    assert done["done"] == 36 and done["failed"] == {"corrupt": 4} and done["missing"] == []


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_bytes(
    quick_shell: Shell, quick_environment: dict[str, str], bucket: Bucket, here: Path
) -> None:
    """After kill -9 in the middle, no object is partial. The next run does not repeat what was written, and its
    result equals that of an uninterrupted run."""
    bucket.up(here / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out") + " -b 2"
    with subprocess.Popen(
        ask.split(), cwd=here, env=quick_environment | {"TEST_FLUSH_EACH_RECORD": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        for _ in range(9):
            run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    whole = local(here / "out")
    for name, data in distant(bucket).items():
        assert name.endswith((".json", ".jsonl")) or data == whole[name], name
    before = re.search(r"\((\d+) before\)", quick_shell(ask, expect=3).stderr)
    assert before and 8 <= int(before[1]) < 36
    assert distant(bucket) == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["errors", "disconnects"])
def test_failed_requests_are_retried(quick_shell: Shell, bucket: Bucket, server: Server, here: Path, kind: str) -> None:
    """Every tenth request fails with 500 or 503 SlowDown, or with a disconnect: the bytes are the same."""
    bucket.up(here / "imgs")
    server.trouble(kind, every=10)
    done = quick_shell(ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out"), expect=3)
    assert server.troubles() >= 10 and "36 of 40 images done, 4 failed" in done.stderr
    server.trouble()
    assert distant(bucket) == local(here / "out")


@pytest.mark.slow
def test_a_failed_read_is_a_record_and_a_failed_write_ends_the_run(
    quick_shell: Shell, bucket: Bucket, server: Server, tmp_path: Path
) -> None:
    """An image that the server never returns is a failed record, and the next run processes it. An output that it
    refuses ends the run with exit code 1 and is named; before the model is loaded if every output is refused."""
    save_tiny(tmp_path / "imgs", 4)
    bucket.up(tmp_path / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out")
    server.trouble("errors", path="imgs/2/00002.png")
    told = quick_shell(ask, expect=3, **TWICE).stderr
    assert "00002.png: permission: could not be read" in told and "3 of 4 images done" in told
    server.trouble("deny", path="out/masks")
    told = quick_shell(ask, expect=1, **TWICE).stderr
    assert f"cannot write {bucket.url}/out/masks/red/2/00002.png: Access Denied" in told
    assert "run the same command again" in told
    server.trouble("deny")
    told = quick_shell(ask.replace("/out", "/other"), expect=1, **TWICE).stderr
    assert f"cannot write {bucket.url}/other/run.json" in told and "model red" not in told
    server.trouble()
    assert "(3 before)" in quick_shell(ask).stderr


@pytest.mark.slow
def test_shards_lists_globs_and_single_images(quick_shell: Shell, bucket: Bucket, here: Path, tmp_path: Path) -> None:
    """Parallel shards make one run; lists and globs may contain URLs; one image gives one object."""
    bucket.up(here / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out") + " -q"
    quick_shell(
        f"seq 0 1 | xargs -P 2 -I{{}} {ask} --shard {{}}/2", expect=123
    )  # exit code 3 of each shard, since each has truncated images
    assert "40 images" in quick_shell(f"clipseg merge {bucket.url}/out").stdout
    assert distant(bucket) == local(here / "out")
    save(tmp_path / "imgs/a.png", picture(48, 40))
    (tmp_path / "list").write_text(f"{bucket.url}/imgs/0/00000.png\n{bucket.url}/imgs/nix.png\nimgs/a.png\n")
    names = quick_shell(
        f"clipseg segment --files-from list -p red -o {bucket.url}/listed", expect=3
    ).stdout.splitlines()
    inner = [name.removeprefix(f"{bucket.url}/listed/masks/red/") for name in names]
    assert inner == [f"{bucket.name}/imgs/0/00000.png", "imgs/a.png"]
    rows = [json.loads(line) for line in bucket.down("listed")["manifest.jsonl"].splitlines()]
    assert [row["error"]["class"] for row in rows] == ["", "vanished", ""]
    planned = quick_shell(f"clipseg segment '{bucket.url}/imgs/**/0000[0-4].png' -p red -n").stdout.splitlines()
    assert len(planned) == 5 and planned[0].startswith(f"{bucket.url}/imgs/0/00000.png -> masks/red/{bucket.name}/imgs")
    quick_shell(f"clipseg segment {bucket.url}/imgs/0/00000.png -p red -o {bucket.url}/one.png")
    one = bucket.client.get_object(Bucket=bucket.name, Key="one.png")["Body"].read()
    assert one == (here / "out/masks/red/0/00000.png").read_bytes()


REFUSED = {
    "segment s3://bucket/imgs -p red": "pip install 'clipseg-cli[s3]'",
    "segment imgs -p red -o s3://bucket/out": "pip install 'clipseg-cli[s3]'",
    "segment nix://imgs -p red": "not known",
    "segment imgs -p red -o http://127.0.0.1/out": "half-written",
    "segment imgs -p red -o out --features s3://bucket/kept": "name a local folder",
    "eval s3://bucket/out gt": "copy it here",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_url_that_cannot_be_used_is_a_usage_error(
    clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Without s3fs: exit code 2 and the pip line, for input and output; likewise for URLs that no command can use."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    save(tmp_path / "imgs/a.png", picture(48, 40))
    assert REFUSED[line] in clipseg(f"clipseg {line}", expect=2).stderr


WITHOUT = """
import contextlib, io, sys
from clipseg_cli.cli.main import main
with contextlib.redirect_stderr(io.StringIO()):
    try:
        main()
    except SystemExit as left:
        print(left.code, "fsspec" in sys.modules)
"""


@pytest.mark.slow
def test_a_run_from_folder_to_folder_does_not_import_fsspec(quick_environment: dict[str, str], tmp_path: Path) -> None:
    """Also if the folders are given as file:// URLs."""
    save(tmp_path / "imgs/b.png", picture(48, 40))
    arguments = ["segment", f"file://{tmp_path}/imgs", "-p", "red", "-o", f"file://{tmp_path}/out", "-q"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], cwd=tmp_path, env=quick_environment, capture_output=True,
        text=True, stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 False" and (tmp_path / "out/masks/red/b.png").is_file()


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty bucket in this process."""
    yield "memory://imgs"
    buckets.system("memory://").rm("memory://", recursive=True)


def test_a_run_in_memory_equals_one_in_folders(clipseg: Program, memory: str, tmp_path: Path) -> None:
    """From bucket to bucket the bytes are those from folder to folder. The next run resumes; `status`, `post` and
    `report` read the bucket."""
    save_tiny(tmp_path / "imgs", 3, corrupt=3)
    for path in (tmp_path / "imgs").rglob("*.png"):
        (Url(memory) / str(path.relative_to(tmp_path / "imgs"))).write(path.read_bytes())
    ask = "clipseg segment {} -p red -f mask -f soft -f coco -o {}"
    clipseg(ask.format("imgs", "out"), expect=3)
    first = clipseg(ask.format(memory, "memory://out"), expect=3)
    assert "2 of 3 images done, 1 failed (see memory://out" in first.stderr

    def objects(folder: str) -> dict[str, bytes]:
        names = buckets.system(memory).find(folder)
        found = {name.removeprefix(f"{folder}/"): buckets.read(f"memory:/{name}") for name in names}
        return _plain({name: data.replace(b"memory://", b"") for name, data in found.items()})

    assert objects("/out") == local(tmp_path / "out")
    assert "2 before" in clipseg(ask.format(memory, "memory://out"), expect=3).stderr
    status = json.loads(clipseg("clipseg status memory://out --json", expect=3).stdout)
    assert status["done"] == 2 and status["failed"] == {"corrupt": 1} and status["missing"] == []
    clipseg(POST.format("memory:/", "memory:/"), expect=3)
    clipseg(POST.format(".", "."), expect=3)
    assert objects("/post") == local(tmp_path / "post")
    assert clipseg("clipseg report memory://out").stdout.strip() == "memory://out/report.html"


def test_a_walk_of_a_bucket_equals_a_walk_of_a_folder(memory: str, tmp_path: Path) -> None:
    """Names, order, outputs, hidden names, depth, exclusion, equal stems and a run's own outputs are the same. Keys
    that would lead elsewhere as paths are skipped."""
    names = [
        "b.png",
        "a.png",
        "a.jpg",
        "sub/c.png",
        "sub/.hidden.png",
        "sub/deep/d.webp",
        "note.txt",
        "bare",
        "sub.jpg",
    ]
    for name in names:
        (tmp_path / "imgs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "imgs" / name).write_bytes(b"\x89PNG\r\n\x1a\n" if name == "bare" else name.encode())
    (tmp_path / "imgs/out/masks").mkdir(parents=True)
    (tmp_path / "imgs/out/masks/x.png").touch()
    (tmp_path / "imgs/out/run.json").write_text('{"clipseg": "1"}')
    for path in (tmp_path / "imgs").rglob("*"):
        if path.is_file():
            (Url(memory) / str(path.relative_to(tmp_path / "imgs"))).write(path.read_bytes())

    def found(root: str, **options: object) -> list[tuple[str, str]]:
        inputs = tuple(f"{root}{tail}" for tail in options.pop("tails", [""]))  # type: ignore[attr-defined]
        sources = discover(InputOptions(inputs, **options), None)  # type: ignore[arg-type]
        return [
            (source.name.removeprefix(root), source.output.removeprefix(f"{root}/".lstrip("/"))) for source in sources
        ]

    for options in (
        {},
        {"hidden": True},
        {"max_depth": 1},
        {"exclude": ("sub",)},
        {"limit": 2},
        {"extensions": (".png",)},
    ):
        assert found(memory, **options) == found(str(tmp_path / "imgs"), **options)
    tails = ["/**/*.png", "/a.jpg", "/sub", "/*.txt"]
    here, there = (
        [(name, output.removeprefix("imgs/")) for name, output in found(root, tails=tails)]
        for root in (str(tmp_path / "imgs"), memory)
    )
    assert here == there and len(here) == 6
    Url(f"{memory}/sub/../../up.png").write(b"x")
    assert not any(".." in source.output for source in discover(InputOptions((memory,), hidden=True), None))
    sources = [*discover(InputOptions((memory, f"{memory}/nix.png")), None)]
    assert sources[-1].error is not None and sources[-1].error.kind == "vanished"


def test_other_file_systems_write_whole_files_by_renaming(tmp_path: Path) -> None:
    """On a file system that is no object store, a write that fails leaves the old content and no other file."""
    url = Url(f"local://{tmp_path}/out/a.bin")
    url.write(b"old")

    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        store.write(url, pieces())
    assert url.read_bytes() == b"old"
    store.write(url, iter([b"n", b"ew"]))
    assert url.read_bytes() == b"new" and os.listdir(tmp_path / "out") == ["a.bin"]
    with pytest.raises(UsageError, match="pip install"):
        Url("az://container/a").write(b"")
