"""Shards of a run: merged, they are the run."""

import json
from pathlib import Path

import pytest

from clipseg_cli.errors import UsageError
from clipseg_cli.run import status
from output_folder import tree
from pictures import Program, Shell, picture, records, save

SEGMENT = "clipseg segment imgs -p red -f mask -f coco -q"


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


def test_status_and_merge_need_a_run(tmp_path: Path) -> None:
    """A folder without run.json is a usage error."""
    for function in (status.status, status.merge):
        with pytest.raises(UsageError, match="holds no run"):
            function(tmp_path)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, ("imgs/new.png",)),
        ({"directory": "/elsewhere"}, None),
        ({"inputs": {"inputs": ["imgs"], "files_from": "-"}}, None),
        ({"inputs": {"inputs": []}}, None),
        ({"inputs": {"no such option": 1}}, None),
    ],
)
def test_missing_images_are_known_where_the_inputs_can_be_searched_again(
    quick_clipseg: Program, tmp_path: Path, change: dict[str, object], missing: tuple[str, ...] | None
) -> None:
    """Not for a list on stdin, nor for relative names from another folder. The run's shard does not count."""
    save(tmp_path / "imgs/a.png", picture(48, 40))
    quick_clipseg("clipseg segment imgs -p red -o out")
    run = tmp_path / "out/run.json"
    save(tmp_path / "imgs/new.png", picture(48, 40, 2))
    run.write_text(json.dumps(json.loads(run.read_text()) | change))
    found = status.status(tmp_path / "out")
    assert (found.done, found.missing) == (1, missing)
