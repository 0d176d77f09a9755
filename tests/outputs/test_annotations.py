"""Annotation formats are read by their consumers' own readers, which give back the masks that were written."""

import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from clipseg_cli.masks import soft_maps
from mask_shapes import MASKS, ODD_LABELS, assemble, components, every_mask, read_coco, result, ring, written
from pictures import iou
from yolo_readers import LEAST, READERS, worst

# of the development kit of Pascal VOC 2012
VOC_COLOURS = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
VOC_COLOURS += [[128, 128, 128], [64, 0, 0]]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # by pycocotools


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("polygons", [False, True])
def test_coco_is_read_by_pycocotools(tmp_path: Path, polygons: bool, apart: bool) -> None:
    """Images, categories, boxes, areas and scores are complete. The union of a label's annotations is its mask:
    exactly from run lengths, with IoU 0.98 from polygons, which keep holes open."""
    masks = {f"p{i:02}": [mask, MASKS["ring"]] for i, mask in enumerate(MASKS.values())}
    out = assemble(tmp_path, "coco", {k: result(*v, polygons=polygons, apart=apart) for k, v in masks.items()})
    data = read_coco(out / "coco.json")
    assert [data.cats[i]["name"] for i in data.getCatIds()] == ['label "0" <&>', 'label "1" <&>']
    assert [data.imgs[i]["file_name"] for i in sorted(data.imgs)] == ["a.jpg"] * len(masks)
    for image, (first, second) in zip(sorted(data.imgs), masks.values(), strict=True):
        for category, mask in ((1, first), (2, second)):
            found = data.loadAnns(data.getAnnIds(imgIds=image, catIds=category))
            union = sum((data.annToMask(each) for each in found), np.zeros_like(mask)) > 0
            assert np.array_equal(union, mask > 0) if not polygons else iou(union, mask) >= 0.98
            assert len(found) == (len(components(mask)) if apart else int(mask.any()))
            assert sum(each["area"] for each in found) == np.count_nonzero(mask)
            assert all(each["score"] == (1 if apart else 0.9) for each in found)
            for each in found if not polygons else ():
                assert each["bbox"] == coco_mask.toBbox(each["segmentation"]).tolist()


def test_a_coco_file_without_annotations_is_valid(tmp_path: Path) -> None:
    """pycocotools reads a file of empty masks."""
    out = assemble(tmp_path, "coco", {"a": result(MASKS["empty"])})
    assert read_coco(out / "coco.json").getAnnIds() == []


@every_mask
def test_yolo_segments_draw_the_mask(mask: np.ndarray) -> None:
    """The label file lies where trainers look for it; every component, holes included, has an IoU of 0.99 or more in
    supervision and Ultralytics."""
    files = written("yolo", result(mask, MASKS["ring"]))
    text = files["yolo/labels/sub/a.txt"].decode()
    for number, expected in enumerate((mask, MASKS["ring"])):
        own = "".join(line + "\n" for line in text.splitlines() if line.startswith(f"{number} "))
        for read in READERS.values():
            assert worst(expected, read(own, 130, 90)) >= LEAST
    assert Image.open(io.BytesIO(files["yolo/images/sub/a.jpg"])).size == (130, 90)


@every_mask
def test_labelme_draws_the_mask(mask: np.ndarray) -> None:
    """By labelme's rules: its required keys, polygons drawn by Pillow with outline and fill, the photo beside it."""
    files = written("labelme", result(mask, ring()))
    document = json.loads(files["labelme/sub/a.json"])
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == document.keys()
    assert document["imageData"] is None
    photo = Image.open(io.BytesIO(files[f"labelme/sub/{document['imagePath']}"]))
    assert photo.size == (document["imageWidth"], document["imageHeight"]) == (130, 90)
    for label, expected in (('label "0" <&>', mask), ('label "1" <&>', ring())):
        union = np.zeros((90, 130), bool)
        for shape in document["shapes"]:
            if shape["label"] == label:
                assert shape["shape_type"] == "polygon" and len(shape["points"]) > 2
                drawn = Image.fromarray(np.zeros((90, 130), np.uint8))
                ImageDraw.Draw(drawn).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
                union |= np.array(drawn, bool)
        assert iou(union, expected) >= 0.98


@every_mask
def test_voc_is_read_by_pillow(mask: np.ndarray) -> None:
    """Class and object images with VOC's palette, boxes that count from 1, and the photo."""
    files = written("voc", result(ring(), mask, apart=True))
    classes, objects = (
        Image.open(io.BytesIO(files[f"voc/Segmentation{kind}/sub/a.png"])) for kind in ("Class", "Object")
    )
    for image in (classes, objects):
        palette = np.array(image.getpalette()).reshape(-1, 3)
        assert image.mode == "P" and len(palette) == 256
        assert palette[:9].tolist() == VOC_COLOURS and palette[255].tolist() == [224, 224, 192]
    index = np.array(classes)
    assert np.array_equal(index == 2, mask > 0) and np.array_equal(index == 1, (ring() > 0) & (mask == 0))
    assert np.array_equal(np.array(objects) > 0, index > 0)
    tree = ElementTree.fromstring(files["voc/Annotations/sub/a.xml"])
    boxes = [
        [int(each.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        for each in tree.iter("object")
    ]
    expected = [soft_maps.bbox(part) for each in (ring(), mask) for part in components(each)]
    assert boxes == [[x + 1, y + 1, x + w, y + h] for x, y, w, h in expected]
    assert {each.findtext("name") for each in tree.iter("object")} <= {'label "0" <&>', 'label "1" <&>'}
    assert "voc/JPEGImages/sub/a.jpg" in files


def test_voc_has_a_label_map(tmp_path: Path) -> None:
    """Each line of labelmap.txt has four fields between colons, as datumaro and CVAT read it: the name of a label in
    the boxes, and its colour in the palette, background first. Names are unlike each other, whatever the labels."""
    labels = (*ODD_LABELS, "background", "a:b", "a-b", "# no comment")
    out = assemble(tmp_path, "voc", {"a": replace(result(*[ring()] * len(labels)), labels=labels)})
    lines = (out / "voc/labelmap.txt").read_text("utf-8").splitlines()
    fields = [line.strip().split(":") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(each) == 4 for each in fields)
    names = [name for name, *_ in fields]
    assert names[0] == "background" and len({*names}) == len(names) == 1 + len(labels)
    assert [[int(part) for part in colour.split(",")] for _, colour, _, _ in fields[:9]] == VOC_COLOURS
    tree = ElementTree.parse(out / "voc/Annotations/a.xml")
    assert [each.findtext("name") for each in tree.iter("object")] == names[1:]


@every_mask
def test_svg_is_drawn_by_a_renderer(mask: np.ndarray) -> None:
    """resvg, an SVG renderer in Rust, draws the mask, pixel for pixel, with its holes."""
    import resvg_py

    text = written("svg", result(mask))["svg/sub/a.svg"].decode()
    png = resvg_py.svg_to_bytes(svg_string=text)
    alpha = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3]
    assert np.array_equal(alpha, mask)
    assert ElementTree.fromstring(text)[0][0].text == 'label "0" <&>'
