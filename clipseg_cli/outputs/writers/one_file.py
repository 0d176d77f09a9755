"""One file for one image, in place of an output folder: the suffix of its name decides how it is encoded.

On stdout such files follow one another, one for each image.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs.georeference import NOWHERE
from clipseg_cli.inputs.kinds import EXTENSIONS
from clipseg_cli.outputs.image_root import ImageRoot
from clipseg_cli.outputs.writers import (
    annotations,
    compositing,
    geotiff,
    labelling,
    map_layers,
    per_run,
    photos,
    pixels,
    raster,
)
from clipseg_cli.outputs.writers.carried import Carried, carried
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.outputs import ExportOptions, Format
from clipseg_cli.storage.originals import Original

STDOUT = "-"  # with a suffix, like "-.pgm", it says how to encode; a file of this name is "./-.pgm"
ALIASES = {".jpeg": ".jpg", ".tiff": ".tif"}
# The suffixes that fit each format, the one of its files in an output folder first. Without -f, a suffix means the
# first format that it fits. JPEG fits only what is made to be looked at: it would change the values of all others.
FITTING: dict[Format, tuple[str, ...]] = {
    "mask": (".png", ".tif", ".webp", ".npy", ".pgm", ".pfm"),
    "overlay": (".jpg", ".png", ".webp", ".tif", ".ppm"),
    "npz": (".npz",),
    "svg": (".svg",),
    "coco": (".json",),
    "labelme": (".json",),
    "soft": (".png", ".tif", ".webp", ".npy", ".pgm"),
    "soft16": (".png", ".tif", ".npy", ".pgm"),
    "cutout": (".png", ".webp", ".tif"),
    "labels": (".png", ".tif", ".npy", ".pgm"),
    "instances": (".png", ".tif", ".npy", ".pgm"),
    "joined": (".png", ".tif", ".webp", ".npy", ".pgm", ".pfm"),
    "alpha": (".png", ".tif", ".webp"),
    "exr": (".exr",),
    "tiff": (".tif",),
    "psd": (".psd",),
    "cvat": (".xml",),
    "geojson": (".geojson",),
    "gpkg": (".gpkg",),
}
NAMED = {form: tuple(each for each in fitting if each != ".npy") for form, fitting in FITTING.items()}  # for --name
OPAQUE = (".jpg", ".ppm")  # also for cutouts that have a backdrop
ONE_LABEL = ("mask", "soft", "soft16", "cutout")  # formats whose file holds a single label
SKIPPED = ("mask", "cutout", "joined")  # formats of which --empty skip leaves out empty masks
# Suffixes that nobody gives to a folder, beside those that this program writes and those of images.
OF_FILES = {".csv", ".htm", ".html", ".jsonl", ".jxl", ".mkv", ".mov", ".mp4", ".parquet"}
OF_FILES |= {".pdf", ".tar", ".txt", ".webm", ".yaml", ".yml", ".zip"}
WEBP_SIDE = 16_383  # pixels: the longest side that WebP holds
_WRITTEN = frozenset(suffix for fitting in FITTING.values() for suffix in fitting) | ALIASES.keys()


@dataclass(frozen=True, slots=True)
class OneFile:
    """The file that a run of one image writes, or what a run writes to stdout for each image."""

    path: str  # also a URL; STDOUT
    form: Format
    suffix: str  # in lower case, like ".png"


def is_file(out: str) -> bool:
    """Returns whether `-o` names a file, or stdout: by its suffix, unless there is a folder of that name.

    A name that ends in a slash is always a folder.
    """
    if out == STDOUT:
        return True
    suffix = os.path.splitext(out)[1].lower()
    named = suffix in _WRITTEN or suffix in EXTENSIONS or suffix in OF_FILES
    return named and not out.endswith(("/", os.sep)) and not os.path.isdir(out)


def check_folder(out: str, command: str) -> None:
    """Raises UsageError if `-o` names a file, for a command that writes a folder."""
    if is_file(out):
        raise UsageError(f"-o {out}: {command} writes a folder; if it shall have this name, end it with a slash")


def choose(out: str, formats: Sequence[Format], labels: int, export: ExportOptions) -> OneFile | None:
    """Returns the file that `-o` names, or None if it names a folder. `formats` are those that the user named.

    Raises UsageError if no format, or not this one, can be written to such a file, or if it cannot hold all labels.
    """
    if not is_file(out):
        return None
    if len(formats) > 1:
        raise UsageError(f"-o {out} takes one format: give one -f, or name a folder with -o DIR")
    root, suffix = os.path.splitext(out)
    suffix = ALIASES.get(suffix.lower(), suffix.lower())
    form = formats[0] if formats else _usual_format(out, suffix)
    fitting = FITTING.get(form, ())
    if form == "cutout" and export.backdrop is not None:
        fitting = (*fitting, *OPAQUE)
    if not fitting:
        raise UsageError(f"-o {out}: -f {form} is more than one file; name a folder with -o DIR")
    if suffix and suffix not in fitting:
        raise UsageError(f"-o {out}: {_why_not(form, suffix)}; use {', '.join(fitting)}, or name a folder")
    if labels > 1 and form in ONE_LABEL:
        raise UsageError(
            f"-o {out} holds the {form} of one prompt, but there are {labels}: name a folder, or give a format that "
            "holds all prompts (overlay, labels, instances, exr, tiff, psd, npz, svg, coco, labelme, cvat, geojson, "
            "gpkg)"
        )
    return OneFile(STDOUT if root == STDOUT else out, form, suffix or fitting[0])


def _usual_format(out: str, suffix: str) -> Format:
    """Returns the format that a suffix means without -f. Raises UsageError if it means none."""
    for form, fitting in FITTING.items():
        if not suffix or suffix in fitting:
            return form
    known = ", ".join(sorted(_WRITTEN))
    raise UsageError(f"-o {out}: {suffix} cannot be written; use {known}, or end the name with a slash for a folder")


def _why_not(form: Format, suffix: str) -> str:
    if form == "cutout" and suffix in OPAQUE:
        return f"{suffix} has no transparency: add --backdrop white"
    if suffix != ".jpg":
        return f"-f {form} cannot be written as {suffix}"
    return f"JPEG is lossy, and {'a mask is' if form == 'mask' else f'-f {form} is'} never stored lossy"


def write(file: OneFile, stem: str, result: Result) -> Iterator[File]:
    """Yields the file, or nothing if its mask is empty and --empty skip is given. Raises ImageError."""
    path = stem if file.path == STDOUT else file.path  # on stdout each image has an output of its own
    yield from ((path, index, data) for index, data in encoded(file.form, file.suffix, stem, result))


def encoded(form: Format, suffix: str, stem: str, result: Result) -> Iterator[tuple[int | None, bytes]]:
    """Yields a format's files as (label index, content), one per label or, with None, one of all labels.

    Yields nothing for an empty mask if --empty skip is given. Raises ImageError.
    """
    suffix = ALIASES.get(suffix, suffix)
    if form in DOCUMENTS:
        yield None, DOCUMENTS[form](stem, result)
        return
    if (form, suffix) == ("labels", ".png"):
        yield None, pixels.labels_png(result)
        return
    if form in SKIPPED and all(result.skip):
        return
    shown, about = carried(form, suffix, result)
    for index in range(len(result.slugs)) if form in ONE_LABEL else (None,):
        if form in SKIPPED and index is not None and result.skip[index]:
            continue
        array = PIXELS[form](shown, index or 0)
        array = array[..., [0, 3]] if about.grey else array
        if suffix == ".webp" and max(array.shape[:2]) > WEBP_SIDE:
            raise ImageError("too_large", "write", f"WebP holds at most {WEBP_SIDE} pixels a side: use .png or .tif")
        if suffix == ".tif" and result.georeference.is_geotiff:
            yield index, geotiff.encoded(array, result.georeference, result.turn, about)
        else:
            yield index, ENCODERS[suffix](array, form, about)


def _tiff(array: NDArray[Any], form: Format, about: Carried) -> bytes:
    return geotiff.encoded(array, NOWHERE, 1, about) if array.ndim == 3 else raster.tiff(array)


def _png(array: NDArray[Any], form: Format, about: Carried) -> bytes:
    if form in ("mask", "joined"):
        return raster.mask_png(array)
    return raster.colour_png(array, about) if array.ndim == 3 else raster.png(array)


def _coco(stem: str, result: Result) -> bytes:
    fragment = _only(annotations.coco(stem, result))
    return b"".join(per_run.coco_json(lambda: [fragment], 1, result.labels, ImageRoot.of([result.name])))


def _labelme(stem: str, result: Result) -> bytes:
    """Returns a file with the photo inside, since no other file is written."""
    data = photos.content("labelme", result)
    inside = data.read() if isinstance(data, Original) else data
    return annotations.labelme_json(result, photos.named("labelme", stem, result), inside)


def _cvat(stem: str, result: Result) -> bytes:
    fragment = _only(labelling.cvat(stem, result))
    return b"".join(labelling.cvat_xml([fragment], result.labels, ImageRoot.of([result.name])))


def _only(files: Iterator[File]) -> bytes:
    ((_, _, data),) = files
    assert isinstance(data, bytes)
    return data


# The pixels of a format, of one label where it holds one: uint8 or uint16 (H, W), or uint8 (H, W, 3 or 4).
PIXELS: dict[Format, Callable[[Result, int], NDArray[Any]]] = {
    "mask": pixels.mask,
    "overlay": lambda result, index: pixels.overlay(result),
    "soft": lambda result, index: result.softs[index],
    "soft16": lambda result, index: result.fines[index],
    "cutout": pixels.cutout,
    "labels": lambda result, index: pixels.labels(result),
    "instances": lambda result, index: pixels.instances(result),
    "joined": lambda result, index: pixels.joined(result),
    "alpha": lambda result, index: pixels.alpha(result),
}
ENCODERS: dict[str, Callable[[NDArray[Any], Format, Carried], bytes]] = {
    ".png": _png,
    ".jpg": lambda array, form, about: raster.jpeg(array, carried=about),
    ".webp": lambda array, form, about: raster.webp(array, form != "overlay", about),
    ".tif": _tiff,
    ".npy": lambda array, form, about: raster.npy(array),
    ".pgm": lambda array, form, about: raster.pnm(array),
    ".ppm": lambda array, form, about: raster.pnm(array),
    ".pfm": lambda array, form, about: raster.pfm(array),
}
DOCUMENTS: dict[Format, Callable[[str, Result], bytes]] = {
    "npz": lambda stem, result: pixels.npz(result),
    "svg": lambda stem, result: _only(annotations.svg(stem, result)),
    "exr": lambda stem, result: compositing.exr(result),
    "tiff": lambda stem, result: compositing.tiff(result),
    "psd": lambda stem, result: compositing.psd(result),
    "coco": _coco,
    "labelme": _labelme,
    "cvat": _cvat,
    "geojson": map_layers.single_geojson,
    "gpkg": map_layers.single_gpkg,
}
