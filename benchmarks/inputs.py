"""Creates the inputs of the benchmarks: a random checkpoint, and photographs as cameras write them. Reuses old ones."""

import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from checkpoints import Size, write_checkpoint, write_sam

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")  # of scikit-image, which ships with them
DISTINCT = 100_000_000  # pixels of distinct images of one size; the others are hard links to them
ORIENTATIONS = (1, 6, 3, 1)  # EXIF, in turn
ORIENTATION, MAKER = 0x0112, 0x010F  # EXIF tags
GRAIN = 4.0  # grey levels of noise; without it, enlarged photographs decode faster than real ones


def checkpoint(folder: Path, size: Size) -> Path:
    """Returns the folder of a random checkpoint. `full` has the architecture of rd64-refined, 603 MB."""
    path = folder / f"checkpoint-{size}"
    if not (path / "model.safetensors").exists():
        write_checkpoint(path, size=size)
    return path


def sam(folder: Path) -> Path:
    """Returns the folder of a random SAM with the architecture of SAM 2.1 tiny, 126 MB."""
    from transformers import Sam2Config

    return write_sam(folder / "sam", Sam2Config())


def photographs(folder: Path, width: int, height: int, count: int) -> Path:
    """Returns a folder with `count` JPEGs of `width` x `height` stored pixels, with varying EXIF orientations."""
    path = folder / f"{width}x{height}-{count}"
    if not path.exists():
        temporary = folder / f"{path.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        distinct = DISTINCT // (width * height)
        for index in range(count):
            target = temporary / f"{index:05}.jpg"
            if index < distinct:
                save(target, photograph(width, height, index), ORIENTATIONS[index % len(ORIENTATIONS)])
            else:
                os.link(temporary / f"{index % distinct:05}.jpg", target)
        temporary.rename(path)
    return path


def photograph(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Returns an enlarged crop of a photograph with noise: uint8 (height, width, 3)."""
    from skimage import data

    rng = np.random.default_rng(seed)
    whole = getattr(data, PHOTOGRAPHS[seed % len(PHOTOGRAPHS)])()
    y, x = (int(rng.integers(0, side // 4)) for side in whole.shape[:2])
    large = cv2.resize(whole[y:, x:], (width, height), interpolation=cv2.INTER_CUBIC)
    grain = rng.standard_normal((height, width, 1), np.float32) * GRAIN
    return np.clip(large + grain, 0, 255).astype(np.uint8)


def save(path: Path, image: NDArray[np.uint8], orientation: int) -> None:
    """Writes a JPEG of quality 90 with EXIF data."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = orientation, "clipseg"
    Image.fromarray(image).save(path, quality=90, exif=exif)
