"""Masks of all kinds, and the result of an image with such masks."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from scipy import ndimage

from clipseg_cli.inputs.georeference import Georeference
from clipseg_cli.masks.instances import separate
from clipseg_cli.outputs.writers import WRITERS, per_run
from clipseg_cli.outputs.writers.result import Result
from clipseg_cli.settings.outputs import ExportOptions
from pictures import SCHEMA, picture

ODD_LABELS = ("new\nline", "tab\t\x7f\x85\u2028", "b\udcff", "Größe 🚲", "\\U00000041: {x}", "- 'no'", "\ufeff#")

Assemble = Callable[[Any, dict[str, Result]], Path]


def blobs(seed: int, shape: tuple[int, int] = (90, 130)) -> np.ndarray:
    """A mask with several components, holes, touching corners, and objects that cross the image border."""
    noise = np.random.default_rng(seed).random(shape)
    soft = ndimage.gaussian_filter(noise, [0.6, 1.5, 3, 6][seed % 4])
    return np.where(soft > np.quantile(soft, [0.5, 0.8, 0.3][seed % 3]), 255, 0).astype(np.uint8)


def ring() -> np.ndarray:
    """A disc with a hole, and a second component."""
    mask = cv2.circle(np.zeros((90, 130), np.uint8), (50, 45), 40, 255, -1)
    return cv2.circle(cv2.circle(mask, (45, 50), 20, 0, -1), (110, 40), 12, 255, -1)


DEGREES = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]]'
)
PLACE = Georeference(world=b"0.001\n0\n0\n-0.001\n9\n50\n", projection=DEGREES.encode())
MASKS = {"ring": ring(), "empty": np.zeros((90, 130), np.uint8), "full": np.full((90, 130), 255, np.uint8)}
MASKS |= {f"blobs {seed}": blobs(seed) for seed in range(12)}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def components(mask: np.ndarray) -> list[np.ndarray]:
    """The connected components of a mask by scipy, uint8 (H, W), 0 and 255; the largest first, then the topmost."""
    numbers, count = ndimage.label(mask, np.ones((3, 3)))
    found = [np.where(numbers == number, 255, 0).astype(np.uint8) for number in range(1, count + 1)]
    return sorted(found, key=lambda each: (-np.count_nonzero(each), *(axis.min() for axis in np.nonzero(each))))


def result(*masks: np.ndarray, apart: bool = False, **export: Any) -> Result:
    """The input of the writers for an image with these masks, with --instances if `apart`, and with export options."""
    height, width = masks[0].shape
    return Result(
        name="imgs/a.jpg",
        photo=lambda: picture(width, height),
        labels=tuple(f'label "{index}" <&>' for index in range(len(masks))),
        slugs=tuple(f"label-{index}" for index in range(len(masks))),
        masks=masks,
        scores=tuple(0.9 for _ in masks),
        thresholds=tuple(0.5 for _ in masks),
        softs=masks,
        fines=tuple(mask.astype(np.uint16) * 257 for mask in masks),
        alphas=(),
        index=None,
        instances=tuple(separate(mask, mask) for mask in masks) if apart else None,
        skip=tuple(False for _ in masks),
        feather=0,
        export=ExportOptions(**export),
        georeference=PLACE,
        presences=tuple(0.8 for _ in masks),
    )


def written(form: Any, image: Result, stem: str = "sub/a") -> dict[str, bytes]:
    """The files that a writer yields, by path."""
    return {path: data for path, _, data in WRITERS[form](stem, image)}


def assemble(out: Path, form: Any, images: dict[str, Result]) -> Path:
    """Writes the files of images (by stem) as a run does, then the files that cover the whole run; returns `out`."""
    lines, journal = [], []
    for stem, image in images.items():
        files = written(form, image, stem)
        for path, data in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(data)
        named, sizes = per_run.READ_FROM.get(form, next(iter(files))), {path: len(data) for path, data in files.items()}
        lines.append(json.dumps(SCHEMA | {"image": f"imgs/{stem}.jpg", "files": {form: named}}) + "\n")
        journal.append(json.dumps(SCHEMA | {"image": f"imgs/{stem}.jpg", "output": stem, "outputs": sizes}) + "\n")
    (out / "manifest.jsonl").write_text("".join(reversed(lines)))  # images finish in any order
    (out / ".clipseg-journal.jsonl").write_text("".join(journal))
    per_run.assemble(out, (form,), next(iter(images.values())).labels)
    return out


def read_coco(path: Path) -> COCO:
    """Reads a COCO file with pycocotools, whose reader prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def read_yolo(text: str, width: int, height: int) -> dict[int, np.ndarray]:
    """Reads a label file by the published rules: class and x y pairs in 0..1, drawn by cv2.fillPoly at whole pixels."""
    found: dict[int, np.ndarray] = {}
    for line in text.splitlines():
        number, *values = line.split()
        points = np.array(values, float).reshape(-1, 2)
        assert len(points) >= 3 and (points >= 0).all() and (points <= 1).all()
        drawn = cv2.fillPoly(np.zeros((height, width), np.uint8), [(points * (width, height)).astype(np.int32)], 255)
        found[int(number)] = found.get(int(number), np.zeros_like(drawn)) | drawn
    return found
