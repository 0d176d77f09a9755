"""Stacks of microscopes through a whole run: their masks are stacks too, and are complete or absent."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from output_folder import tree
from pictures import Program, picture, records, save

PLANES = 6
COMMAND = "clipseg segment i -p red --frames all -f mask"


@pytest.fixture
def stacked(tmp_path: Path) -> Path:
    """An OME-TIFF and a stack by ImageJ of drawn scenes, and pages that are no stack."""
    (tmp_path / "i/sub").mkdir(parents=True)
    planes = np.stack([picture(64, 48, seed) for seed in range(PLANES)])
    about = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "axes": "TZYXS"}
    tifffile.imwrite(
        tmp_path / "i/sub/cells.ome.tif", planes.reshape(3, 2, 48, 64, 3), photometric="rgb", metadata=about
    )
    tifffile.imwrite(tmp_path / "i/ij.tif", planes, photometric="rgb", imagej=True, metadata={"axes": "ZYXS"})
    tifffile.imwrite(tmp_path / "i/scans.tif", planes, photometric="rgb", metadata=None)
    return tmp_path / "i"


def stacks(out: Path) -> dict[str, bytes]:
    """The stacks in an output folder, by their paths."""
    return {path: data for path, data in tree(out).items() if path.endswith(".tif")}


def joined(out: Path, pattern: str) -> np.ndarray:
    """The files of all planes."""
    return np.stack(
        [tifffile.imread(path) if path.suffix == ".tif" else read(path) for path in sorted(out.glob(pattern))]
    )


def read(path: Path) -> np.ndarray:
    """The levels of a PNG."""
    from PIL import Image

    return np.array(Image.open(path))


def test_masks_soft_maps_and_labels_of_a_stack_are_stacks(
    quick_clipseg: Program, stacked: Path, tmp_path: Path
) -> None:
    """With the same axes, and the values of the planes' own files. Pages that are no stack stay single files.

    `post` writes the same stacks.
    """
    quick_clipseg(f"{COMMAND},soft,soft16,labels,overlay -p 'dark red' -o out")
    folders = ("masks/red", "masks/dark-red", "soft/red", "soft/dark-red", "soft16/red", "soft16/dark-red", "labels")
    names = ("sub/cells.ome", "ij")
    assert {*stacks(tmp_path / "out")} == {f"{folder}/{name}.tif" for folder in folders for name in names}
    for folder in folders:
        for name, axes, shape in (("sub/cells.ome", "TZYX", (3, 2, 48, 64)), ("ij", "ZYX", (6, 48, 64))):
            with tifffile.TiffFile(tmp_path / f"out/{folder}/{name}.tif") as file:
                assert (file.series[0].axes, file.series[0].shape) == (axes, shape)
                assert file.series[0].dtype == (np.uint16 if folder.startswith("soft16") else np.uint8)
                planes = file.asarray().reshape(PLANES, 48, 64)
            assert np.array_equal(planes, joined(tmp_path / "out", f"{folder}/{name}/*.png"))
            assert planes.any()
    quick_clipseg("clipseg post out -f mask,soft,soft16,labels -o again")
    assert stacks(tmp_path / "again") == stacks(tmp_path / "out")
    assert (tmp_path / "out/masks/red/scans/000005.png").is_file()


def test_a_stack_is_written_when_all_its_planes_are_done(quick_clipseg: Program, stacked: Path, tmp_path: Path) -> None:
    """Not by a run of a part of them. A later run completes it, to the bytes of a run in one go, and keeps it then."""
    quick_clipseg(f"{COMMAND} -o whole")
    quick_clipseg(f"{COMMAND} -o out --limit 4")
    quick_clipseg(f"{COMMAND.replace('all', '1:3')} -o part")
    assert not stacks(tmp_path / "out") and not stacks(tmp_path / "part")
    quick_clipseg(f"{COMMAND} -o out")
    assert stacks(tmp_path / "out") == stacks(tmp_path / "whole")
    file = tmp_path / "out/masks/red/ij.tif"
    before = file.stat().st_mtime_ns
    quick_clipseg(f"{COMMAND} -o out")
    assert file.stat().st_mtime_ns == before
    file.unlink()
    quick_clipseg(f"{COMMAND} -o out")
    assert stacks(tmp_path / "out") == stacks(tmp_path / "whole")


def test_labels_and_planes_that_show_nothing(quick_clipseg: Program, stacked: Path, tmp_path: Path) -> None:
    """With --empty skip: a plane without a file is empty in the stack, and without any file there is no stack."""
    tifffile.imwrite(
        stacked / "ij.tif",
        np.stack([picture(64, 48, 1), np.zeros((48, 64, 3), np.uint8)]),
        photometric="rgb",
        imagej=True,
        metadata={"axes": "ZYXS"},
    )
    quick_clipseg("clipseg segment i/ij.tif -p red -p none -t none=1 --frames all -f mask --empty skip -o out")
    masks = tifffile.imread(tmp_path / "out/masks/red/i/ij.tif")
    assert masks[0].any() and not masks[1].any() and not (tmp_path / "out/masks/red/i/ij/000001.png").exists()
    assert not (tmp_path / "out/masks/none").exists()


def test_a_plane_that_failed_is_empty(quick_clipseg: Program, stacked: Path, tmp_path: Path) -> None:
    """So the others keep their places."""
    path = stacked / "ij.tif"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 48 * 64 * 3 // 2])
    done = quick_clipseg(f"{COMMAND} -o out", expect=3)
    assert "ij.tif#5" in done.stderr
    masks = tifffile.imread(tmp_path / "out/masks/red/ij.tif")
    assert masks.shape == (PLANES, 48, 64) and not masks[5].any() and masks[4].any()
    path.write_bytes(data)
    quick_clipseg(f"{COMMAND} -o out")
    assert tifffile.imread(tmp_path / "out/masks/red/ij.tif")[5].any()


def test_no_stack_of_an_earlier_file_remains(quick_clipseg: Program, stacked: Path, tmp_path: Path) -> None:
    """If a stack is replaced by other pages, its stacks of masks go, and nothing else."""
    quick_clipseg(f"{COMMAND} -o out")
    (stacked / "ij.tif").write_bytes((stacked / "scans.tif").read_bytes())
    quick_clipseg(f"{COMMAND} -o out")
    assert not [path for path in stacks(tmp_path / "out") if path.endswith("/ij.tif")]
    assert (tmp_path / "out/masks/red/sub/cells.ome.tif").is_file()
    assert len(records(tmp_path / "out/manifest.jsonl")) == 3 * PLANES


def test_named_files_and_lost_sources_have_no_stacks(quick_clipseg: Program, stacked: Path, tmp_path: Path) -> None:
    """With --name, planes are single files under these names. `post` says which source it lacks."""
    quick_clipseg("clipseg segment i -p red --frames all -f mask,soft --name '{dir}/{stem}_{frame}.tif' -o out")
    assert not [path for path in stacks(tmp_path / "out") if not path.startswith("soft/") and "_0" not in path]
    assert (tmp_path / "out/soft/red/ij.tif").is_file() and (tmp_path / "out/ij_000005.tif").is_file()
    (stacked / "ij.tif").unlink()
    done = quick_clipseg("clipseg post out -f mask -o again")
    assert "no stack of masks for i/ij.tif" in done.stderr
    assert [*stacks(tmp_path / "again")] == ["masks/red/sub/cells.ome.tif"]


def test_a_folder_of_stills_is_never_joined(quick_clipseg: Program, tmp_path: Path) -> None:
    """Also if its files are numbered like planes."""
    for seed in range(3):
        save(tmp_path / f"i/ij/{seed:06}.tif", picture(64, 48, seed))
    quick_clipseg(f"{COMMAND} -o out")
    assert not stacks(tmp_path / "out")
