"""Training data in every layout, and the errors for data that cannot be used."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from clipseg_cli.datasets import paper_datasets, training_data
from clipseg_cli.errors import UsageError
from labelled import BAR, DISC, PROMPTS, phrasecut, run_lengths, training_set
from pictures import Program, picture, save


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and masks; tests may add files beside them."""
    return training_set(tmp_path_factory.mktemp("data"))


def content(examples: tuple[training_data.Example, ...]) -> set[tuple[str, str, bytes]]:
    """Returns image name, prompt and mask of every example."""
    return {(each.image.name, each.prompt, each.mask((96, 128)).tobytes()) for each in examples}


@pytest.mark.parametrize("column", ["prompt", "phrase"])
def test_tables_hold_the_same_examples_as_folders(data: Path, tmp_path: Path, column: str) -> None:
    """CSV and JSON lines give the examples of the folder; `phrase` is an accepted older name of `prompt`."""
    rows = [
        (f"{data}/images/{n:02}.png", f"{data}/masks/{label}/{n:02}.png", prompt)
        for n in range(16)
        for label, prompt in PROMPTS.items()
    ]
    keys = ("image", "mask", column)
    (tmp_path / "a.csv").write_text(f"image,mask,{column}\n" + "".join(",".join(row) + "\n" for row in rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    folders = training_data.read(data)
    assert len(folders) == 32
    for path in (tmp_path / "a.csv", tmp_path / "a.jsonl"):
        assert content(training_data.read(path)) == content(folders), path


def test_images_that_differ_only_in_their_extension_have_their_own_masks(data: Path, tmp_path: Path) -> None:
    """Of a.jpg and a.png, each takes the mask with its full name."""
    for name, number in (("a.png", 0), ("a.jpg", 1)):
        for folder, suffix in (("images", ""), *((f"masks/{label}", ".png") for label in PROMPTS)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{name}{suffix}").write_bytes((data / folder / f"{number:02}.png").read_bytes())
    masks = {(name, prompt): mask for name, prompt, mask in content(training_data.read(tmp_path))}
    for name, number in (("a.png", "00.png"), ("a.jpg", "01.png")):
        expected = {prompt: mask for image, prompt, mask in content(training_data.read(data)) if image == number}
        assert {prompt: mask for (image, prompt), mask in masks.items() if image == name} == expected


def test_coco_gives_the_annotated_labels(data: Path) -> None:
    """An image's annotated categories are its examples; an image without annotations has every category, empty."""
    images = [{"id": n, "file_name": f"images/{n:02}.png", "width": 128, "height": 96} for n in range(16)]
    categories = [{"id": 7 + at, "name": prompt} for at, prompt in enumerate(PROMPTS.values())]
    annotations = []
    for n in range(16):
        for at, label in enumerate(PROMPTS):
            mask = cv2.imread(str(data / f"masks/{label}/{n:02}.png"), 0) > 0
            segmentation = {"counts": run_lengths(mask), "size": [96, 128]}
            if mask.any():
                annotations.append({"image_id": n, "category_id": 7 + at, "segmentation": segmentation})
    coco = {"images": images, "categories": categories, "annotations": annotations}
    (data / "coco.json").write_text(json.dumps(coco))
    nonempty = {each for each in content(training_data.read(data)) if any(each[2])}
    assert content(training_data.read(data / "coco.json")) == nonempty
    coco["annotations"] = [each for each in annotations if each["image_id"] != 3]
    (data / "some.json").write_text(json.dumps(coco))
    bare = [each for each in content(training_data.read(data / "some.json")) if each[0] == "03.png"]
    assert len(bare) == 2 and not any(any(each[2]) for each in bare)


def test_coco_of_a_run_finds_its_images(
    quick_clipseg: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `info.image_root`, which is relative to where the run was started, from any working directory; and those of
    `--layout coco` in images/ beside annotations/. The masks are those of the run."""
    for name, seed in (("a.png", 0), ("sub/a.png", 1)):
        save(tmp_path / "imgs/deep" / name, picture(128, 96, seed))
    quick_clipseg("clipseg segment imgs/deep -p circle -f coco -f mask -o out")
    quick_clipseg("clipseg segment imgs/deep -p circle --layout coco -o set")
    (tmp_path / "elsewhere").mkdir()
    masks = {(cv2.imread(str(path), 0) > 0).tobytes() for path in (tmp_path / "out/masks").rglob("*.png")}
    images = {path.read_bytes() for path in (tmp_path / "imgs").rglob("*.png")}
    for folder in ("", "elsewhere"):
        monkeypatch.chdir(tmp_path / folder)
        for file in ("out/coco.json", "set/annotations/instances_train.json"):
            examples = training_data.read(tmp_path / file)
            assert {each.mask((96, 128)).tobytes() for each in examples} == masks
            assert {each.image.read_bytes() for each in examples} == images
    (tmp_path / "imgs").rename(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"a\.png is in none of the folders .*out/images, imgs/deep, "):
        training_data.read(tmp_path / "out/coco.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.csv", "image,mask,prompt\na.png,,x\n", "row 1: image, mask or prompt is empty"),
        ("old.csv", "image,mask,phrase\na.png,,x\n", "row 1: image, mask or phrase is empty"),
        ("empty.csv", "", "no row"),
        ("head.csv", "image,mask,prompt\n", "no row"),
        ("other.csv", "picture,mask\na,b\n", "row 1: it needs image, mask and prompt"),
        ("short.csv", "mask,prompt\na,b\n", "row 1: it needs image, mask and prompt"),
        ("long.csv", 'image,mask,prompt\na,b,"' + "x" * 200_000, "cannot be read"),
        ("bad.jsonl", "3\n", "row 1"),
        ("text.jsonl", '"image mask prompt"\n', "row 1"),
        ("deep.json", "[" * 100_000, "not a COCO file"),
    ],
    ids=lambda value: value if len(value) < 20 else "...",
)
def test_an_unusable_file_is_an_error_that_names_the_place(tmp_path: Path, name: str, text: str, message: str) -> None:
    """The message names the file and, in a table, the row."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        training_data.read(tmp_path / name)
    assert name in str(error.value)


def test_a_path_without_training_data_is_an_error(data: Path, tmp_path: Path) -> None:
    """So are a folder without images/, a path that does not exist, and a mask of another size than its image."""
    for path, message in ((tmp_path, "images/"), (tmp_path / "x", "no training data")):
        with pytest.raises(UsageError, match=message):
            training_data.read(path)
    with pytest.raises(UsageError, match="sizes differ"):
        training_data.read(data)[0].mask((5, 5))


def test_several_masks_of_one_prompt_become_their_union(data: Path, tmp_path: Path) -> None:
    """Rows with the same image and prompt are one example. A Unicode line separator does not end a row."""
    names = [f"masks/{BAR}/00.png", f"masks/{DISC}/01.png"]
    rows = [{"image": f"{data}/images/00.png", "mask": f"{data}/{name}", "prompt": "a\u2028thing"} for name in names]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (example,) = training_data.read(tmp_path / "two.jsonl")
    masks = [cv2.imread(str(data / name), 0) > 0 for name in names]
    assert np.array_equal(example.mask((96, 128)), masks[0] | masks[1]) and example.prompt == "a\u2028thing"


def test_a_mask_without_an_image_is_an_error(tmp_path: Path) -> None:
    """The message names the mask. Masks may have any image format; hidden files are ignored."""
    for folder in ("images", "masks/cat", "masks/.ipynb_checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "images/a.jpg").write_bytes(b"")
    (tmp_path / "masks/cat/._a.png").write_bytes(b"")
    assert cv2.imwrite(str(tmp_path / "masks/cat/a.bmp"), np.full((4, 6), 255, np.uint8))
    (example,) = training_data.read(tmp_path)
    assert example.prompt == "cat" and example.mask((4, 6)).all()
    (tmp_path / "masks/cat/b_mask.png").write_bytes(b"")
    with pytest.raises(UsageError, match="b_mask"):
        training_data.read(tmp_path)


def test_phrasecut_gives_its_training_phrases(tmp_path: Path) -> None:
    """Each phrase of refer_train.json is a prompt for its image, with the mask that `clipseg protocol` would score.

    Those of the test split are not among them.
    """
    tasks = phrasecut(tmp_path)
    (tmp_path / "refer_train.json").write_text(json.dumps(tasks[:3]))
    examples = training_data.read(tmp_path)
    assert [each.prompt for each in examples] == [task["phrase"] for task in tasks[:3]]
    assert [each.image.name for each in examples] == [f"{task['image_id']}.jpg" for task in tasks[:3]]
    samples = paper_datasets.phrasecut(tmp_path, "test")
    for example, sample in zip(examples, samples, strict=False):
        mask = example.mask(training_data.pixels(example.image).shape[:2])
        assert mask.any() and np.array_equal(mask, sample.true_mask() == 1)
