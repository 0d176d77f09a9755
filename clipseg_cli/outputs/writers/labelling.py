"""Masks for labelling tools that import them to be corrected: Label Studio and CVAT.

The writers yield the files of one image. The other functions make the files that cover all images.
"""

import hashlib
import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from clipseg_cli.errors import ImageError
from clipseg_cli.masks import coco_codec, soft_maps
from clipseg_cli.outputs import colours
from clipseg_cli.outputs.image_root import ImageRoot
from clipseg_cli.outputs.record import readable_text
from clipseg_cli.outputs.writers import photos
from clipseg_cli.outputs.writers.annotations import FRAGMENTS, objects, plain, xml
from clipseg_cli.outputs.writers.result import File, Result

LOCAL_FILES = "/data/local-files/?d="  # Label Studio serves files below its document root under this URL
BITS = (3, 4, 8, 16)  # of a run's length in Label Studio's encoding; each run takes the first that holds it
MOST_BYTES = 2**32 - 1  # of the RGBA image that it encodes


def labelstudio(stem: str, result: Result) -> Iterator[File]:
    """Yields a JSON fragment, a task with its masks as predictions, and the photo. Raises ImageError.

    The task names the photo relative to the output folder, as Label Studio's local file serving expects it.
    """
    height, width = result.masks[0].shape
    path = f"labelstudio/images/{stem}"
    regions = [
        {
            "id": hashlib.sha256(f"{stem}/{number}".encode()).hexdigest()[:10],
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(score, 4),
            "value": {"format": "rle", "rle": [*brush(mask)], "brushlabels": [plain(result.labels[index])]},
        }
        for number, (index, mask, score) in enumerate(objects(result))
    ]
    prediction = {"model_version": "clipseg", "score": round(max(result.scores), 4), "result": regions}
    url = LOCAL_FILES + quote(os.fsencode(photos.named("labelstudio", path, result)))
    task = {"data": {"image": url}, "predictions": [prediction]}
    line = json.dumps(task, ensure_ascii=False, separators=(",", ":"))
    yield f"{FRAGMENTS}/labelstudio/{stem}.json", None, line.encode()
    yield from photos.photo("labelstudio", path, result)


def brush(mask: NDArray[np.uint8]) -> bytes:
    """Returns a mask, uint8 (H, W), in the run-length encoding of Label Studio's brush. Raises ImageError.

    It encodes the bytes of an RGBA image, row by row, in which the mask is the value of every channel. The head has
    their number (32 bits), the bits of a value less one (5), and each of BITS less one (4). A run is a set bit, which
    of BITS its length takes (2), the length less one, and the value (8).
    """
    if 4 * mask.size > MOST_BYTES:
        raise ImageError("too_large", "write", f"a mask for Label Studio holds at most {MOST_BYTES // 4} pixels")
    bits = [f"{4 * mask.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in BITS)]
    limits = [2**size for size in BITS]
    value = 0
    for length in (4 * coco_codec.run_lengths(mask)).tolist():
        while length:
            run = min(length, limits[-1])
            form = bisect_left(limits, run)
            bits.append(f"1{form:02b}{run - 1:0{BITS[form]}b}{value:08b}")
            length -= run
        value ^= 255
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def labelstudio_json(fragments: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the pieces of a task list."""
    before = b"[\n"
    for fragment in fragments:
        yield before + fragment
        before = b",\n"
    yield b"[]\n" if before == b"[\n" else b"\n]\n"


def labelstudio_config(labels: Sequence[str]) -> bytes:
    """Returns the labelling interface: an image, and a brush with each label in its own colour."""
    brushes = "".join(
        f'    <Label value="{xml(plain(label))}" background="{_hex(index)}"/>\n' for index, label in enumerate(labels)
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        f'  <BrushLabels name="label" toName="image">\n{brushes}  </BrushLabels>\n</View>\n'
    ).encode()


def cvat(stem: str, result: Result) -> Iterator[File]:
    """Yields an XML fragment: the image and its masks. `cvat_xml` numbers the images."""
    height, width = result.masks[0].shape
    name = readable_text(result.name)
    masks = "".join(_cvat_mask(result.labels[index], mask) for index, mask, _ in objects(result))
    image = f'<image name="{xml(name)}" width="{width}" height="{height}">\n{masks}</image>\n'
    yield f"{FRAGMENTS}/cvat/{stem}.xml", None, image.encode()


def _cvat_mask(label: str, mask: NDArray[np.uint8]) -> str:
    """Returns the element of a mask: run lengths along the rows of its box, zeros first."""
    x, y, w, h = soft_maps.bbox(mask) or (0, 0, 0, 0)
    runs = ", ".join(map(str, coco_codec.run_lengths(mask[y : y + h, x : x + w]).tolist()))
    return (
        f'  <mask label="{xml(plain(label))}" source="auto" occluded="0" rle="{runs}" '
        f'left="{x}" top="{y}" width="{w}" height="{h}" z_order="0"/>\n'
    )


def cvat_xml(fragments: Iterable[bytes], labels: Sequence[str], root: ImageRoot) -> Iterator[bytes]:
    """Yields the pieces of a file "CVAT for images 1.1". The names of images are relative to `root`."""
    named = "".join(
        f"<label><name>{xml(plain(label))}</name><color>{_hex(index)}</color><type>mask</type><attributes/></label>\n"
        for index, label in enumerate(labels)
    )
    yield (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f"  <meta><task><name>clipseg</name><mode>annotation</mode><labels>\n{named}</labels></task></meta>\n"
    ).encode()
    for number, fragment in enumerate(fragments):
        _, name, rest = fragment.decode().split('"', 2)  # an escaped name has no quotes, and its own slashes
        yield f'<image id="{number}" name="{root.relative(name)}"{rest}'.encode()
    yield b"</annotations>\n"


def _hex(index: int) -> str:
    red, green, blue = colours.colour(index)
    return f"#{red:02x}{green:02x}{blue:02x}"
