"""Images larger than --max-pixels, done by windows: the same bytes as in memory, resumable, and told where impossible."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio

from geotiffs import by_gdal
from output_folder import tree
from pictures import Program, picture, records

RUN = "clipseg segment i -m shapes -p 'a red circle' -p 'a blue square' --features none --tile 256px"
SMALL = "--max-pixels 300000"  # less than the scene has, more than a window
FORMATS = "-f mask,soft,soft16,labels,joined"


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A uint8 (3, H, W) scene of red discs and blue squares of 100 to 200 pixels, with no value of 0."""
    rng = np.random.default_rng(seed)
    image = picture(width, height, seed)
    image[:] = np.median(image.reshape(-1, 3), 0)
    for number in range(height * width // 90_000):
        x, y, r = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(50, 100))
        if number % 2:
            cv2.circle(image, (x, y), r, (214, 40, 40), -1)
        else:
            cv2.rectangle(image, (x - r, y - r), (x + r, y + r), (40, 60, 200), -1)
    return np.moveaxis(np.maximum(image, 1), 2, 0)


def both(clipseg: Program, options: str, more: str = "") -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of a run with the image in memory, and of one by windows, without run.json and the journals."""
    clipseg(f"{RUN} {options} -o whole")
    clipseg(f"{RUN} {options} {SMALL} {more} -o parts")
    return tuple(  # type: ignore[return-value]
        {name: data for name, data in tree(Path(out)).items() if not name.startswith((".", "run.json"))}
        for out in ("whole", "parts")
    )


@pytest.mark.parametrize("kind", ["tiles", "planes", "strips", "mask", "alpha", "wide", "floats"])
def test_windows_give_the_bytes_of_the_image_in_memory(clipseg: Program, tmp_path: Path, kind: str) -> None:
    """Masks, soft maps, labels and the record are equal, whatever the layout of the file."""
    bands = scene(700, 900)
    hole = np.full(bands.shape[1:], 255, np.uint8)
    hole[100:600, 200:800] = 0
    files: dict[str, Any] = {
        "tiles": lambda: by_gdal(bands, tiled=True, blockxsize=128, blockysize=128, compress="deflate", predictor=2),
        "planes": lambda: by_gdal(bands, interleave="band", compress="lzw"),
        "strips": lambda: by_gdal(bands, nodata=0),
        "mask": lambda: by_gdal(bands, mask=hole, tiled=True, compress="zstd"),
        "alpha": lambda: by_gdal(np.concatenate([bands, hole[None]]), photometric="RGB", alpha="YES"),
        "wide": lambda: by_gdal(bands.astype(np.uint16) * 11, nodata=0, compress="deflate"),
        "floats": lambda: by_gdal(np.where(hole > 0, bands / np.float32(300), np.nan).astype(np.float32)),
    }
    (tmp_path / "i").mkdir()
    (tmp_path / "i/a.tif").write_bytes(files[kind]())
    whole, parts = both(clipseg, FORMATS)
    assert whole.keys() == parts.keys() and len(whole) == 10
    for name, data in whole.items():
        if name.endswith(".tif"):
            assert parts[name] == data, name
    assert records(Path("whole/manifest.jsonl")) == records(Path("parts/manifest.jsonl"))
    assert not (tmp_path / "parts/.clipseg-unfinished").exists()
