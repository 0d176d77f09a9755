"""Photos in data sets: the original file where its pixels need no change and the reader takes its kind.

Its pixels need no change if they are in the frame of the masks: it is upright, or `--orientation stored` is given.

What must be turned or converted is encoded again: as PNG if the original is lossless, otherwise as JPEG of quality 95.
Its colours are sRGB then, and it says so if the original had an ICC profile.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from clipseg_cli.inputs import decode, names
from clipseg_cli.inputs.decoders.result import Native
from clipseg_cli.inputs.source import Source, identify
from clipseg_cli.outputs.record import Identity
from clipseg_cli.outputs.writers import raster
from clipseg_cli.outputs.writers.carried import converted
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.settings.outputs import Format
from clipseg_cli.storage import store
from clipseg_cli.storage.buckets import EXTRAS
from clipseg_cli.storage.originals import Original, changed
from clipseg_cli.storage.paths import fault, is_url

_COMMON = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
# The kinds of file that the readers of a format take, with the extensions by which they find them. The first is given
# to files that have another one.
KEPT: dict[Format, dict[str, tuple[str, ...]]] = {
    # in IMG_FORMATS of Ultralytics, in `load_yolo_annotations` of supervision and in IMAGE_EXTENSIONS of Datumaro
    "yolo": _COMMON,
    "ultralytics": _COMMON,
    "semantic": _COMMON,
    # what Pillow opens, with which Detectron2, FiftyOne, torchvision and datasets read images
    "annotations": _COMMON,
    "imagefolder": _COMMON,
    # VOCSegmentation of torchvision and `load_voc_instances` of Detectron2 look for .jpg
    "voc": {"JPEG": (".jpg",)},
    # what Qt's readers show, and `_imread` of labelme opens
    "labelme": _COMMON,
    # what browsers show, without movement
    "labelstudio": {kind: _COMMON[kind] for kind in ("JPEG", "PNG", "WEBP", "BMP")},
    # in IMAGE_EXTENSIONS of webdataset's autodecode; a sample has its photo under the extension
    "webdataset": {
        "JPEG": (".jpg",),
        "PNG": (".png",),
        "WEBP": (".webp",),
        "BMP": (".bmp",),
        "TIFF": (".tif",),
        "GIF": (".gif",),
        "PPM": (".ppm",),
        "JPEG2000": (".jp2",),
    },
}
# Readers that apply the EXIF orientation, so that masks in the pixel frame of the file would not fit.
TURNING = ("labelme", "labelstudio", "ultralytics", "semantic", "imagefolder")
LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM", "EXR", "HDR", "PFM", "PSD", "TGA", "QOI", "ICO")
PAGED = ("TIFF",)  # kinds of which each frame has its own colours; those of animations are only composed again
JOINT = "__"  # in place of "/", with --flat


@dataclass(frozen=True, slots=True)
class Reread:
    """What can be read of an image's file again. Both raise ImageError, also if it is another one now."""

    content: Callable[[], store.Content] | None = None  # the file itself; None for a frame, which has none
    native: Callable[[], Native] | None = None  # the image in its file's own colours; None: as it is shown


NOTHING = Reread()


def reread(
    source: Source, kind: str, seen: Callable[[], Identity | None], decoding: DecodeOptions, checksum: bool = False
) -> Reread:
    """Returns what can be read again of an image whose file is of this kind. `seen` is called at first.

    It returns the identity of the file when it was decoded, from `identify(source, checksum)`.
    """
    return Reread(
        None if source.frame is not None else lambda: original(source, seen(), checksum),
        None if source.frame is not None and kind not in PAGED else lambda: _native(source, seen(), decoding, checksum),
    )


def original(source: Source, seen: Identity | None, checksum: bool = False) -> store.Content:
    """Returns the file of a source: as bytes if it is not on this machine, or came through standard input.

    `seen` is the identity of the file when it was decoded, from `identify(source, checksum)`. Raises ImageError
    `changed` if a file in a bucket is another one now; for a file on this machine, writing it does.
    """
    if source.data is not None:
        return source.data
    if not is_url(source.path):
        return Original(source.path, seen or (), checksum)
    with decode.opened(source) as file:
        data = file.read()
    _check(source, seen, checksum)
    return data


def _native(source: Source, seen: Identity | None, decoding: DecodeOptions, checksum: bool) -> Native:
    found = decode.native(source, decoding)
    if source.data is None:
        _check(source, seen, checksum)
    return found


def _check(source: Source, seen: Identity | None, checksum: bool) -> None:
    """Raises ImageError if a file is not the one that was `seen`."""
    try:
        now = identify(replace(source, tag=None), checksum)
    except (OSError, ValueError) as error:
        raise fault(error, "write") from error
    # elsewhere than in buckets, a folder's listing may spell the time of a file in another way
    exact = checksum or not is_url(source.path) or source.path.partition("://")[0] in EXTRAS
    if seen is not None and (now if exact else now[:1]) != (seen if exact else seen[:1]):
        raise changed()


def untouched(form: Format, result: Result) -> bool:
    """Returns whether the photo of a data set is the original file."""
    in_frame = result.orientation == 1 or (result.export.orientation == "stored" and form not in TURNING)
    taken = result.kind in KEPT.get(form, _COMMON) and not result.uncommon
    return result.original is not None and in_frame and taken


def named(form: Format, path: str, result: Result) -> str:
    """Returns the path of a photo: `path` with the extension that its content and its reader ask for.

    With `--images none` it has the extension of the original, which the user puts there.
    """
    own = os.path.splitext(result.name)[1]
    if result.export.images == "none" and names.stem(f"a{own}") == "a":
        return path + own
    kept = KEPT.get(form, _COMMON).get(result.kind, ()) if untouched(form, result) else (_encoding(form, result),)
    return path + (own.lower() if own.lower() in kept else kept[0])


def photo(form: Format, path: str, result: Result) -> Iterator[File]:
    """Yields the photo under `named`; nothing with `--images none`. Raises ImageError."""
    if result.export.images != "none":
        yield named(form, path, result), None, content(form, result)


def content(form: Format, result: Result) -> store.Content:
    """Returns the photo of a data set. Raises ImageError if the original file cannot be read or has changed."""
    if result.original is not None and untouched(form, result):
        found = result.original()
        apart = result.export.images == "copy"
        return replace(found, apart=apart) if isinstance(found, Original) else found
    pixels = result.photo()
    if _encoding(form, result) == ".png":
        return raster.colour_png(pixels, converted(result))
    return raster.jpeg(pixels, raster.DATASET_QUALITY, converted(result))


def _encoding(form: Format, result: Result) -> str:
    """Returns the extension of a photo that is encoded again."""
    if form == "voc":
        return ".jpg"
    too_long = max(result.masks[0].shape) > raster.JPEG_SIDE
    return ".png" if result.kind in LOSSLESS or too_long else ".jpg"


def flat(stem: str, result: Result) -> str:
    """Returns the output path for readers that go by stems; with `--flat`, without folders.

    "sub/a" becomes "sub__a". A hash follows where another path could give the same name.
    """
    if not result.export.flat:
        return stem
    parts = stem.split("/")
    joined = JOINT.join(parts)
    unclear = any(JOINT in part for part in parts) or (
        len(parts) > 1 and any(part.startswith("_") or part.endswith("_") for part in parts)
    )
    return store.portable(names.renamed(joined, stem) if unclear else joined)
