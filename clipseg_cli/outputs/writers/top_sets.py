"""Data sets at the top of the output folder, as `--layout` writes them: Ultralytics, COCO with images, imagefolder.

Each function yields the files of one image. `per_run.py` assembles the files that cover all images.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from clipseg_cli.inputs import names
from clipseg_cli.outputs.splits import SPLITS
from clipseg_cli.outputs.writers import annotations, photos, pixels, raster
from clipseg_cli.outputs.writers.annotations import FRAGMENTS
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.storage import store


def ultralytics(stem: str, result: Result) -> Iterator[File]:
    """Yields the label file and the photo, in labels/train/ and images/train/ or those of its part.

    Raises ImageError.
    """
    photo = f"images/{result.split or SPLITS[0]}/{photos.flat(stem, result)}"
    yield from annotations.yolo_files("ultralytics", photo, result)


def semantic(stem: str, result: Result) -> Iterator[File]:
    """Yields the label image, as `-f labels` has it, and the photo, in masks/train/ and images/train/ or its part.

    Ultralytics finds the mask of a photo by the last folder `images` of its path, so that there is only one. Raises
    ImageError.
    """
    name = photos.flat(stem, result)
    if "images" in name.split("/")[:-1]:
        name = store.portable(names.renamed(name.replace("/", photos.JOINT), name))
    path = f"{result.split or SPLITS[0]}/{name}"
    yield f"masks/{path}.png", None, pixels.labels_png(result)
    yield from photos.photo("semantic", f"images/{path}", result)


def annotated(stem: str, result: Result) -> Iterator[File]:
    """Yields a JSON fragment, as that of coco.json, and the photo in images/. Raises ImageError."""
    photo = f"images/{photos.flat(stem, result)}"
    fragment = annotations.coco_json(result, photos.named("annotations", photo, result))
    yield f"{FRAGMENTS}/annotations/{stem}.json", None, fragment
    yield from photos.photo("annotations", photo, result)


def imagefolder(stem: str, result: Result) -> Iterator[File]:
    """Yields a line of metadata.jsonl, the masks and the photo, in train/ or the folder of its part. Raises ImageError.

    Every label has a mask, also an empty one, since a column has one type. A column `<label>_mask` cannot be the
    column of the images, which is `image`. There are no folders below images/ and masks/: datasets takes a folder
    named like a split, such as `test 2`, for one.
    """
    part = result.split or SPLITS[0]
    name = photos.flat(stem, replace(result, export=replace(result.export, flat=True)))
    masks = [f"masks/{store.portable(f'{name}.{slug}')}.png" for slug in result.slugs]  # a slug has no dot
    line = {"file_name": photos.named("imagefolder", f"images/{name}", result)}  # first: datasets goes by this order
    line |= {f"{slug}_mask_file_name": mask for slug, mask in zip(result.slugs, masks, strict=True)}
    fragment = json.dumps(line, ensure_ascii=False) + "\n"
    yield f"{FRAGMENTS}/imagefolder/{stem}.json", None, fragment.encode("utf-8", "backslashreplace")
    for path, mask in zip(masks, result.masks, strict=True):
        yield f"{part}/{path}", None, raster.mask_png(mask)
    yield from photos.photo("imagefolder", f"{part}/images/{name}", result)
