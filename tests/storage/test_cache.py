"""The cache: entries are checked when they are read, the oldest make room, and no failure of a disk is an error."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipseg_cli.storage import cache
from clipseg_cli.storage.cache import BLOCK, LARGEST_SHARE, LOOKS, Cache, Place, entry_name

CONTENT = bytes(BLOCK - cache.DIGEST)  # fills one block of the disk


def name(number: int) -> str:
    """The name of an entry."""
    return entry_name(hashlib.sha256(b"%d" % number), "features")


def fill(place: Place, numbers: range, age: float = 0.0) -> None:
    """Writes entries that were used `age` seconds ago, each second one more."""
    kept = Cache(Place(place.folder))
    for number in numbers:
        kept.write(name(number), CONTENT)
        then = time.time() - age + number - numbers.start
        os.utime(place.folder / name(number), (then, then))


def held(place: Place, numbers: range) -> list[int]:
    """Which of the entries are there, without using them."""
    return [number for number in numbers if (place.folder / name(number)).exists()]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
    ids=["truncated", "empty", "truncated in its checksum", "a bit", "a bit of the checksum"],
)
def test_a_damaged_entry_does_not_count(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """It is read as missing, and another write makes it whole again."""
    kept, content = Cache(Place(tmp_path)), os.urandom(1000)
    assert kept.read(name(1)) is None
    kept.write(name(1), content)
    assert kept.read(name(1)) == content
    path = tmp_path / name(1)
    path.write_bytes(damage(path.read_bytes()))
    assert kept.read(name(1)) is None
    kept.write(name(1), content)
    assert kept.read(name(1)) == content


def test_an_entry_under_the_name_of_another_does_not_count(tmp_path: Path) -> None:
    """As after a wrong move or copy."""
    kept = Cache(Place(tmp_path))
    kept.write(name(1), CONTENT)
    (tmp_path / name(2)).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / name(1), tmp_path / name(2))
    assert kept.read(name(2)) is None


def test_entries_go_that_were_not_used_for_longest(tmp_path: Path) -> None:
    """Reading an entry counts as using it. Only as many go as necessary."""
    place = Place(tmp_path, 20 * BLOCK)
    fill(place, range(20), age=1000)
    assert Cache(place).read(name(3)) == CONTENT
    kept = Cache(place)
    for number in range(100, 105):
        kept.write(name(number), CONTENT)
    assert held(place, range(200)) == [3, *range(6, 20), *range(100, 105)]


def test_the_limit_holds_and_a_large_run_keeps_its_first_entries(tmp_path: Path) -> None:
    """A run that writes three times the limit fills it once. Its second half does not push out its first."""
    place = Place(tmp_path, 100 * BLOCK)
    kept = Cache(place)
    for number in range(300):
        kept.write(name(number), CONTENT)
        assert number % 10 or place.usage().size <= 100 * BLOCK
    assert held(place, range(300)) == [*range(100)]
    again = Cache(place)  # the next run finds those, and leaves them
    for number in range(300):
        if again.read(name(number)) is None:
            again.write(name(number), CONTENT)
    assert held(place, range(300)) == [*range(100)]


def test_one_run_takes_at_most_half_from_others(tmp_path: Path) -> None:
    """The entries that earlier runs have used last stay."""
    place = Place(tmp_path, 100 * BLOCK)
    fill(place, range(100), age=1000)
    kept = Cache(place)
    for number in range(1000, 1300):
        kept.write(name(number), CONTENT)
    new, old = held(place, range(1000, 1300)), held(place, range(100))
    assert new == [*range(1000, 1000 + len(new))] and old == [*range(100 - len(old), 100)]
    assert LARGEST_SHARE * 100 - 2 <= len(new) <= LARGEST_SHARE * 100 + 2
    assert len(new) + len(old) <= 100


def test_without_a_limit_all_is_kept(tmp_path: Path) -> None:
    """With a limit of 0, nothing is."""
    for limit, expected in ((None, 50), (0, 0)):
        place = Place(tmp_path / str(limit), limit)
        kept = Cache(place)
        for number in range(50):
            kept.write(name(number), CONTENT)
        assert len(held(place, range(50))) == expected


def test_other_files_are_never_deleted(tmp_path: Path) -> None:
    """Neither to make room nor by `clear`: a user may keep the cache in a folder of other things."""
    others = [tmp_path / "photo.jpg", tmp_path / "ab/photo.jpg", tmp_path / "sub/ab" / Path(name(1)).name]
    others += [tmp_path / name(2)]  # a folder with the name of an entry
    for path in others[:3]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT * 20)
        os.utime(path, (1, 1))
    others[3].mkdir(parents=True)
    place = Place(tmp_path, 10 * BLOCK)
    fill(place, range(10, 20), age=100)
    assert place.usage().counts["features"] == 10
    kept = Cache(place)
    kept.write(name(2), CONTENT)
    kept.write(name(30), CONTENT)
    assert held(place, range(10, 31)) == [*range(11, 20), 30]
    assert place.clear().counts["features"] == 10
    assert place.usage().size == 0 and all(path.exists() for path in others)


def test_what_killed_processes_left_is_counted_and_goes_in_its_turn(tmp_path: Path) -> None:
    """Like an entry of its age."""
    place = Place(tmp_path, 10 * BLOCK)
    fill(place, range(9), age=100)
    left = (tmp_path / name(1)).with_name(".clipseg-tmp-0123abcd-1-0123")
    left.write_bytes(CONTENT)
    os.utime(left, (1, 1))
    assert place.usage().size == 10 * BLOCK
    Cache(place).write(name(20), CONTENT)
    assert not left.exists() and held(place, range(30)) == [*range(9), 20]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    """A file is where the folder should be: nothing is found, and nothing is kept."""
    (tmp_path / "file").write_bytes(b"")
    kept = Cache(Place(tmp_path / "file" / "cache", BLOCK))
    kept.write(name(1), CONTENT)
    assert kept.closed and kept.read(name(1)) is None
    assert kept.place.usage().size == 0 and kept.place.clear().size == 0


def test_entries_may_vanish_at_any_time(tmp_path: Path) -> None:
    """A run goes on when its folder is deleted, and keeps its further entries."""
    kept = Cache(Place(tmp_path / "cache", 10 * BLOCK))
    kept.write(name(1), CONTENT)
    shutil.rmtree(tmp_path / "cache")
    assert kept.read(name(1)) is None
    kept.write(name(2), CONTENT)
    assert kept.read(name(2)) == CONTENT


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB. Skipped where none can be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = shutil.which("mount")
    mounting = [mount or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if mount is None or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root on Linux")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_is_never_filled(disk: Path) -> None:
    """Without a limit, a twentieth of the disk stays free. A full disk is no error, and a read-only one neither."""
    kept = Cache(Place(disk / "cache"))
    for number in range(300):
        kept.write(name(number), CONTENT)
    free = shutil.disk_usage(disk).free / shutil.disk_usage(disk).total
    assert 0.05 <= free < 0.07 and not [*disk.rglob(".clipseg*")]
    there = held(kept.place, range(300))
    with (disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
        while other.write(bytes(BLOCK)):
            pass
    full = Cache(kept.place)
    full.write(name(1000), CONTENT)
    assert full.closed and held(kept.place, range(300)) == there and full.read(name(0)) == CONTENT
    (disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    fixed = Cache(kept.place)
    assert fixed.read(name(0)) == CONTENT
    fixed.write(name(1000), CONTENT)
    assert fixed.closed and fixed.read(name(1000)) is None


WRITER = """
import hashlib, sys
from pathlib import Path
from clipseg_cli.storage.cache import *
kept = Cache(Place(Path(sys.argv[1]), int(sys.argv[2])))
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    name = entry_name(hashlib.sha256(b"%d" % number), "features")
    if kept.read(name) is None:
        kept.write(name, bytes([number % 256]) * 20_000)
