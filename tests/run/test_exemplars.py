"""Exemplars on the command line: what is shown, how it is mixed, and that it finds what it shows."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from clipseg_cli.errors import UsageError
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.prompts import highlight
from clipseg_cli.prompts.text import Prompt
from clipseg_cli.run import exemplars, query
from clipseg_cli.run.embed import embed
from clipseg_cli.run.exemplars import Exemplar, visual_prompt
from clipseg_cli.settings.prompts import RECIPE
from pictures import SAMPLES, Shell, iou, picture, records, save


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The bundled model in exact arithmetic."""
    return Segmenter.load("shapes", device="cpu", dtype="fp32")


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A picture of a red disc, without any region."""
    return save(tmp_path / "ref.png", picture(200, 160, 5))


def disc(width: int = 200, height: int = 160) -> np.ndarray:
    """The region of the disc in `pictures.picture`: bool (H, W)."""
    region = np.zeros((height, width), np.uint8)
    return cv2.circle(region, (width // 2, height // 2), min(width, height) // 4, 255, -1) > 0


def test_an_exemplar_finds_its_like(shell: Shell, tmp_path: Path) -> None:
    """`oneshot --support` with a list on stdin marks the red circles of the samples."""
    listed = "\n".join(str(path) for path in sorted((SAMPLES / "images").iterdir()))
    (tmp_path / "list.txt").write_text(listed + "\n")
    shell(f"clipseg oneshot --support {SAMPLES}/exemplars/red_circle.png -o out < list.txt")
    rows = records(tmp_path / "out/manifest.jsonl")
    scores = []
    for row in rows:
        mask = cv2.imread(str(tmp_path / "out" / row["masks"][0]["path"]), cv2.IMREAD_UNCHANGED)
        truth = cv2.imread(str(SAMPLES / f"masks/a-red-circle/{Path(row['image']).stem}.png"), cv2.IMREAD_UNCHANGED)
        if truth.any():
            scores.append(iou(mask, truth))
    assert len(scores) >= 4 and np.mean(scores) > 0.6
    assert rows[0]["masks"][0]["label"] == "exemplar" and "red_circle.png" in rows[0]["masks"][0]["prompt"]


def test_a_null_separated_list_works_too(shell: Shell, reference: Path, tmp_path: Path) -> None:
    """`find -print0 | clipseg oneshot --files-from - -0`; a label names the exemplar."""
    save(tmp_path / "imgs/new\nline.jpg", picture())
    shell("find imgs -type f -print0 | clipseg oneshot --support ball=ref.png --files-from - -0 -o out")
    assert records(tmp_path / "out/manifest.jsonl")[0]["masks"][0]["path"].startswith("masks/ball/")


@pytest.mark.parametrize("way", ["mask", "faint mask", "sibling", "box", "alpha", "palette", "whole"])
def test_a_region_comes_from_where_it_is_given(segmenter: Segmenter, reference: Path, way: str) -> None:
    """Mask, sibling mask, box and alpha channel all say the same region; without any the whole picture is meant."""
    region = disc()
    if way == "box":
        region = np.zeros_like(region)
        region[40:120, 60:140] = True
    if way == "whole":
        region = np.ones_like(region)
    image = cv2.cvtColor(cv2.imread(str(reference)), cv2.COLOR_BGR2RGB)
    flat = np.where(region, 255, 0).astype(np.uint8)
    masks, boxes = [], []
    if "mask" in way:
        masks = [str(reference.with_name("other.png"))]
        cv2.imwrite(masks[0], flat if way == "mask" else region.astype(np.uint8))
    elif way == "sibling":
        cv2.imwrite(str(reference.with_name("ref_mask.png")), flat)
    elif way == "box":
        boxes = ["60,40,80,80"]
    elif way == "alpha":
        cv2.imwrite(str(reference), np.dstack((image[..., ::-1], flat)))
        image = np.where(region[..., None], image, 255).astype(np.uint8)  # transparent pixels are read on white
    elif way == "palette":
        few = Pillow.fromarray(np.where(region[..., None], (214, 40, 40), (9, 9, 9)).astype(np.uint8)).quantize(2)
        few.save(reference, transparency=few.getpixel((0, 0)))
        image = np.where(region[..., None], (214, 40, 40), 255).astype(np.uint8)
    (one,) = exemplars.parse([str(reference)], masks, boxes, "it")
    wanted = highlight.highlight(image, region, "crop-blur-dim", segmenter.side).transpose(2, 0, 1)
    np.testing.assert_allclose(visual_prompt(segmenter, one, RECIPE, None), wanted, atol=1e-5)


def test_a_photo_of_a_camera_is_shown_like_a_small_one(segmenter: Segmenter, tmp_path: Path) -> None:
    """What the model is shown of a picture of many pixels is what it is shown of the same picture with few."""
    seen = []
    for width, height in ((300, 225), (3000, 2250)):
        image = cv2.resize(picture(300, 225), (width, height), interpolation=cv2.INTER_NEAREST)
        for box in (f"{width // 4},{height // 4},{width // 2},{height // 2}", f"0,0,{width},{height}"):
            path = save(tmp_path / f"{width}.png", image)
            (one,) = exemplars.parse([str(path)], [], [box], "it")
            seen.append(visual_prompt(segmenter, one, RECIPE, None))
    for small, large in zip(seen[:2], seen[2:], strict=True):
        assert np.abs(small - large).mean() < 0.05


def test_a_phrase_may_find_the_region(segmenter: Segmenter, reference: Path) -> None:
    """--support-prompt takes the mask that the phrase gives in the exemplar itself."""
    (one,) = exemplars.parse([str(reference)], [], [], "it")
    shown = visual_prompt(segmenter, one, RECIPE, "a red circle")
    by_mask = highlight.highlight(picture(200, 160, 5), disc(), "crop-blur-dim", segmenter.side).transpose(2, 0, 1)
    assert np.abs(shown - by_mask).mean() < 0.2, "about the same crop"


def test_exemplars_are_averaged_and_blended_as_they_come(segmenter: Segmenter, reference: Path) -> None:
    """The embedding is w * text + (1 - w) * mean of the exemplars, in raw CLIP space."""
    other = save(reference.with_name("other.png"), picture(160, 160, 6))
    both = exemplars.parse([f"it={reference}", f"it={other}"], [], [], "x")
    each = [segmenter.embed_images(visual_prompt(segmenter, one, RECIPE, None)[None]).values[0] for one in both]
    text = segmenter.embed(["a red circle"]).values[0]
    prompts = [Prompt("it", "a red circle"), Prompt("words", "a star")]
    mixed = embed(segmenter, replace(query.build(prompts, [], both), mix=0.3)).values
    np.testing.assert_allclose(mixed[0], 0.3 * text + 0.7 * (each[0] + each[1]) / 2, atol=1e-5)
    np.testing.assert_allclose(mixed[1], segmenter.embed(["a star"]).values[0], atol=1e-6)
    alone = embed(segmenter, query.build([], [], both)).values
    np.testing.assert_allclose(alone[0], (each[0] + each[1]) / 2, atol=1e-5)


def test_a_folder_is_many_exemplars(reference: Path) -> None:
    """Every picture of the folder counts, each with its own sibling mask; masks are no exemplars."""
    cv2.imwrite(str(reference.with_name("ref_mask.png")), np.where(disc(), 255, 0).astype(np.uint8))
    save(reference.with_name("second.jpg"), picture())
    found = exemplars.parse([f"it={reference.parent}"], [], [], "x")
    assert [(Path(one.path).name, one.mask and Path(one.mask).name) for one in found] == [
        ("ref.png", "ref_mask.png"),
        ("second.jpg", None),
    ]
    assert found[0] == Exemplar("it", str(reference), str(reference.with_name("ref_mask.png")))


def test_what_cannot_be_an_exemplar_is_refused(segmenter: Segmenter, reference: Path) -> None:
    """Missing files, wrong boxes, empty regions and masks of another size are usage errors that say what to do."""
    for supports, masks, boxes in (([f"{reference}.no"], [], []), ([str(reference)] * 2, ["m.png"], [])):
        with pytest.raises(UsageError):
            exemplars.parse(supports, masks, boxes, "x")
    for support in ("", "cat=", f"={reference}", "x" * 5000, f" ={reference}"):
        with pytest.raises(UsageError, match="--support"):
            exemplars.parse([support], [], [], "x")
    with pytest.raises(UsageError, match="X,Y,WIDTH,HEIGHT"):
        exemplars.parse([str(reference)], [], ["1,2,3"], "x")
    for box in ("500,500,10,10", "0,0,0,0"):
        (one,) = exemplars.parse([str(reference)], [], [box], "x")
        with pytest.raises(UsageError, match="empty region"):
            visual_prompt(segmenter, one, RECIPE, None)
    small = save(reference.with_name("small.png"), picture(50, 50))
    (one,) = exemplars.parse([str(reference)], [str(small)], [], "x")
    with pytest.raises(UsageError, match="another size"):
        visual_prompt(segmenter, one, RECIPE, None)


def test_the_model_shows_what_it_is_shown(shell: Shell, reference: Path, tmp_path: Path) -> None:
    """--show-exemplar writes the highlighted picture at the model's own size."""
    save(tmp_path / "a.jpg", picture())
    shell("clipseg oneshot a.jpg --support ref.png --support-box 60,40,80,80 --show-exemplar seen.png -o out")
    seen = cv2.cvtColor(cv2.imread(str(tmp_path / "seen.png")), cv2.COLOR_BGR2RGB)
    assert seen.shape == (224, 224, 3)
    assert np.abs(seen[112, 112].astype(int) - (214, 40, 40)).max() < 12, "the disc is in the middle"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "needs an exemplar"),
        ("--support none.png", "no such file"),
        ("--support ref.png --highlight x", "crop-blur-dim"),
    ],
)
def test_oneshot_says_what_it_lacks(shell: Shell, reference: Path, flags: str, says: str) -> None:
    """Usage errors, exit 2."""
    assert says in shell(f"clipseg oneshot ref.png {flags}", expect=2).stderr


