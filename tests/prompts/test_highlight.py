"""Visual prompts, against an independent implementation of the paper in plain numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from clipseg_cli.prompts import highlight, recipes

Mask = NDArray[np.bool_]


def rectangle(size: tuple[int, int], rows: slice, columns: slice) -> Mask:
    """Returns a mask that is true inside a rectangle."""
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def noise(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Returns an image of noise, so that a shift by one pixel shows."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def plain_blur(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Applies the authors' blur at 352 pixels: 15 taps, sigma 3, along each axis, edges mirrored."""
    taps = np.exp(-(np.arange(-7, 8) ** 2) / 18.0)
    taps /= taps.sum()
    padded = np.pad(pixels, ((7, 7), (7, 7), (0, 0)), mode="reflect")
    rows = sum(taps[i] * padded[i : i + pixels.shape[0]] for i in range(15))
    return np.asarray(sum(taps[i] * rows[:, i : i + pixels.shape[1]] for i in range(15)))


def plain_prompt(image: NDArray[np.uint8], mask: Mask, share: float = 0.1, blur: bool = True) -> NDArray[np.float64]:
    """Applies the authors' steps at 352 pixels, before the crop, in float64 and plain numpy."""
    pixels = (image / 255 - MEAN) / STD
    surroundings = plain_blur(pixels) if blur else pixels
    return np.asarray(pixels * mask[..., None] + share * surroundings * (1 - mask[..., None]))


def plain_dyed(image: NDArray[np.uint8], mask: Mask) -> NDArray[np.float64]:
    """Returns the luma of ITU-R BT.601, times (1, 0.2, 0.2) inside the object."""
    grey = (image / 255 @ np.array((0.299, 0.587, 0.114)))[..., None]
    return np.asarray((np.where(mask[..., None], (1, 0.2, 0.2), 1) * grey - MEAN) / STD)


