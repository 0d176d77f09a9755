"""The visual prompt is the paper's, held to a second writing of it in plain numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from clipseg_cli.prompts import highlight

Mask = NDArray[np.bool_]


def rectangle(size: tuple[int, int], rows: slice, columns: slice) -> Mask:
    """A mask that is true in a rectangle."""
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def picture(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Noise, so that every pixel counts."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def plain_soft(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The authors' blur at 352 pixels: 15 taps of sigma 3 along each axis, edges mirrored."""
    taps = np.exp(-(np.arange(-7, 8) ** 2) / 18.0)
    taps /= taps.sum()
    padded = np.pad(pixels, ((7, 7), (7, 7), (0, 0)), mode="reflect")
    rows = sum(taps[i] * padded[i : i + pixels.shape[0]] for i in range(15))
    return np.asarray(sum(taps[i] * rows[:, i : i + pixels.shape[1]] for i in range(15)))


def plain_prompt(image: NDArray[np.uint8], mask: Mask, share: float = 0.1, soft: bool = True) -> NDArray[np.float64]:
    """The authors' steps at 352 pixels, before the crop, in float64 and with nothing but numpy."""
    pixels = (image / 255 - MEAN) / STD
    around = plain_soft(pixels) if soft else pixels
    return np.asarray(pixels * mask[..., None] + share * around * (1 - mask[..., None]))


def plain_dyed(image: NDArray[np.uint8], mask: Mask) -> NDArray[np.float64]:
    """Luma of ITU-R BT.601, times (1, 0.2, 0.2) in the object."""
    grey = (image / 255 @ np.array((0.299, 0.587, 0.114)))[..., None]
    return np.asarray((np.where(mask[..., None], (1, 0.2, 0.2), 1) * grey - MEAN) / STD)


