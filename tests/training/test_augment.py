"""Random views of training images."""

import colorsys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from checkpoints import write_checkpoint
from clipseg_cli.datasets import training_data
from clipseg_cli.model.segmenter import Segmenter
from clipseg_cli.settings.training import Augment, Recipe
from clipseg_cli.training import augment
from clipseg_cli.training.encoded_data import encode_images, load_encoded, split
from labelled import encoded_data, training_set


def marked(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns an image and two masks that can be read off it: red is 220 in one, green in the other; else 60."""
    image = np.full((*shape, 3), 60, np.uint8)
    masks = []
    for channel in (0, 1):
        x, y = rng.integers(4, shape[1] - 12), rng.integers(4, shape[0] - 12)
        mask = np.zeros(shape, bool)
        mask[y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = True
        image[mask, channel] = 220
        masks.append(mask)
    return image, masks


def test_the_masks_of_a_view_show_the_same_pixels_as_its_image() -> None:
    """They are cropped and mirrored with it, and each keeps half of its pixels. Crops are both smaller and larger than
    the image."""
    rng = np.random.default_rng(0)
    smaller = 0
    for _ in range(150):
        image, masks = marked(rng, (int(rng.integers(20, 90)), int(rng.integers(20, 90))))
        seen, moved = augment.view(image, masks, rng, mirror=True)
        for channel, (mask, before) in enumerate(zip(moved, masks, strict=True)):
            assert mask.shape == seen.shape[:2] and mask.dtype == bool
            np.testing.assert_array_equal(mask, seen[..., channel] > 140)
            assert mask.sum() >= augment.KEEP * before.sum() > 0
        smaller += seen.size < image.size
    assert 75 < smaller < 148


def test_a_mask_that_no_crop_can_keep_leaves_the_image_whole() -> None:
    """Two dots in opposite corners are only in a view as large as the image; a 1 x 1 image has views too."""
    masks = [np.zeros((40, 60), bool) for _ in range(2)]
    masks[0][0, 0] = masks[1][-1, -1] = True
    image = np.zeros((40, 60, 3), np.uint8)
    sizes = {augment.view(image, masks, np.random.default_rng(seed), False)[0].shape for seed in range(20)}
    assert all(height >= 40 and width >= 60 for height, width, _ in sizes)
    tiny, parts = augment.view(np.zeros((1, 1, 3), np.uint8), [np.ones((1, 1), bool)], np.random.default_rng(0), True)
    assert parts[0].all() and tiny.shape[:2] == parts[0].shape


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("the left shoe", True),
        ("Rightmost window", True),
        ("a left-hand glove", True),
        ("an anti-clockwise arrow", True),
        ("counterclockwise", True),
        ("a bright bolt", False),
        ("a copyright sign", False),
        ("cleft rock", False),
    ],
)
def test_a_prompt_that_names_a_side_is_not_mirrored(prompt: str, names: bool) -> None:
    """Words that only contain the letters do not count."""
    assert augment.names_side(prompt) == names


def test_only_some_views_are_mirrored_and_none_where_that_is_wrong() -> None:
    """The dark half of an image is on the other side in about half of the views, or in none."""
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 200
    mask = image[..., 0] > 0
    for mirror in (True, False):
        turned = 0
        for seed in range(60):
            seen, _ = augment.view(image, [mask, ~mask], np.random.default_rng(seed), mirror)
            turned += seen[:, : seen.shape[1] // 4].mean() > seen[:, -seen.shape[1] // 4 :].mean()
        assert (15 < turned < 45) if mirror else turned == 0


def test_colours_keep_their_hue_but_not_their_light() -> None:
    """Teal stays teal, in another brightness; grey stays grey."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20], image[:, 20:] = (18, 112, 112), (130, 130, 130)
    lights = []
    for seed in range(40):
        teal, grey = augment.relit(image, np.random.default_rng(seed))[0, [0, -1]].astype(int)
        hue, saturation, value = colorsys.rgb_to_hsv(*teal / 255)
        assert abs(hue - 0.5) < 0.01 and saturation > 0.4 and np.ptp(grey) <= 1
        lights.append(value)
    assert np.ptp(lights) > 0.15


@pytest.mark.parametrize(
    ("choice", "images", "views"),
    [("auto", 20, 8), ("auto", 200, 5), ("auto", 499, 3), ("auto", 500, 1), ("on", 9999, 2), ("off", 2, 1)],
)
def test_few_images_get_views(choice: Augment, images: int, views: int) -> None:
    """`auto` is for fewer than 500. The fewer, the more views each image has."""
    assert augment.count(choice, images) == views


def test_no_view_of_a_held_out_photo_is_learned() -> None:
    """Checks use the photos themselves."""
    data = encoded_data()
    image = np.add.outer(data.image * 4, np.arange(4)).ravel()
    several = {name: np.repeat(getattr(data, name), 4, 0) for name in ("features", "targets", "exemplars", "prompt")}
    data = replace(data, image=image, views=4, **several)
    held_out, training = split(data, Recipe(hold=0.2))
    assert not set(data.image[held_out] // 4) & set(data.image[training] // 4)
    assert (data.image[held_out] % 4 == 0).all() and len(held_out) == 8 and len(training) == 4 * 32


def test_views_are_stored_with_their_masks(tmp_path: Path) -> None:
    """The first view of a photo is the photo; the features and masks of another are those of `augment.views`. Only
    photos have exemplars. The image with the prompt of a side is never mirrored."""
    training_set(tmp_path / "data")
    checkpoint = write_checkpoint(tmp_path / "start")
    segmenter = Segmenter.load(str(checkpoint), device="cpu", dtype="fp32", backend="transformers", size=96)
    rows = ["image,mask,prompt"]
    for number, bar in ((1, "a bar"), (2, "the left bar"), (3, "a bar")):
        rows += [f"images/{number:02}.png,masks/a-dark-disc/{number:02}.png,a disc"]
        rows += [f"images/{number:02}.png,masks/a_bright_bar/{number:02}.png,{bar}"]
    (tmp_path / "data/rows.csv").write_text("\n".join(rows))
    examples = training_data.read(tmp_path / "data/rows.csv")
    stored = {}
    for choice in ("off", "on"):
        (tmp_path / choice).mkdir()
        assert list(encode_images(segmenter, examples, tmp_path / choice, Recipe(augment=choice, seed=5)))[-1] == (3, 3)
        stored[choice] = load_encoded(segmenter, examples, tmp_path / choice, (), ("{}",))
    off, on = stored["off"], stored["on"]
    assert (off.views, on.views) == (1, 8) and len(on.image) == 48 and len(on.features) == 24
    for part in ("features", "targets", "exemplars", "prompt"):
        np.testing.assert_array_equal(getattr(on, part)[::8], getattr(off, part))
    assert np.isnan(on.exemplars.reshape(6, 8, -1)[:, 1:]).all()
    for number in (1, 2):
        photo = training_data.pixels(examples[2 * number].image)
        masks = [examples[2 * number + k].mask(photo.shape[:2]) for k in range(2)]
        views = list(augment.views(photo, masks, 8, 96, number != 1, (5, 2, number)))
        seen, parts = views[6]
        np.testing.assert_array_equal(on.features[8 * number + 6], segmenter.encode([seen]).tensor[0].half().numpy())
        for k, mask in enumerate(parts):
            row = 8 * (2 * number + k) + 6
            small = cv2.resize(mask.astype(np.uint8), (96, 96), interpolation=cv2.INTER_NEAREST)
            np.testing.assert_array_equal(on.target(row), small > 0)
            assert on.image[row] == 8 * number + 6


def test_the_views_of_a_large_image_are_made_from_a_reduced_one() -> None:
    """A crop still has the pixels that the model reads, and no more than some four times as many."""
    image, mask = np.zeros((900, 1600, 3), np.uint8), np.ones((900, 1600), bool)
    for index, (seen, _) in enumerate(augment.views(image, [mask], 4, 96, False, (0,))):
        assert seen.shape == image.shape if index == 0 else 70 <= min(seen.shape[:2]) <= 280
