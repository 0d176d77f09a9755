"""The report: one self-contained HTML page of a run, with thumbnails, live thresholds, failures and a review list.

All text reaches the page as JSON inside a script element and is inserted as text. The page loads nothing from outside.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import soft_maps
from clipseg_cli.outputs import drawing, manifest
from clipseg_cli.outputs.writers import raster
from clipseg_cli.settings.flag import fill, spelled
from clipseg_cli.settings.inputs import MAX_PIXELS
from clipseg_cli.settings.masks import MaskOptions
from clipseg_cli.storage import paths, store
from clipseg_cli.storage.store import AnyPath

TEMPLATE = Path(__file__).parent / "report.html"
LARGE, SMALL, FEW = 640, 256, 200  # pixels: the longer side of a thumbnail, LARGE for up to FEW images, else SMALL
MAP = 192  # pixels: the longer side of a soft map on the page
BINS = 20  # of the presence histogram
SOFT_FORMATS = ("soft", "soft16")  # keys under which a record names a soft map
UNCERTAIN = 0.1  # probability: a pixel this close to the threshold is uncertain


def write(run: AnyPath, note: Callable[[str], None], target: AnyPath | None = None) -> AnyPath:
    """Writes the report of the run in the folder `run`, there or at `target`, and returns its path.

    `note` gets a line for the user if images are missing. Raises OutputError, and UsageError if there is no run.
    """
    target = target or run / "report.html"
    store.check(target.parent)
    store.write(target, page(run, note))
    return target


def page(run: AnyPath, note: Callable[[str], None]) -> bytes:
    """Returns the HTML of the run in the folder `run`. Raises UsageError if there is no run."""
    records = list(manifest.latest(run / manifest.MANIFEST).values())
    try:
        about = json.loads((run / manifest.RUN).read_bytes())
    except (OSError, ValueError):
        about = {}
    if not records:
        raise UsageError(f"{run} holds no run: name the output folder of `clipseg segment`")
    done = [record for record in records if record["status"] == "ok"]
    side = LARGE if len(done) <= FEW else SMALL
    options = _post_options(about.get("settings") or {})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = [*pool.map(lambda record: _image(record, run, about, side, bool(options)), done)]
    missing = sum(image.pop("missing") for image in images)
    if missing:
        note(f"{missing} of {len(done)} images have moved or changed: the report shows their masks on grey")
    started = about.get("started")
    data = {
        "id": hashlib.sha256(
            f"{run.absolute() if isinstance(run, Path) else run}{started}".encode("utf-8", "replace")
        ).hexdigest()[:16],
        "run": str(run).encode("utf-8", "replace").decode(),
        "model": about.get("model", {}).get("name", "?"),
        "soft": any(form in mask for record in done for mask in record["masks"] for form in SOFT_FORMATS),
        "options": options,
        "labels": _labels(done),
        "images": [{"id": index} | image for index, image in enumerate(images)],
        "failures": [{"name": record["image"]} | record["error"] for record in records if record["status"] != "ok"],
    }
    # `<` could end the script element; U+2028 and U+2029 end a line in old JavaScript engines
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return TEMPLATE.read_text("utf-8").replace("{{data}}", text).encode("utf-8", "replace")


def _labels(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns name, threshold, colour and presence histogram of each label; `varies`: thresholds differ by image."""
    return [
        {
            "name": mask["label"],
            "threshold": mask["threshold"],
            "varies": any(record["masks"][index]["threshold"] != mask["threshold"] for record in done),
            "colour": drawing.colour(index),
            "histogram": _histogram([record["masks"][index]["presence"] for record in done]),
        }
        for index, mask in enumerate(done[0]["masks"] if done else [])
    ]


def _post_options(settings: dict[str, Any]) -> list[str]:
    """Returns the run's mask options, thresholds excepted, as options of `clipseg post`."""
    return spelled(fill(MaskOptions, settings))


def _image(record: dict[str, Any], run: AnyPath, about: dict[str, Any], side: int, cleaned: bool) -> dict[str, Any]:
    """Returns what the page needs of one image.

    `cleaned`: the run's masks differ from their thresholded soft maps, so the page needs both.
    """
    photo = _photo(record, about)
    missing = photo is None
    if photo is None:
        photo = np.full((max(1, record["height"]), max(1, record["width"]), 3), 128, np.uint8)
    maps, masks, uncertain = [], [], [0.0]
    for mask in record["masks"]:
        soft = next((mask[form] for form in SOFT_FORMATS if form in mask), None)
        grey = _grey(run, soft or mask["path"])
        maps.append(_small(grey))
        masks.append(_small(_grey(run, mask["path"])) if cleaned and soft else None)
        if grey is not None and soft:
            uncertain.append(float((np.abs(grey / 255 - mask["threshold"]) < UNCERTAIN).mean()))
    presences = [mask["presence"] for mask in record["masks"]]
    return {
        "name": record["image"],
        "thumb": _data_url("jpeg", raster.jpeg(drawing.fitted(photo, side))),
        "maps": maps,  # soft maps, or masks if the run stored no soft maps
        "masks": masks,  # the run's masks, if they differ
        "thresholds": [mask["threshold"] if mask["area_frac"] else 1 for mask in record["masks"]],  # 1 hides all
        "presences": presences,
        "presence": max(presences, default=0),
        "area": sum(mask["area_frac"] for mask in record["masks"]),
        "uncertain": max(uncertain),
        "missing": missing,
    } | ({"b64": record["image_b64"]} if "image_b64" in record else {})


def _grey(run: AnyPath, path: str | None) -> NDArray[np.uint8] | None:
    """Reads a mask or a soft map, uint8 (H, W); None if it cannot be read."""
    try:
        return None if path is None else soft_maps.StoredMap(raster.levels((run / path).read_bytes())).soft()
    except (OSError, ValueError, SyntaxError):
        return None


def _small(grey: NDArray[np.uint8] | None) -> str | None:
    return None if grey is None else _data_url("png", raster.png(drawing.fitted(grey, MAP)))


def _photo(record: dict[str, Any], about: dict[str, Any]) -> NDArray[np.uint8] | None:
    """Reads the image of a record, uint8 (H, W, 3); None if it is gone or its size has changed.

    Relative names are tried from the working directory, then from the directory of the run.
    """
    name = manifest.image_name(record)
    for base in ("", about.get("directory") or ""):
        try:
            path = name if paths.is_url(name) else os.path.join(base, name)
            pixels = decode.load(Source(path, name, ""), max_pixels=4 * MAX_PIXELS).pixels
        except ImageError:
            continue
        if pixels.shape[:2] == (record["height"], record["width"]):
            return pixels
    return None


def _histogram(values: list[float]) -> list[int]:
    counts: list[int] = np.histogram(values, BINS, (0, 1))[0].tolist()
    return counts


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
