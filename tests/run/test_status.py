"""Shards of a run: parts that depend on the path alone, and what `status` and `merge` make of them."""

import json
from pathlib import Path

from clipseg_cli.inputs.discovery import discover
from clipseg_cli.settings.inputs import InputOptions
from pictures import Shell, picture, records, save


def tree(out: Path) -> dict[str, bytes]:
    """Every file but run.json and the program's own records, by name."""
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".clipseg"))
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.name != "run.json"}


def test_every_image_is_in_one_shard(tmp_path: Path) -> None:
    """Shards part the images without loss or overlap, about evenly, the same way under any root and spelling."""
    for index in range(60):
        save(tmp_path / f"imgs/{index % 7}/{index}.png", picture(8, 8))

    def names(root: str, shard: tuple[int, int]) -> set[str]:
        found = discover(InputOptions((root,), shard=shard), None)
        return {source.output for source in found}

    parts = [names(str(tmp_path / "imgs"), (index, 4)) for index in range(4)]
    assert sum(map(len, parts)) == 60 == len(set.union(*parts)) and min(map(len, parts)) >= 5
    (tmp_path / "imgs").rename(tmp_path / "elsewhere")
    assert parts == [names(str(tmp_path / "elsewhere"), (index, 4)) for index in range(4)]


def test_shards_side_by_side_equal_one_run(shell: Shell, tmp_path: Path) -> None:
    """`seq 0 3 | xargs -P 2 ... --shard {}/4`: after `merge` every file equals that of one run, also coco.json."""
    for index in range(9):
        save(tmp_path / f"imgs/{index}.png", picture(64 + index, 48, index))
    (tmp_path / "imgs/broken.png").write_bytes(b"")
    ask = "clipseg segment imgs -p 'a red circle' -f mask -f coco -q"
    shell(f"{ask} -o one; clipseg merge one", expect=0)
    shell(f"seq 0 3 | xargs -P 2 -I{{}} {ask} -o four --shard {{}}/4", expect=123)  # the broken one: 3 in its shard
    shell("clipseg merge four")
    assert tree(tmp_path / "one") == tree(tmp_path / "four")
    names = [row["image"] for row in records(tmp_path / "four/manifest.jsonl")]
    assert names == sorted(names) and len(names) == 10


def test_status_tells_what_is_missing(shell: Shell, tmp_path: Path) -> None:
    """Done, failed by class, and missing, by walking the inputs again; exit 3 until all is done; no torch."""
    for index in range(6):
        save(tmp_path / f"imgs/{index}.png", picture(48, 48, index))
    (tmp_path / "imgs/broken.png").write_bytes(b"")
    shell("clipseg segment imgs -p red -o out -q --shard 0/3; clipseg segment imgs -p red -o out -q --shard 1/3", None)
    done = json.loads(shell("clipseg status out --json", expect=3).stdout)
    assert done["done"] + sum(done["failed"].values()) + len(done["missing"]) == 7 and done["missing"]
    shell("clipseg segment imgs -p red -o out -q --shard 2/3", None)
    last = shell("clipseg status out", expect=3).stdout
    assert "done     6" in last and "1 (1 empty)" in last and "missing  0" in last
    (tmp_path / "imgs/broken.png").unlink()
    save(tmp_path / "imgs/broken.png", picture(48, 48))
    shell("clipseg segment imgs -p red -o out -q; clipseg status out")
    assert "holds no run" in shell("clipseg status imgs", expect=2).stderr


def test_an_empty_shard_is_done(shell: Shell, tmp_path: Path) -> None:
    """More shards than images: those without any say so and exit 0; a wrong shard is a usage error."""
    save(tmp_path / "imgs/a.png", picture(48, 48))
    done = shell("for i in 0 1 2 3; do clipseg segment imgs -p red -o out --shard $i/4 || exit 9; done")
    assert done.stderr.count("no image") == 3
    for wrong in ("4/4", "1", "-1/4", "a/b", "0/0"):
        assert "I/N" in shell(f"clipseg segment imgs -p red --shard={wrong}", expect=2).stderr
