"""Files of lines that several processes extend, in a folder and in a bucket."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipseg_cli.storage import bucket_lines, buckets
from clipseg_cli.storage.buckets import Url
from clipseg_cli.storage.lines import Lines, open_lines


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty bucket in this process."""
    yield "memory://lines"
    buckets.system("memory://").rm("memory://", recursive=True)


WRITER = """
import sys
from pathlib import Path
from clipseg_cli.storage.lines import Lines
with Lines(Path(sys.argv[1])) as lines:
    for number in range(100):
        lines.append(f"{sys.argv[2]} {number} " + "x" * 5000)
"""


def test_processes_extend_a_file_at_the_same_time(tmp_path: Path) -> None:
    """Every line of three processes is there and whole, each process's in its order."""
    path = tmp_path / "manifest.jsonl"
    commands = [[sys.executable, "-c", WRITER, str(path), name] for name in "abc"]
    writers = [subprocess.Popen(command) for command in commands]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = [line.decode().split() for line in open_lines(path)]
    assert all(len(line) == 3 and len(line[2]) == 5000 for line in lines)
    for name in "abc":
        assert [int(line[1]) for line in lines if line[0] == name] == list(range(100))


def test_an_unfinished_line_is_dropped(tmp_path: Path) -> None:
    """The half line that a killed process left goes before anything is added; `rewrite` replaces all lines."""
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b"one\ntwo\nthr" + b"e" * 100_000)
    with Lines(path) as lines:
        lines.append("four")
        assert [*lines] == [b"one\n", b"two\n", b"four\n"]
        lines.rewrite(lambda found: found[1:])
        assert [*lines] == [b"two\n", b"four\n"]
        lines.clear()
        assert [*lines] == [] and not path.exists()


def test_lines_of_several_writers_to_a_bucket_are_joined(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After writers that end at the same time, every line is there, each writer's in its order.

    A killed writer loses only the lines that it had not written yet.
    """
    monkeypatch.setattr(bucket_lines, "SHORTEST", 0.0)
    monkeypatch.setattr(bucket_lines, "LONGEST", 0.0)
    path = Url(f"{memory}/manifest.jsonl")

    def write(writer: int) -> None:
        with bucket_lines.BucketLines(path) as lines:
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
    killed = bucket_lines.BucketLines(path)
    killed.append("lost")
    assert b"lost\n" not in [*bucket_lines.BucketLines(path)]
    with pytest.raises(KeyError), bucket_lines.BucketLines(path) as ended:
        ended.append("kept")
        raise KeyError
    assert [*bucket_lines.BucketLines(path)][-1] == b"kept\n"
    ended.clear()
    assert [*bucket_lines.BucketLines(path)] == [] and not path.exists()
