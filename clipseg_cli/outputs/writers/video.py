"""`-f video`: during a run the masks of a video's frames are kept as fragments. `films` joins them at its end."""

from collections.abc import Iterator, Sequence

from clipseg_cli.inputs.kinds import KINDS
from clipseg_cli.outputs.record import Record
from clipseg_cli.outputs.writers import raster
from clipseg_cli.outputs.writers.annotations import FRAGMENTS
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.outputs import FILMED, Codec, ExportOptions, Format

PARTS = f"{FRAGMENTS}/video"
MASKS, ALPHA = "masks", "alpha"  # folders of fragments: masks, opacities
DEFAULTS: dict[Format, Codec] = {"mask": "ffv1", "overlay": "h264", "cutout": "prores"}
SUFFIXES: dict[Codec, str] = {"ffv1": ".mkv", "h264": ".mp4", "vp9": ".webm", "prores": ".mov"}
FOLDERS: dict[Format, str] = {"mask": "videos/masks", "overlay": "videos/overlays", "cutout": "videos/cutouts"}


def written(formats: Sequence[Format], record: Record) -> list[Format]:
    """Returns the formats that are written for an image: for a frame of a video, fragments in place of its files.

    A video from standard input gets files, since it cannot be read again for its overlay.
    """
    of_video = record.frame is not None and record.format is not None and KINDS[record.format].video
    filmed = "video" in formats and of_video and record.image != "-"
    left_out = FILMED if filmed else ("video",)
    return [form for form in formats if form not in left_out]


def fragments(stem: str, result: Result) -> Iterator[File]:
    """Yields the mask of each label of a frame as a PNG, and its opacity where matting made one."""
    for index, slug in enumerate(result.slugs):
        yield f"{PARTS}/{MASKS}/{slug}/{stem}.png", index, raster.mask_png(result.masks[index])
    for index, alpha in enumerate(result.alphas):
        yield f"{PARTS}/{ALPHA}/{result.slugs[index]}/{stem}.png", index, raster.png(alpha)


def codec_of(form: Format, export: ExportOptions) -> Codec:
    """Returns the codec of the videos of a format. Cutouts need one that holds transparency, unless they are opaque."""
    chosen = export.codec or DEFAULTS[form]
    return DEFAULTS[form] if form == "cutout" and chosen == "h264" and export.backdrop is None else chosen


def path_of(form: Format, slug: str, stem: str, export: ExportOptions) -> str:
    """Returns the path of a video. `stem` is the output path of its source, `slug` the folder of a label, or empty."""
    return "/".join(filter(None, (FOLDERS[form], slug, stem))) + SUFFIXES[codec_of(form, export)]


def shown(fragment: str, formats: Sequence[Format], export: ExportOptions) -> str:
    """Returns the path of the video that a record names for the label in this fragment."""
    _, slug, stem = fragment.removeprefix(f"{PARTS}/").rpartition("/")[0].split("/", 2)
    form = next(each for each in FILMED if each in formats)
    return path_of(form, "" if form == "overlay" else slug, stem, export)
