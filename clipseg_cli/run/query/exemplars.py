"""Exemplars: which files, which region of each is the object, and what the model sees of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from clipseg_cli.errors import ImageError, UsageError
from clipseg_cli.inputs import decode, kinds
from clipseg_cli.inputs.source import Source
from clipseg_cli.masks import soft_maps
from clipseg_cli.prompts import highlight
from clipseg_cli.prompts.recipes import RECIPES
from clipseg_cli.settings.inputs import DecodeOptions
from clipseg_cli.storage import paths

if TYPE_CHECKING:
    from clipseg_cli.model.segmenter import Segmenter

DEFAULT_LABEL = "exemplar"
SIBLING = "_mask.png"  # the mask of ref.jpg may be ref_mask.png beside it
SPARE = 4  # times the model's side: a larger exemplar is reduced first, since the model loses nearly all its pixels


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One image that shows what to look for. Without a mask or a box the whole image is the object."""

    label: str
    path: str
    mask: str | None = None  # path of an image of the same size, bright where the object is
    box: tuple[int, int, int, int] | None = None  # x, y, width, height in pixels of the upright image

    def settings(self) -> list[object]:
        """Returns what affects its embedding, as JSON types: paths with size and time of the files, and the box."""
        mask = self.mask and paths.identity(self.mask)
        return [self.label, self.path, paths.identity(self.path), mask, self.box]


def parse(
    supports: Sequence[str], masks: Sequence[str], boxes: Sequence[str], default_label: str
) -> tuple[Exemplar, ...]:
    """Parses `--support [LABEL=]PATH`, where PATH may be a folder of images, and masks or boxes in the same order.

    Raises UsageError for missing files and for masks or boxes that do not match the exemplars.
    """
    named = [(label, path) for support in supports for label, path in _files(support, default_label)]
    for flag, given in (("--support-mask", masks), ("--support-box", boxes)):
        if given and len(given) != len(named):
            raise UsageError(
                f"{flag} is given {len(given)} times for {len(named)} exemplars: give one for each, in order"
            )
    for mask in masks:
        if not os.path.isfile(mask):
            raise UsageError(f"--support-mask {mask}: no such file")
    every_mask = [*masks, *[None] * (len(named) - len(masks))]
    every_box = [*map(_box, boxes), *[None] * (len(named) - len(boxes))]
    return tuple(
        Exemplar(label, path, mask or _sibling(path) if box is None else mask, box)
        for (label, path), mask, box in zip(named, every_mask, every_box, strict=True)
    )


def _files(support: str, default_label: str) -> list[tuple[str, str]]:
    """Returns (label, path) of each image that one `--support` names."""
    label, equals, path = (part.strip() for part in support.partition("="))
    if not equals or os.path.exists(support):
        label, path = default_label, support
    if not label or not path:
        raise UsageError(f"--support {support}: write a file (--support ref.jpg) or label=file")
    if not os.path.exists(path):
        raise UsageError(f"--support {support}: no such file or folder: {path}")
    if not Path(path).is_dir():
        return [(label, path)]
    inside = sorted(each for each in Path(path).iterdir() if _is_exemplar(each))
    if not inside:
        raise UsageError(f"--support {support}: the folder contains no image")
    return [(label, str(each)) for each in inside]


