"""One image of a report: its numbers, and its pixels as thumbnails.

With two runs, an image has two sides: what the first run found in it, and what the second run found.
"""

import base64
import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import orientation
from clipseg_cli.inputs.frames.reader import FrameReader
from clipseg_cli.inputs.kinds import KINDS
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import soft_maps
from clipseg_cli.outputs import colours, drawing, manifest
from clipseg_cli.outputs.record import image_name, key_of, readable_name
from clipseg_cli.outputs.stored_masks import StoredMasks
from clipseg_cli.outputs.writers import raster
from clipseg_cli.pages.report_compare import compared
from clipseg_cli.settings.flag import fill, spelled
from clipseg_cli.settings.inputs import MAX_PIXELS, recorded
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.storage import paths
from clipseg_cli.storage.store import AnyPath

MAP = 192  # pixels: the longer side of a soft map on the page
SOFT_FORMATS = ("soft", "soft16")  # keys under which a record names a soft map
VIDEOS = frozenset(name for name, kind in KINDS.items() if kind.video)  # a browser does not show them as images
UNCERTAIN = 0.1  # probability: a pixel this close to the threshold is uncertain

Record = dict[str, Any]  # of a manifest


@dataclass
class Run:
    """A run that a report shows. `records` must be open."""

    folder: AnyPath
    about: dict[str, Any]  # run.json; empty if it cannot be read
    records: manifest.Index
    masks: StoredMasks  # for runs without mask files
    options: list[str] = field(default_factory=list)  # of `clipseg post`: its mask options, thresholds excepted
    labels: list[str] = field(default_factory=list)
    done: int = 0  # images that were segmented
    soft: bool = False  # whether it has soft maps

    @property
    def stored(self) -> bool:
        """Whether its masks are in the pixel frame of the files, without their EXIF orientation."""
        return bool(self.about.get("settings", {}).get("orientation") == "stored")

    def key(self, name: str) -> str:
        """Returns the name of an image as an absolute path, which two runs of one folder share."""
        return name if paths.is_url(name) else os.path.abspath(os.path.join(self.about.get("directory") or "", name))


