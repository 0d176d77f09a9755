"""The visual prompt is the paper's, held to a second writing of it in plain numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from clipseg_cli import exemplar

Mask = NDArray[np.bool_]


def rectangle(size: tuple[int, int], rows: slice, columns: slice) -> Mask:
    """A mask that is true in a rectangle."""
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def picture(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Noise, so that every pixel counts."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def plain_prompt(image: NDArray[np.uint8], mask: Mask) -> NDArray[np.float64]:
    """The authors' steps at 352 pixels, before the crop, in float64 and with nothing but numpy."""
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    pixels = (image / 255 - mean) / std
    taps = np.exp(-(np.arange(-7, 8) ** 2) / 18.0)
    taps /= taps.sum()
    padded = np.pad(pixels, ((7, 7), (7, 7), (0, 0)), mode="reflect")
    rows = sum(taps[i] * padded[i : i + pixels.shape[0]] for i in range(15))
    soft = sum(taps[i] * rows[:, i : i + pixels.shape[1]] for i in range(15))
    return np.asarray(pixels * mask[..., None] + 0.1 * soft * (1 - mask[..., None]))


def test_the_highlight_is_the_authors_one() -> None:
    """Blur of 15 taps and sigma 3, a tenth of the ground, in normalised colour."""
    image, mask = picture((352, 352)), rectangle((352, 352), slice(90, 200), slice(30, 300))
    got = exemplar.highlighted(exemplar.normalised(image), mask)
    assert np.abs(got - plain_prompt(image, mask)).max() < 1e-5


@pytest.mark.parametrize(("context", "box"), [(0.1, (46, 90, 94, 210)), (0.5, (30, 50, 110, 250))])
def test_each_axis_has_its_own_context(context: float, box: tuple[int, int, int, int]) -> None:
    """The crop grows by the mask's width to the sides and by its height up and down."""
    assert exemplar.crop_box(rectangle((352, 352), slice(100, 200), slice(50, 90)), context) == box


def test_the_crop_stays_in_the_picture() -> None:
    """At an edge the box is clipped, also where the picture is not square."""
    assert exemplar.crop_box(rectangle((80, 120), slice(0, 40), slice(60, 120)), 0.1) == (54, 0, 120, 44)


def test_an_empty_mask_keeps_the_whole_picture() -> None:
    """Nothing to crop around."""
    assert exemplar.crop_box(np.zeros((80, 120), bool)) == (0, 0, 120, 80)


def test_padding_is_centred_and_its_odd_pixel_is_last() -> None:
    """Zero is the mean colour; an odd pixel goes right or below."""
    square = exemplar.padded_square(np.ones((4, 7, 3), np.float32))
    assert square.shape == (7, 7, 3)
    assert square[:, 0, 0].tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_the_whole_recipe_is_highlight_crop_pad_and_nearest() -> None:
    """Against the same steps written out, at another side than the picture's."""
    image, mask = picture((352, 352), 1), rectangle((352, 352), slice(100, 200), slice(50, 90))
    lit = plain_prompt(image, mask)[90:210, 46:94]
    square = np.zeros((120, 120, 3))
    square[:, 36:84] = lit
    index = np.floor(np.arange(224) * (120 / 224) + 1e-9).astype(int)
    got = exemplar.crop_blur_dim(image, mask, 224)
    assert got.shape == (224, 224, 3)
    assert got.dtype == np.float32
    assert np.abs(got - square[index][:, index]).max() < 1e-5


def test_a_large_picture_is_blurred_as_much_as_a_small_one() -> None:
    """The blur is a share of the side: an edge twice as large is as soft when seen at half the size."""
    small = np.zeros((176, 176, 3), np.float32)
    small[:, 88:] = 1
    large = small.repeat(4, 0).repeat(4, 1)
    soft = exemplar.blurred(large)[2::4, 2::4]
    assert np.abs(soft - exemplar.blurred(small)).max() < 0.15
    assert exemplar.blurred(large)[352, 344, 0] > 0.05


def test_the_object_itself_is_untouched() -> None:
    """Pixels of the mask keep their colour."""
    image, mask = picture((60, 90), 2), rectangle((60, 90), slice(10, 30), slice(20, 50))
    lit = exemplar.highlighted(exemplar.normalised(image), mask)
    assert np.array_equal(lit[mask], exemplar.normalised(image)[mask])
