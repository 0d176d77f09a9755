"""Mattes through a whole run: a compositing program finds the frames of a sequence by their names."""

import io
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import tifffile

from clipseg_cli.errors import UsageError
from clipseg_cli.outputs import writers
from clipseg_cli.settings.masks import MaskOptions
from output_folder import tree
from pictures import Program, picture, records, save


def test_a_sequence_keeps_its_frame_numbers(quick_clipseg: Program, tmp_path: Path) -> None:
    """Every frame has a file, also one that shows nothing under --empty skip. `post` writes the same bytes.

    The mattes are the masks with their soft edge.
    """
    for number in range(3):
        frame = picture(64, 48, number) if number else np.zeros((48, 64, 3), np.uint8)
        save(tmp_path / f"i/sh010/shot.{101 + number:04}.png", frame)
    options = "-f mask,exr,tiff,psd --feather 5 --empty skip"
    quick_clipseg(f"clipseg segment i -p 'A dog' -p 2nd {options} -f soft -o out")
    found = tree(tmp_path / "out")
    for form, suffix in (("exr", "exr"), ("tiff", "tif"), ("psd", "psd")):
        names = [f"{form}/sh010/shot.{number:04}.{suffix}" for number in (101, 102, 103)]
        assert sorted(path for path in found if path.startswith(f"{form}/")) == names
        assert [row["files"][form] for row in records(tmp_path / "out/manifest.jsonl")] == names
    mask = tifffile.imread(tmp_path / "out/tiff/sh010/shot.0102.tif", key=0)
    with OpenEXR.File(io.BytesIO(found["exr/sh010/shot.0102.exr"]), separate_channels=True) as file:
        assert {*file.channels()} == {"a_dog", "_2nd"}
        assert np.abs(file.channels()["a_dog"].pixels - mask / 65535).max() <= 1 / 2048
    assert len(np.unique(mask)) > 100 and "masks/a-dog/sh010/shot.0101.png" not in found
    quick_clipseg(f"clipseg post out {options} -o again")
    again = tree(tmp_path / "again")
    assert all(again[path] == data for path, data in found.items() if path.split("/")[0] in ("exr", "tiff", "psd"))


@pytest.mark.parametrize("name", ["m.exr", "m.psd"])
def test_the_suffix_of_a_single_file_means_its_format(quick_clipseg: Program, tmp_path: Path, name: str) -> None:
    """With all labels; `-f tiff -o m.tif` too, while a .tif alone is a mask."""
    save(tmp_path / "a.png", picture(64, 48, 1))
    quick_clipseg(f"clipseg segment a.png -p red -p blue -o {name}")
    quick_clipseg("clipseg segment a.png -p red -p blue -f tiff -o m.tif")
    assert (tmp_path / name).read_bytes()[:4] in (b"v/1\1", b"8BPS")
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        assert len(file.pages) == 2


def test_an_image_that_a_psd_cannot_hold_has_no_files(quick_clipseg: Program, tmp_path: Path) -> None:
    """It fails as a whole, whatever other formats there are."""
    save(tmp_path / "i/wide.png", np.zeros((2, 30_001, 3), np.uint8))
    save(tmp_path / "i/a.png", picture(64, 48, 1))
    quick_clipseg("clipseg segment i -p red -f mask,exr,psd -o out", expect=3)
    assert [path for path in tree(tmp_path / "out") if "wide" in path] == []
    assert (tmp_path / "out/psd/a.psd").is_file()


@pytest.mark.parametrize(("form", "extra"), [("exr", "exr"), ("psd", "psd")])
def test_a_missing_package_is_named(form: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the run, with the line that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"-f {form} needs one more package: pip install 'clipseg-cli\[{extra}\]'"):
        writers.check(1, MaskOptions(), (form,))  # type: ignore[arg-type]
