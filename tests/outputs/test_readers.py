"""Data sets are read by the consumers' own packages.

`readers.package` installs most of them. Ultralytics has another licence and needs torchvision, so its tests run only
where it is installed. `tests/yolo_readers.py` has the arithmetic of the two readers of YOLO's polygons, for tests that
always run.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipseg_cli.outputs.writers.result import Result
from mask_shapes import MASKS, assemble, components, result, ring
from readers import package
from yolo_readers import LEAST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # the packages' own
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
IMAGES = {f"p{index:02}": mask for index, mask in enumerate(MASKS.values())}


def numbers(*masks: np.ndarray) -> np.ndarray:
    """The label of each pixel, uint8 (H, W), 0 for background; the later label where masks overlap."""
    return np.max([(mask > 0) * np.uint8(index) for index, mask in enumerate(masks, 1)], 0)


def data_set(out: Path, form: Any, **export: Any) -> dict[str, Result]:
    """Writes a data set of every mask, each beside a ring, and returns the images by stem."""
    images = {
        stem: replace(result(mask, ring(), **export), index=numbers(mask, ring())) for stem, mask in IMAGES.items()
    }
    assemble(out, form, images)
    return images


def worst_of(mask: np.ndarray, found: list[np.ndarray]) -> float:
    """The smallest IoU of a component with the best of the masks found, bool (H, W), of which there are as many."""
    parts = components(mask)
    assert len(found) == len(parts)
    if not found:
        return 1.0
    one, other = (np.array([each.ravel() > 0 for each in masks], np.float32) for masks in (parts, found))
    common = one @ other.T
    return float((common / (one.sum(1)[:, None] + other.sum(1) - common)).max(1).min())


def test_supervision_reads_yolo(tmp_path: Path) -> None:
    """`DetectionDataset.from_yolo` gives every component, with an IoU of 0.99 or more, under its label."""
    supervision = package("supervision")
    images = data_set(tmp_path, "yolo")
    folder = tmp_path / "yolo"
    found = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml")
    )
    assert found.classes == [*images["p00"].labels] and len(found) == len(images)
    for path, _, detections in found:
        for number, mask in enumerate(images[Path(path).stem].masks):
            parts = [each for each, label in zip(detections.mask, detections.class_id, strict=True) if label == number]
            assert worst_of(mask, parts) >= LEAST


@pytest.mark.parametrize(("form", "folder"), [("yolo", "yolo"), ("ultralytics", ".")])
def test_ultralytics_reads_yolo(tmp_path: Path, form: str, folder: str) -> None:
    """Its data set, from the data.yaml of the format or of the layout, at the images' own size and without
    augmentation, gives every component likewise."""
    package("ultralytics")
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    images = data_set(tmp_path, form)
    data = check_det_dataset(str(tmp_path / folder / "data.yaml"))
    found = YOLODataset(
        data["val"],
        data=data,
        task="segment",
        imgsz=130,
        augment=False,
        rect=False,
        hyp=get_cfg(overrides={"mask_ratio": 1, "overlap_mask": False}),
    )
    assert len(found) == len(images)
    for sample in found:
        masks, numbers = sample["masks"].numpy(), sample["cls"].numpy().ravel()
        top = (masks.shape[1] - 90) // 2  # the letterbox makes a square
        for number, mask in enumerate(images[Path(sample["im_file"]).stem].masks):
            assert worst_of(mask, [each[top : top + 90] > 0 for each in masks[numbers == number]]) >= LEAST


@pytest.mark.parametrize("palette", [False, True])
def test_ultralytics_reads_semantic_masks(tmp_path: Path, palette: bool) -> None:
    """Its data set of the task `semantic` finds every label image by the photo, and every pixel has its class."""
    package("ultralytics")
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.dataset import SemanticDataset
    from ultralytics.data.utils import check_det_dataset

    images = data_set(tmp_path, "semantic", palette=palette)
    data = check_det_dataset(str(tmp_path / "data.yaml"))
    assert data["names"] == dict(enumerate(("background", *images["p00"].labels)))
    found = build_yolo_dataset(get_cfg(overrides={"task": "semantic", "imgsz": 130}), data["val"], 1, data, mode="val")
    assert type(found) is SemanticDataset and len(found) == len(images)
    for number in range(len(found)):
        sample = found.get_image_and_label(number)
        assert np.array_equal(sample["semantic_mask"], images[Path(sample["im_file"]).stem].index)


@pytest.mark.parametrize("form", ["voc_segmentation", "voc_instance_segmentation"])
def test_datumaro_reads_voc(tmp_path: Path, form: str) -> None:
    """Labels by their names in labelmap.txt; masks of classes, or of objects, exactly as in the images."""
    package("datumaro")
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    images = data_set(tmp_path, "voc")
    found = Dataset.import_from(str(tmp_path / "voc"), form)
    labels = [each.name for each in found.categories()[AnnotationType.label]]
    assert labels == ["background", *images["p00"].labels]
    assert len(found) == len(images)
    for item in found:
        first, second = images[item.id].masks
        expected = {1: (first > 0) & (second == 0), 2: second > 0}
        own = [each for each in item.annotations if each.type == AnnotationType.mask]
        for label, mask in expected.items():
            union = sum((each.image > 0 for each in own if each.label == label), np.zeros(mask.shape, bool))
            assert np.array_equal(union > 0, mask)


def test_datumaro_reads_cvat(tmp_path: Path) -> None:
    """Its importer, which CVAT uses for projects, gives each mask exactly, under its label."""
    package("datumaro")
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset
    from PIL import Image

    mask = MASKS["blobs 3"]
    assemble(tmp_path, "cvat", {"a": result(mask, ring(), apart=True)})
    (tmp_path / "cvat/images").mkdir(parents=True)
    Image.new("RGB", (130, 90)).save(tmp_path / "cvat/images/a.jpg")
    (item,) = Dataset.import_from(str(tmp_path / "cvat"), "cvat")
    assert item.id == "a"
    for label, expected in enumerate((mask, ring())):
        own = [each for each in item.annotations if each.type == AnnotationType.mask and each.label == label]
        assert len(own) == len(components(expected))
        assert np.array_equal(sum(each.image for each in own) > 0, expected > 0)


def test_label_studio_s_converter_reads_its_tasks(tmp_path: Path) -> None:
    """`brush.decode_rle` of Label Studio's SDK gives every mask exactly, and its encoder the same numbers. Its parser
    of interfaces finds the tags and labels."""
    package("label_studio_sdk")
    from label_studio_sdk._extensions.label_studio_tools.core.label_config import parse_config
    from label_studio_sdk.converter import brush

    images = data_set(tmp_path, "labelstudio")
    config = parse_config((tmp_path / "labelstudio/labels.xml").read_text("utf-8"))
    assert config["label"]["type"] == "BrushLabels" and config["label"]["to_name"] == ["image"]
    assert config["label"]["labels"] == [*images["p00"].labels]
    for task in json.loads((tmp_path / "labelstudio/tasks.json").read_text("utf-8")):
        image = images[Path(task["data"]["image"]).stem]
        for region in task["predictions"][0]["result"]:
            expected = image.masks[image.labels.index(region["value"]["brushlabels"][0])]
            decoded = brush.decode_rle(region["value"]["rle"]).reshape(90, 130, 4)
            assert all(np.array_equal(decoded[..., channel], expected) for channel in range(4))
            values = region["value"]["rle"]
            assert values == brush.mask2rle(expected)[: len(values)]  # the SDK adds a byte of padding too many
