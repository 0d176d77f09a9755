"""Buckets at both ends: the same bytes as from folder to folder, through a real S3 server that is not always well."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipseg_cli import parts, remote, store
from clipseg_cli.errors import OutputError, UsageError
from clipseg_cli.remote import Url
from clipseg_cli.settings import InputOptions
from clipseg_cli.sources import discover
from pictures import picture, records, save
from s3 import Bucket, Server
from test_crash import Swift, images, swift, swift_environment

__all__ = ["swift", "swift_environment"]  # fixtures

ASK = "clipseg segment {} -p red -f mask -f overlay -f coco -f webdataset -o {}"
TWICE = {"AWS_MAX_ATTEMPTS": "2"}  # where a request shall fail for good, and soon


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A running S3 server."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def bucket(server: Server, swift_environment: dict[str, str]) -> Iterator[Bucket]:
    """An empty bucket that `swift` finds."""
    swift_environment |= server.environment
    yield server.bucket()
    server.trouble()


def local(out: Path) -> dict[str, bytes]:
    """Every file of a run but run.json and the program's own records, by name."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return _plain(found)


def distant(bucket: Bucket, prefix: str = "out") -> dict[str, bytes]:
    """The same of a run in a bucket, its images named as if they were in a folder."""
    return _plain({name: _renamed(bucket, name, data) for name, data in bucket.down(prefix).items()})


def _renamed(bucket: Bucket, name: str, data: bytes) -> bytes:
    if not name.endswith((".json", ".jsonl", ".tar")):
        return data
    return data.replace(f"{bucket.url}/".encode(), b"")


def _plain(found: dict[str, bytes]) -> dict[str, bytes]:
    found = {name: data for name, data in found.items() if name != "run.json" and not name.startswith(".clipseg-")}
    found["manifest.jsonl"] = b"".join(sorted(found["manifest.jsonl"].splitlines(keepends=True)))
    for name in [name for name in found if name.endswith(".tar")]:  # a sample's size is that of its image's name, too
        del found[name]
    return found


def test_a_bucket_at_both_ends_gives_the_same_bytes(swift: Swift, bucket: Bucket, tmp_path: Path) -> None:
    """40 pictures, some of them cut short: the tree equals that of folder to folder byte for byte. Again it answers
    without the model; what was changed or deleted is done again; `status` and `merge` know the run."""
    images(tmp_path / "imgs", 40, corrupt=9)
    bucket.up(tmp_path / "imgs")
    swift(ASK.format("imgs", "out"), expect=3)
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out/")
    first = swift(ask + " -j 2", expect=3)
    assert distant(bucket) == local(tmp_path / "out")
    assert f"36 of 40 images done, 4 failed (see {bucket.url}" in first.stderr
    assert first.stdout.splitlines()[0].startswith(f"{bucket.url}/out/masks/red/")
    again = swift(ask, expect=3)
    assert "36 before" in again.stderr and "model red" not in again.stderr and again.stdout == first.stdout
    assert distant(bucket) == local(tmp_path / "out")
    bucket.put("imgs/0/00000.png", (tmp_path / "imgs/1/00001.png").read_bytes())
    bucket.client.delete_object(Bucket=bucket.name, Key="out/masks/red/2/00002.png")
    assert "34 before" in swift(ask, expect=3).stderr
    done = json.loads(swift(f"clipseg status {bucket.url}/out --json", expect=3).stdout)
    assert done["done"] == 36 and done["failed"] == {"corrupt": 4} and done["missing"] == []
    assert "40 images" in swift(f"clipseg merge {bucket.url}/out").stdout
    assert "other settings" in swift(ask.replace("-p red", "-p red -t 0.7"), expect=1).stderr


