"""JPEG XL: depths, transparency, orientation, animations, and JPEGs in a container."""

import importlib.util
import io

import numpy as np
import PIL.Image
import pytest

from clipseg_cli.inputs.decoders import jxl as decoder
from clipseg_cli.inputs.orientation import TAG
from image_files import as_rgb, read, refused, saved
from written_files import FILES, jxl, jxl_of_jpeg, scene


def test_every_depth_gives_the_8_bit_image(photo: np.ndarray, grey: np.ndarray) -> None:
    """16 bits in colour and grey, and grey of 8 bits, with and without alpha, differ by at most one level."""
    for name, expected in (("wide", scene(48, 64)), ("wide_grey", as_rgb(scene(48, 64)[:, :, 0]))):
        assert np.abs(read((FILES / f"{name}.jxl").read_bytes()).pixels.astype(int) - expected).max() <= 1
    assert np.array_equal(read(jxl(grey)).pixels, as_rgb(grey))
    assert np.array_equal(read(jxl(np.dstack([grey, np.full_like(grey, 255)]))).pixels, as_rgb(grey))
    clear = np.dstack([photo, np.full(grey.shape, 255, np.uint8)])
    clear[:40, :50, 3] = 0
    image = read(jxl(clear))
    assert (image.pixels[:40, :50] == 255).all()
    assert np.array_equal(image.pixels[:, 50:], photo[:, 50:])
    assert image.notes == ("transparency composited on white",)


@pytest.mark.parametrize("value", range(1, 9))
def test_a_jpeg_in_a_container_is_the_same_image(value: int, photo: np.ndarray) -> None:
    """It equals the JPEG, turned once by its EXIF orientation."""
    exif = PIL.Image.Exif()
    exif[TAG] = value
    jpeg = saved(photo, "JPEG", quality=90, exif=exif)
    image = read(jxl_of_jpeg(jpeg))
    assert np.array_equal(image.pixels, read(jpeg).pixels)
    assert image.format == "JPEG XL"


def test_the_first_frame_of_an_animation_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A red, a green and a blue frame give red. Without imagecodecs the error says what to install."""
    data = (FILES / "animated.jxl").read_bytes()
    image = read(data)
    assert image.notes == ("first frame of an animation",)
    assert (image.pixels == (200, 0, 0)).all()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imagecodecs" else object())
    kind, message = refused(data)
    assert kind == "unsupported"
    assert "pip install" in message


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (264, 16), (300, 7), (640, 480), (1920, 1080), (8200, 3)])
def test_the_size_in_the_header_is_what_libjxl_decodes(size: tuple[int, int]) -> None:
    """For small and large sides, and for every ratio that has a short form."""
    data = jxl(np.zeros((size[1], size[0], 3), np.uint8))
    assert decoder._header(data) == (*size, False)
    assert read(data).pixels.shape == (size[1], size[0], 3)
    container = io.BytesIO(b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl \0\0\0\0jxlc" + data)
    assert decoder._header(container.getvalue()) == (*size, False)
