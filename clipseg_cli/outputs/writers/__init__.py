"""Writers, one per output format: they turn arrays into the bytes of files, and write nothing to disk.

The keys of WRITERS are the choices of `--format`.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence

from clipseg_cli.errors import UsageError
from clipseg_cli.outputs.writers import annotations, parquet, pixels, raster, video, webdataset
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.masks import Mode
from clipseg_cli.settings.outputs import Format

# Takes the image's output path without suffix, and its result. The record names the first file yielded.
Writer = Callable[[str, Result], Iterator[File]]


def _mask(stem: str, result: Result) -> Iterator[File]:
    encode = raster.png if result.feather else raster.mask_png
    for index, slug in enumerate(result.slugs):
        if not result.skip[index]:
            yield f"masks/{slug}/{stem}.png", index, encode(pixels.mask(result, index))


def _soft(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, levels) in enumerate(zip(result.slugs, result.softs, strict=True)):
        yield f"soft/{slug}/{stem}.png", index, raster.png(levels)


def _soft16(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, levels) in enumerate(zip(result.slugs, result.fines, strict=True)):
        yield f"soft16/{slug}/{stem}.png", index, raster.png(levels)


def _npz(stem: str, result: Result) -> Iterator[File]:
    yield f"npz/{stem}.npz", None, pixels.npz(result)


def _overlay(stem: str, result: Result) -> Iterator[File]:
    yield f"overlays/{stem}.jpg", None, raster.jpeg(pixels.overlay(result), srgb=result.converted)


def _labels(stem: str, result: Result) -> Iterator[File]:
    yield f"labels/{stem}.png", None, raster.indexed_png(pixels.labels(result))


def _cutout(stem: str, result: Result) -> Iterator[File]:
    for index, slug in enumerate(result.slugs):
        if not result.skip[index]:
            cutout = pixels.cutout(result, index)
            yield f"cutouts/{slug}/{stem}.png", index, raster.colour_png(cutout, result.converted)


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
    "webdataset": webdataset.webdataset,
    "parquet": parquet.masks,
    "video": video.fragments,
}
# Modules that formats need. Each of these formats has an extra of its name.
PACKAGES: dict[Format, str] = {"parquet": "pyarrow", "video": "av"}


def check(labels: int, mode: Mode, formats: Sequence[Format]) -> None:
    """Raises UsageError for a format that needs another package, or cannot hold all labels.

    An 8-bit label image holds 255 beside the background. Pascal VOC holds one less, because it reserves 255 for "void".
    """
    for form in formats:
        if form in PACKAGES and importlib.util.find_spec(PACKAGES[form]) is None:
            raise UsageError(f"-f {form} needs one more package: pip install 'clipseg-cli[{form}]'")
    limit = 254 if "voc" in formats else 255
    if labels > limit and (mode == "labels" or {"labels", "voc"} & {*formats}):
        raise UsageError(
            f"there are {labels} labels, but --mode labels and the formats labels and voc hold at most {limit}: "
            "use fewer prompts, or another mode and format"
        )