def test_killed_and_resumed_it_is_the_same(
    swift: Swift, swift_environment: dict[str, str], bucket: Bucket, tmp_path: Path
) -> None:
    """kill -9 in the midst of it: no object is partial, what had been put is not done again, and the end is that of a
    run that was left alone."""
    images(tmp_path / "imgs", 40, corrupt=9)
    bucket.up(tmp_path / "imgs")
    swift(ASK.format("imgs", "out"), expect=3)
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out") + " -b 2"
    with subprocess.Popen(
        ask.split(), cwd=tmp_path, env=swift_environment | {"RED_PARTS": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        for _ in range(9):
            run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    whole = local(tmp_path / "out")
    for name, data in _plain({"manifest.jsonl": b""} | bucket.down("out")).items():
        assert name == "manifest.jsonl" or data == whole[name] or b"s3://" in data, name
    kept = json.loads(swift(f"clipseg status {bucket.url}/out --json", expect=3).stdout)["done"]
    assert 8 <= kept < 36
    assert f"({kept} before)" in swift(ask, expect=3).stderr
    assert distant(bucket) == whole


@pytest.mark.parametrize("kind", ["error", "slow", "drop", "tear"])
def test_a_server_in_trouble_is_asked_again(
    swift: Swift, bucket: Bucket, server: Server, tmp_path: Path, kind: str
) -> None:
    """Every tenth request ends in 500, in 503 SlowDown, without an answer, or in the midst of a body: same bytes."""
    images(tmp_path / "imgs", 20, corrupt=9)
    bucket.up(tmp_path / "imgs")
    swift(ASK.format("imgs", "out"), expect=3)
    server.trouble(kind, every=10)
    done = swift(ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out"), expect=3)
    assert server.troubles() >= 5 and "18 of 20 images done, 2 failed" in done.stderr
    server.trouble()
    assert distant(bucket) == local(tmp_path / "out")


def test_what_cannot_be_read_fails_and_what_cannot_be_written_ends_the_run(
    swift: Swift, bucket: Bucket, server: Server, tmp_path: Path
) -> None:
    """A picture that the server never gives is a record, and the next run does it. An output that it never takes ends
    the run with 1 and names it; before the model is loaded where nothing can be written at all."""
    images(tmp_path / "imgs", 4)
    bucket.up(tmp_path / "imgs")
    ask = ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/out")
    server.trouble("slow", path="imgs/2/00002.png")
    told = swift(ask, expect=3, **TWICE).stderr
    assert "00002.png: permission" in told and "reduce your request rate" in told and "3 of 4 images done" in told
    server.trouble("deny", path="out/masks")
    told = swift(ask, expect=1, **TWICE).stderr
    assert (
        f"cannot write {bucket.url}/out/masks/red/2/00002.png: Access Denied" in told and "run the same command" in told
    )
    server.trouble("deny")
    told = swift(ASK.format(f"{bucket.url}/imgs", f"{bucket.url}/other"), expect=1, **TWICE).stderr
    assert f"cannot write {bucket.url}/other/run.json" in told and "model red" not in told
    server.trouble()
    assert "(3 before)" in swift(ask).stderr
    told = swift(ASK.format(f"{bucket.url}/imgs", "s3://no-such-bucket/out"), expect=1).stderr
    assert "cannot write s3://no-such-bucket/out" in told


def test_lists_globs_and_single_pictures(swift: Swift, bucket: Bucket, tmp_path: Path) -> None:
    """URLs in lists and globs, a folder beside a bucket, shards side by side, one picture into one object."""
    images(tmp_path / "imgs", 8)
    bucket.up(tmp_path / "imgs")
    (tmp_path / "list").write_text(f"{bucket.url}/imgs/0/00000.png\n{bucket.url}/imgs/nix.png\nimgs/1/00001.png\n")
    names = swift(f"clipseg segment --files-from list -p red -o {bucket.url}/out", expect=3).stdout.splitlines()
    inner = [name.removeprefix(f"{bucket.url}/out/masks/red/") for name in names]
    assert inner == [f"{bucket.name}/imgs/0/00000.png", "imgs/1/00001.png"]
    rows = [json.loads(line) for line in bucket.down("out")["manifest.jsonl"].splitlines()]
    assert [row.get("error", {}).get("class") for row in rows] == [None, "vanished", None]
    swift(f"clipseg segment '{bucket.url}/imgs/**/0000[0-4].png' -p red -o globbed")
    assert len(records(tmp_path / "globbed/manifest.jsonl")) == 5
    ask = f"clipseg segment {bucket.url}/imgs -p red -f mask -o {bucket.url}/two -q"
    swift(f"seq 0 1 | xargs -P 2 -I{{}} {ask} --shard {{}}/2 && clipseg merge {bucket.url}/two")
    swift("clipseg segment imgs -p red -f mask -o one && clipseg merge one")
    assert distant(bucket, "two") == local(tmp_path / "one")
    swift(f"clipseg segment {bucket.url}/imgs/0/00000.png -p red -o {bucket.url}/one.png")
    assert (
        bucket.client.get_object(Bucket=bucket.name, Key="one.png")["Body"].read()
        == local(tmp_path / "one")["masks/red/0/00000.png"]
    )


def test_what_reads_a_run_reads_it_in_a_bucket_or_says_so(swift: Swift, bucket: Bucket, tmp_path: Path) -> None:
    """`post` and `report` take a run from a bucket and leave one there; `eval` says to copy it."""
    images(tmp_path / "imgs", 3)
    bucket.up(tmp_path / "imgs")
    for imgs, out in (("imgs", "out"), (f"{bucket.url}/imgs", f"{bucket.url}/out")):
        swift(f"clipseg segment {imgs} -p red -f soft -o {out}")
        swift(f"clipseg post {out} -t 0.4 -f mask -f overlay -o {out}-post")
        assert swift(f"clipseg report {out}").stdout.strip() == f"{out}/report.html"
    assert distant(bucket, "out-post") == local(tmp_path / "out-post")
    assert len(bucket.down("out")["report.html"]) > 10_000
    assert "copy it here" in swift(f"clipseg eval {bucket.url}/out gt", expect=2).stderr


def test_a_missing_package_is_named_with_its_pip_line(swift_environment: dict[str, str], tmp_path: Path) -> None:
    """Without s3fs: exit 2 and the pip line, at either end; an unknown scheme is told, too. A run from folder to folder
    does not import fsspec."""
    save(tmp_path / "imgs/a.png", picture(48, 40))
    code = (
        "import sys; sys.modules['s3fs'] = None; sys.argv = ['clipseg', *sys.argv[1:]]\n"
        "from clipseg_cli.cli import main\n"
        "try: main()\n"
        "finally: print('fsspec' in sys.modules, file=sys.stderr)"
    )

    def run(*arguments: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", code, "segment", *arguments, "-p", "red"], cwd=tmp_path, env=swift_environment,
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr.splitlines()

    for arguments in (("s3://bucket/imgs",), ("imgs", "-o", "s3://bucket/out")):
        assert run(*arguments) == (
            2,
            ["clipseg: s3:// needs a package that is not here: pip install 'clipseg-cli[s3]'", "True"],
        )
    assert "not known" in run("nix://imgs")[1][0] and run("imgs", "-o", "nix://out")[0] == 2
    assert "half-written" in run("imgs", "-o", "http://127.0.0.1/out")[1][0]
    assert run("imgs", "imgs/a.png")[1][-1] == "False"
    assert (
        run(f"file://{tmp_path}/imgs", "-o", f"file://{tmp_path}/out")[1][-1] == "False" and (tmp_path / "out").is_dir()
    )


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty file system in this process."""
    yield "memory://imgs"
    remote.system("memory://").rm("memory://", recursive=True)


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
    monkeypatch.setattr(parts, "SHORTEST", 0.0)
    monkeypatch.setattr(parts, "LONGEST", 0.0)
    path = Url(f"{memory}/manifest.jsonl")

    def write(writer: int) -> None:
        with parts.Parts(path) as lines:
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
    monkeypatch.setattr(parts, "SHORTEST", 9.0)
    monkeypatch.setattr(parts, "LONGEST", 9.0)
    killed = parts.Parts(path)
    killed.append("lost")
    assert b"lost\n" not in [*parts.Parts(path)]
    with pytest.raises(KeyError), parts.Parts(path) as ended:
        ended.append("kept")
        raise KeyError
    assert [*parts.Parts(path)][-1] == b"kept\n"
    ended.clear()
    assert [*parts.Parts(path)] == [] and not path.exists()


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
