"""Exemplars: pictures in place of phrases. Which files, which region of each, and what the model is shown of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import decode, kinds
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import soft_maps
from clipseg_cli.prompts import highlight
from clipseg_cli.settings import MAX_PIXELS
from clipseg_cli.storage import paths

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

DEFAULT_LABEL = "exemplar"
SIBLING = "_mask.png"  # ref.jpg has its region in ref_mask.png
SPARE = 4  # times the model's side: more pixels than that cost time and memory, and nearly none of them is looked at


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One picture that shows what to look for. Without a region of its own the whole picture is meant."""

    label: str
    path: str
    mask: str | None = None  # a picture of the same size, bright where the object is
    box: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels of the upright picture


@dataclass(frozen=True, slots=True)
class Show:
    """How exemplars are shown to the model and mixed with words."""

    exemplars: tuple[Exemplar, ...] = ()
    recipe: str = "crop-blur-dim"
    region_prompt: str | None = None  # finds the region in exemplars that have no mask or box
    mix: float = 0.5  # the text's share where a label has both

    def settings(self) -> dict[str, object]:
        """What decides the embedding, as JSON types: paths with size and time, and the rest."""
        return {
            "exemplars": [
                [each.label, each.path, paths.identity(each.path), each.mask and paths.identity(each.mask), each.box]
                for each in self.exemplars
            ],
            "highlight": self.recipe,
            "support_prompt": self.region_prompt,
            "mix": self.mix,
        }


def parse(
    supports: Sequence[str], support_masks: Sequence[str], boxes: Sequence[str], default_label: str
) -> tuple[Exemplar, ...]:
    """Reads `--support [LABEL=]PATH`, where PATH may be a folder of pictures, with masks or boxes in the same order.

    Raises UsageError for files that are not there and for masks or boxes that do not match.
    """
    named = []
    for support in supports:
        label, equals, path = (part.strip() for part in support.partition("="))
        if not equals or os.path.exists(support):
            label, path = default_label, support
        if not label or not path:
            raise UsageError(f"--support {support}: write a file (--support ref.jpg) or label=file")
        if not os.path.exists(path):
            raise UsageError(f"--support {support}: no such file or folder: {path}")
        inside = sorted(each for each in Path(path).iterdir() if _is_exemplar(each)) if Path(path).is_dir() else [path]
        if not inside:
            raise UsageError(f"--support {support}: the folder holds no picture")
        named += [(label, str(each)) for each in inside]
    for flag, given in (("--support-mask", support_masks), ("--support-box", boxes)):
        if given and len(given) != len(named):
            raise UsageError(
                f"{flag} is given {len(given)} times for {len(named)} exemplars: give one for each, in order"
            )
    regions = [*support_masks, *[None] * (len(named) - len(support_masks))]
    for region in support_masks:
        if not os.path.isfile(region):
            raise UsageError(f"--support-mask {region}: no such file")
    corners = [*map(_box, boxes), *[None] * (len(named) - len(boxes))]
    return tuple(
        Exemplar(label, path, region or _sibling(path) if corner is None else region, corner)
        for (label, path), region, corner in zip(named, regions, corners, strict=True)
    )


def _is_exemplar(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in kinds.EXTENSIONS and not path.name.endswith(SIBLING)


def _sibling(path: str) -> str | None:
    mask = Path(path).with_name(Path(path).stem + SIBLING)
    return str(mask) if mask.is_file() else None


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--support-box {text}: write X,Y,WIDTH,HEIGHT in pixels, like 40,30,200,180") from None
    return x, y, width, height


def shown(segmenter: "Segmenter", one: Exemplar, show: Show) -> NDArray[np.float32]:
    """What the model is shown of an exemplar: float32 (3, S, S) in normalised colour.

    Raises UsageError for a file that cannot be read and for an empty region, which would mean everything.
    """
    try:
        pixels = decode.load(Source(one.path, one.path, ""), max_pixels=MAX_PIXELS).pixels
        region = _region(segmenter, one, show, pixels)
    except ImageError as error:
        raise UsageError(f"the exemplar {one.path} cannot be used: {error}") from error
    if not region.any():
        raise UsageError(f"the exemplar {one.path} has an empty region: give another mask, box or --support-prompt")
    pixels, region = _reduced(pixels, region, show.recipe, segmenter.side)
    return np.ascontiguousarray(highlight.highlight(pixels, region, show.recipe, segmenter.side).transpose(2, 0, 1))


def _region(segmenter: "Segmenter", one: Exemplar, show: Show, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool (H, W): from the box, the mask, the region prompt or the transparency, in this order; else everything."""
    height, width = pixels.shape[:2]
    if one.box is not None:
        x, y, w, h = one.box
        region = np.zeros((height, width), bool)
        region[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = True
        return region
    if one.mask is not None:
        mask = decode.load(Source(one.mask, one.mask, ""), max_pixels=MAX_PIXELS).pixels
        if mask.shape != pixels.shape:
            raise ImageError("unsupported", "load", f"its mask {one.mask} has another size")
        grey = cv2.cvtColor(mask, cv2.COLOR_RGB2GRAY)
        return np.asarray(grey > (127 if grey.max() > 1 else 0))  # as ground truth is read
    if show.region_prompt is not None:
        logits = segmenter.logits(segmenter.encode([pixels]), segmenter.embed([show.region_prompt]))[0, 0]
        return soft_maps.cut(soft_maps.upsample(logits, height, width), segmenter.threshold) > 0
    opaque = _opaque(one.path)
    return np.ones((height, width), bool) if opaque is None else opaque


def _opaque(path: str) -> NDArray[np.bool_] | None:
    """bool (H, W), upright: where a picture that `load` has read is opaque; None where it has no transparency."""
    try:
        with Pillow.open(path) as file:
            if not file.has_transparency_data or file.mode.startswith(("I", "F")):
                return None
            upright = ImageOps.exif_transpose(file)
            alpha = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA").getchannel("A")
            return np.asarray(alpha) > 127
    except Exception as error:  # Pillow raises far more kinds than it documents
        raise ImageError("corrupt", "load", f"its transparency cannot be read: {error}") from error


def _reduced(
    pixels: NDArray[np.uint8], region: NDArray[np.bool_], recipe: str, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Both smaller where what is shown of them has more than SPARE times the pixels along a side that are shown."""
    height, width = region.shape
    context = highlight.RECIPES[recipe].context
    x0, y0, x1, y1 = (0, 0, width, height) if context is None else highlight.crop_box(region, context)
    share = SPARE * side / max(x1 - x0, y1 - y0)
    if share >= 1:
        return pixels, region
    size = max(1, round(width * share)), max(1, round(height * share))
    flags = cv2.resize(region.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), np.asarray(flags) >= min(128, flags.max())
