"""Writers, one per output format: they turn arrays into the bytes of files, and write nothing to disk.

The keys of WRITERS are the choices of `--format`, and the data sets that only `--layout` writes.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence

from clipseg_cli.errors import UsageError
from clipseg_cli.inputs.kinds import pip_line
from clipseg_cli.outputs.names import Names, Place, usual
from clipseg_cli.outputs.writers import (
    annotations,
    compositing,
    labelling,
    map_layers,
    one_file,
    parquet,
    pixels,
    raster,
    top_sets,
    video,
    webdataset,
    world,
)
from clipseg_cli.outputs.writers.carried import converted
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
    for _, data in one_file.encoded("overlay", ".jpg", stem, result):
        yield usual("overlay", stem), None, data


def _labels(stem: str, result: Result) -> Iterator[File]:
    yield usual("labels", stem), None, pixels.labels_png(result)


def _instances(stem: str, result: Result) -> Iterator[File]:
    yield usual("instances", stem), None, raster.png(pixels.instances(result))


def _joined(stem: str, result: Result) -> Iterator[File]:
    if not all(result.skip):
        yield usual("joined", stem), None, raster.mask_png(pixels.joined(result))


def _alpha(stem: str, result: Result) -> Iterator[File]:
    yield usual("alpha", stem), None, raster.colour_png(pixels.alpha(result), converted(result))


def _cutout(stem: str, result: Result) -> Iterator[File]:
    for index, data in one_file.encoded("cutout", ".png", stem, result):
        yield usual("cutout", stem, result.slugs[index or 0]), index, data


def _exr(stem: str, result: Result) -> Iterator[File]:
    yield usual("exr", stem), None, compositing.exr(result)


def _tiff(stem: str, result: Result) -> Iterator[File]:
    yield usual("tiff", stem), None, compositing.tiff(result)


def _psd(stem: str, result: Result) -> Iterator[File]:
    yield usual("psd", stem), None, compositing.psd(result)


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
    "exr": _exr,
    "tiff": _tiff,
    "psd": _psd,
    "coco": annotations.coco,
    "yolo": annotations.yolo,
    "voc": annotations.voc,
    "labelme": annotations.labelme,
    "labelstudio": labelling.labelstudio,
    "cvat": labelling.cvat,
    "svg": annotations.svg,
    "webdataset": webdataset.webdataset,
    "geojson": map_layers.geojson,
    "gpkg": map_layers.gpkg,
    "parquet": parquet.masks,
    "video": video.fragments,
    "ultralytics": top_sets.ultralytics,
    "semantic": top_sets.semantic,
    "annotations": top_sets.annotated,
    "imagefolder": top_sets.imagefolder,
}
LOCATED: tuple[Format, ...] = (
    "mask",
    "soft",
    "soft16",
    "labels",
    "instances",
    "joined",
    "tiff",
)  # formats that keep the georeference
REFUSING: tuple[Format, ...] = (
    "geojson",
    "gpkg",
    "psd",
)  # formats that cannot hold some images: written first, or nothing is
# The extra that a format needs, and the modules that it installs.
PACKAGES: dict[Format, tuple[str, tuple[str, ...]]] = {
    "parquet": ("parquet", ("pyarrow",)),
    "video": ("video", ("av",)),
    "exr": ("exr", ("OpenEXR",)),
    "psd": ("psd", ("psd_tools",)),
    "geojson": ("geo", ("rasterio", "pyproj")),
    "gpkg": ("geo", ("rasterio", "pyproj", "pyogrio")),
}


def files(form: Format, place: Place, result: Result, names: Names) -> Iterator[File]:
    """Yields the files of a format under their names in this run. A name's suffix says how its file is encoded.

    Raises ImageError if the image cannot be written so.
    """
    for path, index, data in _made(form, place, result, names):
        yield path, index, data
        if form in LOCATED:
            yield from ((beside, index, content) for beside, content in world.files(path, result.georeference, result))


def _made(form: Format, place: Place, result: Result, names: Names) -> Iterator[File]:
    """Yields the files of a format. Those in `LOCATED` are GeoTIFFs if the image is one and no name says otherwise."""
    named, geotiff = form in names.templates, result.georeference.is_geotiff
    if not named and not (form in LOCATED and geotiff):
        yield from WRITERS[form](place.stem, result)
        return
    for index, data in one_file.encoded(form, names.suffix(form) if named else ".tif", place.stem, result):
        yield path(form, place, "" if index is None else result.slugs[index], names, geotiff), index, data


def path(form: Format, place: Place, slug: str, names: Names, geotiff: bool) -> str:
    """Returns the path of a file of an image that may be a GeoTIFF; `slug` is that of its label."""
    if geotiff and form in LOCATED and form not in names.templates:
        return os.path.splitext(usual(form, place.stem, slug))[0] + ".tif"
    return names.path(form, place, slug)


def check(labels: int, masks: MaskOptions, formats: Sequence[Format]) -> None:
    """Raises UsageError for a format that needs another package or option, or cannot hold all labels.

    An 8-bit label image holds 255 beside the background. Pascal VOC and Ultralytics hold one less, because 255 is
    "void" there.
    """
    for form in formats:
        extra, modules = PACKAGES.get(form, ("", ()))
        if any(importlib.util.find_spec(name) is None for name in modules):
            raise UsageError(f"-f {form} needs one more package: {pip_line(extra)}")
    if "instances" in formats and not masks.instances:
        raise UsageError("-f instances needs --instances, which keeps the objects of a label apart")
    limit = 254 if {"voc", "semantic"} & {*formats} else 255
    if labels > limit and (masks.mode == "labels" or {"labels", "instances", "voc", "semantic"} & {*formats}):
        raise UsageError(
            f"there are {labels} labels, but --mode labels and the formats labels, instances and voc hold at most "
            f"{limit}, and so does --layout ultralytics-semantic: use fewer prompts, or another mode and format"
        )
