"""Predictions of a run or a folder of masks meet their ground truth, or an error says why they do not."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation.evaluate import evaluate
from clipseg_cli.inputs.names import output_names
from labelled import blob, grey, mask_folders, run_lengths
from pictures import SCHEMA

RNG = np.random.default_rng(11)


def write_record(run: Path, **mask: object) -> None:
    """Writes a manifest with one image, a.jpg, and one mask of the label `cat`."""
    record = {
        "v": 2,
        "image_b64": "",
        "frame": 0,
        "image": "a.jpg",
        "status": "ok",
        "masks": [{"label": "cat", "prompt": "a cat", **mask}],
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "manifest.jsonl").write_text(json.dumps(record) + "\n")


def test_a_soft_map_is_cut_at_the_threshold_of_its_record(tmp_path: Path) -> None:
    """If a run kept only soft maps, the mask is what lies above the record's threshold; equal values are outside."""
    levels = np.array([[0, 50, 51, 52], [52, 51, 255, 0]], np.uint8)  # 51 is 0.2 exactly
    truth = np.array([[0, 0, 0, 255], [255, 0, 255, 0]], np.uint8)
    grey(tmp_path / "out/soft/cat/a.png", levels)
    grey(tmp_path / "gt/a.png", truth)
    write_record(tmp_path / "out", threshold=0.2, area=3, path="", soft="soft/cat/a.png")
    document = evaluate(tmp_path / "out", tmp_path / "gt").document()
    assert document["precision"] == document["recall"] == 1 and document["threshold"] == 0.2
    assert document["best"]["miou"] == [0.75, 0.2]


def test_a_record_without_a_file_is_an_empty_mask_only_if_its_area_is_zero(tmp_path: Path) -> None:
    """With `--empty skip` an absent object has no file; a run that kept neither mask nor soft map is an error."""
    grey(tmp_path / "gt/a.png", blob(RNG))
    write_record(tmp_path / "out", threshold=0.5, area=0, path="")
    assert evaluate(tmp_path / "out", tmp_path / "gt").document()["recall"] == 0
    write_record(tmp_path / "out", threshold=0.5, area=9, path="")
    with pytest.raises(UsageError, match="neither a mask nor a soft map of 'cat'"):
        evaluate(tmp_path / "out", tmp_path / "gt")


def test_labels_without_a_counterpart_are_noted(tmp_path: Path) -> None:
    """A label that only one side has is left out of the scores and named in a note; so are unpredicted masks."""
    mask_folders(RNG, tmp_path / "gt", ("cat", "dog"), ("a",))
    mask_folders(RNG, tmp_path / "pred", ("cat", "bird"), ("a",))
    notes = evaluate(tmp_path / "pred", tmp_path / "gt").notes
    assert notes == ("no ground truth for the label 'bird'", "no predictions for the label 'dog'")
    grey(tmp_path / "gt/cat/b.png", blob(RNG))
    notes = evaluate(tmp_path / "pred", tmp_path / "gt").notes
    assert "1 of 2 ground-truth masks of cat have no prediction" in notes


