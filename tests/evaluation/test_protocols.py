"""The paper's protocols on small data give the scores of torch, scikit-image and plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.draw import polygon2mask

from clipseg_cli.datasets import paper_datasets, paper_preprocess
from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation.protocols import PAPERS, run, table
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts import highlight
from clipseg_cli.settings.evaluation import ProtocolOptions
from labelled import coco, phrasecut, voc
from pictures import Program

MEAN, STD = (np.array(each, np.float32) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The bundled model in full precision."""
    return Segmenter.load("shapes", device="cpu", dtype="fp32")


def tensor(image: np.ndarray) -> torch.Tensor:
    """Returns an image as float32 (1, 3, H, W), 0 to 255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()


def normal(pixels: torch.Tensor) -> torch.Tensor:
    """Normalises as torchvision does."""
    return (pixels / 255 - torch.from_numpy(MEAN)[:, None, None]) / torch.from_numpy(STD)[:, None, None]


def scores(rows: list[tuple[np.ndarray, np.ndarray, int]], threshold: float) -> dict[str, float]:
    """Computes the paper's formulas in plain loops over (probabilities, truth with 255 for unknown, group)."""
    total, groups = np.zeros(4), {}
    for soft, truth, group in rows:
        kept = truth != 255
        found, right = soft[kept] > np.float32(threshold), truth[kept] == 1
        counts = [(found & right).sum(), (found & ~right).sum(), (~found & right).sum(), (~found & ~right).sum()]
        total += counts
        groups.setdefault(group, np.zeros(4))
        groups[group] += counts
    tp, fp, fn, tn = total
    mean = np.mean([t / (1 + t + f + m) for t, f, m, _ in groups.values()])
    return {
        "miou": mean,
        "iou_fg": tp / (1 + tp + fp + fn),
        "iou_bin": (tp / (1 + tp + fp + fn) + tn / (1 + tn + fp + fn)) / 2,
    }


def test_phrasecut(clipseg: Program, tmp_path: Path, segmenter: Segmenter) -> None:
    """Each phrase is a class of its own, scored at the network's size; the paper's numbers stand beside."""
    tasks = phrasecut(tmp_path / "vg")
    rows = []
    for number, task in enumerate(tasks[:4]):
        image = np.asarray(Image.open(tmp_path / f"vg/images/{task['image_id']}.jpg"))
        pixels = normal(F.interpolate(tensor(image), (segmenter.side,) * 2, mode="bilinear", align_corners=True))
        instances = [polygon2mask(image.shape[:2], np.array(p)[:, ::-1]) for each in task["Polygons"] for p in each]
        truth = torch.from_numpy(np.any(instances, 0))[None, None].to(torch.uint8)
        near = F.interpolate(truth, (segmenter.side,) * 2, mode="nearest")[0, 0].numpy()
        soft = segmenter.decode(segmenter.encode(pixels), [task["phrase"]])[0, 0]
        rows.append((soft, near, number))
    done = clipseg("clipseg protocol phrasecut vg --json --dtype fp32 --device cpu")
    found = json.loads(done.stdout)
    assert found["questions"] == 4 and found["threshold"] == 0.3 and found["folds"] == []
    for name, value in scores(rows, 0.3).items():
        assert found[name] == pytest.approx(value, abs=2e-3)
    assert found["paper"] == {"table": 3, "rows": PAPERS["phrasecut"].rows}
    text = clipseg("clipseg protocol phrasecut vg --limit 1").stdout
    assert "1 sample at threshold 0.3" in text and "paper, Table 3: CLIPSeg (PC+)" in text and "0.434" in text


