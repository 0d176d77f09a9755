"""Layouts that are data sets, of whole runs, as their readers find and read them."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import yaml

from clipseg_cli.inputs.orientation import stored
from mask_shapes import read_coco, read_yolo
from output_folder import tree
from pictures import Program, iou, picture, records
from readers import package
from yolo_readers import LEAST

LAYOUTS = ("ultralytics", "ultralytics-semantic", "coco", "imagefolder")
PROMPTS = "-p 'a red circle' -p test"  # the second label is the name of a split, too
SLUGS = ("a-red-circle", "test")
SPLIT = "--split 0.5,0.25,0.25"
NAMES = ("a.jpg", "a.png", "train/images/b c.jpeg", "test 2/é.webp", "val.jpg", "test 2/turned.png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images in folders with the names of splits, of equal stems, and a turned one, each with another scene."""
    for seed, name in enumerate(NAMES):
        path, exif = tmp_path / "i" / name, PIL.Image.Exif()
        exif[0x0112] = 6 if "turned" in name else 1
        path.parent.mkdir(parents=True, exist_ok=True)
        scene = np.ascontiguousarray(stored(picture(150, 100, seed), exif[0x0112]))
        PIL.Image.fromarray(scene).save(path, exif=exif)
    return tmp_path / "i"


def expected(out: Path) -> dict[str, list[np.ndarray]]:
    """The masks of each image of a run with `-f mask`, by the file name without folder."""
    found = {}
    for row in records(out / "manifest.jsonl"):
        found[Path(row["image"]).name] = [np.array(PIL.Image.open(out / mask["path"])) for mask in row["masks"]]
    return found


def of(path: str) -> str:
    """The name of the input image that a photo of a data set shows."""
    last = re.sub("~[0-9a-f]{8}", "", Path(path).name.rpartition("__")[2])
    return last[: -len(Path(last).suffix)] if last in ("a.jpg.jpg", "a.png.png") else last


