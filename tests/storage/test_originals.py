"""Outputs that are an input file itself: linked or copied, and the input is never written to."""

import errno
import os
from pathlib import Path

import pytest

from clipseg_cli.errors import ImageError, OutputError
from clipseg_cli.storage import originals, paths, store
from clipseg_cli.storage.originals import Original
from output_folder import temporary_files


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A file in a folder of its own."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"photo" * 1000)
    return tmp_path / "in/a.jpg"


def taken(path: Path, checksum: bool = False, apart: bool = False) -> Original:
    """Returns a file as it is now."""
    return Original(str(path), paths.identity(str(path), checksum), checksum, apart)


@pytest.mark.parametrize("checksum", [False, True])
def test_an_output_is_the_file_itself(photo: Path, tmp_path: Path, checksum: bool) -> None:
    """Its folders are made, its length is known before, and the file keeps its identity. Twice is the same as once."""
    before = paths.identity(str(photo))
    for _ in range(2):
        store.write(tmp_path / "out/sub/a.jpg", taken(photo, checksum), fsync=True)
        made = tmp_path / "out/sub/a.jpg"
        assert made.read_bytes() == photo.read_bytes() and made.stat().st_size == len(taken(photo))
        assert not temporary_files(tmp_path)
    assert paths.identity(str(photo)) == before


def test_a_file_system_without_reflinks_gets_a_hard_link(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a symbolic link too: the output is the file, not another symbolic link."""
    monkeypatch.setattr(originals, "_cloned", lambda file, new: False)
    (tmp_path / "link.jpg").symlink_to(photo)
    store.write(tmp_path / "b.jpg", taken(tmp_path / "link.jpg"))
    assert (tmp_path / "b.jpg").samefile(photo) and not (tmp_path / "b.jpg").is_symlink()


@pytest.mark.parametrize("apart", [False, True])
def test_a_copy_is_a_file_of_its_own(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    """Where links are impossible (another disk), and where they are not wanted."""

    def refused(*paths: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if not apart:
        monkeypatch.setattr(os, "link", refused)
    store.write(tmp_path / "b.jpg", taken(photo, apart=apart))
    assert (tmp_path / "b.jpg").read_bytes() == photo.read_bytes() and not (tmp_path / "b.jpg").samefile(photo)


def test_an_output_that_is_written_again_leaves_the_original(photo: Path, tmp_path: Path) -> None:
    """New bytes replace the link. What a killed process left under its temporary names is never written through."""
    content = photo.read_bytes()
    store.write(tmp_path / "b.jpg", taken(photo))
    left = store._prefix() + store._digest(b"b.jpg", 16) + "-original"
    os.link(photo, tmp_path / left)
    store.write(tmp_path / "b.jpg", b"encoded")
    assert photo.read_bytes() == content and (tmp_path / "b.jpg").read_bytes() == b"encoded"
    store.write(tmp_path / "b.jpg", taken(photo, apart=True))
    assert photo.read_bytes() == content == (tmp_path / "b.jpg").read_bytes() and not temporary_files(tmp_path)


def test_a_file_that_has_changed_is_not_taken(photo: Path, tmp_path: Path) -> None:
    """Nor one that is gone. No output and no temporary file is left. Its bytes are not read either."""
    before = taken(photo)
    photo.write_bytes(b"other")
    for attempt in (lambda: store.write(tmp_path / "b.jpg", before), before.read):
        with pytest.raises(ImageError, match="after it was decoded") as caught:
            attempt()
        assert caught.value.kind == "changed"
    photo.unlink()
    with pytest.raises(ImageError) as caught:
        store.write(tmp_path / "b.jpg", before)
    assert caught.value.kind == "vanished"
    assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_a_checksum_notices_what_size_and_time_do_not(photo: Path, tmp_path: Path) -> None:
    """With --checksum the content decides, so a touched file is still the same."""
    before, info = taken(photo, checksum=True), photo.stat()
    os.utime(photo, ns=(1, 1))
    store.write(tmp_path / "b.jpg", before)
    photo.unlink()
    photo.write_bytes(b"PHOTO" * 1000)
    os.utime(photo, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(ImageError, match="after it was decoded"):
        store.write(tmp_path / "b.jpg", before)


def test_what_is_in_the_way_is_said(photo: Path, tmp_path: Path) -> None:
    """As for any other output: a folder at its path fails the image, a full or missing disk the run."""
    (tmp_path / "b.jpg").mkdir()
    with pytest.raises(ImageError, match="in the way"):
        store.write(tmp_path / "b.jpg", taken(photo))
    with pytest.raises(OutputError, match="--out"):
        store.write(Path("/proc/none/b.jpg"), taken(photo))