def read_run(folder: AnyPath, records: manifest.Index) -> Run:
    """Returns the run in an output folder. Raises UsageError if there is none."""
    try:
        about = json.loads((folder / manifest.RUN).read_bytes())
    except (OSError, ValueError):
        about = {}
    if not len(records):
        raise UsageError(f"{folder} holds no run: name the output folder of `clipseg segment`")
    settings = about.get("settings") or {}
    run = Run(folder, about, records, StoredMasks.of(folder, settings), spelled(fill(MaskOptions, settings)))
    for name in records:
        record = records[name]
        if record["status"] == "ok":
            run.done += 1
            run.labels = run.labels or [mask["label"] for mask in record["masks"]]
            run.soft = run.soft or any(mask.get(form) for mask in record["masks"] for form in SOFT_FORMATS)
    return run


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the page."""

    row: dict[str, Any]  # what sorting and filtering need: name, scores, areas, and the comparison of two runs
    pixels: dict[str, Any]  # what is needed to show it: thumbnails as data URLs, and the URLs of the full-size files
    missing: bool  # the image is gone or has changed


@dataclass(frozen=True, slots=True)
class Look:
    """How images come onto the page."""

    labels: list[str]  # of all runs
    side: int  # pixels: the longer side of a thumbnail
    folder: Path | None  # of the page, for relative URLs; None in a bucket
    reader: FrameReader  # decodes the images
    compare: bool = False  # whether the page compares two runs


def image(records: Sequence[Record | None], runs: Sequence[Run], look: Look) -> Image:
    """Returns one image of the page from its record in each run; None where a run did not segment it."""
    known = [(record, run) for record, run in zip(records, runs, strict=True) if record is not None]
    record = known[0][0]
    photo, path = next((found for each in known if (found := _photo(*each, look.reader))[0] is not None), (None, ""))
    missing = photo is None
    height, width = max(1, record["height"]), max(1, record["width"])
    if photo is None:
        photo = np.full((height, width, 3), 128, np.uint8)
    row: dict[str, Any] = {"name": readable_name(key_of(record))}
    row |= {"b64": record["image_b64"]} if record["image_b64"] else {}
    pixels: dict[str, Any] = {"thumb": _data_url("jpeg", raster.jpeg(drawing.fitted(photo, look.side)))}
    pixels |= {"size": [width, height], "photo": _url(path, look) if path else None}
    sides = [None if each is None else _side(each, run, look) for each, run in zip(records, runs, strict=True)]
    row["sides"] = [side and side.row for side in sides]
    pixels["sides"] = [side and side.pixels for side in sides]
    row["colours"] = _colours(photo, [side for side in sides if side is not None])
    if look.compare:
        row |= compared(*([None] * len(look.labels) if side is None else side.own for side in sides))
    return Image(row, pixels, missing)


@dataclass(frozen=True, slots=True)
class _Side:
    """An image in one run. Each list has one entry per label of the page; None for a label that the run lacks."""

    row: dict[str, Any]  # its numbers
    pixels: dict[str, Any]  # its thumbnails and URLs
    own: list[NDArray[np.uint8] | None]  # the run's masks, uint8 (H, W)
    places: list[NDArray[np.uint8] | None]  # where the page draws each label, uint8 (H, W)


def _side(record: Record, run: Run, look: Look) -> _Side:
    """Returns an image as one run found it."""
    row: dict[str, Any] = {key: [] for key in ("thresholds", "presences", "areas")}
    pixels: dict[str, Any] = {key: [] for key in ("maps", "masks", "files")}
    side = _Side(row, pixels, [], [])
    uncertain = [0.0]
    by_label = {mask["label"]: mask for mask in record["masks"]}
    bare = not any(mask["path"] or mask.get(form) for mask in record["masks"] for form in SOFT_FORMATS)
    stored = dict(zip(by_label, (run.masks.read(record) if bare else None) or (), strict=False))
    for label in look.labels:
        mask = by_label.get(label)
        if mask is None:
            for values in (*row.values(), *pixels.values(), side.own, side.places):
                values.append(None)
            continue
        soft = next(filter(None, (mask.get(form) for form in SOFT_FORMATS)), None)
        grey = _grey(run.folder, soft or mask["path"]) if soft or mask["path"] else stored.get(label)
        own = _own(record, mask, run, grey, soft is not None) if run.options or look.compare else None
        side.own.append(own)
        side.places.append(_place(own, grey, mask["threshold"]))
        pixels["maps"].append(_small(grey))  # soft maps, or masks if the run stored no soft maps
        pixels["masks"].append(_small(own) if run.options and soft else None)  # the run's masks, if they differ
        pixels["files"].append(_url(os.path.join(str(run.folder), mask["path"]), look) if mask["path"] else None)
        row["thresholds"].append(mask["threshold"] if mask["area_frac"] else 1)  # 1 hides all
        row["presences"].append(mask["presence"])
        row["areas"].append(mask["area_frac"])
        if grey is not None and soft:
            uncertain.append(float((np.abs(grey / 255 - mask["threshold"]) < UNCERTAIN).mean()))
    row["uncertain"] = round(max(uncertain), 4)
    return side


def _place(own: NDArray[np.uint8] | None, grey: NDArray[np.uint8] | None, threshold: float) -> NDArray[np.uint8] | None:
    """Returns where a label is drawn, uint8 (H, W); for an empty mask, where it would appear first.

    `own` is the run's mask, `grey` its soft map or the mask. Returns None if neither can be read.
    """
    if own is not None and own.any():
        return own
    if grey is None:
        return None
    mask = soft_maps.cut_soft(grey, threshold)
    return mask if mask.any() else grey


def _colours(photo: NDArray[np.uint8], sides: Sequence[_Side]) -> list[colours.RGB]:
    """Returns the colour of each label on this image, the same in both runs. `photo` is uint8 (H, W, 3)."""
    shape = photo.shape[:2]
    places = []
    for found in zip(*(side.places for side in sides), strict=True):
        known = [each for each in found if each is not None and each.shape == shape]
        places.append(functools.reduce(np.maximum, known) if known else np.zeros(shape, np.uint8))
    return colours.contrasting(photo, places)


def _own(
    record: Record, mask: Record, run: Run, grey: NDArray[np.uint8] | None, is_soft: bool
) -> NDArray[np.uint8] | None:
    """Returns the run's own mask, uint8 (H, W); None if it cannot be read. `grey` is its soft map or the mask."""
    if not mask["area_frac"]:  # --empty skip writes no file
        return np.zeros((record["height"], record["width"]), np.uint8)
    if not is_soft:
        return grey
    own = _grey(run.folder, mask["path"])
    if own is None and grey is not None and not run.options:
        return soft_maps.cut_soft(grey, mask["threshold"])
    return own


def _grey(run: AnyPath, path: str | None) -> NDArray[np.uint8] | None:
    """Reads a mask or a soft map, uint8 (H, W); None if it cannot be read."""
    try:
        return None if path is None else soft_maps.StoredMap(raster.levels((run / path).read_bytes())).soft()
    except (OSError, ValueError, SyntaxError):
        return None


def _small(grey: NDArray[np.uint8] | None) -> str | None:
    return None if grey is None else _data_url("png", raster.png(drawing.fitted(grey, MAP)))


def _photo(record: Record, run: Run, reader: FrameReader) -> tuple[NDArray[np.uint8] | None, str]:
    """Reads the image of a record, uint8 (H, W, 3), and returns it with its path; None if it is gone or has changed.

    A frame of a file has no path, and with --orientation stored neither has a file that a browser would turn: they are
    shown as thumbnails only.

    Relative names are tried from the working directory, then from the directory of the run.
    """
    name = image_name(record)
    for base in ("", run.about.get("directory") or ""):
        try:
            path = name if paths.is_url(name) else os.path.join(base, name)
            source = Source(path, name, "", frame=record["frame"] or None)
            pixels = reader.load(source, recorded(run.about.get("settings", {}), 4 * MAX_PIXELS)).pixels
        except ImageError:
            continue
        turned = run.stored and record["orientation"] != 1
        if turned:
            pixels = orientation.stored(pixels, record["orientation"])
        if pixels.shape[:2] == (record["height"], record["width"]):
            alone = not (turned or record["frame"] or record["format"] in VIDEOS)
            return np.ascontiguousarray(pixels), path if alone else ""
    return None, ""


def _url(path: str, look: Look) -> str | None:
    """Returns the URL of a local file relative to the page; None for a file that the page cannot reach."""
    if look.folder is None or paths.is_url(path):
        return None
    try:
        relative = os.path.relpath(path, look.folder)
    except ValueError:  # another drive on Windows
        return Path(path).absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
