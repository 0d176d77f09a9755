"""Kept features: found again by what they are of, never trusted blindly, and without a trace in the results."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from clipseg_cli.masks import tiles
from clipseg_cli.model.feature_store import SUFFIX, Shelf
from clipseg_cli.model.segmenter import Segmenter
from pictures import Shell, picture, save


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The bundled model."""
    return Segmenter.load("shapes", device="cpu")


def entries(folder: Path) -> list[Path]:
    """The files of kept images."""
    return sorted(folder.rglob(f"*{SUFFIX}"))


def content(folder: Path) -> dict[str, bytes]:
    """Every mask and the manifest of a run."""
    files = [*folder.rglob("*.png"), folder / "manifest.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("pooled", [False, True])
def test_kept_features_are_the_features(segmenter: Segmenter, tmp_path: Path, pooled: bool) -> None:
    """Made, found again and mixed with new ones, bit for bit what the segmenter gives."""
    pictures = [segmenter.resize(picture(seed=seed)) for seed in range(4)]
    shelf = Shelf.of(tmp_path, segmenter)
    expected = segmenter.encode(pictures, pooled=pooled)
    for some in (slice(1, 3), slice(1, 3), slice(0, 4)):
        found = shelf.encode(segmenter, pictures[some], pooled=pooled)
        assert torch.equal(found.tensor, expected.tensor[some])
        assert (found.pooled is None) == (not pooled)
        if pooled:
            np.testing.assert_array_equal(found.pooled, expected.pooled[some])
    assert len(entries(tmp_path)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
    ids=["cut short", "empty", "cut in its checksum", "a bit", "a bit of the checksum"],
)
def test_a_damaged_entry_is_made_anew(segmenter: Segmenter, tmp_path: Path, damage: object) -> None:
    """Whatever happened to it, the features are right and the entry is whole again."""
    shelf, pictures = Shelf.of(tmp_path, segmenter), [segmenter.resize(picture())]
    expected = shelf.encode(segmenter, pictures)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))  # type: ignore[operator]
    assert torch.equal(shelf.encode(segmenter, pictures).tensor, expected.tensor)
    assert entry.read_bytes() == whole


def test_a_foreign_entry_is_not_taken(segmenter: Segmenter, tmp_path: Path) -> None:
    """One picture's entry under another's name, another dtype's and another size's are other entries."""
    shelf = Shelf.of(tmp_path, segmenter)
    first, second = ([segmenter.resize(picture(seed=seed))] for seed in (1, 2))
    expected = segmenter.encode(second)
    shelf.encode(segmenter, first)
    (entry,) = entries(tmp_path)
    target = tmp_path / shelf.name(second[0], False)
    target.parent.mkdir(exist_ok=True)
    shutil.copy(entry, target)
    assert torch.equal(shelf.encode(segmenter, second).tensor, expected.tensor)
    other = "fp32" if segmenter.dtype != "fp32" else "bf16"
    makers = {Shelf.of(tmp_path, Segmenter.load("shapes", device="cpu", dtype=other)).maker, shelf.maker}
    makers.add(Shelf.of(tmp_path, Segmenter.load("shapes", device="cpu", size=96)).maker)
    assert len(makers) == 3


def test_something_in_the_way_costs_only_the_keeping(segmenter: Segmenter, tmp_path: Path) -> None:
    """A folder under an entry's name: the features are made, and nothing is kept."""
    shelf, pictures = Shelf.of(tmp_path, segmenter), [segmenter.resize(picture())]
    (tmp_path / shelf.name(pictures[0], False)).mkdir(parents=True)
    assert torch.equal(shelf.encode(segmenter, pictures).tensor, segmenter.encode(pictures).tensor)


def test_runs_with_and_without_kept_features_are_the_same(shell: Shell, tmp_path: Path) -> None:
    """Masks and manifest byte for byte: without --features, with them made, found, found for other prompts, found by
    two runs at once, and by a run that resumes; and every picture is kept once."""
    for index in range(5):
        save(tmp_path / "imgs" / f"{index}.png", picture(seed=index))
    run = "clipseg segment imgs -f mask -q"
    shell(f"{run} -p 'a red circle' -o plain; {run} -p 'a blue square' -o other")
    shell(f"{run} -p 'a red circle' -o made --features kept")
    assert len(entries(tmp_path / "kept")) == 5
    times = [entry.stat().st_mtime_ns for entry in entries(tmp_path / "kept")]
    shell(f"{run} -p 'a red circle' -o found --features kept; {run} -p 'a blue square' -o asked --features kept")
    assert times == [entry.stat().st_mtime_ns for entry in entries(tmp_path / "kept")], "nothing was made again"
    plain = content(tmp_path / "plain")
    assert len(plain) == 6
    for name in ("made", "found"):
        assert content(tmp_path / name) == plain
    assert content(tmp_path / "asked") == content(tmp_path / "other")
    (tmp_path / "found/masks/a-red-circle/3.png").unlink()
    shell(f"{run} -p 'a red circle' -o found --features kept")
    shell(f"{run} -p 'a red circle' -o one --features both & {run} -p 'a red circle' -o two --features both; wait")
    for name in ("found", "one", "two"):
        assert content(tmp_path / name) == plain
    assert len(entries(tmp_path / "both")) == 5


def test_tiles_and_mirrors_are_kept_too(shell: Shell, tmp_path: Path) -> None:
    """With --tile and --flip each look is kept once and found again, masks being the same without it; the look at the
    whole serves a run without tiles."""
    save(tmp_path / "imgs/a.png", picture(300, 200))
    run = "clipseg segment imgs -p 'a red circle' -f mask -q"
    shell(f"{run} --tile 2 --flip -o plain && {run} --tile 2 --flip --features kept -o made")
    looks = len(tiles.views(200, 300, 2, True))
    assert len(entries(tmp_path / "kept")) == looks
    times = [entry.stat().st_mtime_ns for entry in entries(tmp_path / "kept")]
    shell(f"{run} --tile 2 --flip --features kept -o found && {run} --features kept -o whole")
    assert times == [entry.stat().st_mtime_ns for entry in entries(tmp_path / "kept")], "nothing was made again"
    for name in ("made", "found"):
        assert content(tmp_path / name) == content(tmp_path / "plain")
