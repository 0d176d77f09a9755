"""Buckets at both ends: the same bytes as from folder to folder, through a real S3 server that is not always well."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import fake_network
from clipseg_cli.errors import OutputError, UsageError
from clipseg_cli.inputs.discovery import discover
from clipseg_cli.settings import InputOptions
from clipseg_cli.storage import bucket_lines, buckets, store
from clipseg_cli.storage.buckets import Url
from pictures import Shell, picture, save, save_tiny
from s3 import Bucket, Server

ASK = "clipseg segment {} -p red -f mask -f soft -f overlay -f coco -o {}"
POST = "clipseg post {}/out -t 0.4 -f mask -f overlay -o {}/post"
TWICE = {"AWS_MAX_ATTEMPTS": "2"}  # where a request shall fail for good, and soon


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A running S3 server."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(server: Server, quick_environment: dict[str, str]) -> Iterator[Bucket]:
    """An empty bucket that `quick_shell` finds."""
    quick_environment |= server.environment
    yield server.bucket()
    server.trouble()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 pictures, every ninth cut short, with a run of them and what `post` makes of it."""
    folder = tmp_path_factory.mktemp("here")
    save_tiny(folder / "imgs", 40, corrupt=9)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"CLIPSEG_MODEL": "shapes", "PYTHONPATH": fake_network.python_path(), "PATH": path}
    line = f"{ASK.format('imgs', 'out')} -q; {POST.format('.', '.')} -q"
    subprocess.run(["bash", "-c", line], cwd=folder, env=environment, check=False)
    assert (folder / "post/manifest.jsonl").is_file()
    return folder


def local(out: Path) -> dict[str, bytes]:
    """Every file of a run but run.json and the program's own records, by name."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return _plain(found)


def distant(bucket: Bucket, prefix: str = "out") -> dict[str, bytes]:
    """The same of a run in a bucket, its images named as if they were in a folder."""
    found = bucket.down(prefix)
    named = (name for name in found if name.endswith((".json", ".jsonl")))
    return _plain(found | {name: found[name].replace(f"{bucket.url}/".encode(), b"") for name in named})


def _plain(found: dict[str, bytes]) -> dict[str, bytes]:
    found = {name: data for name, data in found.items() if name != "run.json" and not name.startswith(".clipseg-")}
    lines = found.pop("manifest.jsonl", b"").splitlines(keepends=True)
    return found | {"manifest.jsonl": b"".join(sorted(lines))}


def test_a_bucket_at_both_ends_gives_the_same_bytes(quick_shell: Shell, bucket: Bucket, here: Path) -> None:
    """The tree equals that of folder to folder byte for byte. Again it answers without the model; what was changed or
    deleted is done again; other settings are refused; `status`, `post` and `report` read it."""
    bucket.up(here / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out/")
    first = quick_shell(ask + " -j 2", expect=3)
    assert distant(bucket) == local(here / "out")
    assert f"36 of 40 images done, 4 failed (see {bucket.url}" in first.stderr
    assert first.stdout.splitlines()[0].startswith(f"{bucket.url}/out/masks/red/")
    again = quick_shell(ask, expect=3)
    assert "36 before" in again.stderr and "model fake" not in again.stderr and again.stdout == first.stdout
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


def test_killed_and_resumed_it_is_the_same(
    quick_shell: Shell, quick_environment: dict[str, str], bucket: Bucket, here: Path
) -> None:
    """kill -9 in the midst of it: no object is partial, what had been put is not done again, and the end is that of a
    run that was left alone."""
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


@pytest.mark.parametrize("kind", ["ill", "gone"])
def test_a_server_in_trouble_is_asked_again(
    quick_shell: Shell, bucket: Bucket, server: Server, here: Path, kind: str
) -> None:
    """Every tenth request ends in 500 or in 503 SlowDown; without an answer or in the midst of a body: same bytes."""
    bucket.up(here / "imgs")
    server.trouble(kind, every=10)
    done = quick_shell(ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out"), expect=3)
    assert server.troubles() >= 10 and "36 of 40 images done, 4 failed" in done.stderr
    server.trouble()
    assert distant(bucket) == local(here / "out")


def test_what_cannot_be_read_fails_and_what_cannot_be_written_ends_the_run(
    quick_shell: Shell, bucket: Bucket, server: Server, tmp_path: Path
) -> None:
    """A picture that the server never gives is a record, and the next run does it. An output that it never takes ends
    the run with 1 and is named; before the model is loaded where nothing can be written at all."""
    save_tiny(tmp_path / "imgs", 4)
    bucket.up(tmp_path / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out")
    server.trouble("ill", path="imgs/2/00002.png")
    told = quick_shell(ask, expect=3, **TWICE).stderr
    assert "00002.png: permission: could not be read" in told and "3 of 4 images done" in told
    server.trouble("deny", path="out/masks")
    told = quick_shell(ask, expect=1, **TWICE).stderr
    assert f"cannot write {bucket.url}/out/masks/red/2/00002.png: Access Denied" in told
    assert "run the same command again" in told
    server.trouble("deny")
    told = quick_shell(ask.replace("/out", "/other"), expect=1, **TWICE).stderr
    assert f"cannot write {bucket.url}/other/run.json" in told and "model fake" not in told
    server.trouble()
    assert "(3 before)" in quick_shell(ask).stderr


def test_shards_lists_globs_and_single_pictures(quick_shell: Shell, bucket: Bucket, here: Path, tmp_path: Path) -> None:
    """Shards side by side make one run; URLs in lists and globs, beside paths; one picture to one object."""
    bucket.up(here / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out") + " -q"
    quick_shell(f"seq 0 1 | xargs -P 2 -I{{}} {ask} --shard {{}}/2", expect=123)  # the broken ones: 3 in each shard
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
    assert [row.get("error", {}).get("class") for row in rows] == [None, "vanished", None]
    planned = quick_shell(f"clipseg segment '{bucket.url}/imgs/**/0000[0-4].png' -p red -n").stdout.splitlines()
    assert len(planned) == 5 and planned[0].startswith(f"{bucket.url}/imgs/0/00000.png -> masks/red/{bucket.name}/imgs")
    quick_shell(f"clipseg segment {bucket.url}/imgs/0/00000.png -p red -o {bucket.url}/one.png")
    one = bucket.client.get_object(Bucket=bucket.name, Key="one.png")["Body"].read()
    assert one == (here / "out/masks/red/0/00000.png").read_bytes()


WITHOUT = """
import contextlib, io, json, sys
from clipseg_cli.cli.main import main
sys.modules["s3fs"] = None
for line in sys.argv[1:]:
    sys.argv = ["clipseg", *line.split()]
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.suppress(SystemExit):
        try:
            main()
        except SystemExit as left:
            print(json.dumps([left.code, told.getvalue(), "fsspec" in sys.modules]))
