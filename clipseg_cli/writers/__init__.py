"""From arrays to files' bytes: one function a format, keyed by the command line's choice. Nothing is written here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.settings import Format
from clipseg_cli.writers import raster


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one image when its masks are done; every array has the image's own size (H, W)."""

    pixels: NDArray[np.uint8]  # (H, W, 3) RGB
    labels: tuple[str, ...]
    slugs: tuple[str, ...]  # a folder name for each label
    masks: tuple[NDArray[np.uint8], ...]  # 0 and 255, one a label
    softs: tuple[NDArray[np.uint8], ...]  # levels, one a label; empty where no format asked for them
    skip: tuple[bool, ...]  # labels that get no file: absent, and --empty skip


# Yields (path under the output directory, label index or None, the file's bytes). `stem` is the image's output path.
Writer = Callable[[str, Result], Iterator[tuple[str, int | None, bytes]]]


def _mask(stem: str, result: Result) -> Iterator[tuple[str, int | None, bytes]]:
    for index, (slug, mask) in enumerate(zip(result.slugs, result.masks, strict=True)):
        if not result.skip[index]:
            yield f"masks/{slug}/{stem}.png", index, raster.png(mask)


def _soft(stem: str, result: Result) -> Iterator[tuple[str, int | None, bytes]]:
    for index, (slug, levels) in enumerate(zip(result.slugs, result.softs, strict=True)):
        yield f"soft/{slug}/{stem}.png", index, raster.png(levels)


def _overlay(stem: str, result: Result) -> Iterator[tuple[str, int | None, bytes]]:
    yield f"overlays/{stem}.jpg", None, raster.overlay(result.pixels, result.masks, result.labels)


WRITERS: dict[Format, Writer] = {"mask": _mask, "soft": _soft, "overlay": _overlay}