def plain_square(pixels: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Centred on zeros, then each pixel of the result looked up by itself."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    square = np.zeros((longer, longer, 3))
    top, left = (longer - height) // 2, (longer - width) // 2
    square[top : top + height, left : left + width] = pixels
    index = [i * longer // side for i in range(side)]
    return np.array([[square[y, x] for x in index] for y in index])


def test_the_highlight_is_the_authors_one() -> None:
    """Blur of 15 taps and sigma 3, a tenth of the ground, in normalised colour."""
    image, mask = picture((352, 352)), rectangle((352, 352), slice(90, 200), slice(30, 300))
    got = highlight.highlighted(highlight.normalised(image), mask)
    assert np.abs(got - plain_prompt(image, mask)).max() < 1e-5


@pytest.mark.parametrize(("context", "box"), [(0.1, (46, 90, 94, 210)), (0.5, (30, 50, 110, 250))])
def test_each_axis_has_its_own_context(context: float, box: tuple[int, int, int, int]) -> None:
    """The crop grows by the mask's width to the sides and by its height up and down."""
    assert highlight.crop_box(rectangle((352, 352), slice(100, 200), slice(50, 90)), context) == box


def test_the_crop_stays_in_the_picture() -> None:
    """At an edge the box is clipped, also where the picture is not square."""
    assert highlight.crop_box(rectangle((80, 120), slice(0, 40), slice(60, 120)), 0.1) == (54, 0, 120, 44)


def test_an_empty_mask_keeps_the_whole_picture() -> None:
    """Nothing to crop around."""
    assert highlight.crop_box(np.zeros((80, 120), bool)) == (0, 0, 120, 80)


def test_padding_is_centred_and_its_odd_pixel_is_last() -> None:
    """Zero is the mean colour; an odd pixel goes right or below."""
    square = highlight.padded_square(np.ones((4, 7, 3), np.float32))
    assert square.shape == (7, 7, 3)
    assert square[:, 0, 0].tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_the_whole_recipe_is_highlight_crop_pad_and_nearest() -> None:
    """Against the same steps written out, at another side than the picture's."""
    image, mask = picture((352, 352), 1), rectangle((352, 352), slice(100, 200), slice(50, 90))
    lit = plain_prompt(image, mask)[90:210, 46:94]
    square = np.zeros((120, 120, 3))
    square[:, 36:84] = lit
    index = np.floor(np.arange(224) * (120 / 224) + 1e-9).astype(int)
    got = highlight.crop_blur_dim(image, mask, 224)
    assert got.shape == (224, 224, 3)
    assert got.dtype == np.float32
    assert np.abs(got - square[index][:, index]).max() < 1e-5


def test_a_large_picture_is_blurred_as_much_as_a_small_one() -> None:
    """The blur is a share of the side: an edge twice as large is as soft when seen at half the size."""
    small = np.zeros((176, 176, 3), np.float32)
    small[:, 88:] = 1
    large = small.repeat(4, 0).repeat(4, 1)
    soft = highlight.blurred(large)[2::4, 2::4]
    assert np.abs(soft - highlight.blurred(small)).max() < 0.15
    assert highlight.blurred(large)[352, 344, 0] > 0.05


def test_the_object_itself_is_untouched() -> None:
    """Pixels of the mask keep their colour."""
    image, mask = picture((60, 90), 2), rectangle((60, 90), slice(10, 30), slice(20, 50))
    lit = highlight.highlighted(highlight.normalised(image), mask)
    assert np.array_equal(lit[mask], highlight.normalised(image)[mask])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("recipe", "share", "soft", "crop"),
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
def test_a_recipe_is_its_row_of_the_paper(recipe: str, share: float, soft: bool, crop: bool, seed: int) -> None:
    """Share of the ground, blur and crop are the authors', on any picture whose longer side has 352 pixels."""
    rng = np.random.default_rng(seed)
    image = picture((352, 352 - 60 * seed), seed)
    x0, y0 = int(rng.integers(5, 90)), int(rng.integers(5, 90))
    width, height = int(rng.integers(20, 120)), int(rng.integers(20, 120))
    mask = rectangle((352, 352 - 60 * seed), slice(y0, y0 + height), slice(x0, x0 + width))
    mask &= rng.random(mask.shape) < 0.7
    mask[y0, x0] = mask[y0 + height - 1, x0 + width - 1] = True
    lit = plain_prompt(image, mask, share, soft)
    if crop:
        left, right = int(max(0, x0 - 0.1 * width)), int(min(mask.shape[1], x0 + width + 0.1 * width))
        top, bottom = int(max(0, y0 - 0.1 * height)), int(min(mask.shape[0], y0 + height + 0.1 * height))
        lit = lit[top:bottom, left:right]
    got = highlight.highlight(image, mask, recipe, 96)
    assert got.shape == (96, 96, 3)
    assert got.dtype == np.float32
    assert np.abs(got - plain_square(lit, 96)).max() < 1e-5


def test_dye_is_red_in_grey() -> None:
    """The object keeps its grey in red and a fifth of it in green and blue; the rest is grey."""
    image, mask = picture((60, 90), 3), rectangle((60, 90), slice(10, 30), slice(20, 50))
    got = highlight.highlight(image, mask, "dye", 90)
    assert np.abs(got - plain_square(plain_dyed(image, mask), 90)).max() < 1e-4
    assert got.dtype == np.float32


@pytest.mark.parametrize("side", [352, 704])
def test_the_outline_is_the_authors_red_line(side: int) -> None:
    """Pure red up to half the thickness from the object's edge, inside and out; elsewhere the picture itself."""
    image, mask = picture((side, side), 4), rectangle((side, side), slice(90, 200), slice(30, 300))
    image[..., 1] |= 1  # no red pixel by chance
    mask[120:150, 100:200] = False  # a hole has no line
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


def test_intensity_zero_is_the_mean_colour() -> None:
    """Darkening goes to the mean of ImageNet, (124, 116, 104), and not to black; so does the padding."""
    image, mask = picture((60, 90), 5), rectangle((60, 90), slice(10, 30), slice(20, 50))
    shown = highlight.denormalised(highlight.highlight(image, mask, "mask", 90))
    assert shown[0, 0].tolist() == shown[20, 5].tolist() == [124, 116, 104]
    assert np.array_equal(shown[25:45, 20:50], image[10:30, 20:50])


def test_a_dimmed_pixel_is_the_mean_and_a_tenth_of_the_difference() -> None:
    """In pixels: 255 * (mean + share * (value / 255 - mean))."""
    image, mask = np.full((40, 40, 3), 255, np.uint8), rectangle((40, 40), slice(10, 30), slice(20, 30))
    shown = highlight.denormalised(highlight.highlight(image, mask, "dim", 40))
    assert shown[0, 0].tolist() == np.rint(255 * (MEAN + 0.1 * (1 - MEAN))).tolist()


def test_denormalised_is_the_inverse() -> None:
    """All 256 values of every channel come back; what lies beyond them is clipped."""
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(highlight.denormalised(highlight.normalised(image)), image)
    assert highlight.denormalised(np.array([[[-9, 0, 9]]], np.float32)).tolist() == [[[0, 116, 255]]]


def test_the_default_recipe_is_the_one_in_training() -> None:
    """`crop-blur-dim` stands first and is `crop_blur_dim` to the bit."""
    image, mask = picture((120, 70), 6), rectangle((120, 70), slice(10, 50), slice(20, 60))
    assert next(iter(highlight.RECIPES)) == "crop-blur-dim"
    assert np.array_equal(
        highlight.highlight(image, mask, "crop-blur-dim", 64), highlight.crop_blur_dim(image, mask, 64)
    )


@pytest.mark.parametrize("recipe", highlight.RECIPES)
def test_no_recipe_shows_nothing_or_changes_its_input(recipe: str) -> None:
    """An empty mask and one of another size are refused; picture and mask stay as they were; no value is missing."""
    image, mask = picture((40, 30), 7), rectangle((40, 30), slice(0, 1), slice(29, 30))
    with pytest.raises(ValueError, match="empty"):
        highlight.highlight(image, np.zeros((40, 30), bool), recipe, 32)
    with pytest.raises(ValueError, match="same size"):
        highlight.highlight(image, mask.T, recipe, 32)
    assert np.isfinite(highlight.highlight(image, mask, recipe, 32)).all()
    assert np.array_equal(image, picture((40, 30), 7))
    assert mask.sum() == 1
