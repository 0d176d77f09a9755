"""Every format holds the same masks, whatever the labels, and however the run was divided."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from clipseg_cli.errors import UsageError
from clipseg_cli.outputs import writers
from clipseg_cli.outputs.writers import WRITERS, raster
from clipseg_cli.settings.masks import MaskOptions
from mask_shapes import MASKS, ODD_LABELS, assemble, read_coco, result, ring, written
from pictures import SAMPLES, Program, picture, records, save

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # by pycocotools


@pytest.mark.parametrize("form", [form for form in WRITERS if form != "parquet"])  # that needs whole records
def test_any_label_can_be_written(form: Any, tmp_path: Path) -> None:
    """Labels with line ends, bytes that are not UTF-8, or a format's own syntax stay one name; text files are UTF-8."""
    image = replace(result(*[ring()] * len(ODD_LABELS)), labels=ODD_LABELS, index=ring() // 255)
    out = assemble(tmp_path, form, {"a": image})
    names = [" ".join(label.split()).encode("utf-8", "backslashreplace").decode() for label in ODD_LABELS]
    for file in (path for path in out.rglob("*") if path.suffix in (".json", ".txt", ".xml", ".svg", ".yaml")):
        text = file.read_text("utf-8")
        if file.suffix == ".json":
            json.loads(text)
        elif file.suffix in (".xml", ".svg"):
            ElementTree.fromstring(text)
        elif file.name == "classes.txt":
            assert text.split("\n") == ["background", *names, ""]


def test_npz_and_16_bits_are_read_by_numpy_and_pillow() -> None:
    """numpy reads named arrays without pickle, Pillow a 16-bit grey PNG."""
    image = result(ring(), MASKS["blobs 1"])
    with np.load(io.BytesIO(written("npz", image)["npz/sub/a.npz"]), allow_pickle=False) as arrays:
        assert arrays["masks"].dtype == bool and np.array_equal(arrays["masks"][1] * 255, MASKS["blobs 1"])
        assert arrays["labels"].tolist() == list(image.labels) and arrays["soft"].dtype == np.uint8
    fine = Image.open(io.BytesIO(written("soft16", image)["soft16/label-0/sub/a.png"]))
    assert fine.mode == "I;16" and np.array_equal(np.array(fine), ring().astype(np.uint16) * 257)


def test_any_png_can_be_as_long_as_an_image(capfd: pytest.CaptureFixture[str]) -> None:
    """Beyond the 1,000,000 pixels that OpenCV's libpng writes too: the pixels come back, and nothing is printed."""
    long = np.arange(2 * 1_000_001, dtype=np.uint32).reshape(2, -1)
    for levels in (long.astype(np.uint8), long.astype(np.uint16)):
        assert np.array_equal(raster.levels(raster.png(levels)), levels)
    assert np.array_equal(raster.levels(raster.mask_png(long.astype(np.uint8))), long.astype(np.uint8))
    for channels, write in ((3, raster.colour_png), (4, raster.colour_png)):
        pixels = np.dstack([(long + channel).astype(np.uint8) for channel in range(channels)])
        assert np.array_equal(np.array(PngImageFile(io.BytesIO(write(pixels)))), pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "formats, mode, limit",
    [
        (("labels",), "binary", 255),
        (("instances",), "binary", 255),
        (("voc",), "binary", 254),
        (("semantic",), "binary", 254),
        ((), "labels", 255),
    ],
)
def test_a_label_image_holds_at_most_255_labels(formats: Any, mode: Any, limit: int) -> None:
    """One less for Pascal VOC, which reserves a value; other formats have no limit."""
    writers.check(limit, MaskOptions(mode=mode, instances=True), formats)
    writers.check(1000, MaskOptions(), ("mask", "coco"))
    with pytest.raises(UsageError, match=f"at most {limit}"):
        writers.check(limit + 1, MaskOptions(mode=mode, instances=True), formats)


FORMATS = "mask,soft,soft16,npz,overlay,cutout,labels,instances,coco,yolo,voc,labelme,labelstudio,cvat,svg,webdataset"


def files(out: Path) -> Iterator[tuple[str, bytes]]:
    """The files of a run, those that hold times excepted."""
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in ("run.json", ".clipseg-journal.jsonl", ".clipseg-lock"):
            yield str(path.relative_to(out)), path.read_bytes()


def test_a_run_in_two_goes_ends_in_the_same_bytes(clipseg: Program, tmp_path: Path) -> None:
    """Every format in one run, and in a run that was limited, lost two files and was resumed: the same bytes. The masks
    in coco.json equal the mask files."""
    for index in range(4):
        save(tmp_path / f"imgs/sub{index % 2}/p{index}.jpg", picture(120 + 16 * index, 96, index))
    flags = f"-p 'a red circle' -p 'a circle' -f {FORMATS} --instances --backdrop white -e jpg"
    clipseg(f"clipseg segment imgs {flags} -o whole")
    clipseg(f"clipseg segment imgs {flags} -o twice --limit 2")
    (tmp_path / "twice/coco.json").unlink()
    (tmp_path / "twice/.clipseg-parts/coco/sub0/p0.json").unlink()
    clipseg(f"clipseg segment imgs {flags} -o twice")
    assert dict(files(tmp_path / "whole")) == dict(files(tmp_path / "twice"))
    data, rows = read_coco(tmp_path / "whole/coco.json"), records(tmp_path / "whole/manifest.jsonl")
    for image in data.imgs.values():
        row = next(row for row in rows if row["image"] == f"imgs/{image['file_name']}")
        for category, mask in enumerate(row["masks"], 1):
            found = data.loadAnns(data.getAnnIds(imgIds=image["id"], catIds=category))
            union = sum((data.annToMask(each) for each in found), np.zeros((row["height"], row["width"]), np.uint8))
            assert np.array_equal(union * 255, cv2.imread(str(tmp_path / "whole" / mask["path"]), cv2.IMREAD_UNCHANGED))
        assert (tmp_path / "whole" / row["files"]["npz"]).is_file() and Path(
            tmp_path / "whole" / mask["cutout"]
        ).is_file()
    with Image.open(tmp_path / "whole" / rows[0]["masks"][0]["cutout"]) as cutout:
        assert cutout.mode == "RGB"
    assert len((tmp_path / "whole/voc/ImageSets/Segmentation/train.txt").read_text().splitlines()) == 4


def test_an_unknown_backdrop_is_a_usage_error(clipseg: Program) -> None:
    """Exit code 2; the message shows what is valid."""
    assert "#rrggbb" in clipseg(f"clipseg segment {SAMPLES} -p x --backdrop mud", expect=2).stderr
