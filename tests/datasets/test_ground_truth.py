"""Ground truth in every layout gives the same masks; COCO's masks are those of pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_tools
import pytest
from PIL import Image

from clipseg_cli.datasets.ground_truth import match_labels, match_stem, open_ground_truth
from clipseg_cli.errors import UsageError
from clipseg_cli.masks import coco_codec
from labelled import blob, grey, run_lengths


def test_masks_of_any_format_and_depth_are_read(tmp_path: Path) -> None:
    """1-bit, palette, 0-and-1, 16-bit and JPEG masks give the same pixels; leading folders of the path may differ."""
    mask = blob(np.random.default_rng(11), size=(64, 64))
    for name, image in {
        "bit.png": Image.fromarray(mask).convert("1", dither=Image.Dither.NONE),
        "ones.png": Image.fromarray(mask // 255),
        "deep.png": Image.fromarray(mask.astype(np.uint16) * 257),
        "photo.jpg": Image.fromarray(mask),
        "colours.png": Image.fromarray(mask).convert("RGB"),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        image.save(folder / ("a" + Path(name).suffix), quality=100)
        found = open_ground_truth(folder, ("",)).find("", "deep/er/a")
        assert found is not None and found.valid is None
        differ = np.count_nonzero(found.mask != (mask > 0))
        assert differ == 0 or (name == "photo.jpg" and differ < 0.02 * np.count_nonzero(mask)), name


def test_indexed_masks_take_their_numbers_from_the_classes_file(tmp_path: Path) -> None:
    """The background may be listed or not; pixels of 255 are not valid."""
    index = np.array([[0, 1, 2, 2], [1, 1, 255, 0]], np.uint8)
    grey(tmp_path / "a.png", index)
    for content in ("cat\ndog\n", "background\ncat\ndog\n"):
        (tmp_path / "classes.txt").write_text(content)
        truth = open_ground_truth(tmp_path, None)
        assert truth.labels == ("cat", "dog") and [*truth.stems("cat")] == ["a"]
        for number, label in enumerate(truth.labels, 1):
            found = truth.find(label, "photos/a")
            assert np.array_equal(found.mask, index == number) and np.array_equal(found.valid, index != 255)


@pytest.mark.parametrize(
    ("content", "message"), [(b"cat\ndog\ncat\n", "twice"), (b"\n", "no class"), (b"\xff\xfe", "cannot be read")]
)
def test_an_unusable_classes_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    """A repeated name, no name, and text that is not UTF-8."""
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        open_ground_truth(tmp_path, None)


def coco_example() -> tuple[dict[str, Any], np.ndarray]:
    """Returns a COCO document with a polygon, run lengths and packed runs, and the union that pycocotools draws."""
    rng = np.random.default_rng(11)
    height, width = 50, 70
    annotations, union = [], np.zeros((height, width), bool)
    for number in range(3):
        points = rng.uniform(-8, 80, (int(rng.integers(3, 9)), 2)).round(number % 3).ravel().tolist()
        packed = mask_tools.frPyObjects([points], height, width)[0]
        drawn = mask_tools.decode(packed).astype(bool)
        runs = {"counts": run_lengths(drawn), "size": [height, width]}
        forms = ([points], runs, {"counts": packed["counts"].decode(), "size": [height, width]})
        annotations.append({"image_id": 5, "category_id": 9, "segmentation": forms[number]})
        union |= drawn
    images = [
        {"id": 5, "file_name": "imgs/a.jpg", "height": height, "width": width},
        {"id": 6, "file_name": "imgs/b.jpg", "height": height, "width": width},
    ]
    return {"images": images, "categories": [{"id": 9, "name": "a cat"}], "annotations": annotations}, union


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_coco_masks_equal_those_of_pycocotools(tmp_path: Path) -> None:
    """Polygons, run lengths and packed runs match to the pixel; an image without annotations has an empty mask."""
    rng = np.random.default_rng(11)
    height, width = 50, 70
    for number in range(60):
        points = rng.uniform(-8, 80, (int(rng.integers(3, 9)), 2)).round(number % 3).ravel().tolist()
        packed = mask_tools.frPyObjects([points], height, width)[0]
        drawn = mask_tools.decode(packed).astype(bool)
        assert np.array_equal(coco_codec.from_polygon(points, height, width), drawn)
        assert np.array_equal(coco_codec.from_runs(packed["counts"].decode(), height, width), drawn)
        assert np.array_equal(coco_codec.from_runs(run_lengths(drawn), height, width), drawn)
    content, union = coco_example()
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(content))
    truth = open_ground_truth(path, None)
    assert truth.labels == ("a cat",) and [*truth.stems("a cat")] == ["imgs/a", "imgs/b"]
    assert np.array_equal(truth.find("a cat", "a").mask, union) and union.any()
    assert not truth.find("a cat", "b").mask.any() and truth.find("a cat", "c") is None
    content["categories"].append({"id": 11, "name": "a cat"})
    content["annotations"][2]["category_id"] = 11
    path.write_text(json.dumps(content))
    truth = open_ground_truth(path, None)
    assert truth.labels == ("a cat",), "categories of the same name are one label"
    assert np.array_equal(truth.find("a cat", "a").mask, union)
    content["images"].append({"id": 7, "file_name": "imgs/b.png", "height": height, "width": width})
    path.write_text(json.dumps(content))
    assert [*open_ground_truth(path, None).stems("a cat")] == ["imgs/a", "imgs/b.jpg", "imgs/b.png"]


@pytest.mark.parametrize("wrong", [{"counts": [1, 2]}, [], None, [[]], [["a"] * 6], "runs", {"size": [1, 1]}], ids=repr)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_a_broken_annotation_is_an_error_that_names_its_image(tmp_path: Path, wrong: object) -> None:
    """A mask is never made from half of its annotations."""
    content, _ = coco_example()
    content["annotations"][1]["segmentation"] = wrong
    (tmp_path / "gt.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"gt\.json, image imgs/a\.jpg"):
        open_ground_truth(tmp_path / "gt.json", None).find("a cat", "a")


def test_labels_and_stems_match_only_where_it_is_certain() -> None:
    """A label matches by name before slug; a stem matches by whole path components, and only if one stem does."""
    assert match_labels(["a cat", "dog"], ["a-cat", "a cat"]) == {"a cat": "a cat", "dog": None}
    assert match_labels(["a cat"], ["a-cat"]) == {"a cat": "a-cat"}
    assert match_stem("x/a", ["a"]) == "a" and match_stem("a", ["x/a"]) == "x/a"
    assert match_stem("a", ["ba"]) is None and match_stem("a", ["x/a", "y/a"]) is None