"""


def test_a_missing_package_is_named_with_its_pip_line(quick_environment: dict[str, str], tmp_path: Path) -> None:
    """Without s3fs: exit 2 and the pip line, at either end; what else cannot be is told, too. A run from folder to
    folder does not import fsspec."""
    save(tmp_path / "imgs/a.png", picture(48, 40))
    save(tmp_path / "imgs/b.png", picture(48, 40))
    lines = {
        f"segment file://{tmp_path}/imgs -p red -o file://{tmp_path}/out -q": "",
        "segment s3://bucket/imgs -p red": "pip install 'clipseg-cli[s3]'",
        "segment imgs -p red -o s3://bucket/out": "pip install 'clipseg-cli[s3]'",
        "segment nix://imgs -p red": "not known",
        "segment imgs -p red -o http://127.0.0.1/out": "half-written",
        "segment imgs -p red -o out --features s3://bucket/kept": "folder of this machine",
        "eval s3://bucket/out gt": "copy it here",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *lines], cwd=tmp_path, env=quick_environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    (code, _, loaded), *others = [json.loads(row) for row in done.stdout.splitlines() if row.startswith("[")]
    assert code == 0 and not loaded and (tmp_path / "out/masks/red/b.png").is_file()
    for (code, told, _), wanted in zip(others, list(lines.values())[1:], strict=True):
        assert code == 2 and wanted in told


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty file system in this process."""
    yield "memory://imgs"
    buckets.system("memory://").rm("memory://", recursive=True)


def test_discovery_is_that_of_folders(memory: str, tmp_path: Path) -> None:
    """Names, order, outputs, hidden names, depth, exclusion, twins and a run's own outputs: as in a folder. Keys that
    would lead elsewhere as paths are not taken."""
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


def test_records_of_several_writers_come_together(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that end at the same time, in any order: every line is there, each writer's in its order, and a killed
    one loses what it had not put."""
    monkeypatch.setattr(bucket_lines, "SHORTEST", 0.0)
    monkeypatch.setattr(bucket_lines, "LONGEST", 0.0)
    path = Url(f"{memory}/manifest.jsonl")

    def write(writer: int) -> None:
        with bucket_lines.Parts(path) as lines:
            for number in range(20):
                lines.append(f"{writer} {number}")
            lines.rewrite(lambda found: list(dict.fromkeys(found)))

    threads = [threading.Thread(target=write, args=[writer]) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = path.read_bytes().decode().splitlines()
    assert sorted(rows) == sorted(f"{writer} {number}" for writer in range(6) for number in range(20))
    assert all(
        [row for row in rows if row[0] == f"{writer}"] == [f"{writer} {n}" for n in range(20)] for writer in range(6)
    )
    monkeypatch.setattr(bucket_lines, "SHORTEST", 9.0)
    monkeypatch.setattr(bucket_lines, "LONGEST", 9.0)
    killed = bucket_lines.Parts(path)
    killed.append("lost")
    assert b"lost\n" not in [*bucket_lines.Parts(path)]
    with pytest.raises(KeyError), bucket_lines.Parts(path) as ended:
        ended.append("kept")
        raise KeyError
    assert [*bucket_lines.Parts(path)][-1] == b"kept\n"
    ended.clear()
    assert [*bucket_lines.Parts(path)] == [] and not path.exists()


def test_other_file_systems_get_whole_files_by_renaming(tmp_path: Path) -> None:
    """One that is no object store but can rename: a write that breaks off leaves the old content and no new name."""
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
