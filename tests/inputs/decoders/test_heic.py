"""HEIC and AVIF: pixels, rotation, crops, grids and depths are as in the standard; EXIF never turns an image."""

import numpy as np
import pytest

from image_files import read, refused
from written_files import FILES, box, heic, heif, scene

ROTATION = [box(b"irot", bytes([quarters])) for quarters in range(4)]  # counterclockwise
MIRROR = [box(b"imir", bytes([axis])) for axis in range(2)]


@pytest.mark.parametrize(("name", "size"), [("plain", (64, 64)), ("tiny", (8, 8)), ("ten", (48, 64))])
def test_pixels_come_back_exactly(name: str, size: tuple[int, int]) -> None:
    """Of a lossless HEIC, of a cropped one, and of one with 10 bits."""
    image = read((FILES / f"{name}.heic").read_bytes())
    assert np.array_equal(image.pixels, scene(*size))
    assert (image.format, image.frames, image.notes) == ("HEIC", 1, ())


def test_transparency_is_composited_on_white() -> None:
    """An alpha of 0 gives white, and 128 the middle."""
    image = read((FILES / "alpha.heic").read_bytes())
    assert image.notes == ("transparency composited on white",)
    assert (image.pixels[:20, :30] == 255).all()
    middle = (scene(48, 64).astype(int) + 255) / 2
    assert np.abs(image.pixels - middle)[20:30, :30].max() <= 1
    assert np.array_equal(image.pixels[:, 30:], scene(48, 64)[:, 30:])


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_stored_rotation_and_mirroring_are_applied(quarters: int, axis: int | None) -> None:
    """First the rotation, then the mirroring: as numpy turns the tiles of the grid."""
    turns = [ROTATION[quarters]] + ([] if axis is None else [MIRROR[axis]])
    expected = np.rot90(np.hstack([scene(64, 64)] * 2)[:50], quarters)
    if axis is not None:
        expected = np.fliplr(expected) if axis else np.flipud(expected)
    assert np.array_equal(read(heif(2, (128, 50), *turns)).pixels, expected)


def test_the_tiles_of_a_grid_are_put_together() -> None:
    """As phones store large photos: three tiles, the last one cut."""
    assert np.array_equal(read(heif(3, (170, 64))).pixels, np.hstack([scene(64, 64)] * 3)[:, :170])


def test_a_grid_that_claims_other_sizes_is_refused() -> None:
    """A grid larger than its tiles, or than the size in its header, is `corrupt`; above the limit it is `too_large`."""
    for size, claimed in (((128, 64), (30_000, 30_000)), ((9000, 9000), (9000, 9000)), ((9000, 9000), (128, 64))):
        assert refused(heif(2, size, claimed=claimed))[0] == "corrupt"
    assert refused(heif(2, (20_000, 20_000)))[0] == "too_large"
    assert refused(heic(scene(8, 8)), max_pixels=64 * 64 - 1)[0] == "too_large"  # it stores 64 x 64, and a crop


def test_avif_is_turned_by_its_own_rotation_only() -> None:
    """10 bits are scaled to 8. An EXIF orientation without a rotation is ignored, as in browsers."""
    pixels = {name: read((FILES / f"{name}.avif").read_bytes()).pixels for name in ("ten", "turned", "exif_only")}
    assert np.array_equal(pixels["ten"], scene(48, 64))
    assert np.array_equal(pixels["turned"], np.rot90(scene(48, 64)))
    assert np.array_equal(pixels["exif_only"], scene(48, 64))
