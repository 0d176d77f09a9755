"""`clipseg status` and `clipseg merge`."""

import json
from pathlib import Path

from pictures import Program, picture, records, save

SEGMENT = "clipseg segment imgs -p red -f mask -f coco -q"


def test_status_shows_what_is_missing(quick_clipseg: Program, tmp_path: Path) -> None:
    """It counts done images, and failed ones by class, and names missing ones, which it finds by searching the inputs
    again. It exits with 3 until everything is done."""
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


def test_merge_prints_the_number_of_images(quick_clipseg: Program, tmp_path: Path) -> None:
    """And where their manifest is, which names them in order."""
    for name in "cab":
        save(tmp_path / f"imgs/{name}.png", picture(48, 48))
    quick_clipseg(f"{SEGMENT} -o out imgs/c.png imgs/a.png imgs/b.png")
    assert quick_clipseg("clipseg merge out").stdout == "3 images in out/manifest.jsonl\n"
    rows = records(tmp_path / "out/manifest.jsonl")
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    assert "holds no run" in quick_clipseg("clipseg merge imgs", expect=2).stderr
