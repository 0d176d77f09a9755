"""`clipseg cache`, and what `clipseg doctor` says of the cache."""

import json
from pathlib import Path

from pictures import Program


def test_the_cache_is_shown_and_cleared(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """Runs keep images in the user's cache by default, and the masks do not depend on it."""
    folder = tmp_path / "cache/features"
    empty = {"folder": str(folder), "images": 0, "bytes": 0, "limit": 2_000_000_000, "oldest": 0.0}
    assert json.loads(clipseg("clipseg cache info --json").stdout) == empty
    clipseg("clipseg segment imgs -p circle -o first -f mask", CLIPSEG_FEATURES="")
    told = json.loads(clipseg("clipseg cache info --json").stdout)
    assert told["images"] == 4 and told["bytes"] > 100_000 and told["oldest"] > 1.6e9
    text = clipseg("clipseg cache info").stdout
    assert str(folder) in text and "images  4\n" in text and "limit   2,000 MB" in text
    assert f"4 in {folder}" in clipseg("clipseg doctor").stdout
    assert "deleted 4 encoded images" in clipseg("clipseg cache clear").stdout
    assert json.loads(clipseg("clipseg cache info --json").stdout) == empty
    clipseg("clipseg segment imgs -p circle -o second -f mask", CLIPSEG_FEATURES="")
    assert (tmp_path / "first/manifest.jsonl").read_bytes() == (tmp_path / "second/manifest.jsonl").read_bytes()


def test_a_folder_of_features_is_shown_and_cleared(clipseg: Program, imgs: Path, tmp_path: Path) -> None:
    """The user's cache stays as it is, and so do other files in the folder. A bucket is refused."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/notes.txt").write_text("mine")
    clipseg("clipseg segment imgs -p circle -o out -f mask --features kept --limit 2")
    assert not (tmp_path / "cache").exists()
    told = json.loads(clipseg("clipseg cache info kept --json").stdout)
    assert told["images"] == 2 and told["limit"] is None
    assert "deleted 2 encoded images" in clipseg("clipseg cache clear kept").stdout
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    assert "copy it here first" in clipseg("clipseg cache info s3://bucket/kept", expect=2).stderr
