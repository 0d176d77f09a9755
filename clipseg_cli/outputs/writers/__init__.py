"""From arrays to files' bytes: one function a format, keyed by the command line's choice. Nothing is written here."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from clipseg_cli.errors import UsageError
from clipseg_cli.masks import cleanup, matting
from clipseg_cli.outputs import drawing
from clipseg_cli.outputs.writers import annotations, raster, shards
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.masks import Mode
from clipseg_cli.settings.outputs import Format

# `stem` is the image's output path. A format's first path is the one that its record names.
Writer = Callable[[str, Result], Iterator[File]]


def _mask(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, mask) in enumerate(zip(result.slugs, result.masks, strict=True)):
        if not result.skip[index]:
            yield (
                f"masks/{slug}/{stem}.png",
                index,
                (raster.png if result.feather else raster.mask_png)(cleanup.feather(mask, result.feather)),
            )


def _soft(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, levels) in enumerate(zip(result.slugs, result.softs, strict=True)):
        yield f"soft/{slug}/{stem}.png", index, raster.png(levels)


def _soft16(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, levels) in enumerate(zip(result.slugs, result.fines, strict=True)):
        yield f"soft16/{slug}/{stem}.png", index, raster.png(levels)


def _npz(stem: str, result: Result) -> Iterator[File]:
    yield (
        f"npz/{stem}.npz",
        None,
        raster.npz(
            masks=np.stack(result.masks) > 0,
            soft=np.stack(result.softs),
            labels=np.array(result.labels),
            thresholds=np.array(result.thresholds),
        ),
    )


def _overlay(stem: str, result: Result) -> Iterator[File]:
    yield f"overlays/{stem}.jpg", None, raster.overlay(result.photo(), result.masks, result.labels)


def _labels(stem: str, result: Result) -> Iterator[File]:
    assert result.index is not None
    yield f"labels/{stem}.png", None, raster.indexed_png(result.index)


def _cutout(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, mask) in enumerate(zip(result.slugs, result.masks, strict=True)):
        if not result.skip[index]:
            if result.alphas:
                alpha = result.alphas[index]
                rgba = np.dstack([matting.foreground(result.photo(), alpha) * (alpha[..., None] > 0), alpha])
            else:
                rgba = drawing.cutout(result.photo(), mask, cleanup.feather(mask, result.feather))
            if result.export.backdrop is None:
                yield f"cutouts/{slug}/{stem}.png", index, raster.rgba_png(rgba)
            else:
                yield f"cutouts/{slug}/{stem}.png", index, raster.rgb_png(drawing.on(rgba, result.export.backdrop))


WRITERS: dict[Format, Writer] = {
    "mask": _mask,
    "soft": _soft,
    "soft16": _soft16,
    "npz": _npz,
    "overlay": _overlay,
    "cutout": _cutout,
    "labels": _labels,
    "coco": annotations.coco,
    "yolo": annotations.yolo,
    "voc": annotations.voc,
    "labelme": annotations.labelme,
    "svg": annotations.svg,
    "webdataset": shards.webdataset,
}


def refuse_many(labels: int, mode: Mode, formats: Sequence[Format]) -> None:
    """Raises UsageError for more labels than an indexed picture holds beside its ground; VOC keeps 255 for "void"."""
    most = 254 if "voc" in formats else 255
    if labels > most and (mode == "labels" or {"labels", "voc"} & {*formats}):
        raise UsageError(f"an indexed picture has {most} labels at most here, and there are {labels}")
