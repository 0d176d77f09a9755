"""Files for labelling tools, read by the rules of these tools."""

import io
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from clipseg_cli.errors import ImageError
from clipseg_cli.outputs.image_root import ImageRoot
from clipseg_cli.outputs.writers import labelling, one_file
from clipseg_cli.outputs.writers.one_file import OneFile
from mask_shapes import MASKS, ODD_LABELS, assemble, components, every_mask, result, ring, written


class Bits:
    """A stream of bits, as thi.ng's rle-pack reads them: the code that Label Studio's editor uses."""

    def __init__(self, values: list[int]) -> None:
        self.text = "".join(f"{value:08b}" for value in values)
        self.at = 0

    def read(self, count: int) -> int:
        """The next number of `count` bits."""
        self.at += count
        return int(self.text[self.at - count : self.at], 2)


def unbrushed(values: list[int], width: int, height: int) -> np.ndarray:
    """The mask in Label Studio's run lengths: the alpha channel of an RGBA image, uint8 (H, W)."""
    bits = Bits(values)
    data = np.zeros(bits.read(32), np.uint8)
    word, sizes = bits.read(5) + 1, [bits.read(4) + 1 for _ in range(4)]
    at = 0
    while at < len(data):
        repeated = bits.read(1)
        end = at + 1 + bits.read(sizes[bits.read(2)])
        assert repeated and end <= len(data)
        data[at:end] = bits.read(word)
        at = end
    assert len(bits.text) - bits.at < 8
    return data.reshape(height, width, 4)[..., 3]


def cvat_mask(element: ElementTree.Element, width: int, height: int) -> np.ndarray:
    """The mask of an element `mask`: run lengths along the rows of its box, zeros first, uint8 (H, W)."""
    left, top, w, h = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in element.attrib["rle"].split(",")]
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + h, left : left + w] = np.repeat(np.arange(len(runs)) % 2 * 255, runs).reshape(h, w)
    return mask


@every_mask
@pytest.mark.parametrize("apart", [False, True])
def test_label_studio_reads_the_masks(mask: np.ndarray, apart: bool, tmp_path: Path) -> None:
    """A task per image, whose regions add up to each mask, pixel for pixel. The photo lies where its URL says, seen
    from the output folder. Regions have ids of their own, and the size of the image."""
    images = {stem: result(mask, ring(), apart=apart) for stem in ("sub/a b#%", "c")}
    out = assemble(tmp_path, "labelstudio", images)
    tasks = json.loads((out / "labelstudio/tasks.json").read_text("utf-8"))
    assert len(tasks) == 2 and len({task["data"]["image"] for task in tasks}) == 2
    ids = []
    for task in tasks:
        where, _, photo = task["data"]["image"].partition("?d=")
        assert where == "/data/local-files/"
        assert Image.open(io.BytesIO((out / unquote(photo)).read_bytes())).size == (130, 90)
        (prediction,) = task["predictions"]
        assert prediction["score"] == 0.9
        found = {label: np.zeros_like(mask) for label in images["c"].labels}
        for region in prediction["result"]:
            assert region["type"] == "brushlabels" and region["value"]["format"] == "rle"
            assert (region["original_width"], region["original_height"], region["image_rotation"]) == (130, 90, 0)
            found[region["value"]["brushlabels"][0]] |= unbrushed(region["value"]["rle"], 130, 90)
            ids.append(region["id"])
        for label, expected in zip(found, (mask, ring()), strict=True):
            assert np.array_equal(found[label], expected)
        parts = sum(len(components(each)) if apart else int(each.any()) for each in (mask, ring()))
        assert len(prediction["result"]) == parts
    assert len({*ids}) == len(ids)