def _is_exemplar(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in kinds.STILL and not path.name.endswith(SIBLING)


def _sibling(path: str) -> str | None:
    mask = Path(path).with_name(Path(path).stem + SIBLING)
    return str(mask) if mask.is_file() else None


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--support-box {text}: write X,Y,WIDTH,HEIGHT in pixels, like 40,30,200,180") from None
    return x, y, width, height


def visual_prompt(
    segmenter: "Segmenter",
    exemplar: Exemplar,
    recipe: str,
    region_prompt: str | None,
    decoding: DecodeOptions = decode.DEFAULTS,
) -> NDArray[np.float32]:
    """Returns an exemplar as the model sees it: float32 (3, S, S) in normalised colour.

    `recipe` is a key of RECIPES. `region_prompt` is a text prompt that finds the object if the exemplar has
    neither mask nor box. Raises UsageError for a file that cannot be read and for an empty region.
    """
    try:
        image = _decoded(exemplar.path, decoding)
        pixels, region = image.pixels, _region(segmenter, exemplar, region_prompt, image)
    except ImageError as error:
        raise UsageError(f"the exemplar {exemplar.path} cannot be used: {error}") from error
    if not region.any():
        raise UsageError(
            f"the exemplar {exemplar.path} has an empty region: give another mask, box or --support-prompt"
        )
    pixels, region = _reduced(pixels, region, recipe, segmenter.side)
    return np.ascontiguousarray(highlight.highlight(pixels, region, recipe, segmenter.side).transpose(2, 0, 1))


def _decoded(path: str, decoding: DecodeOptions) -> decode.Image:
    """Returns an exemplar, with the bands of `--bands` if it is a TIFF that has them. Raises ImageError."""
    source = Source(path, path, "")
    try:
        return decode.load(source, replace(decode.DEFAULTS, bands=decoding.bands, stretch=decoding.stretch))
    except ImageError as error:
        if error.kind != "unsupported":
            raise
        return decode.load(source)


def _region(
    segmenter: "Segmenter", exemplar: Exemplar, region_prompt: str | None, image: decode.Image
) -> NDArray[np.bool_]:
    """Returns the region of the object, bool (H, W).

    It comes from the box, otherwise from the mask, the region prompt or the transparency, otherwise it is all True.
    """
    pixels = image.pixels
    height, width = pixels.shape[:2]
    if exemplar.box is not None:
        x, y, w, h = exemplar.box
        region = np.zeros((height, width), bool)
        region[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = True
        return region
    if exemplar.mask is not None:
        mask = decode.load(Source(exemplar.mask, exemplar.mask, "")).pixels
        if mask.shape != pixels.shape:
            raise ImageError("unsupported", "load", f"its mask {exemplar.mask} has another size")
        grey = cv2.cvtColor(mask, cv2.COLOR_RGB2GRAY)
        return np.asarray(grey > (127 if grey.max() > 1 else 0))  # the same rule as for ground truth
    if region_prompt is not None:
        logits = segmenter.logits(segmenter.encode([pixels]), segmenter.embed([region_prompt]))[0, 0]
        return soft_maps.cut(soft_maps.upsample(logits, height, width), segmenter.threshold) > 0
    geotiff = image.georeference.tags  # its fourth band may be near-infrared: see `no_data`
    opaque = _opaque(exemplar.path) if not geotiff else None if image.clear is None else ~image.clear
    return np.ones((height, width), bool) if opaque is None else opaque


def _opaque(path: str) -> NDArray[np.bool_] | None:
    """Returns where an image is opaque, bool (H, W), upright; None if it has no transparency. Raises ImageError."""
    try:
        with Pillow.open(path) as file:
            if not file.has_transparency_data or file.mode.startswith(("I", "F")):
                return None
            upright = ImageOps.exif_transpose(file)
            alpha = (upright.convert("LA") if upright.mode == "La" else upright).convert("RGBA").getchannel("A")
            return np.asarray(alpha) > 127
    except UnidentifiedImageError:  # a kind that only our decoders read
        return None
    except Exception as error:  # Pillow raises far more kinds than it documents
        raise ImageError("corrupt", "load", f"its transparency cannot be read: {error}") from error


def _reduced(
    pixels: NDArray[np.uint8], region: NDArray[np.bool_], recipe: str, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Returns image and region, reduced if the model's view has over SPARE times the pixels per side it can hold."""
    height, width = region.shape
    context = RECIPES[recipe].context
    x0, y0, x1, y1 = (0, 0, width, height) if context is None else highlight.crop_box(region, context)
    share = SPARE * side / max(x1 - x0, y1 - y0)
    if share >= 1:
        return pixels, region
    size = max(1, round(width * share)), max(1, round(height * share))
    flags = cv2.resize(region.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), np.asarray(flags) >= min(128, flags.max())
