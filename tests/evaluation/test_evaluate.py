"""`clipseg eval`: runs and mask folders against every layout of ground truth, as a shell sees it."""

import json
import re
import shutil
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_tools
import pytest
import sklearn.metrics

from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation.evaluate import evaluate
from clipseg_cli.masks import coco_codec
from pictures import SAMPLES, Shell

RNG = np.random.default_rng(11)


def grey(path: Path, values: np.ndarray) -> None:
    """Writes uint8 (H, W) as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def blob(share: float = 0.3, size: tuple[int, int] = (30, 40)) -> np.ndarray:
    """A random mask of large patches, uint8 of 0 and 255."""
    soft = cv2.resize(RNG.random((5, 6)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    return ((soft > np.quantile(soft, 1 - share)) * 255).astype(np.uint8)


def tree(root: Path, labels: tuple[str, ...], stems: tuple[str, ...]) -> dict[tuple[str, str], np.ndarray]:
    """A folder of masks for each label; the masks by label and stem."""
    masks = {(label, stem): blob() for label in labels for stem in stems}
    for (label, stem), mask in masks.items():
        grey(root / label / f"{stem}.png", mask)
    return masks


def test_the_samples_are_scored_in_a_pipe(shell: Shell, tmp_path: Path) -> None:
    """The contract's line works on the samples, its scores are those of scikit-learn, and torch is not loaded."""
    shell(f"clipseg segment {SAMPLES}/images -p 'a red circle' -p 'everything green' -f mask -f soft -o out")
    shutil.copytree(SAMPLES / "masks", tmp_path / "gt")
    shell("clipseg eval out gt --json | jq -e '.miou > 0.6'")
    shell("clipseg eval out gt --json | jq -e '.miou > 0.999'", expect=1)
    found = json.loads(shell("clipseg eval out gt --json").stdout)
    assert set(found["labels"]) == {"a red circle", "everything green"} and found["images"] == 8
    mask, truth = (
        np.concatenate([cv2.imread(str(file), 0).ravel() > 0 for file in sorted(folder.iterdir())])
        for folder in (tmp_path / "out/masks/a-red-circle", tmp_path / "gt/a-red-circle")
    )
    own = found["labels"]["a red circle"]
    assert own["dice"] == pytest.approx(sklearn.metrics.f1_score(truth, mask), abs=1e-5)
    assert own["precision"] == pytest.approx(sklearn.metrics.precision_score(truth, mask), abs=1e-5)
    assert own["iou_fg"] == pytest.approx(sklearn.metrics.jaccard_score(truth, mask), abs=1e-5)
    assert 0 < own["presence_ap"] <= 1 and own["best"]["miou"][0] >= own["miou"] - 0.005
    code = (
        "import sys; sys.argv = ['clipseg', 'eval', 'out', 'gt']\n"
        "from clipseg_cli.cli.main import main\n"
        "try: main()\n"
        "finally: print(*(set(sys.modules) & {'torch', 'transformers'}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1].strip() == ""
    assert re.search(r"^all +16 ", done.stdout, re.MULTILINE) and "best thresholds: miou" in done.stdout


def test_floors_and_curves(shell: Shell, tmp_path: Path) -> None:
    """`--fail-under` exits 1 and says which score is low; `--curves` writes two SVG documents with a curve a label."""
    masks = tree(tmp_path / "gt", ("cat", "<dog>"), ("a", "sub/b"))
    for (label, stem), mask in masks.items():
        noisy = np.clip(mask * 0.5 + RNG.integers(0, 120, mask.shape), 0, 255).astype(np.uint8)
        grey(tmp_path / f"out/soft/{label}/{stem}.png", noisy)
    lines = []
    for stem in ("a", "sub/b"):
        rows = [
            {
                "label": label,
                "prompt": label,
                "threshold": 0.4,
                "area": 1,
                "path": None,
                "soft": f"soft/{label}/{stem}.png",
            }
            for label in ("cat", "<dog>")
        ]
        lines.append(json.dumps({"v": 1, "image": f"x/{stem}.jpg", "status": "ok", "masks": rows}))
    lines.append(json.dumps({"v": 1, "image": "x/c.jpg", "status": "failed", "error": {"class": "corrupt"}}))
    (tmp_path / "out/manifest.jsonl").write_text("\n".join(lines) + "\n")
    shell("clipseg eval out gt --fail-under 0.3 --fail-under ap=0.1 --curves curves")
    low = shell("clipseg eval out gt --fail-under recall=0.1 --fail-under miou=0.9999", expect=1)
    assert "miou is" in low.stderr and "recall" not in low.stderr.replace("recall=", "")
    for name in ("precision-recall", "iou"):
        root = xml.etree.ElementTree.parse(tmp_path / f"curves/{name}.svg").getroot()
        space = "{http://www.w3.org/2000/svg}"
        assert len(root.findall(f"{space}polyline")) == 2
        assert any("<dog> (" in (text.text or "") for text in root.findall(f"{space}text"))
    for wrong in ("good", "nan", "60", "recall=-1"):
        assert "number" in shell(f"clipseg eval out gt --fail-under {wrong}", expect=2).stderr
    assert "no such score" in shell("clipseg eval out gt --fail-under good=1", expect=2).stderr
    assert "-f soft" in shell("clipseg eval out/soft gt --fail-under ap=1", expect=2).stderr


def test_scores_of_a_soft_run_cut_at_its_thresholds(tmp_path: Path) -> None:
    """Where only soft maps were kept, the mask is what lies above the record's threshold, ties outside."""
    levels = np.array([[0, 50, 51, 52], [52, 51, 255, 0]], np.uint8)  # 51 is 0.2 exactly
    truth = np.array([[0, 0, 0, 255], [255, 0, 255, 0]], np.uint8)
    grey(tmp_path / "out/soft/cat/a.png", levels)
    grey(tmp_path / "gt/a.png", truth)
    row = {"label": "cat", "prompt": "a cat", "threshold": 0.2, "area": 3, "path": None, "soft": "soft/cat/a.png"}
    record = {"v": 1, "image": "a.jpg", "status": "ok", "masks": [row]}
    (tmp_path / "out/manifest.jsonl").write_text(json.dumps(record) + "\n")
    document = evaluate(tmp_path / "out", tmp_path / "gt").document()
    assert document["precision"] == document["recall"] == 1 and document["threshold"] == 0.2
    assert document["best"]["miou"] == [0.75, 0.2]


def test_folders_of_masks_in_both_layouts(tmp_path: Path) -> None:
    """PRED and GT as label folders and as one label; classes are pictures or labels; empty truth has no IoU."""
    truth = tree(tmp_path / "gt", ("cat", "dog"), ("a", "sub/b", "sub/c"))
    found = tree(tmp_path / "pred", ("cat", "dog"), ("a", "sub/b", "sub/c"))
    truth["dog", "a"][:] = 0
    grey(tmp_path / "gt/dog/a.png", truth["dog", "a"])

    def iou(*keys: tuple[str, str]) -> float:
        pairs = [(found[key] > 0, truth[key] > 0) for key in keys]
        return sum(np.sum(a & b) for a, b in pairs) / (1 + sum(np.sum(a | b) for a, b in pairs))

    document = evaluate(tmp_path / "pred", tmp_path / "gt").document()
    there = [key for key in truth if key != ("dog", "a")]
    assert document["miou"] == pytest.approx(np.mean([iou(key) for key in there]), abs=1e-6)
    assert document["iou_fg"] == pytest.approx(iou(*truth), abs=1e-6) and document["pairs"] == 6
    assert document["images"] == 3 and document["labels"]["dog"]["images"] == 3 and "ap" not in document
    halves = [iou(*(key for key in truth if key[0] == label)) for label in ("cat", "dog")]
    by_label = evaluate(tmp_path / "pred", tmp_path / "gt", "labels").document()
    assert by_label["miou"] == pytest.approx(np.mean(halves), abs=1e-6)
    alone = evaluate(tmp_path / "pred/cat", tmp_path / "gt/cat").document()
    assert alone["miou"] == document["labels"]["cat"]["miou"] and alone["threshold"] is None


def test_masks_of_other_makers_are_read(tmp_path: Path) -> None:
    """1-bit, palette, 0-and-1, 16-bit and JPEG truths say the same; names may differ in the folders before them."""
    from PIL import Image

    mask = blob(size=(64, 64))
    grey(tmp_path / "pred/deep/er/a.png", mask)
    for name, image in {
        "bit.png": Image.fromarray(mask).convert("1", dither=Image.Dither.NONE),
        "ones.png": Image.fromarray(mask // 255),
        "deep.png": Image.fromarray(mask.astype(np.uint16) * 257),
        "photo.jpg": Image.fromarray(mask),
        "colours.png": Image.fromarray(mask).convert("RGB"),
    }.items():
        folder = tmp_path / f"gt-{name}"
        folder.mkdir()
        image.save(folder / ("a" + Path(name).suffix), quality=100)
        assert evaluate(tmp_path / "pred", folder).document()["recall"] > 0.98, name
        assert evaluate(tmp_path / "pred", folder).document()["precision"] > 0.98, name


def test_indexed_truth(tmp_path: Path) -> None:
    """The classes file names the numbers, with or without the background; 255 counts nowhere."""
    index = np.array([[0, 1, 2, 2], [1, 1, 255, 0]], np.uint8)
    grey(tmp_path / "gt/a.png", index)
    grey(tmp_path / "pred/cat/a.png", np.array([[0, 255, 0, 0], [255, 0, 255, 0]], np.uint8))
    grey(tmp_path / "pred/dog/a.png", np.array([[0, 0, 255, 255], [0, 0, 255, 0]], np.uint8))
    for content in ("cat\ndog\n", "background\ncat\ndog\n"):
        (tmp_path / "gt/classes.txt").write_text(content)
        labels = evaluate(tmp_path / "pred", tmp_path / "gt").document()["labels"]
        assert labels["cat"]["precision"] == 1 and labels["cat"]["recall"] == pytest.approx(2 / 3, abs=1e-6)
        assert labels["dog"]["precision"] == labels["dog"]["recall"] == 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_coco_truth_is_pycocotools(tmp_path: Path) -> None:
    """Polygons, runs and packed runs give pycocotools' own masks, to the pixel; an image without any is empty."""
    height, width = 50, 70
    annotations, wanted = [], np.zeros((height, width), bool)
    for number in range(60):
        points = RNG.uniform(-8, 80, (int(RNG.integers(3, 9)), 2)).round(number % 3).ravel().tolist()
        packed = mask_tools.frPyObjects([points], height, width)[0]
        drawn = mask_tools.decode(packed).astype(bool)
        text = packed["counts"].decode()
        assert np.array_equal(coco_codec.from_polygon(points, height, width), drawn)
        assert np.array_equal(coco_codec.from_runs(text, height, width), drawn)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], drawn.T.ravel(), [0]])))
        runs = np.diff(np.concatenate([[0], edges, [height * width]])).tolist()
        assert np.array_equal(coco_codec.from_runs(runs, height, width), drawn)
        if number < 3:
            shapes = ([points], {"counts": runs, "size": [height, width]}, {"counts": text, "size": [height, width]})
            annotations.append({"image_id": 5, "category_id": 9, "segmentation": shapes[number]})
            wanted |= drawn
    content = {
        "images": [
            {"id": 5, "file_name": "imgs/a.jpg", "height": height, "width": width},
            {"id": 6, "file_name": "imgs/b.jpg", "height": height, "width": width},
        ],
        "categories": [{"id": 9, "name": "a cat"}],
        "annotations": annotations,
    }
    (tmp_path / "gt.json").write_text(json.dumps(content))
    grey(tmp_path / "pred/a-cat/a.png", (wanted * 255).astype(np.uint8))
    grey(tmp_path / "pred/a-cat/b.png", np.zeros((height, width), np.uint8))
    document = evaluate(tmp_path / "pred", tmp_path / "gt.json").document()
    assert document["precision"] == document["recall"] == document["boundary_f"] == 1 and document["pairs"] == 2
    assert document["miou"] == pytest.approx(wanted.sum() / (1 + wanted.sum()), abs=1e-6)
    content["categories"].append({"id": 11, "name": "a cat"})
    content["annotations"][2]["category_id"] = 11
    (tmp_path / "gt.json").write_text(json.dumps(content))
    assert evaluate(tmp_path / "pred", tmp_path / "gt.json").document() == document, "categories of one name are one"
    content["images"].append({"id": 7, "file_name": "imgs/b.png", "height": height, "width": width})
    (tmp_path / "gt.json").write_text(json.dumps(content))
    (tmp_path / "pred/a-cat/b.png").rename(tmp_path / "pred/a-cat/b.jpg.png")
    grey(tmp_path / "pred/a-cat/b.png.png", np.zeros((height, width), np.uint8))
    assert evaluate(tmp_path / "pred", tmp_path / "gt.json").document()["pairs"] == 3, "b.jpg and b.png are two"
    for wrong in ({"counts": [1, 2]}, [], None, [[]], [["a"] * 6], "runs", {"size": [1, 1]}):
        content["annotations"][1]["segmentation"] = wrong
        (tmp_path / "gt.json").write_text(json.dumps(content))
        with pytest.raises(UsageError, match=r"gt\.json, image imgs/a\.jpg"):
            evaluate(tmp_path / "pred", tmp_path / "gt.json")


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    """Nothing paired, other sizes, other labels, no truth, no predictions, a broken mask: each says what and where."""
    tree(tmp_path / "gt", ("cat", "dog"), ("a",))
    tree(tmp_path / "pred", ("cat", "bird"), ("a",))
    tree(tmp_path / "birds", ("bird", "wolf"), ("a",))
    tree(tmp_path / "others", ("cat",), ("z",))
    notes = evaluate(tmp_path / "pred", tmp_path / "gt").notes
    assert notes == ("no truth for the label 'bird'", "nothing predicted for the label 'dog'")
    with pytest.raises(UsageError, match="no folder for any of the labels bird, wolf, but cat, dog"):
        evaluate(tmp_path / "birds", tmp_path / "gt")
    with pytest.raises(NoInputError, match="their paths must end alike, like a"):
        evaluate(tmp_path / "others", tmp_path / "gt")
    with pytest.raises(UsageError, match="no ground truth at"):
        evaluate(tmp_path / "pred", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no predictions at"):
        evaluate(tmp_path / "nowhere", tmp_path / "gt")
    grey(tmp_path / "gt/cat/b.png", blob())
    assert "1 of 2 true masks of cat have no prediction" in evaluate(tmp_path / "pred", tmp_path / "gt").notes
    grey(tmp_path / "gt/cat/a.png", blob(size=(30, 41)))
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
    for content, told in ((b"cat\ndog\ncat\n", "twice"), (b"\n", "no class"), (b"\xff\xfe", "cannot be read")):
        (tmp_path / "others/classes.txt").write_bytes(content)
        with pytest.raises(UsageError, match=told):
            evaluate(tmp_path / "pred", tmp_path / "others")


def test_a_manifest_is_read_as_far_as_it_is_sound(tmp_path: Path) -> None:
    """A line that a kill has torn is no picture, as for the other commands; a record without its masks is told."""
    one = blob()
    grey(tmp_path / "gt/a.png", one)
    grey(tmp_path / "run/masks/cat/a.png", one)
    mask = {"label": "cat", "threshold": 0.5, "area": 1, "path": "masks/cat/a.png"}
    lines = [json.dumps({"v": 1, "image": "a.jpg", "status": "ok", "masks": [mask]}), '{"v":1,"image":"b.jp']
    (tmp_path / "run/manifest.jsonl").write_text("\n".join(lines))
    assert evaluate(tmp_path / "run", tmp_path / "gt").document()["precision"] == 1
    (tmp_path / "run/manifest.jsonl").write_text(lines[0] + '\n{"v":1,"image":"b.jpg","status":"ok"}\n')
    with pytest.raises(UsageError, match=r"b\.jpg"):
        evaluate(tmp_path / "run", tmp_path / "gt")


def test_memory_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    """Twelve times the pairs, spread over folders, take at most 600 kB more: what threads have in hand."""
    small = (blob(size=(8, 8)) > 0).astype(np.uint8) * 255
    peaks = []
    for name, folders in (("few", 1), ("many", 12)):
        for side in ("pred", "gt"):
            for folder in range(folders):
                for index in range(100):
                    grey(tmp_path / name / side / f"x/{folder:02}/{index:03}.png", small)
        evaluate(tmp_path / name / "pred", tmp_path / name / "gt")
        tracemalloc.start()
        assert evaluate(tmp_path / name / "pred", tmp_path / name / "gt").images == 100 * folders
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 600_000, peaks