@pytest.mark.parametrize("split", ["", SPLIT])
def test_ultralytics_finds_every_image_with_its_labels(
    quick_clipseg: Program, images: Path, tmp_path: Path, split: str
) -> None:
    """By its file rules: folders from data.yaml beside it, `.txt` where the last /images/ of a photo's path is
    /labels/. Without --split, val names the images of train. The photos are original files."""
    quick_clipseg(f"clipseg segment i {PROMPTS} --layout ultralytics -f mask {split} -o out")
    out, masks, seen = tmp_path / "out", expected(tmp_path / "out"), []
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data.pop("names") == {0: "a red circle", 1: "test"}
    assert data == {part: f"images/{part if split else 'train'}" for part in data} and {"train", "val"} <= data.keys()
    for folder in {*data.values()}:
        for photo in (path for path in (out / folder).rglob("*.[!t]*") if path.is_file()):
            seen.append(of(photo.name))
            label = "/labels/".join(str(photo).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
            drawn = read_yolo(Path(label).read_text(), 150, 100)
            for number, mask in enumerate(masks[of(photo.name)]):
                assert iou(drawn.get(number, mask * 0) > 0, mask > 0) >= LEAST or not mask.any()
    assert sorted(seen) == sorted(Path(name).name for name in NAMES)
    assert json.loads((out / "run.json").read_text())["summary"]["photos"] == {"original": 5, "encoded": 1}


@pytest.mark.parametrize("split", ["", SPLIT])
def test_ultralytics_finds_every_image_with_its_classes(
    quick_clipseg: Program, images: Path, tmp_path: Path, split: str
) -> None:
    """In the semantic form: the label image stands where the last /images/ of a photo's path is /masks/, in the size of
    the upright photo. It is that of `-f labels`, and class 0 is the background."""
    quick_clipseg(f"clipseg segment i {PROMPTS} --layout ultralytics-semantic -f labels {split} -o out")
    out, seen = tmp_path / "out", []
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data.pop("names") == {0: "background", 1: "a red circle", 2: "test"} and data.pop("masks_dir") == "masks"
    assert {"train", "val"} <= data.keys()
    labels = {Path(row["image"]).name: row["files"]["labels"] for row in records(out / "manifest.jsonl")}
    for folder in {*data.values()}:
        for photo in (path for path in (out / folder).rglob("*") if path.is_file()):
            seen.append(of(photo.name))
            mask = out / "/masks/".join(str(photo).rsplit("/images/", 1)).rsplit(".", 1)[0]
            assert mask.with_name(f"{mask.name}.png").read_bytes() == (out / labels[of(photo.name)]).read_bytes()
    assert sorted(seen) == sorted(Path(name).name for name in NAMES)
    assert json.loads((out / "run.json").read_text())["summary"]["photos"] == {"original": 5, "encoded": 1}


def test_a_part_without_images_names_a_folder_that_exists(quick_clipseg: Program, images: Path, tmp_path: Path) -> None:
    """Ultralytics refuses missing folders and wants train and val, so data.yaml names the images of another part, and
    says so. Masks of two formats do not share a folder."""
    for shares, part in (("1,0", "train"), ("0,1", "val"), ("0,0,1", "test")):
        quick_clipseg(f"clipseg segment i {PROMPTS} --layout ultralytics --split {shares} -o {part}")
        text = (tmp_path / part / "data.yaml").read_text()
        data = yaml.safe_load(text)
        assert data["train"] == data["val"] == f"images/{part}" and (tmp_path / part / data["val"]).is_dir()
        empty = {"train", "val"} - {part}
        assert all(f"# {each} has no images of its own\n" in text for each in empty) and text.count("#") == len(empty)
    line = f"clipseg segment i {PROMPTS} --layout ultralytics-semantic -f mask -o both"
    assert "both write to masks/" in quick_clipseg(line, 2).stderr
    quick_clipseg(f"{line} --name 'mask=own/{{label}}/{{dir}}/{{stem}}.png'")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the packages' own
@pytest.mark.parametrize("split", ["", SPLIT])
def test_datumaro_and_supervision_read_coco(quick_clipseg: Program, images: Path, tmp_path: Path, split: str) -> None:
    """Every image with its masks, exactly, also images of equal stems: their files have the full name."""
    supervision, _ = package("supervision"), package("datumaro")
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    quick_clipseg(f"clipseg segment i {PROMPTS} --layout coco -f mask {split} -o out")
    out, masks = tmp_path / "out", expected(tmp_path / "out")
    seen: dict[str, list[str]] = {"datumaro": [], "supervision": []}
    for item in Dataset.import_from(str(out), "coco"):
        name = of(Path(item.media.path).name)
        seen["datumaro"].append(name)
        for number, mask in enumerate(masks[name]):
            own = [each.image for each in item.annotations if each.type == AnnotationType.mask and each.label == number]
            assert np.array_equal(np.any(own, 0) if own else mask * 0, mask > 0)
    for file in (out / "annotations").iterdir():
        found = supervision.DetectionDataset.from_coco(str(out / "images"), str(file), force_masks=True)
        for path, _, detections in found:
            name = of(Path(path).name)
            seen["supervision"].append(name)
            for number, mask in enumerate(masks[name]):
                own = [] if detections.mask is None else detections.mask[detections.class_id == number]
                assert np.array_equal(np.any(own, 0) if len(own) else mask * 0, mask > 0)
    assert all(sorted(names) == sorted(Path(name).name for name in NAMES) for names in seen.values())


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # by pycocotools
@pytest.mark.parametrize("split", ["", SPLIT])
def test_pycocotools_reads_coco_beside_its_images(
    quick_clipseg: Program, images: Path, tmp_path: Path, split: str
) -> None:
    """Every file name leads from images/ to a photo in the size of its masks, which are exact."""
    quick_clipseg(f"clipseg segment i {PROMPTS} --layout coco -f mask {split} -o out")
    out, masks, seen = tmp_path / "out", expected(tmp_path / "out"), []
    files = [*(out / "annotations").iterdir()]
    assert {file.name for file in files} >= {f"instances_{part}.json" for part in ("train", "val")[: 1 + bool(split)]}
    assert len(files) == 1 or split
    for file in files:
        data = read_coco(file)
        assert data.dataset["info"]["image_root"] == "images"
        for number, image in data.imgs.items():
            seen.append(of(image["file_name"]))
            with PIL.Image.open(out / "images" / image["file_name"]) as photo:
                assert photo.size == (image["width"], image["height"])
            for category, mask in enumerate(masks[of(image["file_name"])], 1):
                found = [data.annToMask(each) for each in data.imgToAnns[number] if each["category_id"] == category]
                assert np.array_equal(np.any(found, 0) if found else mask * 0, mask > 0)
    assert sorted(seen) == sorted(Path(name).name for name in NAMES)
    named = {row["files"]["annotations"] for row in records(out / "manifest.jsonl")}
    assert all((out / each).is_file() for each in named)


def test_coco_is_added_to_a_folder_of_images(quick_clipseg: Program, images: Path, tmp_path: Path) -> None:
    """With `--images none`, annotations/ is written beside the user's own images/, which stays as it is."""
    (images / "a.png").unlink()  # else both carry the full name, as `a.jpg.jpg`
    (tmp_path / "data").mkdir()
    before = {path.name: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    images.rename(tmp_path / "data/images")
    for count in ("5 of 5", "(5 before)"):
        line = f"clipseg segment data/images {PROMPTS} --layout coco --images none -o data"
        assert count in quick_clipseg(line).stderr
    data = json.loads((tmp_path / "data/annotations/instances_train.json").read_text())
    assert all((tmp_path / "data/images" / image["file_name"]).is_file() for image in data["images"])
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "data/images").rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["", SPLIT, "--images copy --orientation stored"])
def test_datasets_reads_imagefolder(
    quick_clipseg: Program, images: Path, tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_dataset("imagefolder")` gives each image once, in its part, with a mask per label: exact, in its size."""
    datasets = pytest.importorskip("datasets")
    quick_clipseg(f"clipseg segment i {PROMPTS} --layout imagefolder {split} -o out")
    quick_clipseg(f"clipseg segment i {PROMPTS} -f npz {split} -o truth")
    out = tmp_path / "out"
    found: Any = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert "train" in found and (split == SPLIT or [*found] == ["train"])
    columns = ["image", *(f"{slug}_mask" for slug in SLUGS)]
    assert all(part.column_names == columns for part in found.values())
    masks = {}
    assert all((out / row["files"]["imagefolder"]).is_file() for row in records(out / "manifest.jsonl"))
    for row in records(tmp_path / "truth/manifest.jsonl"):
        masks[Path(row["image"]).name] = np.load(tmp_path / "truth" / row["files"]["npz"])["masks"]
    seen = []
    for part in found.values():
        paths = part.cast_column("image", datasets.Image(decode=False))["image"]
        for path, sample in zip(paths, part, strict=True):
            seen.append(of(path["path"]))
            for slug, mask in zip(SLUGS, masks[of(path["path"])], strict=True):
                assert np.array_equal(np.array(sample[f"{slug}_mask"]) > 0, mask)
            assert sample["image"].size == sample["test_mask"].size
    assert sorted(seen) == sorted(Path(name).name for name in NAMES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_photos_of_a_data_set_are_no_inputs(quick_clipseg: Program, images: Path, tmp_path: Path, layout: str) -> None:
    """Written into the input folder itself, they are left out when the run is resumed, and in other runs. Files of the
    user under names of the data set end the run before it writes. No single file holds a data set."""
    line = f"clipseg segment i {PROMPTS} --layout {layout} -o i"
    (images / "train/images").rename(images / "sub")
    assert "6 of 6" in quick_clipseg(line).stderr
    assert "(6 before)" in quick_clipseg(line).stderr and "6 of 6" in quick_clipseg("clipseg segment i -p red").stderr
    for path in (tmp_path / "mine/images/train/a.jpg", tmp_path / "mine/train/images/a.jpg"):
        path.parent.mkdir(parents=True)
        path.write_bytes((images / "a.jpg").read_bytes())
    assert "could be an output of this run" in quick_clipseg(line.replace("-o i", "-o mine"), 1).stderr
    assert "name a folder" in quick_clipseg(f"clipseg segment i -p red --layout {layout} -o x.json", 2).stderr


@pytest.mark.parametrize("layout", LAYOUTS)
def test_post_writes_the_same_data_set(quick_clipseg: Program, images: Path, tmp_path: Path, layout: str) -> None:
    """From the soft maps of a run, byte for byte."""
    quick_clipseg(f"clipseg segment i {PROMPTS} -f soft -o soft")
    quick_clipseg(f"clipseg post soft --layout {layout} {SPLIT} -o posted")
    quick_clipseg(f"clipseg segment i {PROMPTS} --layout {layout} {SPLIT} -o whole")
    posted, whole = (
        {k: v for k, v in tree(tmp_path / out).items() if "run.json" not in k} for out in ("posted", "whole")
    )
    assert posted == whole and len(whole) > 12
