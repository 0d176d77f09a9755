"""Files that are written in parts: what is saved survives, what is not is gone, and nothing foreign is taken."""

from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.errors import ImageError
from clipseg_cli.storage.unfinished import Unfinished, delete


def opened(folder: Path, mark: str = "m", files: int = 2) -> Unfinished:
    """Returns the files of an image."""
    return Unfinished(folder, "i/a.tif", files, mark)


def filled(folder: Path) -> Path:
    """Saves one part, and adds one that is not saved. Returns the folder of the image."""
    with opened(folder) as parts:
        assert parts.state == {}
        parts.add(0, [b"one", b""])
        parts.save({"done": np.array([1])})
        parts.add(0, [b"lost"])
        return parts.folder


def test_it_goes_on_after_what_was_saved(tmp_path: Path) -> None:
    """Parts that were added after the last save are cut off."""
    filled(tmp_path)
    with opened(tmp_path) as parts:
        assert parts.state["done"].tolist() == [1] and parts.sizes == [[3, 0], []]
        parts.add(0, [b"two"])
        assert b"".join(parts.content(0)) == b"onetwo" and b"".join(parts.content(1)) == b""


def test_other_marks_and_damage_begin_anew(tmp_path: Path) -> None:
    """Another image or setting, a cut file, a state that is no state, or none."""
    for damage in range(4):
        folder = filled(tmp_path)
        if damage == 1:
            (folder / "0").write_bytes(b"on")
        if damage == 2:
            (folder / "state.npz").write_bytes(b"PK")
        if damage == 3:
            (folder / "state.npz").unlink()
        with opened(tmp_path, "other" if damage == 0 else "m") as parts:
            assert parts.state == {} and parts.sizes == [[], []] and b"".join(parts.content(0)) == b""
        delete(tmp_path, "i/a.tif")
    assert not tmp_path.exists()


def test_a_folder_in_the_way_is_told(tmp_path: Path) -> None:
    """As an error of this image."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match="cannot write"), opened(tmp_path / "file"):
        pass
