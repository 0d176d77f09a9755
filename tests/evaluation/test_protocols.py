"""The paper's evaluations on small data in its data sets' layouts, held to torch, scikit-image and plain loops."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.draw import polygon2mask

from clipseg_cli.datasets import episodes, warp
from clipseg_cli.errors import NoInputError, UsageError
from clipseg_cli.evaluation.protocols import PAPERS, examine, told
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts import highlight
from clipseg_cli.settings.evaluation import ProtocolOptions
from pictures import Shell, save

MEAN, STD = (np.array(each, np.float32) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
COLOURS = ((214, 40, 40), (40, 160, 60), (40, 60, 200), (230, 200, 40))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The bundled model in full precision."""
    return Segmenter.load("shapes", device="cpu", dtype="fp32")


def scene(width: int, height: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a disc and a box on a mottled ground, and their masks as the numbers 1 and 2."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(150, 220, (9, 9, 3), dtype=np.uint8), (width, height))
    owners = np.zeros((height, width), np.uint8)
    side = min(width, height) // 4
    for number in (1, 2):
        x, y = int(rng.integers(side, width - side)), int(rng.integers(side, height - side))
        for array, value in ((image, COLOURS[int(rng.integers(4))]), (owners, number)):
            if number == 1:
                cv2.circle(array, (x, y), side, value, -1)
            else:
                cv2.rectangle(array, (x - side, y - side), (x + side // 2, y + side), value, -1)
    return image, owners


def tensor(image: np.ndarray) -> torch.Tensor:
    """float32 (1, 3, H, W) of a picture, 0 to 255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()


def normal(pixels: torch.Tensor) -> torch.Tensor:
    """As torchvision normalises."""
    return (pixels / 255 - torch.from_numpy(MEAN)[:, None, None]) / torch.from_numpy(STD)[:, None, None]


def scores(rows: list[tuple[np.ndarray, np.ndarray, int]], threshold: float) -> dict[str, float]:
    """The paper's formulas in plain loops; rows of probability, truth (255 unknown), and group."""
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


def phrasecut(folder: Path) -> list[dict[str, object]]:
    """VGPhraseCut_v0 with three pictures; of them one whose annotated size is wrong, and a phrase without a box."""
    infos, tasks = [], []
    for number, (width, height) in enumerate(((120, 90), (80, 100), (60, 60))):
        image, _ = scene(width, height, number)
        save(folder / f"images/{2400 + number}.jpg", image)
        wrong = number == 2
        infos.append({"image_id": 2400 + number, "width": width + wrong, "height": height, "split": "test"})
        for count in (1, 2):
            corners = [[[[10.5, 12], [50.25, 12], [48, 61.5], [9, 40]]], [[[30, 30], [58, 33], [40, 59]]]][:count]
            task = {
                "task_id": f"{2400 + number}__{count}",
                "image_id": 2400 + number,
                "phrase": f"a red circle {count}",
            }
            task |= {
                "Polygons": corners,
                "instance_boxes": [[9, 12, 41, 49]] * count,
                "ann_ids": [1],
                "phrase_structure": {},
            }
            tasks.append(task)
    tasks.append({**tasks[0], "task_id": "empty", "instance_boxes": [[5, 5, 0, 7]]})
    (folder / "image_data_split.json").write_text(json.dumps(infos))
    (folder / "refer_test.json").write_text(json.dumps(tasks))
    return tasks


def voc(folder: Path, count: int = 6) -> None:
    """VOC2012 with pictures of classes 1 and 2 (fold 0), the last also of 6 (fold 1); an unknown rim around objects."""
    names = [f"2007_{number:06}" for number in range(count)]
    for number, name in enumerate(names):
        image, owners = scene(240 - 20 * (number % 2), 200, number)
        rim = cv2.morphologyEx(owners, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        classes = np.where(rim, 255, owners).astype(np.uint8)
        if number == count - 1:
            classes[:60, :60] = 6
        save(folder / f"JPEGImages/{name}.jpg", image)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        picture = Image.fromarray(classes, "P")
        picture.putpalette([channel for level in range(256) for channel in (level, 255 - level, level // 2)])
        picture.save(folder / f"SegmentationClass/{name}.png")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")


def coco(folder: Path) -> None:
    """COCO2014 with HSNet's masks and its split of fold 0: classes 0 and 4, three pictures each."""
    split: dict[int, list[str]] = {0: [], 4: [], 8: []}
    for number in range(6):
        image, owners = scene(150, 110, number)
        name = f"val2014/COCO_val2014_{number:012}.jpg"
        save(folder / name, image)
        (folder / "annotations/val2014").mkdir(parents=True, exist_ok=True)
        number_of = 4 * (number % 2)
        assert cv2.imwrite(
            str(folder / "annotations" / name.replace(".jpg", ".png")),
            np.where(owners == 1, number_of + 1, owners * 10),
        )
        split[number_of].append(name)
    (folder / "splits/coco/val").mkdir(parents=True)
    (folder / "splits/coco/val/fold0.pkl").write_bytes(pickle.dumps(split))


@pytest.mark.parametrize("size", [(97, 61), (40, 200), (1, 5), (352, 352)])
def test_squares_are_the_reference_codes(size: tuple[int, int]) -> None:
    """Each way to square a picture or a mask equals torch's."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = rng.integers(0, 256, size, dtype=np.uint8)
    aligned = F.interpolate(tensor(image), (64, 64), mode="bilinear", align_corners=True)
    plain = F.interpolate(normal(tensor(image)), (64, 64), mode="bilinear", align_corners=False)
    for mine, theirs in ((warp.stretched(image, 64), normal(aligned)), (warp.sampled(image, 64), plain)):
        np.testing.assert_allclose(mine, theirs[0].permute(1, 2, 0).numpy(), atol=2e-4)
    near = F.interpolate(torch.from_numpy(mask)[None, None], (64, 64), mode="nearest")[0, 0].numpy()
    assert np.array_equal(warp.nearest(mask, 64), near)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((500, 375), (352, 264)), ((333, 500), (232, 352)), ((300, 352), (300, 352)), ((9, 999), (8, 352))],
)
def test_pascals_pictures_keep_their_shape(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    """PFENet's rule: the longer side 352 at most, both multiples of 8 where it shrinks; black and unknown around."""
    assert warp.fitted(*size, 352) == fitted
    image, mask = np.full((*size, 3), 200, np.uint8), np.ones(size, np.uint8)
    square, around = warp.padded(image, 352), warp.padded_mask(mask, 352)
    inside = np.zeros((352, 352), bool)
    inside[: fitted[0], : fitted[1]] = True
    assert np.array_equal(around == 1, inside) and set(np.unique(around[~inside])) <= {255}
    np.testing.assert_allclose(square[~inside], np.broadcast_to(-MEAN / STD, square[~inside].shape), atol=1e-6)
    np.testing.assert_allclose(square[inside][0], (200 / 255 - MEAN) / STD, atol=1e-5)


def test_polygons_are_those_of_scikit_image() -> None:
    """Crossing themselves or not, inside the frame and beyond it; with whole corners but for a pixel on an edge, which
    scikit-image's own rounding misses now and then."""
    rng = np.random.default_rng(0)
    for trial in range(300):
        points = rng.uniform(-8, 40, (int(rng.integers(3, 9)), 2))
        points = points.round() if trial % 2 else points
        differ = warp.polygon(points, 30, 34) != polygon2mask((30, 34), points[:, ::-1])
        assert np.count_nonzero(differ) <= trial % 2, points


def test_phrasecut(shell: Shell, tmp_path: Path, segmenter: Segmenter) -> None:
    """Every phrase whose picture has its annotated size, each a class of its own, at the network's size."""
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
    done = shell("clipseg protocol phrasecut vg --json --dtype fp32 --device cpu")
    found = json.loads(done.stdout)
    assert found["questions"] == 4 and found["threshold"] == 0.3 and found["folds"] == []
    for name, value in scores(rows, 0.3).items():
        assert found[name] == pytest.approx(value, abs=2e-3)
    assert found["paper"] == {"table": 3, "rows": PAPERS["phrasecut"].rows}
    table = shell("clipseg protocol phrasecut vg --limit 1").stdout
    assert "1 questions at threshold 0.3" in table and "paper, Table 3: CLIPSeg (PC+)" in table and "0.434" in table


def test_pascal_5i(tmp_path: Path, segmenter: Segmenter) -> None:
    """One question a picture of the fold, its support another picture of that class; the same lots by the same seed;
    scores at the mask's size with the unknown left out; by name, without supports."""
    voc(tmp_path)
    asked = [*episodes.pascal_5i(tmp_path, 0, 1)]
    assert [one.image.stem for one in asked] == [f"2007_{number:06}" for number in range(6)]
    for one in asked:
        assert one.support not in (None, one.image) and one.group in (1, 2)
        assert (one.support_mask() == 1).sum() >= episodes.LEAST and {*np.unique(one.truth())} == {0, 1, 255}
    again, other = ([each.support for each in episodes.pascal_5i(tmp_path, 0, seed)] for seed in (1, 2))
    assert again == [one.support for one in asked] != other
    assert not [*episodes.pascal_5i(tmp_path, 1, 1)], "the only picture of its class"
    rows = []
    for one in asked:
        picture, support = (
            warp.padded(np.asarray(Image.open(path)), segmenter.side) for path in (one.image, one.support)
        )
        region = warp.padded_mask(one.support_mask(), segmenter.side) == 1
        seen = highlight.crop_box(region)
        lit = np.where(region[..., None], support, 0.1 * highlight.blurred(support))[
            seen[1] : seen[3], seen[0] : seen[2]
        ]
        prompt = highlight.resized_nearest(highlight.padded_square(lit), segmenter.side)
        maps = segmenter.logits(
            segmenter.encode(np.ascontiguousarray(picture.transpose(2, 0, 1))[None]),
            segmenter.embed_images(np.ascontiguousarray(prompt.transpose(2, 0, 1))[None]),
        )
        longer = max(one.truth().shape)
        soft = F.interpolate(torch.from_numpy(maps).sigmoid(), (longer, longer), mode="bilinear", align_corners=True)
        truth = np.full((longer, longer), 255, np.uint8)
        truth[: one.truth().shape[0], : one.truth().shape[1]] = one.truth()
        rows.append((soft[0, 0].numpy(), truth, one.group))
    found = examine(segmenter, ProtocolOptions("pascal-5i", tmp_path, (0,), seed=1))
    for name, value in scores(rows, 0.3).items():
        assert found.scores[name] == pytest.approx(value, abs=2e-3)
    named = examine(segmenter, ProtocolOptions("pascal-5i-text", tmp_path, (0,), seed=1))
    assert named.questions == 6 and named.scores != found.scores
    assert {each.phrase for each in asked} <= {"a photo of a airplane.", "a photo of a bicycle."}
    assert any("Table 7" in line for line in told(named, "shapes"))


def test_coco_20i(shell: Shell, tmp_path: Path) -> None:
    """Classes and pairs by lot from HSNet's split; a class of one picture is never asked for; folds are averaged."""
    coco(tmp_path)
    asked = [*episodes.coco_20i(tmp_path, 0, 0, 40)]
    assert len(asked) == 40 and {one.group for one in asked} == {0, 4}
    for one in asked:
        assert one.support != one.image and one.support.parent == one.image.parent == tmp_path / "val2014"
        assert {*np.unique(one.truth())} == {0, 1} and (one.support_mask() == 1).any()
    found = json.loads(shell("clipseg protocol coco-20i . --fold 0 --limit 6 --json").stdout)
    assert found["questions"] == 6 and found["threshold"] == 0.1 and 0 <= found["miou"] <= 1


def test_a_split_file_is_never_run(tmp_path: Path) -> None:
    """A pickle that would do something is refused, and does not do it."""
    coco(tmp_path)

    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    (tmp_path / "splits/coco/val/fold0.pkl").write_bytes(pickle.dumps({0: Harm()}))
    with pytest.raises(UsageError, match="only plain lists"):
        [*episodes.coco_20i(tmp_path, 0, 0)]
    assert not (tmp_path / "harm").exists()


def test_pascal_zero_shot(tmp_path: Path, segmenter: Segmenter) -> None:
    """Each pixel takes the likeliest of 21 names, the background's times three; unseen classes are the paper's."""
    voc(tmp_path, 3)
    counts = {each: [0, 0] for each in range(21)}
    for image, mask in episodes.voc(tmp_path):
        pixels = F.interpolate(
            normal(tensor(np.asarray(Image.open(image)))), (segmenter.side,) * 2, mode="bilinear", align_corners=False
        )
        soft = np.concatenate([segmenter.decode(segmenter.encode(pixels), [name])[0] for name in episodes.VOC])
        soft[0] *= 3
        truth = warp.nearest(np.asarray(Image.open(mask)), segmenter.side)
        known, best = truth < 21, soft.argmax(0)
        for number, pair in counts.items():
            pair[0] += (known & (truth == number) & (best == number)).sum()
            pair[1] += (known & ((truth == number) | (best == number))).sum()
    ious = np.array([inside / either if either else 0.0 for inside, either in counts.values()])
    found = examine(segmenter, ProtocolOptions("pascal-zero-shot", tmp_path)).scores
    unseen = {"cow", "motorbike", "airplane", "sofa", "cat", "tvmonitor", "train", "bottle", "chair", "pottedplant"}
    rows = np.array([name in unseen for name in episodes.VOC])
    assert found["unseen_10"] == pytest.approx(ious[rows].mean(), abs=2e-3)
    assert found["seen_10"] == pytest.approx(ious[~rows].mean(), abs=2e-3)
    assert found["miou"] == pytest.approx(ious.mean(), abs=2e-3)


def test_what_is_missing_is_told(tmp_path: Path, segmenter: Segmenter) -> None:
    """A folder of another layout names the file that it lacks; an empty list is no evaluation."""
    lacks = {
        "phrasecut": "refer_test.json",
        "pascal-zero-shot": "val.txt",
        "pascal-5i": "val.txt",
        "coco-20i": "fold2.pkl",
    }
    for protocol, file in lacks.items():
        with pytest.raises(UsageError, match=file):
            examine(segmenter, ProtocolOptions(protocol, tmp_path, (2,)))
    for tasks in ({"a": 1}, [{}], [3], [{"image_id": 1, "instance_boxes": [[]]}]):
        (tmp_path / "refer_test.json").write_text(json.dumps(tasks))
        (tmp_path / "image_data_split.json").write_text("[]")
        with pytest.raises(UsageError, match="not PhraseCut's"):
            examine(segmenter, ProtocolOptions("phrasecut", tmp_path))
    voc(tmp_path, 0)
    with pytest.raises(NoInputError):
        examine(segmenter, ProtocolOptions("pascal-5i", tmp_path, (0,)))