"""


def test_processes_share_a_folder(tmp_path: Path) -> None:
    """Four write and make room at the same time, in part the same entries: each entry is whole or missing, and the
    limit holds but for what each may write between two looks at the folder."""
    place = Place(tmp_path, 100 * 5 * BLOCK)
    fill(place, range(10_000, 10_300), age=1000)
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(place.limit)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    running = [
        subprocess.Popen([*command, str(start), str(start + 120)], env=environment) for start in (0, 60, 120, 180)
    ]
    assert [process.wait(120) for process in running] == [0] * 4
    assert place.limit is not None and place.usage().size <= place.limit * (1 + 4 / LOOKS) + 4 * 5 * BLOCK
    reader = Cache(place)
    found = {number: reader.read(name(number)) for number in held(place, range(300))}
    assert len(found) >= 40
    assert all(content == bytes([number % 256]) * 20_000 for number, content in found.items())


def test_threads_share_a_cache(tmp_path: Path) -> None:
    """All entries of eight threads are kept."""
    kept = Cache(Place(tmp_path, 200 * BLOCK))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: kept.write(name(number), CONTENT), range(100)))
    assert held(kept.place, range(100)) == [*range(100)]


def test_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIPSEG_CACHE, or the system's folder for caches. Only its owner may look into it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("CLIPSEG_CACHE")
    if sys.platform == "linux":
        assert cache.user_folder() == tmp_path / "xdg/clipseg"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache.user_folder() == Path.home() / ".cache/clipseg"
    monkeypatch.setenv("CLIPSEG_CACHE", str(tmp_path / "mine"))
    assert cache.user_folder() == tmp_path / "mine"
    place = Place(tmp_path / "mine/features")
    Cache(place).write(name(1), CONTENT)
    if os.name == "posix":
        assert place.folder.stat().st_mode & 0o077 == 0