def test_a_term_is_embedded_once_whoever_asks_for_it() -> None:
    """Two labels with one text, and expressions over it, share one term."""
    wanted = query.build(
        [Prompt("a", "a cat"), Prompt("b", "a cat")], [Prompt("c", "a cat AND NOT (dog OR a cat)")], []
    )
    assert wanted.texts == ("a cat", "dog") and wanted.rules[:2] == (0, 0)
    blended = query.build([Prompt("a", "a cat")], [Prompt("b", "NOT a cat")], [Exemplar("a", "ref.png")])
    assert blended.texts == (None, "a cat"), "an expression speaks of the phrase alone"
    assert [prompt.label for prompt in wanted.prompts] == ["a", "b", "c"]


def test_boolean_phrases_join_soft_maps(shell: Shell, tmp_path: Path) -> None:
    """AND is the minimum, OR the maximum, NOT the complement, to a level of the soft maps."""
    save(tmp_path / "a.png", picture(224, 224, 3))
    shell(
        "clipseg segment a.png -p r=red -p s='a star' --expr both='red AND a star' --expr any='red OR a star' "
        "--expr none='NOT (red OR \"a star\")' --expr 'red*0.5' -f soft -o out"
    )
    found = {row["label"]: row for row in records(tmp_path / "out/manifest.jsonl")[0]["masks"]}
    soft = {
        k: cv2.imread(str(tmp_path / "out" / v["soft"]), cv2.IMREAD_UNCHANGED).astype(int) for k, v in found.items()
    }
    for label, wanted in (
        ("both", np.minimum(soft["r"], soft["s"])),
        ("any", np.maximum(soft["r"], soft["s"])),
        ("none", 255 - np.maximum(soft["r"], soft["s"])),
        ("red*0.5", soft["r"] / 2),
    ):
        assert np.abs(soft[label] - wanted).max() <= 1, label
    told = shell("clipseg segment a.png --expr 'cat AND (dog'", expect=2).stderr
    assert "cat AND (dog" in told and "^" in told