def test_label_studio_s_interface_has_the_tags_and_labels_of_the_tasks(tmp_path: Path) -> None:
    """labels.xml names the data key, the tags and the labels that the regions refer to, whatever the labels."""
    image = replace(result(*[ring()] * len(ODD_LABELS)), labels=ODD_LABELS)
    out = assemble(tmp_path, "labelstudio", {"a": image})
    ((task,), view) = (
        json.loads((out / "labelstudio/tasks.json").read_text("utf-8")),
        ElementTree.parse(out / "labelstudio/labels.xml").getroot(),
    )
    picture, brush = view.find("Image"), view.find("BrushLabels")
    assert picture is not None and brush is not None
    assert picture.attrib["value"].removeprefix("$") in task["data"]
    for region in task["predictions"][0]["result"]:
        assert region["from_name"] == brush.attrib["name"]
        assert region["to_name"] == brush.attrib["toName"] == picture.attrib["name"]
    used = [region["value"]["brushlabels"][0] for region in task["predictions"][0]["result"]]
    assert used == [label.attrib["value"] for label in brush.iter("Label")] and len({*used}) == len(ODD_LABELS)


def test_runs_longer_than_one_field_are_split() -> None:
    """A field holds 65,536 bytes at most: a mask of four megapixels comes back."""
    mask = np.zeros((2000, 2000), np.uint8)
    mask[500:1500] = 255
    mask[3, 3] = 255
    assert np.array_equal(unbrushed([*labelling.brush(mask)], 2000, 2000), mask)


def test_an_image_that_label_studio_cannot_hold_is_an_error() -> None:
    """The number of bytes is a field of 32 bits."""
    with pytest.raises(ImageError, match="1073741823 pixels"):
        labelling.brush(np.broadcast_to(np.zeros(1, np.uint8), (2**15, 2**15)))


@every_mask
@pytest.mark.parametrize("apart", [False, True])
def test_cvat_reads_the_masks(mask: np.ndarray, apart: bool, tmp_path: Path) -> None:
    """Images are numbered from 0 and named from the image root. The masks add up to each label's, pixel for pixel."""
    image = result(mask, ring(), apart=apart)
    out = assemble(tmp_path, "cvat", {"sub/a": image, "b": replace(image, name='imgs/d/"b" & c.png')})
    root = ElementTree.parse(out / "cvat/annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [label.findtext("name") for label in root.iter("label")] == [*image.labels]
    assert [each.attrib["id"] for each in root.iter("image")] == ["0", "1"]
    assert {each.attrib["name"] for each in root.iter("image")} == {"a.jpg", 'd/"b" & c.png'}
    for each in root.iter("image"):
        assert (each.attrib["width"], each.attrib["height"]) == ("130", "90")
        found = {label: np.zeros_like(mask) for label in image.labels}
        for element in each.iter("mask"):
            found[element.attrib["label"]] |= cvat_mask(element, 130, 90)
        for label, expected in zip(found, (mask, ring()), strict=True):
            assert np.array_equal(found[label], expected)


def test_a_cvat_file_of_one_image_is_whole(tmp_path: Path) -> None:
    """`-o FILE.xml` holds what the folder's file holds."""
    image = replace(result(ring(), MASKS["empty"]), name="imgs/sub/a.jpg")
    ((_, _, data),) = one_file.write(OneFile("a.xml", "cvat", ".xml"), "sub/a", image)
    assert data == (assemble(tmp_path, "cvat", {"sub/a": image}) / "cvat/annotations.xml").read_bytes()


def test_a_run_without_images_gives_valid_files(tmp_path: Path) -> None:
    """If every image failed, the list of tasks is empty."""
    assert json.loads(b"".join(labelling.labelstudio_json([]))) == []
    assert ElementTree.fromstring(b"".join(labelling.cvat_xml([], ["cat"], ImageRoot()))).find("image") is None
    assert "labelstudio/images/sub/a.jpg" in written("labelstudio", result(ring()))
    assert Image.open(io.BytesIO(written("labelstudio", result(ring()))["labelstudio/images/sub/a.jpg"])).format