def plain_square(pixels: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Centres the image on a square of zeros, then looks up each pixel of the result."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    square = np.zeros((longer, longer, 3))
    top, left = (longer - height) // 2, (longer - width) // 2
    square[top : top + height, left : left + width] = pixels
    index = [i * longer // side for i in range(side)]
    return np.array([[square[y, x] for x in index] for y in index])


def test_the_highlight_equals_the_authors_steps() -> None:
    """15 taps, sigma 3, surroundings dimmed to a tenth, in normalised colour."""
    image, mask = noise((352, 352)), rectangle((352, 352), slice(90, 200), slice(30, 300))
    got = highlight.highlighted(highlight.normalised(image), mask)
    assert np.abs(got - plain_prompt(image, mask)).max() < 1e-5


@pytest.mark.parametrize(("context", "box"), [(0.1, (46, 90, 94, 210)), (0.5, (30, 50, 110, 250))])
def test_each_axis_has_its_own_context(context: float, box: tuple[int, int, int, int]) -> None:
    """The crop grows by the mask's width to the sides and by its height up and down."""
    assert highlight.crop_box(rectangle((352, 352), slice(100, 200), slice(50, 90)), context) == box


def test_the_crop_stays_inside_the_image() -> None:
    """The box is clipped at the border, also of an image that is not square."""
    assert highlight.crop_box(rectangle((80, 120), slice(0, 40), slice(60, 120)), 0.1) == (54, 0, 120, 44)


def test_an_empty_mask_keeps_the_whole_image() -> None:
    """Without an object the box is the whole image."""
    assert highlight.crop_box(np.zeros((80, 120), bool)) == (0, 0, 120, 80)


def test_padding_is_centred_with_the_odd_pixel_last() -> None:
    """Padding is 0, the mean colour; an odd pixel goes right or below."""
    square = highlight.padded_square(np.ones((4, 7, 3), np.float32))
    assert square.shape == (7, 7, 3)
    assert square[:, 0, 0].tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_crop_blur_dim_highlights_crops_pads_and_resizes() -> None:
    """Equal to the steps in plain numpy, at another side than the image's."""
    image, mask = noise((352, 352), 1), rectangle((352, 352), slice(100, 200), slice(50, 90))
    pixels = plain_prompt(image, mask)[90:210, 46:94]
    square = np.zeros((120, 120, 3))
    square[:, 36:84] = pixels
    index = np.floor(np.arange(224) * (120 / 224) + 1e-9).astype(int)
    got = highlight.crop_blur_dim(image, mask, 224)
    assert got.shape == (224, 224, 3)
    assert got.dtype == np.float32
    assert np.abs(got - square[index][:, index]).max() < 1e-5


def test_blur_scales_with_the_image() -> None:
    """A large image, shrunk after the blur, is as soft as a small one."""
    small = np.zeros((176, 176, 3), np.float32)
    small[:, 88:] = 1
    large = small.repeat(4, 0).repeat(4, 1)
    shrunk = highlight.blurred(large)[2::4, 2::4]
    assert np.abs(shrunk - highlight.blurred(small)).max() < 0.15
    assert highlight.blurred(large)[352, 344, 0] > 0.05


def test_the_object_keeps_its_colours() -> None:
    """Pixels inside the mask do not change."""
    image, mask = noise((60, 90), 2), rectangle((60, 90), slice(10, 30), slice(20, 50))
    pixels = highlight.highlighted(highlight.normalised(image), mask)
    assert np.array_equal(pixels[mask], highlight.normalised(image)[mask])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("recipe", "share", "blur", "crop"),
    [
        ("crop-blur-dim", 0.1, True, True),
        ("dim", 0.1, False, False),
        ("mask", 0.0, False, False),
        ("blur", 1.0, True, False),
        ("blur-dim", 0.1, True, False),
        ("crop", 1.0, False, True),
        ("none", 1.0, False, False),
    ],
)
def test_a_recipe_equals_its_row_of_the_paper(recipe: str, share: float, blur: bool, crop: bool, seed: int) -> None:
    """Dimming, blur and crop are the authors' for any image whose longer side has 352 pixels."""
    rng = np.random.default_rng(seed)
    image = noise((352, 352 - 60 * seed), seed)
    x0, y0 = int(rng.integers(5, 90)), int(rng.integers(5, 90))
    width, height = int(rng.integers(20, 120)), int(rng.integers(20, 120))
    mask = rectangle((352, 352 - 60 * seed), slice(y0, y0 + height), slice(x0, x0 + width))
    mask &= rng.random(mask.shape) < 0.7
    mask[y0, x0] = mask[y0 + height - 1, x0 + width - 1] = True
    pixels = plain_prompt(image, mask, share, blur)
    if crop:
        left, right = int(max(0, x0 - 0.1 * width)), int(min(mask.shape[1], x0 + width + 0.1 * width))
        top, bottom = int(max(0, y0 - 0.1 * height)), int(min(mask.shape[0], y0 + height + 0.1 * height))
        pixels = pixels[top:bottom, left:right]
    got = highlight.highlight(image, mask, recipe, 96)
    assert got.shape == (96, 96, 3)
    assert got.dtype == np.float32
    assert np.abs(got - plain_square(pixels, 96)).max() < 1e-5


def test_dye_is_a_red_object_in_a_grey_image() -> None:
    """Inside the object green and blue are a fifth of the grey level; the rest is grey."""
    image, mask = noise((60, 90), 3), rectangle((60, 90), slice(10, 30), slice(20, 50))
    got = highlight.highlight(image, mask, "dye", 90)
    assert np.abs(got - plain_square(plain_dyed(image, mask), 90)).max() < 1e-4
    assert got.dtype == np.float32


@pytest.mark.parametrize("side", [352, 704])
def test_the_outline_equals_the_authors_red_line(side: int) -> None:
    """Pure red up to half the thickness from the object's edge, inside and outside; elsewhere the image."""
    image, mask = noise((side, side), 4), rectangle((side, side), slice(90, 200), slice(30, 300))
    image[..., 1] |= 1  # no red pixel by chance
    mask[120:150, 100:200] = False  # a hole gets no line
    got = highlight.highlight(image, mask, "outline", side)
    assert got.dtype == np.float32
    y, x = np.mgrid[:side, :side]
    dx, dy = np.maximum(np.maximum(30 - x, x - 299), 0), np.maximum(np.maximum(90 - y, y - 199), 0)
    inside = np.minimum(np.minimum(x - 30, 299 - x), np.minimum(y - 90, 199 - y))
    away = np.where(inside >= 0, inside, np.hypot(dx, dy))  # pixels to the object's outermost ones
    red = np.abs(got - (np.array((1, 0, 0)) - MEAN) / STD).max(-1) < 1e-5
    half = 2.5 * side / 352
    assert red[away <= half - 0.5].all()
    assert not red[away > half + 0.5].any()  # cv2 rounds up
    assert np.abs(got - (image / 255 - MEAN) / STD)[~red].max() < 1e-5


def test_dimming_to_zero_gives_the_mean_colour() -> None:
    """Dimmed surroundings and padding have ImageNet's mean colour, (124, 116, 104), and are not black."""
    image, mask = noise((60, 90), 5), rectangle((60, 90), slice(10, 30), slice(20, 50))
    levels = highlight.denormalised(highlight.highlight(image, mask, "mask", 90))
    assert levels[0, 0].tolist() == levels[20, 5].tolist() == [124, 116, 104]
    assert np.array_equal(levels[25:45, 20:50], image[10:30, 20:50])


def test_a_dimmed_pixel_keeps_a_tenth_of_its_distance_to_the_mean() -> None:
    """As a level: 255 * (mean + share * (value / 255 - mean))."""
    image, mask = np.full((40, 40, 3), 255, np.uint8), rectangle((40, 40), slice(10, 30), slice(20, 30))
    levels = highlight.denormalised(highlight.highlight(image, mask, "dim", 40))
    assert levels[0, 0].tolist() == np.rint(255 * (MEAN + 0.1 * (1 - MEAN))).tolist()


def test_denormalised_inverts_normalised() -> None:
    """All 256 levels of each channel come back; values out of range are clipped."""
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(highlight.denormalised(highlight.normalised(image)), image)
    assert highlight.denormalised(np.array([[[-9, 0, 9]]], np.float32)).tolist() == [[[0, 116, 255]]]


def test_the_default_recipe_is_crop_blur_dim() -> None:
    """`crop-blur-dim` is the first recipe and equals `crop_blur_dim` to the bit."""
    image, mask = noise((120, 70), 6), rectangle((120, 70), slice(10, 50), slice(20, 60))
    assert next(iter(recipes.RECIPES)) == "crop-blur-dim"
    assert np.array_equal(
        highlight.highlight(image, mask, "crop-blur-dim", 64), highlight.crop_blur_dim(image, mask, 64)
    )


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_every_recipe_checks_and_keeps_its_input(recipe: str) -> None:
    """An empty mask and a mask of another size are refused. The input is not written to; the result is finite."""
    image, mask = noise((40, 30), 7), rectangle((40, 30), slice(0, 1), slice(29, 30))
    with pytest.raises(ValueError, match="empty"):
        highlight.highlight(image, np.zeros((40, 30), bool), recipe, 32)
    with pytest.raises(ValueError, match="same size"):
        highlight.highlight(image, mask.T, recipe, 32)
    assert np.isfinite(highlight.highlight(image, mask, recipe, 32)).all()
    assert np.array_equal(image, noise((40, 30), 7))
    assert mask.sum() == 1