def test_pascal_5i(tmp_path: Path, segmenter: Segmenter) -> None:
    """Scores are computed at the mask's size without unknown pixels; the text protocol uses the class's name."""
    voc(tmp_path)
    samples = [*paper_datasets.pascal_5i(tmp_path, 0, 1)]
    rows = []
    for sample in samples:
        image, support = (
            paper_preprocess.pad_image(np.asarray(Image.open(path)), segmenter.side)
            for path in (sample.image, sample.support)
        )
        region = paper_preprocess.pad_mask(sample.support_mask(), segmenter.side) == 1
        x0, y0, x1, y1 = highlight.crop_box(region)
        cropped = np.where(region[..., None], support, 0.1 * highlight.blurred(support))[y0:y1, x0:x1]
        prompt = highlight.resized_nearest(highlight.padded_square(cropped), segmenter.side)
        maps = segmenter.logits(
            segmenter.encode(np.ascontiguousarray(image.transpose(2, 0, 1))[None]),
            segmenter.embed_images(np.ascontiguousarray(prompt.transpose(2, 0, 1))[None]),
        )
        longer = max(sample.true_mask().shape)
        soft = F.interpolate(torch.from_numpy(maps).sigmoid(), (longer, longer), mode="bilinear", align_corners=True)
        truth = np.full((longer, longer), 255, np.uint8)
        truth[: sample.true_mask().shape[0], : sample.true_mask().shape[1]] = sample.true_mask()
        rows.append((soft[0, 0].numpy(), truth, sample.group))
    found = run(segmenter, ProtocolOptions("pascal-5i", tmp_path, (0,), seed=1))
    for name, value in scores(rows, 0.3).items():
        assert found.scores[name] == pytest.approx(value, abs=2e-3)
    named = run(segmenter, ProtocolOptions("pascal-5i-text", tmp_path, (0,), seed=1))
    assert named.samples == 6 and named.scores != found.scores
    assert any("Table 7" in line for line in table(named, "shapes"))


def test_coco_20i(clipseg: Program, tmp_path: Path) -> None:
    """The command scores the samples of one fold at the threshold 0.1."""
    coco(tmp_path)
    found = json.loads(clipseg("clipseg protocol coco-20i . --fold 0 --limit 6 --json").stdout)
    assert found["questions"] == 6 and found["threshold"] == 0.1 and 0 <= found["miou"] <= 1


def test_pascal_zero_shot(tmp_path: Path, segmenter: Segmenter) -> None:
    """Each pixel gets the most probable of 21 names, the background's weighted by three; unseen classes are the
    paper's."""
    voc(tmp_path, 3)
    counts = {each: [0, 0] for each in range(21)}
    for image, mask in paper_datasets.voc(tmp_path):
        pixels = F.interpolate(
            normal(tensor(np.asarray(Image.open(image)))), (segmenter.side,) * 2, mode="bilinear", align_corners=False
        )
        features = segmenter.encode(pixels)
        soft = np.concatenate([segmenter.decode(features, [name])[0] for name in paper_datasets.VOC])
        soft[0] *= 3
        truth = paper_preprocess.resize_nearest(np.asarray(Image.open(mask)), segmenter.side)
        known, best = truth < 21, soft.argmax(0)
        for number, pair in counts.items():
            pair[0] += (known & (truth == number) & (best == number)).sum()
            pair[1] += (known & ((truth == number) | (best == number))).sum()
    ious = np.array([inside / either if either else 0.0 for inside, either in counts.values()])
    found = run(segmenter, ProtocolOptions("pascal-zero-shot", tmp_path)).scores
    unseen = {"cow", "motorbike", "airplane", "sofa", "cat", "tvmonitor", "train", "bottle", "chair", "pottedplant"}
    rows = np.array([name in unseen for name in paper_datasets.VOC])
    assert found["unseen_10"] == pytest.approx(ious[rows].mean(), abs=2e-3)
    assert found["seen_10"] == pytest.approx(ious[~rows].mean(), abs=2e-3)
    assert found["miou"] == pytest.approx(ious.mean(), abs=2e-3)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path, segmenter: Segmenter) -> None:
    """So is a file of another layout; a list without samples is no input."""
    lacks = {
        "phrasecut": "refer_test.json",
        "pascal-zero-shot": "val.txt",
        "pascal-5i": "val.txt",
        "coco-20i": "fold2.pkl",
    }
    for protocol, file in lacks.items():
        with pytest.raises(UsageError, match=file):
            run(segmenter, ProtocolOptions(protocol, tmp_path, (2,)))
    for tasks in ({"a": 1}, [{}], [3], [{"image_id": 1, "instance_boxes": [[]]}]):
        (tmp_path / "refer_test.json").write_text(json.dumps(tasks))
        (tmp_path / "image_data_split.json").write_text("[]")
        with pytest.raises(UsageError, match="not in PhraseCut's layout"):
            run(segmenter, ProtocolOptions("phrasecut", tmp_path))
    voc(tmp_path, 0)
    with pytest.raises(NoInputError):
        run(segmenter, ProtocolOptions("pascal-5i", tmp_path, (0,)))
