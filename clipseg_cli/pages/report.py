"""One self-contained HTML page of a run: thumbnails, soft maps for a live threshold, failures, a review list.

All text reaches the page as JSON inside a script element and is put on it as text; nothing is fetched from anywhere.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import decode
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import soft_maps
from clipseg_cli.outputs import drawing, manifest
from clipseg_cli.outputs.writers import raster
from clipseg_cli.settings.inputs import MAX_PIXELS
from clipseg_cli.settings.masks import CleanUp
from clipseg_cli.storage import paths, store
from clipseg_cli.storage.store import Place

TEMPLATE = Path(__file__).parent / "report.html"
LARGE, SMALL, FEW = 640, 256, 200  # pixels, the longer side of a thumbnail: LARGE for up to FEW images
MAP = 192  # pixels, the longer side of a soft map on the page
BINS = 20
KEPT = ("soft", "soft16")  # where a record names a soft map
DOUBT = 0.1  # a pixel whose probability is nearer to the threshold is in doubt


def write(run: Place, note: Callable[[str], None], target: Place | None = None) -> Place:
    """Writes the page of the run in the directory `run`, there or at `target`; returns its path. Raises OutputError."""
    target = target or run / "report.html"
    store.check(target.parent)
    store.write(target, page(run, note))
    return target


def page(run: Place, note: Callable[[str], None]) -> bytes:
    """The page of the run in the directory `run`. Raises UsageError where there is none."""
    records = list(manifest.latest(run / manifest.MANIFEST).values())
    try:
        about = json.loads((run / manifest.RUN).read_bytes())
    except (OSError, ValueError):
        about = {}
    done = [record for record in records if record["status"] == "ok"]
    if not records:
        raise UsageError(f"{run} holds no run: name the output directory of `clipseg segment`")
    side = LARGE if len(done) <= FEW else SMALL
    flags = _flags(about.get("settings") or {})
    labels = [
        {
            "name": mask["label"],
            "threshold": mask["threshold"],
            "varies": any(record["masks"][index]["threshold"] != mask["threshold"] for record in done),
            "colour": drawing.colour(index),
            "histogram": _histogram([record["masks"][index]["presence"] for record in done]),
        }
        for index, mask in enumerate(done[0]["masks"] if done else [])
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shown = list(pool.map(lambda item: _shown(item[0], item[1], run, about, side, bool(flags)), enumerate(done)))
    missing = sum(item.pop("missing") for item in shown)
    if missing:
        note(f"{missing} of {len(done)} pictures are not where they were: the page shows their masks alone")
    data = {
        "id": hashlib.sha256(
            f"{run.absolute() if isinstance(run, Path) else run}{about.get('started')}".encode("utf-8", "replace")
        ).hexdigest()[:16],
        "run": str(run).encode("utf-8", "replace").decode(),
        "model": about.get("model", {}).get("name", "?"),
        "soft": any(form in mask for record in done for mask in record["masks"] for form in KEPT),
        "flags": flags,
        "labels": labels,
        "images": shown,
        "failures": [{"name": record["image"]} | record["error"] for record in records if record["status"] != "ok"],
    }
    # inside a script element only `<` can end it; the other two are line ends to JavaScript of old
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return TEMPLATE.read_text("utf-8").replace("{{data}}", text).encode("utf-8", "replace")


def _flags(settings: dict[str, Any]) -> list[str]:
    """What made the run's masks of its soft maps beside thresholds, as options of `clipseg post`."""
    given = dict(settings.get("clean") or {})
    if share := given.pop("min_share", 0):
        given["min_area"] = f"{100 * share:g}%"
    given |= {key: settings.get(key) for key in ("mode", "background", "min_presence", "empty")}
    usual = asdict(CleanUp()) | {"mode": "binary", "background": 0, "min_presence": 0, "empty": "write"}
    found = []
    for key, value in given.items():
        if value is not None and value != usual[key]:
            flag = "--" + key.replace("_", "-")
            found += [flag] if value is True else [flag, str(value)]
    return found


def _shown(
    index: int, record: dict[str, Any], run: Place, about: dict[str, Any], side: int, changed: bool
) -> dict[str, Any]:
    """What the page knows of one image. `changed`: its masks are not just what lies above the thresholds."""
    photo = _photo(record, about)
    missing = photo is None
    if photo is None:
        photo = np.full((max(1, record["height"]), max(1, record["width"]), 3), 128, np.uint8)
    maps, made, doubts = [], [], [0.0]
    for mask in record["masks"]:
        soft = next((mask[form] for form in KEPT if form in mask), None)
        grey = _grey(run, soft or mask["path"])
        maps.append(_small(grey))
        made.append(_small(_grey(run, mask["path"])) if changed and soft else None)
        if grey is not None and soft:
            doubts.append(float((np.abs(grey / 255 - mask["threshold"]) < DOUBT).mean()))
    return {
        "id": index,
        "name": record["image"],
        "thumb": _url("jpeg", raster.jpeg(drawing.fitted(photo, side))),
        "maps": maps,
        "made": made,
        "thresholds": [mask["threshold"] if mask["area_frac"] else 1 for mask in record["masks"]],  # 1: nothing shows
        "numbers": [mask["presence"] for mask in record["masks"]],
        "presence": max((mask["presence"] for mask in record["masks"]), default=0),
        "area": sum(mask["area_frac"] for mask in record["masks"]),
        "doubt": max(doubts),
        "missing": missing,
    } | ({"b64": record["image_b64"]} if "image_b64" in record else {})


def _grey(run: Place, path: str | None) -> NDArray[np.uint8] | None:
    """A mask or a soft map, uint8 (H, W); None where it cannot be read."""
    try:
        data = np.frombuffer(b"" if path is None else (run / path).read_bytes(), np.uint8)
    except OSError:
        return None
    grey = None if not data.size else cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    return None if grey is None else soft_maps.KeptMap(grey).soft()


def _small(grey: NDArray[np.uint8] | None) -> str | None:
    return None if grey is None else _url("png", raster.png(drawing.fitted(grey, MAP)))


def _photo(record: dict[str, Any], about: dict[str, Any]) -> NDArray[np.uint8] | None:
    """The picture of a record, from here or from where the run was made; None where it is gone or changed size."""
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


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
