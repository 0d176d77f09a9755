"""PNM: other depths than 8 bits equal what Pillow decodes."""

import io

import numpy as np
import pytest
from PIL import PpmImagePlugin

from image_files import read, refused


@pytest.mark.parametrize("white", [1, 15, 254, 256, 1023, 65534, 65535])
def test_every_depth_equals_what_pillow_decodes(white: int, photo: np.ndarray) -> None:
    """Colour equals Pillow's within rounding, grey the formula. Comments are skipped, values above white are white."""
    values = (photo / 255 * white).round().astype("u1" if white < 256 else ">u2")
    data = b"P6 # colour\n130 # wide\n90\n%d\n" % white + values.tobytes()
    with PpmImagePlugin.PpmImageFile(io.BytesIO(data)) as reference:
        assert np.abs(read(data).pixels.astype(int) - np.array(reference)).max() <= 1
    grey = read(b"P5\n130 90\n%d\n" % white + values[:, :, 0].tobytes())
    expected = np.minimum(values[:, :, :1], white) * 255.0 / white
    assert np.abs(grey.pixels - expected).max() <= 0.51
    assert grey.format == "PPM"
    if white < 65535:
        assert (read(b"P5 2 1 %d\n" % white + b"\xff" * 4).pixels == 255).all()


def test_what_is_missing_or_too_large_is_refused() -> None:
    """A file without its last byte is corrupt at once, and so is one without pixels."""
    data = b"P6\n4 4\n65535\n" + bytes(96)
    assert not read(data).pixels.any()
    assert refused(data[:-1])[0] == "corrupt"
    assert refused(data, max_pixels=15)[0] == "too_large"
    assert refused(b"P6\n0 4\n65535\n")[0] == "corrupt"
    assert refused(b"P5\n4 4\n0\n" + bytes(16))[0] == "corrupt"
    assert refused(b"P5\n4 4\n70000\n" + bytes(32))[0] == "corrupt"
