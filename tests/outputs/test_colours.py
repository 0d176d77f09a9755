"""A label's colour on an image contrasts with what is under its mask, around it, and with the other labels."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from skimage.color import rgb2lab

from clipseg_cli.outputs import colours, drawing
from pictures import SAMPLES

SEEN = 20.0  # CIELAB distance; people notice differences above about 2


def disc(*, at: tuple[int, int] = (75, 50), radius: int = 30) -> np.ndarray:
    """A mask of 100 x 150 pixels."""
    return np.asarray(cv2.circle(np.zeros((100, 150), np.uint8), at, radius, 255, -1))


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random colours with noise, one under the mask `disc()` and one around it; each third pair is much alike."""
    rng = np.random.default_rng(seed)
    under, around = rng.integers(0, 256, (2, 3))
    if seed % 3 == 0:
        around = under + rng.integers(-12, 13, 3)
    photo = np.where(disc()[..., None] > 0, under, around) + rng.normal(0, 4, (100, 150, 3))
    return np.clip(photo, 0, 255).astype(np.uint8), disc()


def samples() -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    """Each sample image at half its size, with its ground-truth masks in two orders of the labels.

    In the first order the labels' fixed colours, red, green and violet, are those of the objects.
    """
    labels = ("a-red-circle", "everything-green", "a-blue-star")
    for path in sorted((SAMPLES / "images").iterdir()):
        photo = cv2.imread(str(path))[::2, ::2, ::-1].copy()
        files = [SAMPLES / "masks" / label / f"{path.stem}.png" for label in labels]
        masks = [np.where(cv2.imread(str(file), 0)[::2, ::2] > 127, 255, 0).astype(np.uint8) for file in files]
        yield path.name, photo, masks
        yield path.name + ", reversed", photo, masks[::-1]


def measured(photo: np.ndarray, masks: list[np.ndarray], index: int) -> tuple[float, float]:
    """Mean CIELAB distances by scikit-image: of the drawn mask from the photo, and across the edge.

    The lines along the edge are left out: what remains is the tint. Across the edge: each pixel just outside these
    lines from the nearest tinted pixel inside them.
    """
    drawn = drawing.overlay(photo, masks, [""] * len(masks))
    reach = 3 * max(1, round(min(photo.shape[:2]) / 240)) + 1  # pixels: no line is drawn further from the edge
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    inner, outer = cv2.erode(masks[index], kernel) > 0, cv2.dilate(masks[index], kernel) > 0
    before, after = rgb2lab(photo), rgb2lab(drawn)
    under = float(np.linalg.norm(after - before, axis=-1)[inner].mean())
    _, nearest = cv2.distanceTransformWithLabels(
        np.where(inner, 0, 255).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    tints = np.zeros((nearest.max() + 1, 3))
    tints[nearest[inner]] = after[inner]
    ring = (cv2.dilate(outer.astype(np.uint8), kernel) > 0) & ~outer
    return under, float(np.linalg.norm(tints[nearest] - before, axis=-1)[ring].mean())


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_a_mask_is_seen_on_any_two_colours(first: int) -> None:
    """On 200 random pairs of colours the tint differs by 20 from the photo under it, and from the photo around it."""
    found = [measured(photo, [mask], 0) for photo, mask in map(pair, range(first, first + 50))]
    assert np.min(found) >= SEEN, np.array(found).min(0)


def test_a_mask_is_seen_on_every_sample() -> None:
    """Red on red and green on green included."""
    for name, photo, masks in samples():
        for index, mask in enumerate(masks):
            if mask.any():
                assert min(measured(photo, masks, index)) >= SEEN, (name, index)


def test_a_red_mask_on_a_red_object_is_not_red() -> None:
    """A label whose fixed colour is that of the object gets another one; on grey it keeps its own."""
    photo = np.full((100, 150, 3), 128, np.uint8)
    assert colours.contrasting(photo, [disc()]) == [colours.colour(0)]
    photo[disc() > 0] = colours.colour(0)
    (tint,) = colours.contrasting(photo, [disc()])
    assert np.linalg.norm(np.subtract(tint, colours.colour(0))) > 100
    assert colours.contrasting(photo, [disc()]) == [tint], "equal inputs give equal colours"


@pytest.mark.parametrize("seed", range(6))
def test_six_labels_differ_from_each_other(seed: int) -> None:
    """On an image of any colour the tints of six labels differ by 20 from the photo and by 12 from each other."""
    photo, _ = pair(seed)
    masks = [disc(at=(25 + 50 * (k % 3), 25 + 50 * (k // 3)), radius=15) for k in range(6)]
    chosen = np.array(colours.contrasting(photo, masks))
    tints = rgb2lab(chosen[None] / 255)[0]
    apart = colours.TINT * np.linalg.norm(tints[:, None] - tints, axis=-1)
    assert apart[~np.eye(6, dtype=bool)].min() >= 12
    for index in range(6):
        assert min(measured(photo, masks, index)) >= SEEN


def test_an_outline_is_seen_without_the_tint() -> None:
    """Along the edge stand a white and a black line, on any image and for masks of one line or one pixel too."""
    for level in (0, 128, 255):
        for mask in (disc(), disc(radius=0), cv2.line(disc(radius=0), (10, 90), (140, 90), 255)):
            drawn = drawing.overlay(np.full((100, 150, 3), level, np.uint8), [mask], ["x"])
            near = cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0
            assert (drawn[near].sum(-1) == 0).any() and (drawn[near].sum(-1) >= 3 * 250).any(), (level, mask.sum())


def test_empty_and_full_masks_have_colours() -> None:
    """An empty mask keeps the fixed colour and takes none from the others; a mask may cover the image or one pixel."""
    photo = np.full((100, 150, 3), colours.colour(1), np.uint8)
    empty, full, one = np.zeros((100, 150), np.uint8), np.full((100, 150), 255, np.uint8), np.zeros((1, 1), np.uint8)
    first, second = colours.contrasting(photo, [empty, full])
    assert first == colours.colour(0) and second != colours.colour(1)
    assert colours.contrasting(photo, []) == []
    assert colours.contrasting(one[..., None].repeat(3, 2), [one + 255, one]) == [colours.colour(0), colours.colour(1)]
    assert len(set(colours.contrasting(photo, [full] * 300))) > 10
