"""Writers, one per output format: they turn arrays into the bytes of files, and write nothing to disk.

The keys of WRITERS are the choices of `--format`, and the data sets that only `--layout` writes.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence

from clipseg_cli.errors import UsageError
from clipseg_cli.outputs.names import Names, Place, usual
from clipseg_cli.outputs.writers import (
    annotations,
    labelling,
    one_file,
    parquet,
    pixels,
    raster,
    top_sets,
    video,
    webdataset,
)
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.settings.outputs import Format

# Takes the image's output path without suffix, and its result. The record names the first file yielded.
Writer = Callable[[str, Result], Iterator[File]]


def _mask(stem: str, result: Result) -> Iterator[File]:
    encode = raster.png if result.feather else raster.mask_png
    for index, slug in enumerate(result.slugs):
        if not result.skip[index]:
            yield usual("mask", stem, slug), index, encode(pixels.mask(result, index))


def _soft(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, levels) in enumerate(zip(result.slugs, result.softs, strict=True)):
        yield usual("soft", stem, slug), index, raster.png(levels)


def _soft16(stem: str, result: Result) -> Iterator[File]:
    for index, (slug, levels) in enumerate(zip(result.slugs, result.fines, strict=True)):
        yield usual("soft16", stem, slug), index, raster.png(levels)


def _npz(stem: str, result: Result) -> Iterator[File]:
    yield usual("npz", stem), None, pixels.npz(result)


def _overlay(stem: str, result: Result) -> Iterator[File]:
    yield usual("overlay", stem), None, raster.jpeg(pixels.overlay(result), srgb=result.converted)


def _labels(stem: str, result: Result) -> Iterator[File]:
    yield usual("labels", stem), None, pixels.labels_png(result)


def _instances(stem: str, result: Result) -> Iterator[File]:
    yield usual("instances", stem), None, raster.png(pixels.instances(result))


def _joined(stem: str, result: Result) -> Iterator[File]:
    if not all(result.skip):
        yield usual("joined", stem), None, raster.mask_png(pixels.joined(result))


def _alpha(stem: str, result: Result) -> Iterator[File]:
    yield usual("alpha", stem), None, raster.colour_png(pixels.alpha(result), result.converted)


def _cutout(stem: str, result: Result) -> Iterator[File]:
    for index, slug in enumerate(result.slugs):
        if not result.skip[index]:
            cutout = pixels.cutout(result, index)
            yield usual("cutout", stem, slug), index, raster.colour_png(cutout, result.converted)


WRITERS: dict[Format, Writer] = {
    "mask": _mask,
    "soft": _soft,
    "soft16": _soft16,
    "npz": _npz,
    "overlay": _overlay,
    "cutout": _cutout,
    "labels": _labels,
    "instances": _instances,
    "joined": _joined,
    "alpha": _alpha,
    "coco": annotations.coco,
    "yolo": annotations.yolo,
    "voc": annotations.voc,
    "labelme": annotations.labelme,
    "labelstudio": labelling.labelstudio,
    "cvat": labelling.cvat,
    "svg": annotations.svg,
    "webdataset": webdataset.webdataset,
    "parquet": parquet.masks,
    "video": video.fragments,
    "ultralytics": top_sets.ultralytics,
    "annotations": top_sets.annotated,
    "imagefolder": top_sets.imagefolder,
}
# Modules that formats need. Each of these formats has an extra of its name.
PACKAGES: dict[Format, str] = {"parquet": "pyarrow", "video": "av"}


def files(form: Format, place: Place, result: Result, names: Names) -> Iterator[File]:
    """Yields the files of a format under their names in this run. A name's suffix says how its file is encoded.

    Raises ImageError if the image cannot be written so.
    """
    if form not in names.templates:
        yield from WRITERS[form](place.stem, result)
        return
    for index, data in one_file.encoded(form, names.suffix(form), place.stem, result):
        yield names.path(form, place, "" if index is None else result.slugs[index]), index, data


def check(labels: int, masks: MaskOptions, formats: Sequence[Format]) -> None:
    """Raises UsageError for a format that needs another package or option, or cannot hold all labels.

    An 8-bit label image holds 255 beside the background. Pascal VOC holds one less, because it reserves 255 for "void".
    """
    for form in formats:
        if form in PACKAGES and importlib.util.find_spec(PACKAGES[form]) is None:
            raise UsageError(f"-f {form} needs one more package: pip install 'clipseg-cli[{form}]'")
    if "instances" in formats and not masks.instances:
        raise UsageError("-f instances needs --instances, which keeps the objects of a label apart")
    limit = 254 if "voc" in formats else 255
    if labels > limit and (masks.mode == "labels" or {"labels", "instances", "voc"} & {*formats}):
        raise UsageError(
            f"there are {labels} labels, but --mode labels and the formats labels, instances and voc hold at most "
            f"{limit}: use fewer prompts, or another mode and format"
        )
