"""TIFFs of many pages, also beyond 4 GB: tifffile, rasterio and Pillow read them."""

import io
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from clipseg_cli.outputs.writers import directories, paged_tiff
from clipseg_cli.outputs.writers.paged_tiff import Page


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
def test_pages_of_any_size_come_back(dtype: str, big: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, with their tags, as TIFF and as BigTIFF."""
    monkeypatch.setattr(paged_tiff, "LARGEST", 1 if big else 1 << 20)
    random = np.random.default_rng(0)
    sizes = [(1, 1), (700, 401), (3, 300_000), (90, 130)]
    arrays = [random.integers(0, 255, size, "uint8").astype(dtype) * 7 for size in sizes]
    names = ["a", "b" * 5, "größe", "x\0y"]
    pages = [Page(array, (directories.text(285, name),)) for array, name in zip(arrays, names, strict=True)]
    data = b"".join(paged_tiff.pieces(pages, len(pages), 1000))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.is_bigtiff == big and len(file.pages) == len(arrays)
        for page, array in zip(file.pages, arrays, strict=True):
            assert page.dtype == array.dtype.newbyteorder("=") and np.array_equal(page.asarray(), array)
        assert [page.tags["PageName"].value for page in file.pages] == [*names[:3], "xy"]
    with PIL.Image.open(io.BytesIO(data)) as image:
        for index, array in enumerate(arrays):
            image.seek(index)
            assert np.array_equal(np.array(image), array)


def test_a_file_that_may_pass_4_gb_is_a_bigtiff() -> None:
    """As soon as its pixels would, if nothing compressed them; what is written is no larger for that."""
    for size, big in ((4_000_000_000, False), (5_000_000_000, True)):
        data = b"".join(paged_tiff.pieces([Page(np.zeros((4, 4), np.uint8))], 1, size))
        assert tifffile.TiffFile(io.BytesIO(data)).is_bigtiff == big


def test_places_beyond_4_gb_are_found(tmp_path: Path) -> None:
    """A page that stands there in a file with a hole before it."""
    start, array = 5 << 30, np.arange(700 * 401, dtype=np.uint16).reshape(700, 401)
    with (tmp_path / "a.tif").open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, start))
        file.seek(start)
        file.writelines(paged_tiff._page(Page(array), start, big=True, last=True))
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), array)
