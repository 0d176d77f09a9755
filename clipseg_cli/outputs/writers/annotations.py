"""Annotations of one image for training and labelling tools: COCO, YOLO, Pascal VOC, labelme, SVG.

Each function yields the files of one image. `per_run.py` assembles the files that cover all images.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.masks import coco_codec, outline, soft_maps, yolo_codec
from clipseg_cli.outputs import colours
from clipseg_cli.outputs.record import readable_text
from clipseg_cli.outputs.writers import photos, raster
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.settings.outputs import Format

FRAGMENTS = ".clipseg-parts"  # folder of the fragments that `per_run.py` assembles
LABELME = "5.5.0"  # version of the file format
VOC_PALETTE = [colours.voc_colour(number) for number in range(256)]


def objects(result: Result) -> Iterator[tuple[int, NDArray[np.uint8], float]]:
    """Yields (label index, mask, score) for each annotation: one per non-empty label or, with --instances, instance."""
    for index, mask in enumerate(result.masks):
        if result.instances is not None:
            yield from ((index, each.whole(mask.shape), each.score) for each in result.instances[index])
        elif mask.any():
            yield index, mask, result.scores[index]


def coco(stem: str, result: Result) -> Iterator[File]:
    """Yields a JSON fragment: the image and its annotations. `per_run.coco` adds the ids."""
    yield f"{FRAGMENTS}/coco/{stem}.json", None, coco_json(result, result.name)


def coco_json(result: Result, file_name: str) -> bytes:
    """Returns the fragment of an image that the data set calls `file_name`."""
    height, width = result.masks[0].shape
    annotations = []
    for index, mask, score in objects(result):
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
                "score": round(score, 4),
            }
        )
    name = readable_text(file_name)
    image: dict[str, object] = {"file_name": name, "width": width, "height": height}
    image |= {} if result.frame is None else {"frame": result.frame}
    fragment = {"categories": list(result.labels), "image": image, "annotations": annotations}
    return _json(fragment)


def _polygons(mask: NDArray[np.uint8]) -> list[list[int]]:
    """Returns one polygon per component. COCO has no holes, so a zero-width channel connects each hole to the edge."""
    return [outline.cut_open(outline.simplified(component)).ravel().tolist() for component in outline.edges(mask)]


def yolo(stem: str, result: Result) -> Iterator[File]:
    """Yields the label file, one polygon per line, and the photo. Raises ImageError."""
    part = f"{result.split}/" if result.split else ""
    yield from yolo_files("yolo", f"yolo/images/{part}{photos.flat(stem, result)}", result)


def yolo_files(form: Format, photo: str, result: Result) -> Iterator[File]:
    """Yields the label file and the photo, whose path without extension is `photo`. Raises ImageError.

    A line is the class, then x y pairs as fractions of width and height. Each component has its own line, and a
    zero-width channel connects each hole to the edge. Readers that draw at whole pixels get each component back: see
    `yolo_codec`. Trainers look for the label file under the photo's path, with the last folder `images` replaced
    by `labels`.
    """
    height, width = result.masks[0].shape
    indices, rings = [], []
    for index, mask, _ in objects(result):
        for component in outline.centres(mask):
            indices.append(index)
            rings.append(outline.cut_open(outline.simplified(component)))
    polygons = yolo_codec.encoded(rings, width, height)
    lines = (
        f"{index} " + " ".join(f"{fraction:.{yolo_codec.DIGITS}f}" for fraction in points.ravel().tolist()) + "\n"
        for index, points in zip(indices, polygons, strict=True)
    )
    label = "/labels/".join(f"/{photo}".rsplit("/images/", 1))[1:]
    yield f"{label}.txt", None, "".join(lines).encode()
    yield from photos.photo(form, photo, result)


def voc(stem: str, result: Result) -> Iterator[File]:
    """Yields the class image, the object image, the boxes and the photo. Where masks overlap, the later label wins.

    Raises ImageError.
    """
    height, width = result.masks[0].shape
    classes, numbers = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    boxes, names = [], voc_names(result.labels)
    for number, (index, mask, _) in enumerate(objects(result), 1):
        classes[mask > 0] = index + 1
        numbers[mask > 0] = min(number, 254)
        x, y, w, h = soft_maps.bbox(mask) or (0, 0, 0, 0)
        # VOC counts pixels from 1, ends inclusive
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)
        box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
        boxes.append(
            f"  <object><name>{xml(names[index])}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox>{box}</bndbox></object>\n"
        )
    stem = photos.flat(stem, result)
    folder, _, name = photos.named("voc", stem, result).rpartition("/")
    document = (
        f"<annotation>\n  <folder>{xml(folder)}</folder>\n  <filename>{xml(name)}</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <segmented>1</segmented>\n{''.join(boxes)}</annotation>\n"
    )
    yield f"voc/SegmentationClass/{stem}.png", None, raster.indexed_png(classes, VOC_PALETTE)
    yield f"voc/SegmentationObject/{stem}.png", None, raster.indexed_png(numbers, VOC_PALETTE)
    yield f"voc/Annotations/{stem}.xml", None, document.encode()
    yield from photos.photo("voc", f"voc/JPEGImages/{stem}", result)


def voc_names(labels: Sequence[str]) -> list[str]:
    """Returns the labels as VOC's files name them: one line each, unlike each other and unlike "background".

    A line of labelmap.txt has fields between colons and is a comment after "#", so these become hyphens.
    """
    names = ["background"]
    for label in labels:
        name = re.sub("^#|:", "-", plain(label))
        while name in names:
            name += "-"
        names.append(name)
    return names[1:]


def plain(text: str) -> str:
    """Returns a label on one line, as every kind of file can hold it: each white space is a single space.

    What is not UTF-8 becomes an escape like `\\udcff`.
    """
    return _valid(readable_text(" ".join(text.split())))


def labelme(stem: str, result: Result) -> Iterator[File]:
    """Yields the file that labelme opens, and the photo beside it. Raises ImageError."""
    path = f"labelme/{photos.flat(stem, result)}"
    yield f"{path}.json", None, labelme_json(result, photos.named("labelme", path, result))
    yield from photos.photo("labelme", path, result)


def labelme_json(result: Result, photo: str, inside: bytes | None = None) -> bytes:
    """Returns a file of labelme for a photo in the same folder; `inside` is its content, if it shall be in the file.

    The components of one annotation share a group id.
    """
    height, width = result.masks[0].shape
    shapes = []
    for group, (index, mask, _) in enumerate(objects(result), 1):
        for component in outline.centres(mask):
            ring = outline.cut_open(outline.simplified(component))
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
    document = {
        "version": LABELME,
        "flags": {},
        "shapes": shapes,
        "imagePath": photo.rpartition("/")[2],
        "imageData": None if inside is None else base64.b64encode(inside).decode("ascii"),
        "imageHeight": height,
        "imageWidth": width,
    }
    return _json(document)


def svg(stem: str, result: Result) -> Iterator[File]:
    """Yields one path per label, exactly along the pixel edges. Holes follow the even-odd rule."""
    height, width = result.masks[0].shape
    paths = []
    for index, (label, slug, mask) in enumerate(zip(result.labels, result.slugs, result.masks, strict=True)):
        rings = [ring for component in outline.edges(mask) for ring in (component.outer, *component.holes)]
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
    """Returns text escaped for XML content and quoted attributes; characters that XML forbids become U+FFFD."""
    return escape(_valid(text))


def _valid(text: str) -> str:
    return "".join(
        c if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "￾￿") else "�" for c in text
    )


def _json(document: object) -> bytes:
    return (json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "backslashreplace")
