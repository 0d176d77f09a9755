"""Annotations of one image for the tools that train on them or correct them: COCO, YOLO, Pascal VOC, labelme.

Each function gives one image's part. What a consumer wants in one file for all images is made of these parts in
`whole.py`.
"""

import base64
import json
from collections.abc import Iterator
from html import escape

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import cleanup, coco_codec, outline, soft_maps
from clipseg_cli.outputs.writers import raster
from clipseg_cli.outputs.writers.result import File, Result

PARTS = ".clipseg-parts"  # folder of what `whole.py` puts together
LABELME = "5.5.0"  # whose file format this is


def objects(result: Result) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(label index, mask) of each annotation: one a label that was found, or with --components one a part."""
    for index, mask in enumerate(result.masks):
        if mask.any():
            yield from ((index, one) for one in (cleanup.components(mask) if result.export.components else [mask]))


def coco(stem: str, result: Result) -> Iterator[File]:
    """The image and its annotations as JSON; ids are given where the parts are put together."""
    height, width = result.masks[0].shape
    annotations = []
    for index, mask in objects(result):
        segmentation = (
            _polygons(mask) if result.export.polygons else {"size": [height, width], "counts": coco_codec.packed(mask)}
        )
        annotations.append(
            {
                "category_id": index + 1,
                "segmentation": segmentation,
                "area": int(np.count_nonzero(mask)),
                "bbox": soft_maps.bbox(mask),
                "iscrowd": 0,
                "score": round(result.scores[index], 4),
            }
        )
    name = result.name.encode("utf-8", "backslashreplace").decode("utf-8")
    image = {"file_name": name, "width": width, "height": height}
    part = {"categories": list(result.labels), "image": image, "annotations": annotations}
    yield f"{PARTS}/coco/{stem}.json", None, _json(part)


def _polygons(mask: NDArray[np.uint8]) -> list[list[int]]:
    """COCO knows no holes: a line of no width leads to each and back."""
    return [outline.cut_open(outline.simplified(part)).ravel().tolist() for part in outline.edges(mask)]


def yolo(stem: str, result: Result) -> Iterator[File]:
    """The photo, and one line a polygon: class, then x y as shares of the width and height.

    A line is one polygon without holes: several parts become several lines, and a line of no width leads to a hole.
    Trainers look for the lines where the last folder `images` of the photo's path is called `labels`.
    """
    height, width = result.masks[0].shape
    lines = []
    for index, mask in objects(result):
        for part in outline.centres(mask):
            ring = outline.cut_open(outline.simplified(part))
            ring = ring if len(ring) > 2 else np.repeat(ring, 3, 0)  # readers drop what has fewer than three points
            shares = (ring + 0.5) / (width, height)
            lines.append(f"{index} " + " ".join(f"{share:.6f}" for share in shares.ravel()))
    photo = f"yolo/images/{stem}.jpg"
    text = "/labels/".join(photo.rsplit("/images/", 1)).removesuffix(".jpg") + ".txt"
    yield text, None, "".join(line + "\n" for line in lines).encode()
    yield photo, None, raster.jpeg(result.photo(), raster.DATASET_QUALITY)


def voc(stem: str, result: Result) -> Iterator[File]:
    """The photo, the indexed masks of classes and of objects, and the boxes. Of masks that overlap the later wins."""
    height, width = result.masks[0].shape
    classes, numbers = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    boxes = []
    for number, (index, mask) in enumerate(objects(result), 1):
        classes[mask > 0] = index + 1
        numbers[mask > 0] = min(number, 254)
        x, y, w, h = soft_maps.bbox(mask) or (0, 0, 0, 0)
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)  # from 1, inclusive
        box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
        boxes.append(
            f"  <object><name>{xml(result.labels[index])}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox>{box}</bndbox></object>\n"
        )
    folder, _, name = stem.rpartition("/")
    document = (
        f"<annotation>\n  <folder>{xml(folder)}</folder>\n  <filename>{xml(name)}.jpg</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <segmented>1</segmented>\n{''.join(boxes)}</annotation>\n"
    )
    yield f"voc/SegmentationClass/{stem}.png", None, raster.indexed_png(classes)
    yield f"voc/SegmentationObject/{stem}.png", None, raster.indexed_png(numbers)
    yield f"voc/Annotations/{stem}.xml", None, document.encode()
    yield f"voc/JPEGImages/{stem}.jpg", None, raster.jpeg(result.photo(), raster.DATASET_QUALITY)


def labelme(stem: str, result: Result) -> Iterator[File]:
    """The file that labelme opens, the photo inside; the parts of one annotation share a group."""
    height, width = result.masks[0].shape
    shapes = []
    for group, (index, mask) in enumerate(objects(result), 1):
        for part in outline.centres(mask):
            ring = outline.cut_open(outline.simplified(part))
            ring = ring if len(ring) > 2 else np.repeat(ring, 3, 0)  # labelme refuses fewer than three points
            shapes.append(
                {
                    "label": result.labels[index],
                    "points": (ring + 0.5).tolist(),
                    "group_id": group,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
            )
    photo = base64.b64encode(raster.jpeg(result.photo(), raster.DATASET_QUALITY)).decode("ascii")
    document = {
        "version": LABELME,
        "flags": {},
        "shapes": shapes,
        "imagePath": stem.rpartition("/")[2] + ".jpg",
        "imageData": photo,
        "imageHeight": height,
        "imageWidth": width,
    }
    yield f"labelme/{stem}.json", None, _json(document)


def svg(stem: str, result: Result) -> Iterator[File]:
    """One path a label, exactly along the borders of pixels; holes by the even-odd rule."""
    height, width = result.masks[0].shape
    paths = []
    for index, (label, slug, mask) in enumerate(zip(result.labels, result.slugs, result.masks, strict=True)):
        rings = [ring for part in outline.edges(mask) for ring in (part.outer, *part.holes)]
        line = "".join("M" + " ".join(f"{x},{y}" for x, y in ring.tolist()) + "z" for ring in rings)
        red, green, blue = result.colour(index)
        paths.append(
            f'<path id="{xml(slug)}" fill="#{red:02x}{green:02x}{blue:02x}" fill-rule="evenodd" '
            f'd="{line}"><title>{xml(label)}</title></path>\n'
        )
    yield (
        f"svg/{stem}.svg",
        None,
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" shape-rendering="crispEdges">\n{"".join(paths)}</svg>\n'
        ).encode(),
    )


def xml(text: str) -> str:
    """As content or in a quoted attribute; what XML cannot hold becomes U+FFFD."""
    kept = "".join(
        c if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "￾￿") else "�" for c in text
    )
    return escape(kept)


def _json(document: object) -> bytes:
    return (json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "backslashreplace")
