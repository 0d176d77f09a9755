"""Small labelled data for tests: mask files, a training set, and folders in the layouts of the paper's data sets."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clipseg_cli.training.encoded_data import EncodedData
from pictures import save

COLOURS = ((214, 40, 40), (40, 160, 60), (40, 60, 200), (230, 200, 40))
DISC, BAR = "a-dark-disc", "a_bright_bar"  # the labels of `training_set`
PROMPTS = {DISC: "a dark disc", BAR: "a bright bar"}


def grey(path: Path, values: np.ndarray) -> None:
    """Writes uint8 (H, W) as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values)


def blob(rng: np.random.Generator, share: float = 0.3, size: tuple[int, int] = (30, 40)) -> np.ndarray:
    """Returns a random mask of large patches, uint8 of 0 and 255."""
    soft = cv2.resize(rng.random((5, 6)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    return ((soft > np.quantile(soft, 1 - share)) * 255).astype(np.uint8)


def mask_folders(
    rng: np.random.Generator, root: Path, labels: tuple[str, ...], stems: tuple[str, ...]
) -> dict[tuple[str, str], np.ndarray]:
    """Writes a folder of random masks per label; returns the masks by label and stem."""
    masks = {(label, stem): blob(rng) for label in labels for stem in stems}
    for (label, stem), mask in masks.items():
        grey(root / label / f"{stem}.png", mask)
    return masks


def run_lengths(mask: np.ndarray) -> list[int]:
    """Returns COCO's run lengths of a mask, bool (H, W)."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]])))
    return [int(run) for run in np.diff(np.concatenate([[0], ends, [mask.size]]))]


def training_set(data: Path) -> Path:
    """Writes sixteen images of 128 x 96 pixels, each with a disc or a bar, and the masks of both labels."""
    rng = np.random.default_rng(0)
    for number in range(16):
        image = rng.integers(90, 140, (96, 128, 3), dtype=np.uint8)
        masks = {label: np.zeros((96, 128), np.uint8) for label in PROMPTS}
        x, y = (int(each) for each in rng.integers(30, 70, 2))
        if number % 2:
            cv2.circle(image, (x, y), 20, (10, 10, 30), -1)
            cv2.circle(masks[DISC], (x, y), 20, 255, -1)
        else:
            cv2.rectangle(image, (x - 25, y - 8), (x + 25, y + 8), (240, 250, 240), -1)
            cv2.rectangle(masks[BAR], (x - 25, y - 8), (x + 25, y + 8), 255, -1)
        for folder, array in (("images", image), *((f"masks/{label}", mask) for label, mask in masks.items())):
            (data / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(data / folder / f"{number:02}.png"), array)
    return data


def encoded_data(examples: int = 40) -> EncodedData:
    """Returns data made without a model: two examples per image, of six prompts; the first of each pair is empty."""
    rng = np.random.default_rng(1)
    targets = np.packbits(rng.random((examples, 64)) < 0.5, axis=1)
    targets[::2] = 0
    exemplars = rng.random((examples, 5), np.float32)
    exemplars[::2] = np.nan
    prompt = np.arange(examples) % 6
    image = np.arange(examples) // 2
    texts = np.arange(6, dtype=np.float32)[:, None, None] * 100 + np.zeros((6, 2, 5), np.float32)
    features = np.broadcast_to(image[::2].astype(np.float16)[:, None, None, None], (examples // 2, 1, 1, 1))
    prompts, replay = tuple("abcdef"), np.zeros((0, 5), np.float32)
    return EncodedData(np.array(features), targets, exemplars, image, prompt, prompts, texts, replay, 8)


def scene(width: int, height: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image of a disc and a box on a mottled ground, and an array with their pixels as 1 and 2."""
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


def phrasecut(folder: Path) -> list[dict[str, object]]:
    """Writes VGPhraseCut_v0 with three images, and returns its tasks.

    One image differs from its annotated size, and one phrase has a box without area.
    """
    infos, tasks = [], []
    for number, (width, height) in enumerate(((120, 90), (80, 100), (60, 60))):
        image, _ = scene(width, height, number)
        save(folder / f"images/{2400 + number}.jpg", image)
        wrong = number == 2
        infos.append({"image_id": 2400 + number, "width": width + wrong, "height": height, "split": "test"})
        for count in (1, 2):
            corners = [[[[10.5, 12], [50.25, 12], [48, 61.5], [9, 40]]], [[[30, 30], [58, 33], [40, 59]]]][:count]
            tasks.append(
                {
                    "task_id": f"{2400 + number}__{count}",
                    "image_id": 2400 + number,
                    "phrase": f"a red circle {count}",
                    "Polygons": corners,
                    "instance_boxes": [[9, 12, 41, 49]] * count,
                    "ann_ids": [1],
                    "phrase_structure": {},
                }
            )
    tasks.append({**tasks[0], "task_id": "empty", "instance_boxes": [[5, 5, 0, 7]]})
    (folder / "image_data_split.json").write_text(json.dumps(infos))
    (folder / "refer_test.json").write_text(json.dumps(tasks))
    return tasks


def voc(folder: Path, count: int = 6) -> None:
    """Writes VOC2012 with images of the classes 1 and 2 (fold 0), the last one also of 6 (fold 1).

    The rim of each object is unknown.
    """
    names = [f"2007_{number:06}" for number in range(count)]
    for number, name in enumerate(names):
        image, owners = scene(240 - 20 * (number % 2), 200, number)
        rim = cv2.morphologyEx(owners, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        classes = np.where(rim, 255, owners).astype(np.uint8)
        if number == count - 1:
            classes[:60, :60] = 6
        save(folder / f"JPEGImages/{name}.jpg", image)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        mask = Image.fromarray(classes, "P")
        mask.putpalette([channel for level in range(256) for channel in (level, 255 - level, level // 2)])
        mask.save(folder / f"SegmentationClass/{name}.png")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("\n".join(names) + "\n")


def coco(folder: Path) -> None:
    """Writes COCO2014 with HSNet's masks and its split of fold 0: three images each of the classes 0 and 4."""
    split: dict[int, list[str]] = {0: [], 4: [], 8: []}
    for number in range(6):
        image, owners = scene(150, 110, number)
        name = f"val2014/COCO_val2014_{number:012}.jpg"
        save(folder / name, image)
        chosen = 4 * (number % 2)
        grey(
            folder / "annotations" / name.replace(".jpg", ".png"),
            np.where(owners == 1, chosen + 1, owners * 10).astype(np.uint8),
        )
        split[chosen].append(name)
    (folder / "splits/coco/val").mkdir(parents=True)
    (folder / "splits/coco/val/fold0.pkl").write_bytes(pickle.dumps(split))
