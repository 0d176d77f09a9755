"""Shards of a run: they depend on the paths alone. What `status` and `merge` make of them."""

import json
from pathlib import Path

import pytest

from clipseg_cli.inputs.discovery import discover
from clipseg_cli.settings.inputs import InputOptions
from output_folder import tree
from pictures import Program, Shell, picture, records, save

SEGMENT = "clipseg segment imgs -p red -f mask -f coco -q"


def test_every_image_is_in_one_shard(tmp_path: Path) -> None:
    """Shards divide the images without loss or overlap, about evenly, the same way under any root and spelling."""
    for index in range(60):
        save(tmp_path / f"imgs/{index % 7}/{index}.png", picture(8, 8))

    def names(root: str, shard: tuple[int, int]) -> set[str]:
        found = discover(InputOptions((root,), shard=shard), None)
        return {source.output for source in found}

    shards = [names(str(tmp_path / "imgs"), (index, 4)) for index in range(4)]
    assert sum(map(len, shards)) == 60 == len(set.union(*shards)) and min(map(len, shards)) >= 5
    (tmp_path / "imgs").rename(tmp_path / "elsewhere")
    assert shards == [names(str(tmp_path / "elsewhere"), (index, 4)) for index in range(4)]


@pytest.fixture
def one(tmp_path: Path, quick_clipseg: Program) -> Path:
    """Nine images and a broken one in imgs/, and the output folder of one run over them, merged."""
    for index in range(9):
        save(tmp_path / f"imgs/{index}.png", picture(64 + index, 48, index))
    (tmp_path / "imgs/broken.png").write_bytes(b"")
    quick_clipseg(f"{SEGMENT} -o one", expect=3)
    quick_clipseg("clipseg merge one")
    return tmp_path / "one"


def assert_merged(four: Path, one: Path) -> None:
    """Asserts that every file equals that of one run, also coco.json, and that the manifest is sorted."""
    assert tree(one) == tree(four)
    names = [row["image"] for row in records(four / "manifest.jsonl")]
    assert names == sorted(names) and len(names) == 10


def test_shards_one_after_the_other_equal_one_run(quick_clipseg: Program, one: Path, tmp_path: Path) -> None:
    """`--shard 0/4` to `--shard 3/4`, then `merge`."""
    codes = [quick_clipseg(f"{SEGMENT} -o four --shard {index}/4", None).returncode for index in range(4)]
    assert sorted(codes) == [0, 0, 0, 3]  # the broken one fails in its shard
    quick_clipseg("clipseg merge four")
    assert_merged(tmp_path / "four", one)


@pytest.mark.slow
def test_shards_side_by_side_equal_one_run(quick_shell: Shell, one: Path, tmp_path: Path) -> None:
    """`seq 0 3 | xargs -P 2 ... --shard {}/4`, then `merge`."""
    quick_shell(f"seq 0 3 | xargs -P 2 -I{{}} {SEGMENT} -o four --shard {{}}/4", expect=123)  # one shard exits with 3
    quick_shell("clipseg merge four")
    assert_merged(tmp_path / "four", one)


def test_status_tells_what_is_missing(quick_clipseg: Program, tmp_path: Path) -> None:
    """It counts done images and failed ones by class, and names missing ones by walking the inputs again. It exits
    with 3 until everything is done."""
    for index in range(6):
        save(tmp_path / f"imgs/{index}.png", picture(48, 48, index))
    (tmp_path / "imgs/broken.png").write_bytes(b"")
    quick_clipseg(f"{SEGMENT} -o out --shard 0/3", None)
    quick_clipseg(f"{SEGMENT} -o out --shard 1/3", None)
    done = json.loads(quick_clipseg("clipseg status out --json", expect=3).stdout)
    assert done["done"] + sum(done["failed"].values()) + len(done["missing"]) == 7 and done["missing"]
    quick_clipseg(f"{SEGMENT} -o out --shard 2/3", None)
    last = quick_clipseg("clipseg status out", expect=3).stdout
    assert "done     6" in last and "1 (1 empty)" in last and "missing  0" in last
    (tmp_path / "imgs/broken.png").unlink()
    save(tmp_path / "imgs/broken.png", picture(48, 48))
    quick_clipseg(f"{SEGMENT} -o out")
    quick_clipseg("clipseg status out")
    assert "holds no run" in quick_clipseg("clipseg status imgs", expect=2).stderr


def test_an_empty_shard_is_done(quick_clipseg: Program, tmp_path: Path) -> None:
    """If there are more shards than images, the empty ones say so and exit with 0. A wrong shard is a usage error."""
    save(tmp_path / "imgs/a.png", picture(48, 48))
    told = [quick_clipseg(f"clipseg segment imgs -p red -o out --shard {index}/4").stderr for index in range(4)]
    assert "".join(told).count("no image") == 3
    for wrong in ("4/4", "1", "-1/4", "a/b", "0/0"):
        assert "I/N" in quick_clipseg(f"clipseg segment imgs -p red --shard={wrong}", expect=2).stderr