def test_folders_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    """No common label, no common path, no ground truth, no predictions: each message says what and where."""
    mask_folders(RNG, tmp_path / "gt", ("cat", "dog"), ("a",))
    mask_folders(RNG, tmp_path / "pred", ("cat", "bird"), ("a",))
    mask_folders(RNG, tmp_path / "birds", ("bird", "wolf"), ("a",))
    mask_folders(RNG, tmp_path / "others", ("cat",), ("z",))
    with pytest.raises(UsageError, match=r"no folder for any of the labels bird, wolf\. Its folders: cat, dog"):
        evaluate(tmp_path / "birds", tmp_path / "gt")
    with pytest.raises(NoInputError, match="must have the same ending, like a"):
        evaluate(tmp_path / "others", tmp_path / "gt")
    with pytest.raises(UsageError, match="no ground truth at"):
        evaluate(tmp_path / "pred", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no predictions at"):
        evaluate(tmp_path / "nowhere", tmp_path / "gt")


def test_masks_that_cannot_be_used_are_an_error(tmp_path: Path) -> None:
    """Another size than the true mask, a broken file, a dangling link; hidden files are ignored."""
    mask_folders(RNG, tmp_path / "gt", ("cat",), ("a",))
    mask_folders(RNG, tmp_path / "pred", ("cat",), ("a",))
    mask_folders(RNG, tmp_path / "others", ("cat",), ("z",))
    grey(tmp_path / "gt/cat/a.png", blob(RNG, size=(30, 41)))
    with pytest.raises(
        UsageError, match=r"sizes differ: .*pred/cat/a\.png and .*gt/cat/a\.png are 40 x 30 and 41 x 30"
    ):
        evaluate(tmp_path / "pred", tmp_path / "gt")
    (tmp_path / "gt/cat/a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(UsageError, match=r"a\.png: cannot be read as a mask"):
        evaluate(tmp_path / "pred", tmp_path / "gt")
    (tmp_path / "pred/cat/z.png").symlink_to("gone.png")
    (tmp_path / "others/cat/._z.png").write_bytes(b"left by a file manager")
    (tmp_path / "others/.ipynb_checkpoints").mkdir()
    with pytest.raises(UsageError, match=r"z\.png: cannot be read as a mask"):
        evaluate(tmp_path / "pred", tmp_path / "others")


def test_a_manifest_is_read_as_far_as_it_is_valid(tmp_path: Path) -> None:
    """A line that a kill cut short is ignored, as by the other commands; a record without masks is an error."""
    mask = blob(RNG)
    grey(tmp_path / "gt/a.png", mask)
    grey(tmp_path / "run/masks/cat/a.png", mask)
    write_record(tmp_path / "run", threshold=0.5, area=1, path="masks/cat/a.png")
    manifest = tmp_path / "run/manifest.jsonl"
    valid = manifest.read_text()
    manifest.write_text(valid + '{"v":2,"image":"b.jp')
    assert evaluate(tmp_path / "run", tmp_path / "gt").document()["precision"] == 1
    manifest.write_text(valid + '{"v":2,"image_b64":"","frame":0,"image":"b.jpg","status":"ok"}\n')
    with pytest.raises(UsageError, match=r"b\.jpg"):
        evaluate(tmp_path / "run", tmp_path / "gt")


@pytest.mark.parametrize("listed", [("a.jpg",), ("a.png",), ("a.jpg", "a.png")])
@pytest.mark.parametrize("images", [("a.jpg",), ("a.jpg", "a.png")])
def test_images_that_differ_only_in_their_extension_stay_apart(
    tmp_path: Path, listed: tuple[str, ...], images: tuple[str, ...]
) -> None:
    """A COCO file lists some of a.jpg and a.png, a run has some: each image is scored against its own ground truth.
    Alone on both sides, an image may have another extension."""
    masks = {name: blob(RNG) for name in ("a.jpg", "a.png")}
    (height, width), outputs = masks["a.jpg"].shape, output_names(images)
    runs = {name: {"counts": run_lengths(mask > 0), "size": [height, width]} for name, mask in masks.items()}
    coco = {
        "images": [
            {"id": at, "file_name": f"train/{name}", "height": height, "width": width} for at, name in enumerate(listed)
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"image_id": at, "category_id": 1, "segmentation": runs[name]} for at, name in enumerate(listed)
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(coco))
    rows = []
    for name in images:
        path = f"masks/cat/{outputs[name]}.png"
        grey(tmp_path / "out" / path, masks[name])
        mask = {"label": "cat", "prompt": "cat", "threshold": 0.5, "area": 9, "path": path}
        rows.append(json.dumps(SCHEMA | {"image": f"imgs/{name}", "status": "ok", "masks": [mask]}) + "\n")
    (tmp_path / "out/manifest.jsonl").write_text("".join(rows))
    if len(images) == 1 and listed == ("a.png",):
        assert evaluate(tmp_path / "out", tmp_path / "gt.json").document()["images"] == 1
        return
    document = evaluate(tmp_path / "out", tmp_path / "gt.json").document()
    assert document["images"] == len({*listed} & {*images}) and document["precision"] == document["recall"] == 1
